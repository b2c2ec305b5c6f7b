"""One scan as it was read: voxels, their place, where that place is told, and what was odd about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itermask3d.files.digest import Identity
from itermask3d.files.errors import ScanError

__all__ = [
    "MEMORY_LIMIT_BYTES",
    "UNKNOWN_SIDES",
    "Placement",
    "Volume",
    "check_affine",
    "check_memory",
    "corner_distance_mm",
    "one_volume",
]

MEMORY_LIMIT_BYTES = 2 * 1024**3
"""Of one scan as float32: 812 voxels along each axis, four times the largest head at 7 T."""

FLAT = 1e-6
"""Volume spanned by the unit voxel axes below which they lie in a plane."""

UNKNOWN_SIDES = "the file does not say which side is left: {reason}; left and right may be exchanged"


@dataclass(frozen=True, eq=False)
class Placement:
    """Both places that a NIfTI header tells, so that an output can tell the same.

    Attributes:
        sform, qform: ``(4, 4)``, voxel to RAS millimetres.
        sform_code, qform_code: NIfTI's codes, 0 for unknown.
    """

    sform: NDArray[Any]
    qform: NDArray[Any]
    sform_code: int
    qform_code: int


@dataclass(frozen=True, eq=False)
class Volume:
    """One 3D scan.

    Attributes:
        voxels: float32 ``(I, J, K)``, rescaled as the file says; NaN and infinite values are kept.
        affine: float64 ``(4, 4)``, voxel to RAS millimetres, as the file says; never made orthogonal.
        source: the files that were read.
        format: ``nifti``, ``analyze``, ``mgh``, ``nrrd``, ``metaimage`` or ``dicom``.
        known_sides: whether the file tells left from right.
        placement: of a NIfTI file, see :class:`Placement`.
        instances: of a DICOM series, the SOPInstanceUID of each slice along the third axis.
        series: its SeriesInstanceUID.
        n_nan, n_infinite: how many voxels are NaN, and how many infinite.
        warnings: a sentence each.
    """

    voxels: NDArray[Any]
    affine: NDArray[Any]
    source: Identity
    format: str
    known_sides: bool = True
    placement: Placement | None = None
    instances: tuple[str, ...] = ()
    series: str = ""
    n_nan: int = 0
    n_infinite: int = 0
    warnings: tuple[str, ...] = ()


def one_volume(shape: Sequence[int], name: str) -> tuple[int, int, int]:
    """The shape without trailing axes of one element.

    Raises:
        ScanError: unless three axes of two elements or more remain.
    """
    sizes = [int(size) for size in shape]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if min(sizes, default=0) < 1:
        raise ScanError(f"'{name}' has the shape {_times(shape)}; expected positive sizes")
    if len(sizes) > 3:
        raise ScanError(f"'{name}' holds {prod(sizes[3:])} volumes ({_times(shape)}); expected one")
    if len(sizes) < 3 or min(sizes) < 2:
        raise ScanError(f"'{name}' has the shape {_times(shape)}; expected three axes of 2 voxels or more")
    return sizes[0], sizes[1], sizes[2]


def check_memory(shape: Sequence[int], name: str, *, limit_bytes: int) -> None:
    """Refuse a scan before memory is taken for it.

    Raises:
        ScanError: if its voxels as float32 need more than the limit.
    """
    needed = 4 * prod(int(size) for size in shape)
    if needed > limit_bytes:
        raise ScanError(
            f"'{name}' has {_times(shape)} voxels, which need {needed / 2**30:.1f} GiB; "
            f"expected at most {limit_bytes / 2**30:.1f} GiB"
        )


def check_affine(affine: NDArray[Any], name: str) -> NDArray[Any]:
    """The affine as read-only float64.

    Raises:
        ScanError: if a value is not finite, an axis has no length or the axes lie in a plane.
    """
    matrix = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ScanError(f"'{name}' has no usable place of its voxels (values that are not finite); expected an affine")
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if not (lengths.min() > 1e-6 and lengths.max() < 1e6):
        sizes = " x ".join(f"{length:.3g}" for length in lengths)
        raise ScanError(f"'{name}' has voxels of {sizes} mm; expected sizes above zero")
    if abs(np.linalg.det(matrix[:3, :3] / lengths)) < FLAT:
        raise ScanError(f"'{name}' has voxel axes that lie in one plane; expected three that span a volume")
    matrix.flags.writeable = False
    return matrix


def corner_distance_mm(shape: Sequence[int], first: NDArray[Any], second: NDArray[Any]) -> float:
    """How far apart, at most, two affines place a corner of the volume."""
    corners = np.array(list(product(*((0, size - 1) for size in shape), (1,))), dtype=float)
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
