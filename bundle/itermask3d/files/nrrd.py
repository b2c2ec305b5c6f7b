"""NRRD (teem.sourceforge.net/nrrd/format.html), attached or detached, raw or compressed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from itermask3d.files.digest import combine, hash_stream
from itermask3d.files.errors import ScanError
from itermask3d.files.streams import Layout, Loaded, decompressed, open_file, read_voxels, skip
from itermask3d.files.volume import MEMORY_LIMIT_BYTES, UNKNOWN_SIDES, Volume, check_affine, check_memory, one_volume

__all__ = ["NRRD_SUFFIXES", "beside", "read_nrrd"]

NRRD_SUFFIXES = (".nrrd", ".nhdr")
HEADER_LIMIT_BYTES = 1024 * 1024
TYPES = {
    "i1": "signed char,int8,int8_t",
    "u1": "uchar,unsigned char,uint8,uint8_t",
    "i2": "short,short int,signed short,signed short int,int16,int16_t",
    "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
    "i4": "int,signed int,int32,int32_t",
    "u4": "uint,unsigned int,uint32,uint32_t",
    "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t",
    "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
    "f4": "float",
    "f8": "double",
}
DTYPES = {name: dtype for dtype, names in TYPES.items() for name in names.split(",")}
CODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
"""Signs that turn a space's axes to right, front and up."""

VECTOR = re.compile(r"none|\([^()]*\)")


@dataclass(frozen=True, eq=False)
class _Place:
    """Affine, and why it does not tell the sides; empty where it does."""

    affine: NDArray[Any]
    unknown: str


def read_nrrd(path: str | Path, *, memory_limit_bytes: int = MEMORY_LIMIT_BYTES) -> Volume:
    """Read one NRRD volume.

    Args:
        path: the file, or the header of a detached one.
        memory_limit_bytes: of the voxels as float32, checked before memory is taken.

    Raises:
        ScanError: if a file is missing, truncated, damaged, longer than its header says, too large, of an encoding
            other than raw, gzip and bzip2, of several volumes, or without voxel sizes.
    """
    name, file = str(path), Path(path)
    with open_file(file) as stream:
        files = [(file, *hash_stream(stream))]
        stream.seek(0)
        fields = _fields(stream, name)
        layout = _layout(fields, name)
        check_memory(layout.shape, name, limit_bytes=memory_limit_bytes)
        place = _place(fields, name)
        coding = _coding(fields, name)
        if "data file" not in fields:
            left = file.stat().st_size - stream.tell()
            loaded = _load(stream, fields, layout, (coding, left), name)
        else:
            data = beside(file, fields["data file"])
            with open_file(data) as detached:
                files.append((data, *hash_stream(detached)))
                detached.seek(0)
                loaded = _load(detached, fields, layout, (coding, data.stat().st_size), name)
    return Volume(
        loaded.voxels,
        check_affine(place.affine, name),
        combine(files),
        "nrrd",
        known_sides=not place.unknown,
        n_nan=loaded.n_nan,
        n_infinite=loaded.n_infinite,
        warnings=(UNKNOWN_SIDES.format(reason=place.unknown),) if place.unknown else (),
    )


def beside(header: Path, named: str) -> Path:
    """The data file that a header names, which must lie beside or below it.

    Raises:
        ScanError: if it lies elsewhere, is a list or pattern of files, or does not exist.
    """
    part = Path(named)
    if named.split(" ")[0] == "LIST" or "%" in named:
        raise ScanError(f"'{header}' has its voxels in several files; expected one")
    if part.is_absolute() or ".." in part.parts or "\0" in named:
        raise ScanError(f"'{header}' names voxels outside its own folder ('{named}'); expected a file beside it")
    if not (header.parent / part).is_file():
        raise ScanError(f"'{header}' has no '{named}' beside it; expected the file with its voxels")
    return header.parent / part


def _fields(stream: BinaryIO, name: str) -> dict[str, str]:
    """Header fields by name in lower case; the stream stands behind the empty line after them."""
    if not re.fullmatch(rb"NRRD000[1-5]", stream.readline(64).strip()):
        raise ScanError(f"'{name}' does not begin with an NRRD header; expected an NRRD file")
    fields: dict[str, str] = {}
    while True:
        line = stream.readline(HEADER_LIMIT_BYTES)
        if not line.strip() or stream.tell() > HEADER_LIMIT_BYTES:
            break
        text = line.decode("latin-1").strip()
        if text.startswith("#") or ":=" in text:
            continue
        key, separator, value = text.partition(":")
        key = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}.get(key.lower(), key.lower())
        if not separator or key in fields:
            raise ScanError(f"'{name}' has an NRRD header with an odd line ({text[:40]!r}); expected 'field: value'")
        fields[key] = value.strip()
    for key in ("type", "dimension", "sizes", "encoding"):
        if key not in fields:
            raise ScanError(f"'{name}' has an NRRD header without '{key}'; expected a complete header")
    return fields


def _layout(fields: Mapping[str, str], name: str) -> Layout:
    code = DTYPES.get(fields["type"].lower())
    if code is None:
        raise ScanError(f"'{name}' holds values of the type '{fields['type']}'; expected whole or decimal numbers")
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower())
    if order is None and code[1] != "1":
        raise ScanError(f"'{name}' does not tell the order of its bytes; expected 'endian: little' or 'big'")
    try:
        shape = one_volume([int(size) for size in fields["sizes"].split()], name)
        dimension = int(fields["dimension"])
    except ValueError as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(f"'{name}' has the sizes '{fields['sizes']}'; expected whole numbers") from error
    if dimension != len(fields["sizes"].split()):
        raise ScanError(f"'{name}' has {dimension} axes and {len(fields['sizes'].split())} sizes; expected as many")
    return Layout(np.dtype((order or "<") + code), shape)


def _coding(fields: Mapping[str, str], name: str) -> str:
    coding = CODINGS.get(fields["encoding"].lower())
    if coding is None:
        raise ScanError(f"'{name}' has the encoding '{fields['encoding']}'; expected raw, gzip or bzip2")
    return coding


def _load(stream: BinaryIO, fields: Mapping[str, str], layout: Layout, stored: tuple[str, int], name: str) -> Loaded:
    coding, size = stored
    lines, skipped = _whole(fields, "line skip", name), _whole(fields, "byte skip", name)
    for _ in range(lines):
        stream.readline(HEADER_LIMIT_BYTES)
    if skipped == -1 and coding == "raw":
        skip(stream, size - layout.n_bytes, name)
        skipped = 0
    plain = decompressed(stream, coding)
    skip(plain, skipped, name)
    return read_voxels(plain, layout, name, stored_bytes=size if coding == "gzip" else None)


def _whole(fields: Mapping[str, str], key: str, name: str) -> int:
    try:
        value = int(fields.get(key, "0"))
    except ValueError as error:
        raise ScanError(f"'{name}' has the {key} '{fields[key]}'; expected a whole number") from error
    if value < (-1 if key == "byte skip" else 0) or value > 2**31:
        raise ScanError(f"'{name}' has the {key} {value}; expected 0 or more")
    return value


def _place(fields: Mapping[str, str], name: str) -> _Place:
    if any("mm" not in unit and unit for unit in re.findall(r'"([^"]*)"', fields.get("space units", ""))):
        raise ScanError(f"'{name}' is measured in {fields['space units']}; expected millimetres")
    space = fields.get("space", "").lower()
    signs = SPACES.get(space)
    unknown = "" if signs else f"its space is '{space}'" if space else "it names no space"
    turn = np.diag([*(signs or SPACES["lps"]), 1.0])
    axes = np.eye(4)
    axes[:3, :3] = _axes(fields, name)
    if "space origin" in fields:
        axes[:3, 3] = _vectors(fields["space origin"], name)[0]
    return _Place(turn @ axes, unknown)


def _axes(fields: Mapping[str, str], name: str) -> NDArray[Any]:
    if "space directions" in fields:
        vectors = _vectors(fields["space directions"], name)
        kept = [vector for vector in vectors if vector is not None]
        if len(kept) != 3 or any(vector is None for vector in vectors[:3]):
            raise ScanError(f"'{name}' has space directions for {len(kept)} axes; expected 3 and values of one number")
        return np.array(kept).T
    try:
        spacings = [float(value) for value in fields.get("spacings", "").split()][:3]
    except ValueError:
        spacings = []
    if len(spacings) != 3 or not all(np.isfinite(spacings)):
        raise ScanError(f"'{name}' tells no voxel sizes; expected 'space directions' or 'spacings'")
    return np.diag(spacings)


def _vectors(text: str, name: str) -> list[NDArray[Any] | None]:
    vectors: list[NDArray[Any] | None] = []
    for part in VECTOR.findall(text):
        try:
            vector = None if part == "none" else np.array([float(value) for value in part[1:-1].split(",")])
        except ValueError as error:
            raise ScanError(f"'{name}' has the vector {part}; expected three numbers") from error
        if vector is not None and vector.shape != (3,):
            raise ScanError(f"'{name}' has the vector {part}; expected three numbers")
        vectors.append(vector)
    if not vectors:
        raise ScanError(f"'{name}' has the vectors '{text[:60]}'; expected three numbers in brackets")
    return vectors
