"""MetaImage (itk.org/Wiki/ITK/MetaIO/Documentation), ``.mha`` and ``.mhd``, raw or compressed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from itermask3d.files.digest import combine, hash_stream
from itermask3d.files.errors import ScanError
from itermask3d.files.nrrd import beside
from itermask3d.files.streams import Layout, Loaded, open_file, read_voxels, skip
from itermask3d.files.volume import MEMORY_LIMIT_BYTES, UNKNOWN_SIDES, Volume, check_affine, check_memory, one_volume

__all__ = ["METAIMAGE_SUFFIXES", "read_metaimage"]

METAIMAGE_SUFFIXES = (".mha", ".mhd")
HEADER_LIMIT_BYTES = 1024 * 1024
TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
REFUSED = {"ElementNumberOfChannels": "1", "BinaryData": "True", "ElementToIntensityFunctionSlope": "1",
           "ElementToIntensityFunctionOffset": "0"}  # fmt: skip
"""Fields that may be left out, and the one value of each that is read."""

DIRECTIONS = ("TransformMatrix", "Rotation", "Orientation")
"""Names that the field of the axes' directions has had."""

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""MetaImage is written and read in LPS by ITK; its AnatomicalOrientation is a comment."""


class _Inflate:
    """The content of a zlib or gzip stream, in pieces; its check sum is verified at the end."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.engine = zlib.decompressobj(wbits=47)

    def read(self, count: int = -1) -> bytes:
        while not self.engine.eof:
            block = self.engine.unconsumed_tail or self.stream.read(65536)
            if part := self.engine.decompress(block, max(count, 0)):
                return part
            if not block and not self.engine.eof:
                raise EOFError("the compressed voxels end too early")
        if self.engine.unused_data or self.stream.read(1):
            raise ValueError("something follows the compressed voxels")
        return b""


def read_metaimage(path: str | Path, *, memory_limit_bytes: int = MEMORY_LIMIT_BYTES) -> Volume:
    """Read one MetaImage volume.

    Args:
        path: the file, or the header of a detached one.
        memory_limit_bytes: of the voxels as float32, checked before memory is taken.

    Raises:
        ScanError: if a file is missing, truncated, damaged, longer than its header says, too large, written as text,
            of several volumes or channels, or without voxel sizes.
    """
    name, file = str(path), Path(path)
    with open_file(file) as stream:
        files = [(file, *hash_stream(stream))]
        stream.seek(0)
        fields = _fields(stream, name)
        layout = _layout(fields, name)
        check_memory(layout.shape, name, limit_bytes=memory_limit_bytes)
        affine = check_affine(_affine(fields, name), name)
        if fields["ElementDataFile"].upper() == "LOCAL":
            loaded = _load(stream, fields, layout, file.stat().st_size - stream.tell(), name)
        else:
            data = beside(file, fields["ElementDataFile"])
            with open_file(data) as detached:
                files.append((data, *hash_stream(detached)))
                detached.seek(0)
                loaded = _load(detached, fields, layout, data.stat().st_size, name)
    known = any(key in fields for key in DIRECTIONS)
    return Volume(
        loaded.voxels,
        affine,
        combine(files),
        "metaimage",
        known_sides=known,
        n_nan=loaded.n_nan,
        n_infinite=loaded.n_infinite,
        warnings=() if known else (UNKNOWN_SIDES.format(reason="it has no TransformMatrix"),),
    )


def _fields(stream: BinaryIO, name: str) -> dict[str, str]:
    """Header fields; the stream stands behind ``ElementDataFile``, which is the last."""
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        line = stream.readline(4096)
        key, separator, value = line.decode("latin-1").partition("=")
        if not separator or stream.tell() > HEADER_LIMIT_BYTES:
            raise ScanError(f"'{name}' has no MetaImage header up to 'ElementDataFile'; expected a MetaImage file")
        if key.strip() in fields:
            raise ScanError(f"'{name}' has '{key.strip()}' twice in its header; expected it once")
        fields[key.strip()] = value.strip()
    for key in ("NDims", "DimSize", "ElementType"):
        if key not in fields:
            raise ScanError(f"'{name}' has a MetaImage header without '{key}'; expected a complete header")
    return fields


def _layout(fields: Mapping[str, str], name: str) -> Layout:
    for key, expected in REFUSED.items():
        if fields.get(key, expected).lower() != expected.lower():
            raise ScanError(f"'{name}' has {key} = {fields[key]}; expected {expected}")
    code = TYPES.get(fields["ElementType"])
    if code is None:
        raise ScanError(f"'{name}' holds values of the type '{fields['ElementType']}'; expected numbers")
    try:
        sizes = [int(size) for size in fields["DimSize"].split()]
    except ValueError as error:
        raise ScanError(f"'{name}' has the sizes '{fields['DimSize']}'; expected whole numbers") from error
    if fields["NDims"] != str(len(sizes)):
        raise ScanError(f"'{name}' has {fields['NDims']} axes and {len(sizes)} sizes; expected as many")
    big = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")).lower() in ("true", "1")
    return Layout(np.dtype((">" if big else "<") + code), one_volume(sizes, name))


def _affine(fields: Mapping[str, str], name: str) -> NDArray[Any]:
    n_axes = int(fields["NDims"])
    axes = _numbers(fields, DIRECTIONS, n_axes * n_axes, name)
    origin = _numbers(fields, ("Offset", "Position", "Origin"), n_axes, name)
    spacing = _numbers(fields, ("ElementSpacing", "ElementSize"), n_axes, name)
    if spacing is None:
        raise ScanError(f"'{name}' tells no voxel sizes; expected 'ElementSpacing'")
    directions = np.eye(3) if axes is None else np.reshape(axes, (n_axes, n_axes))[:3, :3].T
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing[:3]
    affine[:3, 3] = 0 if origin is None else origin[:3]
    return TO_RAS @ affine


def _numbers(fields: Mapping[str, str], keys: tuple[str, ...], count: int, name: str) -> NDArray[Any] | None:
    found = next((key for key in keys if key in fields), None)
    if found is None:
        return None
    try:
        values = np.array([float(value) for value in fields[found].split()])
    except ValueError:
        values = np.empty(0)
    if len(values) != count:
        raise ScanError(f"'{name}' has {found} = {fields[found][:60]}; expected {count} numbers")
    return values


def _load(stream: BinaryIO, fields: Mapping[str, str], layout: Layout, size: int, name: str) -> Loaded:
    compressed = fields.get("CompressedData", "False").lower() in ("true", "1")
    try:
        skipped = int(fields.get("HeaderSize", "0"))
    except ValueError as error:
        raise ScanError(f"'{name}' has HeaderSize = {fields['HeaderSize']}; expected a whole number") from error
    skip(stream, size - layout.n_bytes if skipped == -1 and not compressed else skipped, name)
    if not compressed:
        return read_voxels(stream, layout, name)
    return read_voxels(cast(BinaryIO, _Inflate(stream)), layout, name, stored_bytes=size)
