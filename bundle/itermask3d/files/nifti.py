"""NIfTI and Analyze: placed as nibabel places them, and refused where a byte is missing or wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from nibabel.analyze import AnalyzeHeader
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from itermask3d.files.digest import combine, hash_stream
from itermask3d.files.errors import ScanError
from itermask3d.files.streams import Layout, decompressed, is_gzip, open_file, read_exactly, read_voxels, skip
from itermask3d.files.volume import (
    MEMORY_LIMIT_BYTES,
    UNKNOWN_SIDES,
    Placement,
    Volume,
    check_affine,
    check_memory,
    corner_distance_mm,
    one_volume,
)

__all__ = ["NIFTI_SUFFIXES", "read_nifti"]

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".img", ".img.gz", ".hdr", ".hdr.gz")
NIFTI1_BYTES, NIFTI2_BYTES = 348, 540
UNITS = {1: "metres", 3: "micrometres"}
"""Units of space that are not millimetres; 0 is unknown, and taken for them, as every reader does."""

CODES = range(6)
REFUSED_LEVEL = 40
"""Of nibabel's list of faults in a header: those that its own loader refuses; lesser ones it repairs."""

SILENT = logging.Logger("silent", logging.CRITICAL + 1)
"""For nibabel's repairs: what changes the place is refused or warned of here."""

WRONG = (HeaderDataError, ValueError, OverflowError, KeyError, TypeError, IndexError, FloatingPointError)
"""What nibabel raises for headers that cannot be."""


@dataclass(frozen=True, eq=False)
class _Header:
    """What a header tells.

    Attributes:
        layout: how the voxels lie.
        offset: bytes before them.
        affine, known_sides, placement, warnings: see :class:`Volume`.
    """

    layout: Layout
    offset: int
    format: str
    affine: NDArray[Any]
    known_sides: bool
    placement: Placement | None
    warnings: tuple[str, ...]


def read_nifti(path: str | Path, *, memory_limit_bytes: int = MEMORY_LIMIT_BYTES) -> Volume:
    """Read one NIfTI-1, NIfTI-2 or Analyze volume, single or as a pair, compressed by gzip or not.

    The place is that of nibabel: the sform where its code is above 0, else the qform, else the voxel sizes alone
    (NIfTI-1 standard, ``nifti1.h``, methods 3, 2 and 1). It is told so where the sides are not known, and where sform
    and qform differ by more than half a voxel.

    Args:
        path: the file, or either of a pair's.
        memory_limit_bytes: of the voxels as float32, checked before memory is taken.

    Raises:
        ScanError: if a file is missing, truncated, damaged, longer than its header says, too large, complex, in
            colour, of several volumes, in other units than millimetres, or without a usable place.
    """
    header_path, image_path = _pair(Path(path))
    with open_file(header_path) as stream:
        head = _head(stream, header_path)
        files = [(header_path, *_hashed(stream))]
    header = _parse(head, str(path), single=header_path == image_path, limit_bytes=memory_limit_bytes)
    with open_file(image_path) as stream:
        if image_path != header_path:
            files.append((image_path, *_hashed(stream)))
        coding = "gzip" if is_gzip(stream) else "raw"
        size = image_path.stat().st_size
        plain = decompressed(stream, coding)
        skip(plain, header.offset, str(path))
        loaded = read_voxels(plain, header.layout, str(path), stored_bytes=size if coding == "gzip" else None)
    return Volume(
        loaded.voxels,
        header.affine,
        combine(files),
        header.format,
        known_sides=header.known_sides,
        placement=header.placement,
        n_nan=loaded.n_nan,
        n_infinite=loaded.n_infinite,
        warnings=header.warnings,
    )


def _hashed(stream: BinaryIO) -> tuple[int, str]:
    stream.seek(0)
    found = hash_stream(stream)
    stream.seek(0)
    return found


def _pair(path: Path) -> tuple[Path, Path]:
    """Header and image; twice the same file where they are one."""
    lower = path.name.lower()
    for ending, other in ((".img", ".hdr"), (".img.gz", ".hdr.gz"), (".hdr", ".img"), (".hdr.gz", ".img.gz")):
        if lower.endswith(ending):
            stem, case = path.name[: -len(ending)], path.name[-len(ending) :]
            twin = path.with_name(stem + (other.upper() if case.isupper() else other))
            if not twin.exists():
                raise ScanError(f"'{path}' has no '{twin.name}' beside it; expected header and image as a pair")
            return (twin, path) if other.startswith(".hdr") else (path, twin)
    return path, path


def _head(stream: BinaryIO, path: Path) -> bytes:
    plain = decompressed(stream, "gzip" if is_gzip(stream) else "raw")
    first = read_exactly(plain, NIFTI1_BYTES, str(path))
    if 540 in (int.from_bytes(first[:4], "little"), int.from_bytes(first[:4], "big")):
        return first + read_exactly(plain, NIFTI2_BYTES - NIFTI1_BYTES, str(path))
    return first


def _parse(head: bytes, name: str, *, single: bool, limit_bytes: int) -> _Header:
    byte_order = "<" if int.from_bytes(head[:4], "little") in (NIFTI1_BYTES, NIFTI2_BYTES) else ">"
    if int.from_bytes(head[:4], "little" if byte_order == "<" else "big") not in (NIFTI1_BYTES, NIFTI2_BYTES):
        raise ScanError(f"'{name}' does not begin with a NIfTI header; expected a NIfTI file")
    kind = _kind(head, name, single=single)
    try:
        header = kind(head, endianness=byte_order, check=False)
        _check_raw(header, name)
        header.check_fix(logger=SILENT, error_level=REFUSED_LEVEL)
        with np.errstate(all="ignore"):
            return _read_header(header, name, limit_bytes=limit_bytes)
    except WRONG as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(f"'{name}' has a header that cannot be ({error}); expected a NIfTI file") from error


def _kind(head: bytes, name: str, *, single: bool) -> Callable[..., AnalyzeHeader]:
    kinds: dict[bytes, tuple[Callable[..., AnalyzeHeader], bool]] = {
        b"n+1\0": (Nifti1Header, True),
        b"ni1\0": (Nifti1PairHeader, False),
        b"n+2\0": (Nifti2Header, True),
        b"ni2\0": (Nifti2PairHeader, False),
    }
    magic = head[4:8] if len(head) == NIFTI2_BYTES else head[344:348]
    if len(head) == NIFTI1_BYTES and magic not in kinds and not single:
        return AnalyzeHeader
    if magic not in kinds or (magic[2:3] == b"2") != (len(head) == NIFTI2_BYTES):
        raise ScanError(f"'{name}' has no NIfTI magic in its header (found {magic!r}); expected a NIfTI file")
    kind, in_one_file = kinds[magic]
    if in_one_file != single:
        found = "one file" if in_one_file else "a pair of files"
        raise ScanError(f"'{name}' has the header of {found}; expected {'one file' if single else 'a pair of files'}")
    return kind


def _check_raw(header: AnalyzeHeader, name: str) -> None:
    """Refuse what nibabel would repair in one way and other readers in another."""
    if not 1 <= int(header["dim"][0]) <= 7:
        raise ScanError(f"'{name}' has {int(header['dim'][0])} axes; expected 3")
    if isinstance(header, Nifti1Header):
        for key in ("sform_code", "qform_code"):
            if int(header[key]) not in CODES:
                raise ScanError(f"'{name}' has the {key} {int(header[key])}; expected 0 to 5")
        qfac = float(header["pixdim"][0])
        if int(header["sform_code"]) == 0 and int(header["qform_code"]) > 0 and qfac not in (-1, 0, 1):
            raise ScanError(f"'{name}' has the handedness {qfac:g} (pixdim[0]); expected 1 or -1")
        units = UNITS.get(int(header["xyzt_units"]) & 7)
        if units:
            raise ScanError(f"'{name}' is measured in {units}; expected millimetres")


def _read_header(header: AnalyzeHeader, name: str, *, limit_bytes: int) -> _Header:
    shape = one_volume(header.get_data_shape(), name)
    check_memory(shape, name, limit_bytes=limit_bytes)
    dtype = header.get_data_dtype()
    if dtype.kind == "c":
        raise ScanError(f"'{name}' holds complex values; expected real ones, such as their magnitude")
    if dtype.kind not in "iuf":
        raise ScanError(f"'{name}' holds colours or an unknown type of values ({dtype}); expected grey values")
    slope, intercept = header.get_slope_inter()
    layout = Layout(dtype, shape, 1.0 if slope is None else slope, 0.0 if intercept is None else intercept)
    affine = check_affine(header.get_best_affine(), name)
    offset = int(header.get_data_offset())
    if not isinstance(header, Nifti1Header):
        unknown = UNKNOWN_SIDES.format(reason="the Analyze format has no place for it")
        return _Header(layout, offset, "analyze", affine, False, None, (unknown,))
    placement = Placement(
        _or_nan(header.get_sform), _or_nan(header.get_qform), int(header["sform_code"]), int(header["qform_code"])
    )
    known = placement.sform_code > 0 or placement.qform_code > 0
    warnings = [] if known else [UNKNOWN_SIDES.format(reason="qform_code and sform_code are both 0")]
    warnings += _disagreement(placement, shape, affine)
    return _Header(layout, offset, "nifti", affine, known, placement, tuple(warnings))


def _or_nan(get: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """A matrix, or NaN where the header's numbers make none, which matters only if it is the one in use."""
    try:
        return np.asarray(get(), dtype=np.float64)
    except WRONG:
        return np.full((4, 4), np.nan)


def _disagreement(placement: Placement, shape: tuple[int, int, int], affine: NDArray[Any]) -> list[str]:
    if not (placement.sform_code > 0 and placement.qform_code > 0):
        return []
    apart = corner_distance_mm(shape, placement.sform, placement.qform)
    if apart <= 0.5 * np.linalg.norm(affine[:3, :3], axis=0).min():
        return []
    return [
        f"sform and qform of the file place it up to {apart:.1f} mm apart; the sform is taken, and software that takes "
        "the qform shows it elsewhere"
    ]
