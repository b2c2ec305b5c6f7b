"""Files of DICOM images: whole, truncated or strays, and which of them belong to one series."""

from __future__ import annotations

import hashlib
import struct
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from itermask3d.files.dicom_pixels import check_length
from itermask3d.files.dicom_planes import IMAGE_CLASSES, read_text
from itermask3d.files.errors import ScanError

__all__ = ["FoundSeries", "NoDicomError", "SeriesFile", "group_series", "is_dicom", "read_files", "series_folder_files"]

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima", ".mr", ".mag")
FIRST_TAGS = tuple(bytes.fromhex(tag) for tag in ("08000000", "08000500", "08000800", "08001200", "08001600",
                                                 "02000000", "02000100", "02000200", "02001000"))  # fmt: skip
"""With which a file without preamble begins: of group 2, or the first of group 8 that images have."""

HEADER_TAGS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SeriesNumber",
               "SeriesDescription", "Modality", "ImageType", "SamplesPerPixel", "NumberOfFrames", "Rows",
               "Columns", "PatientID")  # fmt: skip
BROKEN = (InvalidDicomError, BytesLengthException, EOFError, OSError, ValueError, TypeError, KeyError, IndexError,
          AttributeError, NotImplementedError, OverflowError, MemoryError, RecursionError, AssertionError,
          struct.error, zlib.error)  # fmt: skip
"""What pydicom raises for files that are damaged or none."""


class NoDicomError(ScanError):
    """A file is no DICOM image; whether that matters depends on what lies beside it."""


@dataclass(frozen=True, eq=False)
class SeriesFile:
    """One file of a series, whole, with its size and SHA-256."""

    path: Path
    data: Dataset
    size: int
    digest: str


@dataclass(frozen=True, eq=False)
class FoundSeries:
    """Files of one SeriesInstanceUID, wherever they lie.

    Attributes:
        uid: SeriesInstanceUID; empty where the files have none, which then are grouped by folder.
        files: sorted.
        header: of the first file, :data:`HEADER_TAGS` only.
        n_images: files, or frames where one file holds several.
    """

    uid: str
    files: tuple[Path, ...]
    header: Dataset
    n_images: int


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, with its preamble or, by its first tag, without (PS3.10, section 7.1)."""
    try:
        with path.open("rb") as stream:
            head = stream.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or head[:4] in FIRST_TAGS


def group_series(files: Iterable[str | Path]) -> tuple[FoundSeries, ...]:
    """Group DICOM files of any folders by SeriesInstanceUID, from their headers; other files are left out.

    A series that an archive split over several folders comes back as one. Damaged files of a series are not noticed
    here but by :func:`itermask3d.files.dicom_volume.read_series`; files that do not parse at all belong to no series.
    """
    groups: dict[tuple[str, Path | None], list[tuple[Path, Dataset]]] = {}
    for path in sorted(map(Path, files)):
        header = _header(path)
        if header is not None and ("Rows" in header or read_text(header, "SOPClassUID") in IMAGE_CLASSES):
            uid = read_text(header, "SeriesInstanceUID")
            groups.setdefault((uid, None if uid else path.parent), []).append((path, header))
    return tuple(
        FoundSeries(uid, tuple(path for path, _ in found), found[0][1], sum(_n_frames(header) for _, header in found))
        for (uid, _), found in groups.items()
    )


def series_folder_files(folder: Path) -> list[Path]:
    """Files of a folder, without hidden ones and the index of a DICOM medium."""
    try:
        found = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise ScanError(f"'{folder}' cannot be read ({error.strerror}); expected a folder of DICOM files") from error
    return [path for path in found if not path.name.startswith(".") and path.name.upper() != "DICOMDIR"]


def read_files(paths: Sequence[Path], name: str, *, strict: bool) -> tuple[list[SeriesFile], list[str]]:
    """Read all images among files.

    Args:
        paths: in any order.
        name: how messages call the series.
        strict: refuse any file that is no image; else only one that seems to have been one of the series.

    Returns:
        The images, and the names of files left out.

    Raises:
        ScanError: naming the first file that is empty, truncated or damaged, or if no image is left.
    """
    images: list[SeriesFile] = []
    others: list[tuple[Path, ScanError]] = []
    for path in paths:
        try:
            images.append(_read_file(path))
        except NoDicomError as error:
            others.append((path, error))
    endings = {_ending(image.path) for image in images} | {*DICOM_SUFFIXES}
    for path, reason in others:
        if strict or _ending(path) in endings:
            raise reason
    if not images:
        raise ScanError(f"'{name}' holds no DICOM image; expected the files of one series")
    return images, [path.name for path, _ in others]


def _ending(path: Path) -> str:
    """What files of one series share: their suffix, or that they have none or end in a number."""
    suffix = path.suffix.lower()
    return "" if suffix[1:].isdigit() else suffix


def _read_file(path: Path) -> SeriesFile:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ScanError(f"'{path}' cannot be read ({error.strerror}); expected a DICOM image") from error
    if not content:
        raise NoDicomError(f"'{path}' is empty; expected a DICOM image")
    data = _parse(content, path)
    kind = read_text(data, "SOPClassUID") or read_text(data.file_meta, "MediaStorageSOPClassUID")
    if kind not in IMAGE_CLASSES and kind and "PixelData" not in data:
        raise NoDicomError(f"'{path}' is a DICOM file without an image; expected an image")
    if "Rows" not in data or "PixelData" not in data:
        raise ScanError(f"'{path}' is truncated or damaged: it has no pixels; expected a complete DICOM image")
    try:
        check_length(data, str(path))
    except BROKEN as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(f"'{path}' is damaged ({error}); expected a complete DICOM image") from error
    return SeriesFile(path, data, len(content), hashlib.sha256(content).hexdigest())


def _parse(content: bytes, path: Path) -> Dataset:
    has_preamble = content[128:132] == b"DICM"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = dcmread(BytesIO(content), force=not has_preamble)
            if not has_preamble and not ("SOPClassUID" in data or "Rows" in data):
                raise NoDicomError(f"'{path}' is no DICOM file; expected a DICOM image")
            data.walk(_touch)
            _complete_meta(data)
    except BROKEN as error:
        if isinstance(error, ScanError):
            raise
        kind = ScanError if has_preamble else NoDicomError
        raise kind(f"'{path}' is truncated or damaged ({_line(error)}); expected a complete DICOM image") from error
    return data


def _touch(data: Dataset, element: Any) -> None:
    """Parse an element's value, which pydicom puts off until it is asked for."""


def _complete_meta(data: Dataset) -> None:
    """Name the transfer syntax that pydicom found where the file does not."""
    if getattr(data, "file_meta", None) is None:
        data.file_meta = FileMetaDataset()
    if not data.file_meta.get("TransferSyntaxUID"):
        plain = ImplicitVRLittleEndian if data.is_implicit_VR else ExplicitVRLittleEndian
        data.file_meta.TransferSyntaxUID = plain if data.is_little_endian else ExplicitVRBigEndian
    if data.file_meta.TransferSyntaxUID.is_private:
        raise ValueError(f"unknown transfer syntax {data.file_meta.TransferSyntaxUID}")


def _header(path: Path) -> Dataset | None:
    if not is_dicom(path):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER_TAGS), force=True)
            data.walk(_touch)
    except BROKEN:
        return None
    return data


def _n_frames(header: Dataset) -> int:
    try:
        return max(1, int(header.get("NumberOfFrames") or 1))
    except (TypeError, ValueError):
        return 1


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]
