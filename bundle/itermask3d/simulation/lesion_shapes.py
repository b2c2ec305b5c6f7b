"""Shapes of real lesions: read from files, turned, scaled to a volume, and put where they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.signal import fftconvolve

from itermask3d.files.scans import ScanError
from itermask3d.files.writing import replaced

__all__ = [
    "LesionShape",
    "Pose",
    "fitting_centres",
    "load_shapes",
    "posed_to_volume",
    "read_shapes",
    "render",
    "save_shapes",
    "share_under",
]

SUPERSAMPLING = 3
"""Points along each edge of a voxel that are asked whether they lie in the lesion."""

_VOLUME_STEPS = 6


@dataclass(frozen=True)
class LesionShape:
    """A lesion's outline.

    Attributes:
        name: of its file.
        mask: boolean, cropped to the lesion, axes right, front and up.
        spacing_mm: edges of a voxel.
    """

    name: str
    mask: np.ndarray
    spacing_mm: tuple[float, float, float]

    @property
    def volume_ml(self) -> float:
        """As drawn by the expert."""
        return float(self.mask.sum() * np.prod(self.spacing_mm) / 1000)


@dataclass(frozen=True)
class Pose:
    """How a shape is turned and sized.

    Attributes:
        scale: factor of every length.
        rotation_deg: about the three axes, applied in their order.
        flipped: whether left and right are exchanged first.
    """

    scale: float = 1.0
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    flipped: bool = False

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale must be positive, got {self.scale}")

    @property
    def matrix(self) -> np.ndarray:
        """From the shape's millimetres to the scan's, ``(3, 3)``."""
        turned = np.eye(3)
        for axis, angle in enumerate(np.deg2rad(self.rotation_deg)):
            first, second = ((1, 2), (2, 0), (0, 1))[axis]
            step = np.eye(3)
            step[[first, second], [first, second]] = np.cos(angle)
            step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
            turned = step @ turned
        return self.scale * turned @ np.diag([-1.0 if self.flipped else 1.0, 1.0, 1.0])


def read_shapes(folders: Sequence[str | Path]) -> dict[str, LesionShape]:
    """Read every lesion mask of some folders, by file name; empty ones are left out.

    Raises:
        ScanError: if there is none.
    """
    paths = [path for folder in folders for path in sorted(Path(folder).glob("*.nii.gz"))]
    shapes = {path.name: shape for path in paths if (shape := _read_shape(path)) is not None}
    if not shapes:
        raise ScanError(f"'{', '.join(map(str, folders))}' holds no lesion shape; expected *.nii.gz")
    return shapes


def save_shapes(shapes: Mapping[str, LesionShape], path: str | Path) -> None:
    """Write shapes into one small file, which is read in a moment."""
    arrays = {name: shape.mask for name, shape in shapes.items()}
    spacings = np.array([shape.spacing_mm for shape in shapes.values()])
    with replaced(Path(path)) as partial:
        np.savez_compressed(partial, names=np.array(list(shapes)), spacings=spacings, **arrays)


def load_shapes(path: str | Path) -> dict[str, LesionShape]:
    """Read what :func:`save_shapes` wrote."""
    with np.load(path) as found:
        return {
            str(name): LesionShape(str(name), found[str(name)], (float(a), float(b), float(c)))
            for name, (a, b, c) in zip(found["names"], found["spacings"], strict=True)
        }


def render(shape: LesionShape, pose: Pose, *, spacing_mm: Sequence[float]) -> np.ndarray:
    """The share of every voxel that lies in the posed shape, on a grid around the shape's centre.

    Each voxel is asked at :data:`SUPERSAMPLING` cubed points, so that a border voxel has a partial volume.

    Args:
        shape: outline.
        pose: how it is turned and sized.
        spacing_mm: edges of a voxel of the grid.

    Returns:
        Float32, 0 to 1, with an odd number of voxels on each axis; the shape's centre lies in the middle voxel.
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    linear = pose.matrix
    half_mm = np.abs(linear) @ (np.asarray(shape.mask.shape) * shape.spacing_mm / 2)
    half = np.ceil(half_mm / spacing).astype(int) + 1
    fine = (2 * half + 1) * SUPERSAMPLING
    to_shape = np.diag(1 / np.asarray(shape.spacing_mm)) @ np.linalg.inv(linear) @ np.diag(spacing / SUPERSAMPLING)
    middle = (np.asarray(shape.mask.shape) - 1) / 2
    offset = middle - to_shape @ ((fine - 1) / 2)
    # The nearest voxel and no interpolation: a threshold of one half would take points on both faces, or on none.
    padded = np.pad(shape.mask, 1).astype(np.uint8)
    inside = ndimage.affine_transform(padded, to_shape, offset + 1, output_shape=tuple(fine), order=0)
    blocks = inside.reshape([part for size in fine // SUPERSAMPLING for part in (size, SUPERSAMPLING)])
    return np.asarray(blocks.mean(axis=(1, 3, 5)), dtype=np.float32)


def posed_to_volume(
    shape: LesionShape,
    *,
    volume_ml: float,
    rotation_deg: tuple[float, float, float],
    flipped: bool,
    spacing_mm: Sequence[float],
) -> Pose:
    """The pose in which the voxels that lie half or more in the shape have a volume, as nearly as voxels allow.

    Raises:
        ValueError: if the volume is not positive.
    """
    if not volume_ml > 0:
        raise ValueError(f"volume_ml must be positive, got {volume_ml}")
    scale = (volume_ml / shape.volume_ml) ** (1 / 3)
    best, best_miss = Pose(scale, rotation_deg, flipped), np.inf
    for _ in range(_VOLUME_STEPS):
        pose = Pose(scale, rotation_deg, flipped)
        found = float((render(shape, pose, spacing_mm=spacing_mm) >= 0.5).sum() * np.prod(spacing_mm) / 1000)
        miss = abs(np.log(found / volume_ml)) if found else np.inf  # whatever is seen is better than nothing
        if miss < best_miss:
            best, best_miss = pose, miss
        if best_miss < 0.02:
            break
        # A shape too thin to fill half of any voxel grows until it does; the root damps the steps of small counts.
        scale *= 1.3 if found == 0 else (volume_ml / found) ** 0.3
    return best


def fitting_centres(region: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Where the middle of a footprint may lie so that all of it is inside a region.

    Args:
        region: boolean ``(D, H, W)``, such as the brain.
        footprint: boolean, an odd number of voxels on each axis.

    Returns:
        Boolean ``(D, H, W)``.
    """
    return np.asarray(_under(region, footprint) > footprint.sum() - 0.5)


def share_under(region: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """The share of a footprint that would lie in a region, for every place of its middle; ``(D, H, W)``."""
    return _under(region, footprint) / max(1, int(footprint.sum()))


def _under(region: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    kernel = footprint[::-1, ::-1, ::-1].astype(np.float32)
    # The full product, cut around the middle: "same" would be centred on the larger of the two.
    product = fftconvolve(region.astype(np.float32), kernel, mode="full")
    return product[tuple(slice(n // 2, n // 2 + size) for n, size in zip(kernel.shape, region.shape, strict=True))]


def _read_shape(path: Path) -> LesionShape | None:
    image = nib.as_closest_canonical(nib.load(path))
    mask = np.asarray(image.dataobj) > 0.5
    if not mask.any():
        return None
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    a, b, c = (float(value) for value in image.header.get_zooms()[:3])
    return LesionShape(path.name, mask[box], (a, b, c))
