"""FreeSurfer's MGH and MGZ (surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat), placed as nibabel places them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itermask3d.files.digest import combine, hash_stream
from itermask3d.files.errors import ScanError
from itermask3d.files.streams import Layout, decompressed, is_gzip, open_file, read_exactly, read_voxels
from itermask3d.files.volume import MEMORY_LIMIT_BYTES, UNKNOWN_SIDES, Volume, check_affine, check_memory, one_volume

__all__ = ["MGH_SUFFIXES", "read_mgh"]

MGH_SUFFIXES = (".mgh", ".mgz")
HEADER_BYTES = 284
FIELDS = struct.Struct(">7i h 15f")
"""Version, four sizes, type, degrees of freedom; whether the place is known; spacing, three axes, centre."""

TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2"}
TAG_BYTES = 1024 * 1024
"""Scan parameters, history and transforms may follow the voxels."""

CORONAL = (1.0, 1.0, 1.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0)
"""FreeSurfer's place of a volume that tells none."""


NO_PLACE = "its goodRASFlag is 0, so voxels of 1 mm in FreeSurfer's order are taken"


def read_mgh(path: str | Path, *, memory_limit_bytes: int = MEMORY_LIMIT_BYTES) -> Volume:
    """Read one MGH or MGZ volume.

    Args:
        path: the file.
        memory_limit_bytes: of the voxels as float32, checked before memory is taken.

    Raises:
        ScanError: if the file is missing, truncated, damaged, too large, of several volumes or of another type of
            values than FreeSurfer writes, or has no usable place.
    """
    name, file = str(path), Path(path)
    with open_file(file) as stream:
        size, digest = hash_stream(stream)
        stream.seek(0)
        coding = "gzip" if is_gzip(stream) else "raw"
        plain = decompressed(stream, coding)
        layout, affine, known = _header(read_exactly(plain, HEADER_BYTES, name), name, memory_limit_bytes)
        loaded = read_voxels(plain, layout, name, stored_bytes=size if coding == "gzip" else None)
    return Volume(
        loaded.voxels,
        affine,
        combine([(file, size, digest)]),
        "mgh",
        known_sides=known,
        n_nan=loaded.n_nan,
        n_infinite=loaded.n_infinite,
        warnings=() if known else (UNKNOWN_SIDES.format(reason=NO_PLACE),),
    )


def _header(head: bytes, name: str, limit_bytes: int) -> tuple[Layout, NDArray[Any], bool]:
    version, *sizes, kind, _, good, d0, d1, d2, m0, m1, m2, m3, m4, m5, m6, m7, m8, c0, c1, c2 = FIELDS.unpack_from(
        head
    )
    if version != 1:
        raise ScanError(f"'{name}' does not begin with an MGH header of version 1; expected an MGH or MGZ file")
    if kind not in TYPES:
        raise ScanError(f"'{name}' holds values of MGH's type {kind}; expected {', '.join(map(str, TYPES))}")
    if good not in (0, 1):
        raise ScanError(f"'{name}' has the goodRASFlag {good}; expected 0 or 1")
    shape = one_volume(sizes, name)
    check_memory(shape, name, limit_bytes=limit_bytes)
    place = (d0, d1, d2, m0, m1, m2, m3, m4, m5, m6, m7, m8, c0, c1, c2) if good == 1 else CORONAL
    axes = np.reshape(place[3:12], (3, 3)).T * np.asarray(place[:3])
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = np.asarray(place[12:]) - axes @ (np.asarray(shape) / 2)
    return Layout(np.dtype(TYPES[kind]), shape, trailing_bytes=TAG_BYTES), check_affine(affine, name), good == 1
