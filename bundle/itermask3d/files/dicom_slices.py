"""The slices of a DICOM series and the voxels of an array, matched by scanner coordinates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.valuerep import format_number_as_ds

from itermask3d.files.errors import ScanError

__all__ = ["on_slices", "read_slices"]

POSITION_TOLERANCE_VOXELS = 0.1
"""How far a pixel of the series may lie from a voxel of the array; NIfTI headers are rounded to float32."""


def read_slices(source: str | Path | Sequence[str | Path]) -> list[Dataset]:
    """Headers of a series of single-slice images, sorted along the normal of the image plane.

    Args:
        source: its folder, or its files.

    Returns:
        Headers without pixels, in which missing attributes that every file must name, if only emptily, are empty.

    Raises:
        ScanError: if the folder holds no DICOM image, several series, several frames a file, two images of one place
            or images that lack a position.
    """
    one = isinstance(source, (str, Path))
    files = sorted(Path(source).glob("*")) if isinstance(source, (str, Path)) else [Path(file) for file in source]
    name = source if one else files[0].parent
    headers = [data for file in files if (data := _header(file)) is not None]
    if not headers:
        raise ScanError(f"folder '{name}' holds no DICOM image; expected the files of one series")
    if len({str(data.get("SeriesInstanceUID")) for data in headers}) > 1:
        raise ScanError(f"folder '{name}' holds several series; expected one")
    for data in headers:
        _require(data)
    normal = np.cross(*np.reshape(np.asarray(headers[0].ImageOrientationPatient, dtype=float), (2, 3)))
    places = [float(normal @ np.asarray(data.ImagePositionPatient, dtype=float)) for data in headers]
    if len(headers) > 1 and np.diff(np.sort(places)).min() < 1e-3:
        raise ScanError("two images of the series lie at one place; expected one image a slice")
    ordered = [headers[index] for index in np.argsort(places)]
    _complete(ordered, spacing_mm=_slice_spacing(places))
    return ordered


def on_slices(volume: NDArray[Any], affine: NDArray[Any], slices: Sequence[Dataset]) -> NDArray[Any]:
    """Bring a volume onto the pixels of a series by scanner coordinates.

    Args:
        volume: ``(I, J, K)``.
        affine: ``(4, 4)``, its voxels to RAS millimetres.
        slices: headers, see :func:`read_slices`.

    Returns:
        ``(slice, row, column)``, of the volume's type.

    Raises:
        ScanError: if a pixel lies beside the voxels or outside, or a voxel is not on any pixel.
    """
    n_pixels = len(slices) * int(slices[0].Rows) * int(slices[0].Columns)
    if volume.ndim != 3 or volume.size != n_pixels:
        raise ScanError(f"the mask has shape {volume.shape}, and the series {n_pixels} pixels; expected the same grid")
    to_voxel = np.linalg.inv(np.asarray(affine, dtype=float))
    starts = {tuple(np.round((to_voxel @ _pixel_to_ras(data))[:3, 3]).astype(int)) for data in slices}
    if len(starts) < len(slices):
        raise ScanError("two images of the series fall into one slice of the mask; expected the same grid")
    return np.stack([_on_slice(volume, to_voxel, data) for data in slices])


def _on_slice(volume: NDArray[Any], to_voxel: NDArray[Any], data: Dataset) -> NDArray[Any]:
    """One slice of :func:`on_slices`: which voxel axes run along rows and columns, then a plain slice of the array."""
    linear = to_voxel @ _pixel_to_ras(data)
    steps = np.round(linear[:3, :2]).astype(int)
    start = np.round(linear[:3, 3]).astype(int)
    last = np.array([int(data.Columns) - 1, int(data.Rows) - 1])
    corners = np.array([[0, 0], [last[0], 0], [0, last[1]], last])
    exact = linear[:3, 3] + corners @ linear[:3, :2].T
    apart = float(np.abs(exact - (start + corners @ steps.T)).max())
    end = start + steps @ last
    if apart > POSITION_TOLERANCE_VOXELS or np.any(np.minimum(start, end) < 0):
        raise ScanError(f"the mask lies up to {apart:.1f} voxels beside the series; expected the same grid")
    if np.any(np.maximum(start, end) >= volume.shape):
        raise ScanError("the mask ends before the series does; expected the same grid")
    columns, rows = np.arange(last[0] + 1), np.arange(last[1] + 1)[:, None]
    voxels = tuple(start[axis] + steps[axis, 0] * columns + steps[axis, 1] * rows for axis in range(3))
    return np.asarray(volume[voxels])


def _pixel_to_ras(data: Dataset) -> NDArray[Any]:
    """``(4, 4)``: column and row of a pixel to RAS millimetres (PS3.3, equation C.7.6.2.1-1)."""
    orientation = np.asarray(data.ImageOrientationPatient, dtype=float)
    row_mm, column_mm = (float(value) for value in data.PixelSpacing)
    matrix = np.zeros((4, 4))
    matrix[:3, 0], matrix[:3, 1] = orientation[:3] * column_mm, orientation[3:] * row_mm
    matrix[:3, 3], matrix[3, 3] = np.asarray(data.ImagePositionPatient, dtype=float), 1
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def _header(file: Path) -> Dataset | None:
    try:
        data = dcmread(file, stop_before_pixels=True) if file.is_file() else None
    except InvalidDicomError:
        return None
    return data if data is not None and "Rows" in data else None


def _require(data: Dataset) -> None:
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID")
    missing = [name for name in needed if not data.get(name)]
    if int(data.get("NumberOfFrames") or 1) > 1:
        raise ScanError("the series holds several frames in one file (enhanced MR); expected one image a file")
    if missing:
        raise ScanError(f"an image of the series lacks {' and '.join(missing)}, without which it has no place")


def _slice_spacing(places: Iterable[float]) -> float | None:
    gaps = np.diff(np.sort(list(places)))
    return float(np.median(gaps)) if gaps.size else None


def _complete(slices: Sequence[Dataset], *, spacing_mm: float | None) -> None:
    """Fill in what a segmentation copies: empty attributes, and a distance between slices that follows positions.

    Readers rebuild the volume's third axis from that distance, and scanners often leave out or misstate it.
    """
    for data in slices:
        for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
                     "StudyDate", "StudyTime"):  # fmt: skip
            if name not in data:
                setattr(data, name, "")
        if spacing_mm is not None:
            data.SpacingBetweenSlices = format_number_as_ds(spacing_mm)
        if not data.get("SliceThickness"):
            data.SliceThickness = format_number_as_ds(spacing_mm or 1.0)
