"""A DICOM series as one volume, every voxel where its headers place it, or one sentence on why it is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itermask3d.files.dicom_files import BROKEN, SeriesFile, read_files, series_folder_files
from itermask3d.files.dicom_pixels import stored_pixels
from itermask3d.files.dicom_planes import Plane, planes_of, read_text
from itermask3d.files.dicom_stack import Stack, arrange
from itermask3d.files.digest import combine
from itermask3d.files.errors import ScanError
from itermask3d.files.volume import MEMORY_LIMIT_BYTES, Volume, check_memory

__all__ = ["read_series"]


def read_series(
    source: str | Path | Sequence[str | Path],
    *,
    series_uid: str | None = None,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
) -> Volume:
    """Read a DICOM series of MR or CT images, classic or enhanced multi-frame, as one volume.

    The axes of the voxels are columns, rows and slices, the slices along the normal of the image plane; each voxel
    lies where ImagePositionPatient, ImageOrientationPatient and PixelSpacing place it, a slanted stack (gantry tilt)
    by a sheared affine. Slope and intercept are those of each slice. Names and order of files do not matter.

    Args:
        source: a folder, of which sub-folders are not searched; one file; or the files of a series, of any folders.
            In a folder, files that are no DICOM images are left out with a warning, unless their names say that they
            are damaged images.
        series_uid: reads this series only.
        memory_limit_bytes: of the files, and of the voxels as float32; checked before memory is taken.

    Raises:
        ScanError: if a file is empty, truncated or damaged, an image is no MR or CT image of grey values or has no
            place, or the images make up no single regular volume; see :func:`itermask3d.files.dicom_stack.arrange`.
    """
    paths, name, strict = _paths(source)
    total = sum(path.stat().st_size for path in paths if path.is_file())
    if total > memory_limit_bytes:
        raise ScanError(
            f"'{name}' holds {total / 2**30:.1f} GiB; expected a series of at most {memory_limit_bytes / 2**30:.1f} GiB"
        )
    files, left_out = read_files(paths, name, strict=strict)
    if series_uid is not None:
        files = [file for file in files if read_text(file.data, "SeriesInstanceUID") == series_uid]
        if not files:
            raise ScanError(f"'{name}' holds no image of series {series_uid}; expected its files")
    try:
        return _volume(files, name, left_out, memory_limit_bytes)
    except BROKEN as error:  # pydicom converts values when they are asked for, and raises what it likes
        if isinstance(error, (ScanError, MemoryError)):
            raise
        raise ScanError(f"series '{name}' has a damaged header ({error}); expected DICOM images") from error


def _paths(source: str | Path | Sequence[str | Path]) -> tuple[list[Path], str, bool]:
    if not isinstance(source, (str, Path)):
        paths = sorted(map(Path, source))
        if not paths:
            raise ScanError("a series without files cannot be read; expected its files")
        return paths, str(paths[0].parent), True
    path = Path(source)
    if path.is_dir():
        return series_folder_files(path), str(source), False
    if not path.exists():
        raise ScanError(f"'{source}' does not exist; expected a folder with one DICOM series")
    return [path], str(source), True


def _volume(files: Sequence[SeriesFile], name: str, left_out: Sequence[str], limit_bytes: int) -> Volume:
    planes: list[Plane] = []
    owners: list[SeriesFile] = []
    for file in files:
        found = planes_of(file.data, str(file.path))
        planes += found
        owners += [file] * len(found)
    pixels = _Pixels(owners, planes)
    stack = arrange(planes, name, identical=pixels.identical)
    check_memory(stack.shape, name, limit_bytes=limit_bytes)
    voxels = _fill(stack, planes, pixels)
    if not np.isfinite(voxels).all():
        raise ScanError(f"series '{name}' holds values beyond 3.4e38 (RescaleSlope); expected smaller ones")
    strays = [f"{len(left_out)} files that are no DICOM images were left out ({', '.join(left_out[:5])})"]
    return Volume(
        voxels,
        stack.affine,
        combine((file.path, file.size, file.digest) for file in files),
        "dicom",
        instances=tuple(planes[index].uid for index in stack.planes),
        series=read_text(files[0].data, "SeriesInstanceUID"),
        warnings=(*stack.warnings, *(strays if left_out else ())),
    )


class _Pixels:
    """Decoded planes, kept for the file that was asked for last, which may hold many frames."""

    def __init__(self, owners: Sequence[SeriesFile], planes: Sequence[Plane]) -> None:
        self.owners = owners
        self.planes = planes
        self.file: SeriesFile | None = None
        self.frames: NDArray[Any] = np.empty(0)

    def plane(self, index: int) -> NDArray[Any]:
        """Stored values ``(rows, columns)``."""
        file = self.owners[index]
        if file is not self.file:
            self.frames = stored_pixels(file.data, str(file.path))
            self.file = file
        plane: NDArray[Any] = self.frames[self.planes[index].frame]
        return plane

    def identical(self, first: int, second: int) -> bool:
        """Whether two planes hold the same values."""
        return bool(np.array_equal(self.plane(first), self.plane(second)))


def _fill(stack: Stack, planes: Sequence[Plane], pixels: _Pixels) -> NDArray[Any]:
    voxels = np.empty(stack.shape, dtype=np.float32, order="F")
    with np.errstate(over="ignore", invalid="ignore"):
        for k, index in enumerate(stack.planes):
            plane = planes[index]
            voxels[:, :, k] = pixels.plane(index).T * plane.slope + plane.intercept
    return voxels
