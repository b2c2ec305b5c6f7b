"""Where in the brain a region lies, in coarse anatomical words such as "left frontal lobe, deep white matter".

No atlas is used, for want of one that a package ships. A scan's brain is brought to the ICBM152 space, and the lobes
are cut by planes in that space. Where nilearn is installed, an affine registration to its template does the first, and
its grey and white matter maps tell cortex from white matter; else the extent of the brain mask alone (shift and scale
along the scanner's axes) has to do. That is good for a sentence in a report and for nothing finer: see
:attr:`Alignment.coarseness`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import nibabel as nib
import numpy as np
from scipy import ndimage

from itermask3d.preprocessing.registration import register_to_template, template_folder

__all__ = ["Alignment", "align", "describe", "place_names"]

TEMPLATE_LOW_MM = (-64.0, -96.0, -56.0)
TEMPLATE_HIGH_MM = (64.0, 63.0, 72.0)
"""Where 1 % and 99 % of the ICBM152 brain's voxels lie along right, front and up, in its own millimetres."""

QUANTILES = (0.01, 0.99)
USUAL_SCALE = (0.75, 1.35)
DEEP_MM = 18.0
"""White matter farther than this from the brain's surface is called deep."""

MIDLINE_MM = 5.0
MENTIONED_SHARE = 0.2

BY_EXTENT = (
    "Places are named coarsely: the brain is scaled to the ICBM152 template by its extent and cut by planes into "
    "lobes; borders may be off by one to two centimetres, more where the head is tilted or the brain is misshapen."
)
BY_INTENSITY = (
    "Places are named coarsely: the brain is brought to the ICBM152 template by an affine registration and cut by "
    "planes into lobes; borders may be off by a centimetre, more where the brain is misshapen."
)


@dataclass(frozen=True)
class Alignment:
    """An affine map that brings scanner millimetres to the template's.

    Attributes:
        matrix: ``(4, 4)``, between right-anterior-superior millimetres.
        usual: whether the brain is about as large as a whole adult brain; if not, names are doubtful.
        registered: whether intensities found it; else the extent of the brain did.
    """

    matrix: np.ndarray
    usual: bool
    registered: bool = False

    @property
    def coarseness(self) -> str:
        """What to expect of names, in one sentence."""
        return BY_INTENSITY if self.registered else BY_EXTENT

    def to_template(self, points_mm: np.ndarray) -> np.ndarray:
        """Points ``(N, 3)`` from right-anterior-superior scanner millimetres to the template's."""
        return np.asarray(nib.affines.apply_affine(self.matrix, np.asarray(points_mm, dtype=float)))


def align(brain_mask: np.ndarray, affine: np.ndarray, *, image: np.ndarray | None = None) -> Alignment | None:
    """Find the way of a brain to the template; ``None`` where the mask is empty or flat.

    Args:
        brain_mask: boolean ``(D, H, W)``.
        affine: voxel to RAS millimetres ``(4, 4)``; may be oblique.
        image: the scan, same grid; without it, and for a brain of unusual extent, the extent alone is used.
    """
    voxels = np.argwhere(brain_mask)
    if not len(voxels):
        return None
    points = nib.affines.apply_affine(affine, voxels)
    low, high = np.quantile(points, QUANTILES, axis=0)
    if np.any(high - low < 1):
        return None
    scale = (np.asarray(TEMPLATE_HIGH_MM) - TEMPLATE_LOW_MM) / (high - low)
    usual = bool(np.all((scale > USUAL_SCALE[0]) & (scale < USUAL_SCALE[1])))
    by_extent = np.eye(4)
    by_extent[:3, :3] = np.diag(scale)
    by_extent[:3, 3] = TEMPLATE_LOW_MM - scale * low
    found = register_to_template(image, brain_mask, affine, by_extent) if usual and image is not None else None
    return Alignment(by_extent if found is None else found, usual, found is not None)


def place_names(points_mm: np.ndarray) -> list[str]:
    """Name the place of each point of the ICBM152 space.

    Args:
        points_mm: ``(N, 3)``, right, front, up.

    >>> place_names([[-30.0, 40.0, 45.0]])[0].split(",")[0]
    'left frontal lobe'
    """
    points = np.atleast_2d(np.asarray(points_mm, dtype=float))
    regions, tissues, sides = _regions(points), _tissues(points), _sides(points)
    return [_words(side, region, tissue) for side, region, tissue in zip(sides, regions, tissues, strict=True)]


def describe(names: Sequence[str], *, mentioned_share: float = MENTIONED_SHARE, known_sides: bool = True) -> str:
    """One clause on where a region lies, from the places of its voxels: structures by their share, then the tissue.

    Args:
        names: of its voxels, see :func:`place_names`.
        mentioned_share: further structures are named from this share of the voxels on.
        known_sides: whether the scan tells left from right; otherwise no side is named.

    >>> describe(["left frontal lobe, cortex"] * 3 + ["right frontal lobe, cortex"] * 2)
    'frontal lobe on both sides, cortex'
    """
    if not names:
        return "unknown"
    if not known_sides:
        names = [name.removeprefix("left ").removeprefix("right ") for name in names]
    structures = Counter(name.split(", ")[0] for name in names)
    tissues = Counter(name.split(", ")[-1] for name in names if ", " in name)
    main, *others = [name for name, count in structures.most_common() if count >= mentioned_share * len(names)] or [
        structures.most_common(1)[0][0]
    ]
    other_side = main.replace("left ", "right ") if main.startswith("left ") else main.replace("right ", "left ")
    if other_side != main and other_side in others:
        others.remove(other_side)
        main = f"{main.split(' ', 1)[1]} on both sides"
    tissue = tissues.most_common(1)[0] if tissues else ("", 0)
    clause = f"{main}, {tissue[0]}" if tissue[1] >= 0.5 * len(names) else main
    return clause + (f"; also {' and '.join(others)}" if others else "")


def _words(side: str, region: str, tissue: str) -> str:
    if region in ("brainstem", "corpus callosum"):
        return region
    if region == "outside":
        return "outside the template's brain"
    paired = f"{side} {region}" if side != "midline" else f"midline {region}"
    return f"{paired}, {tissue}" if tissue and region.endswith("lobe") else paired


def _sides(points: np.ndarray) -> np.ndarray:
    x = points[:, 0]
    return np.where(np.abs(x) < MIDLINE_MM, "midline", np.where(x < 0, "left", "right"))


def _regions(points: np.ndarray) -> np.ndarray:
    """Regions by planes and boxes in the template's millimetres; the first that holds a point names it."""
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    tentorium = np.where(x < 45, -18 - 0.12 * (y + 60), -30)
    sylvian = -6 + 0.45 * (14 - y)
    central = -0.5 * (z - 12) - 4
    occipital = -64 - 0.45 * np.maximum(0, z - 12)
    boxes = [
        ("brainstem", (x < 15) & (y > -43) & (y < -8) & (z < -9 + 0.1 * (y + 43))),
        ("cerebellum", (y < -34) & (z < tentorium)),
        ("hippocampus and amygdala", (x > 13) & (x < 36) & (y > -38) & (y < 2) & (z > -30) & (z < -7)),
        ("thalamus", (x < 22) & (y > -34) & (y < -4) & (z > -5) & (z < 17)),
        ("basal ganglia", (x > 5) & (x < 34) & (y > -22) & (y < 21) & (z > -9) & (z < 16)),
        ("insular region", (x >= 32) & (x < 44) & (y > -22) & (y < 24) & (z > -8) & (z < 14)),
        ("corpus callosum", (x < 10) & (y > -40) & (y < 32) & (z >= 10) & (z < 28) & _is_white(points)),
        ("lateral ventricle region", (x < 30) & (y > -48) & (y < 32) & (z > -2) & (z < 30) & _is_fluid(points)),
        ("temporal lobe", (x > 13) & (z < np.minimum(sylvian, 20)) & (y > -60) & (y < 24) & ((x > 24) | (z < -5))),
        ("occipital lobe", y < occipital),
        ("frontal lobe", y > central),
        ("parietal lobe", np.ones(len(points), dtype=bool)),
    ]
    names = np.select([inside for _, inside in boxes], [name for name, _ in boxes], "outside")
    return np.where(_outside(points), "outside", names)


def _outside(points: np.ndarray) -> np.ndarray:
    """Farther than 15 mm beyond the template's extent."""
    low, high = np.asarray(TEMPLATE_LOW_MM) - 15, np.asarray(TEMPLATE_HIGH_MM) + 15
    return np.asarray(np.any((points < low) | (points > high), axis=1))


def _tissues(points: np.ndarray) -> np.ndarray:
    maps = _tissue_maps()
    if maps is None:
        return np.full(len(points), "")
    grey, white, depth = (_sample(volume, maps.affine, points) for volume in (maps.grey, maps.white, maps.depth_mm))
    deep = np.where(depth > DEEP_MM, "deep white matter", "white matter")
    return np.where((white >= grey) & (white > 0.3), deep, np.where(grey > 0.1, "cortex", "fluid spaces"))


def _is_white(points: np.ndarray) -> np.ndarray:
    return _tissue_at(points, "white", fallback=False)


def _is_fluid(points: np.ndarray) -> np.ndarray:
    return _tissue_at(points, "fluid", fallback=False)


def _tissue_at(points: np.ndarray, kind: str, *, fallback: bool) -> np.ndarray:
    maps = _tissue_maps()
    if maps is None:
        return np.full(len(points), fallback)
    grey, white = _sample(maps.grey, maps.affine, points), _sample(maps.white, maps.affine, points)
    return np.asarray(white > 0.5 if kind == "white" else grey + white < 0.4)


@dataclass(frozen=True)
class _TissueMaps:
    """Template maps ``(D, H, W)``: probabilities 0 to 1, and the distance to the brain's surface."""

    grey: np.ndarray
    white: np.ndarray
    depth_mm: np.ndarray
    affine: np.ndarray


@lru_cache(maxsize=1)
def _tissue_maps() -> _TissueMaps | None:
    """The maps that nilearn ships, at 2 mm; ``None`` where it is not installed."""
    folder = template_folder()
    if folder is None:
        return None
    files = [folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz" for kind in ("gm", "wm")]
    if not all(file.is_file() for file in files):
        return None
    images = [nib.Nifti1Image.from_filename(file) for file in files]
    grey, white = (_halved(image) for image in images)
    finer = np.asarray(images[0].affine, dtype=float)
    affine = finer @ np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] += finer[:3, :3] @ (0.5, 0.5, 0.5)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    solid = ndimage.binary_fill_holes(ndimage.binary_closing(grey + white > 0.3, iterations=4))
    return _TissueMaps(grey, white, ndimage.distance_transform_edt(solid, sampling=spacing), affine)


def _halved(image: nib.Nifti1Image) -> np.ndarray:
    values = np.asarray(image.dataobj, dtype=np.float32)
    even = values[tuple(slice(0, size - size % 2) for size in values.shape)]
    blocks = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, even.shape[2] // 2, 2)
    return np.asarray(blocks.mean(axis=(1, 3, 5)) / max(float(values.max()), 1e-6))


def _sample(volume: np.ndarray, affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    voxels = nib.affines.apply_affine(np.linalg.inv(affine), points)
    return np.asarray(ndimage.map_coordinates(volume, voxels.T, order=0, mode="constant", cval=0.0))
