"""Simulated lesions put into real scans: semi-synthetic, and to be called so wherever results are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from itermask3d.files.scans import voxel_volume_ml

__all__ = [
    "KINDS",
    "LesionLook",
    "draw_look",
    "draw_region",
    "generated_shape",
    "insert_lesion",
    "placed_shape",
    "push_aside",
]

KINDS = {"hypo": 0.7, "iso": 0.2, "hyper": 0.3}
"""Kinds of contrast, and their weights among each other: darker, as bright as the tissue around it, brighter."""

STRONG = 1.5
"""Contrast from which on a lesion counts as strong, in robust SDs of the brain's intensity."""

MASS_DECAY_MM = 15.0
"""Distance over which a mass effect falls to 1/e, and depth of the brain's rim that it spares."""

_SMOOTHNESS_MM = 6.0

_COLIN27_BRAIN_MM = np.array([[-71.0, -105.0, -68.0], [71.0, 72.0, 82.0]])
"""Corners of the box around the brain of the template in whose space lesion shapes are given."""

_LEAST_ML = 1.0


@dataclass(frozen=True)
class LesionLook:
    """How a lesion differs from the tissue around it.

    Attributes:
        contrast: shift of the intensity in units of the brain's robust SD (interquartile range / 1.349); negative
            is darker.
        texture: standard deviation of the texture inside, same unit.
        keep: share of the original structure that shows through, 0 to 1.
        border_mm: width of the soft border.
    """

    contrast: float = -1.5
    texture: float = 0.25
    keep: float = 0.3
    border_mm: float = 1.5

    @property
    def group(self) -> str:
        """``"strong lesion"`` from a contrast of :data:`STRONG`, ``"iso-intense lesion"`` below 0.3, else weak."""
        if abs(self.contrast) >= STRONG:
            return "strong lesion"
        return "iso-intense lesion" if abs(self.contrast) < 0.3 else "weak lesion"


def draw_look(rng: np.random.Generator, kinds: Sequence[str] = ("hypo", "hyper")) -> LesionLook:
    """Draw how a lesion looks.

    Args:
        rng: source of everything random.
        kinds: of :data:`KINDS`, drawn by their weights. ``hypo`` and ``hyper`` have a contrast of 0.8 to 2.5 robust
            scales and little texture of their own; ``iso`` has at most 0.2, loses most of the structure beneath and has
            a coarse texture of 0.6 to 1.2 instead.

    Raises:
        ValueError: without a kind, or with one that is unknown.
    """
    if not kinds or set(kinds) - KINDS.keys():
        raise ValueError(f"kinds must be some of {', '.join(KINDS)}, got {list(kinds)}")
    weights = np.array([KINDS[kind] for kind in kinds])
    kind = str(rng.choice(list(kinds), p=weights / weights.sum()))
    if kind == "iso":
        contrast, texture, keep = (float(rng.uniform(*ends)) for ends in ((-0.2, 0.2), (0.6, 1.2), (0.1, 0.4)))
        return LesionLook(contrast=contrast, texture=texture, keep=keep)
    contrast = float(rng.uniform(0.8, 2.5)) * (-1 if kind == "hypo" else 1)
    return LesionLook(contrast=contrast, texture=0.25, keep=float(rng.uniform(0.1, 0.5)))


def generated_shape(brain: np.ndarray, affine: np.ndarray, *, volume_ml: float, rng: np.random.Generator) -> np.ndarray:
    """Draw one connected, irregular region inside the brain.

    A distance from a random brain voxel, made irregular by a smooth random field, is cut where the volume fits.

    Args:
        brain: boolean ``(D, H, W)``.
        affine: voxel to millimetres.
        volume_ml: of the region; kept to one voxel unless the brain is smaller.
        rng: source of everything random.

    Returns:
        Boolean ``(D, H, W)``.

    Raises:
        ValueError: if the brain is empty or the volume not positive.
    """
    if not brain.any() or not volume_ml > 0:
        raise ValueError(
            f"a lesion needs a brain and a positive volume, got {volume_ml} ml in {int(brain.sum())} voxels"
        )
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    inner = ndimage.binary_erosion(brain, iterations=max(1, round(8 / spacing.min()))) if volume_ml < 50 else brain
    candidates = np.argwhere(inner if inner.any() else brain)
    centre = candidates[rng.integers(len(candidates))]
    offsets = (np.indices(brain.shape) - centre[:, None, None, None]) * spacing[:, None, None, None]
    distance = np.sqrt((offsets**2).sum(axis=0))
    field = ndimage.gaussian_filter(rng.standard_normal(brain.shape), _SMOOTHNESS_MM / spacing)
    radius = (volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    cost = np.where(brain, distance + 0.3 * radius * field / field.std(), np.inf)
    wanted = min(int(brain.sum()), max(1, round(volume_ml / voxel_volume_ml(affine))))
    region = cost <= np.partition(cost.ravel(), wanted - 1)[wanted - 1]
    labels, _ = ndimage.label(region)
    return labels == np.bincount(labels[region]).argmax()


def placed_shape(shape: nib.Nifti1Image, brain: np.ndarray, affine: np.ndarray, *, template: np.ndarray) -> np.ndarray:
    """Bring a lesion mask from template space into a scan by the affine between the two brains' bounding boxes.

    Args:
        shape: lesion mask in template space.
        brain: the scan's brain mask, boolean ``(D, H, W)``.
        affine: the scan's voxel to RAS millimetres.
        template: lower and upper RAS corner of the template's brain in millimetres, ``(2, 3)``.

    Returns:
        Boolean ``(D, H, W)``, inside the brain; may be empty.
    """
    corners = nib.affines.apply_affine(affine, np.argwhere(brain))
    low, high = corners.min(axis=0), corners.max(axis=0)
    scale = (template[1] - template[0]) / (high - low)
    to_template = np.eye(4)
    to_template[:3, :3] = np.diag(scale)
    to_template[:3, 3] = template[0] - scale * low
    to_voxel = np.linalg.inv(shape.affine) @ to_template @ affine
    moved = ndimage.affine_transform(
        np.asarray(shape.dataobj, dtype=np.float32),
        to_voxel[:3, :3],
        to_voxel[:3, 3],
        output_shape=brain.shape,
        order=1,
    )
    return (moved > 0.5) & brain


def insert_lesion(
    image: np.ndarray,
    region: np.ndarray,
    brain: np.ndarray,
    affine: np.ndarray,
    *,
    look: LesionLook,
    rng: np.random.Generator,
) -> np.ndarray:
    """Change a scan's intensities inside a region.

    Args:
        image: the scan, any intensity unit, ``(D, H, W)``.
        region: boolean lesion.
        brain: boolean brain; gives the unit of the contrast.
        affine: voxel to millimetres.
        look: see :class:`LesionLook`; a contrast of 0 with ``keep`` 1 and no texture leaves the scan as it is.
        rng: source of the texture.

    Returns:
        New float32 array; unchanged outside the brain and, up to the soft border, outside the region.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = np.percentile(image[brain], (25, 75))
    scale = (high - low) / 1.349
    weight = ndimage.gaussian_filter(region.astype(np.float32), look.border_mm / 2 / spacing) * brain
    texture = ndimage.gaussian_filter(rng.standard_normal(image.shape), 1.5 / spacing)
    inside = image[region]
    mean = float(inside.mean()) if inside.size else 0.0
    target = mean + look.keep * (image - mean) + scale * (look.contrast + look.texture * texture / texture.std())
    return np.asarray(image + weight * (target - image), dtype=np.float32)


def push_aside(
    image: np.ndarray, region: np.ndarray, brain: np.ndarray, affine: np.ndarray, *, mass_effect_mm: float
) -> np.ndarray:
    r"""Push the tissue around a region outwards, as a growing mass does; before the lesion itself is put in.

    A voxel at a distance :math:`d` from the region shows what lay nearer to it by
    :math:`m \, e^{-d / 15} (1 - e^{-r / 15})` millimetres, with the depth :math:`r` below the brain's surface: the
    surface stays, tissue near the region is compressed, and for :math:`m < 15` nothing is folded.

    Args:
        image: the scan ``(D, H, W)``.
        region, brain: boolean, same grid.
        affine: voxel to millimetres.
        mass_effect_mm: :math:`m`; 0 leaves the scan as it is.

    Returns:
        New float32 array; unchanged outside the brain and inside the region.

    Raises:
        ValueError: if the effect is negative or would fold the tissue.
    """
    if not 0 <= mass_effect_mm < MASS_DECAY_MM:
        raise ValueError(f"mass_effect_mm must lie from 0 to below {MASS_DECAY_MM:g}, got {mass_effect_mm}")
    if mass_effect_mm == 0 or not region.any():
        return np.array(image, dtype=np.float32)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    away = ndimage.distance_transform_edt(~region, sampling=spacing)
    depth = ndimage.distance_transform_edt(brain, sampling=spacing)
    shift_mm = mass_effect_mm * np.exp(-away / MASS_DECAY_MM) * (1 - np.exp(-depth / MASS_DECAY_MM))
    shift_mm = np.minimum(shift_mm, away)  # nothing of the region itself is pulled out
    direction = np.stack(np.gradient(ndimage.gaussian_filter(away, 2 / spacing), *spacing))
    direction /= np.maximum(np.linalg.norm(direction, axis=0), 1e-6)
    source = np.indices(image.shape) - direction * shift_mm / spacing[:, None, None, None]
    moved = ndimage.map_coordinates(np.asarray(image, dtype=np.float32), source, order=1, mode="nearest")
    return np.where(brain & ~region, moved, image).astype(np.float32)


def draw_region(
    shapes: Sequence[Path], brain: np.ndarray, affine: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, str]:
    """Take a real shape of at least 1 ml in the brain, or generate one of 1 to 100 ml (log-uniform)."""
    for index in rng.permutation(len(shapes)):
        shape: Any = nib.load(shapes[index])
        region = placed_shape(shape, brain, affine, template=_COLIN27_BRAIN_MM)
        if region.sum() * voxel_volume_ml(affine) >= _LEAST_ML:
            return region, shapes[index].name
    volume = float(np.exp(rng.uniform(np.log(1), np.log(100))))
    return generated_shape(brain, affine, volume_ml=volume, rng=rng), "generated"
