"""Voxels out of a file, whole or not at all: sizes and check sums are compared before anything is believed."""

from __future__ import annotations

import bz2
import gzip
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from itermask3d.files.errors import ScanError

__all__ = ["Layout", "Loaded", "decompressed", "is_gzip", "open_file", "read_exactly", "read_voxels", "skip"]

CHUNK_BYTES = 4 * 1024 * 1024
MAX_RATIO = 1100
"""Deflate cannot compress by more than 1032 to 1."""

DAMAGED = (EOFError, OSError, zlib.error, ValueError)
"""What Python's decompressors raise for damaged input; ``gzip.BadGzipFile`` is an ``OSError``."""


@dataclass(frozen=True)
class Layout:
    """How voxels lie in a stream: the first axis fastest.

    Attributes:
        dtype: of one stored value, byte order included; integer or floating.
        shape: ``(I, J, K)``.
        slope, intercept: stored value to intensity.
        trailing_bytes: what may follow, such as FreeSurfer's tags; other formats end in less than a face of zeros.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, int, int]
    slope: float = 1.0
    intercept: float = 0.0
    trailing_bytes: int = 0

    @property
    def n_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Loaded:
    """Voxels as float32 ``(I, J, K)`` and how many of them are NaN or infinite."""

    voxels: NDArray[Any]
    n_nan: int
    n_infinite: int


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        ScanError: if it cannot be opened, or is empty.
    """
    try:
        if path.is_dir():
            raise ScanError(f"'{path}' is a folder; expected a file")
        if path.stat().st_size == 0:
            raise ScanError(f"'{path}' is empty; expected a scan")
        return path.open("rb")
    except (OSError, ValueError) as error:
        if isinstance(error, ScanError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ScanError(f"'{path}' cannot be read ({reason}); expected a scan") from error


def is_gzip(stream: BinaryIO) -> bool:
    """Whether a seekable stream stands before gzip's magic bytes."""
    here = stream.tell()
    magic = stream.read(2)
    stream.seek(here)
    return magic == b"\x1f\x8b"


def decompressed(stream: BinaryIO, coding: str) -> BinaryIO:
    """A stream of the content of one coded ``raw``, ``gzip`` or ``bzip2``; check sums are verified at its end."""
    if coding == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb"))
    return cast(BinaryIO, bz2.BZ2File(stream)) if coding == "bzip2" else stream


def read_exactly(stream: BinaryIO, count: int, name: str) -> bytes:
    """The next bytes.

    Raises:
        ScanError: if the stream ends before or is damaged.
    """
    parts, left = [], count
    try:
        while left:
            part = stream.read(min(left, CHUNK_BYTES))
            if not part:
                raise ScanError(f"'{name}' is truncated: {left} of {count} bytes are missing; expected a complete file")
            parts.append(part)
            left -= len(part)
    except DAMAGED as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(f"'{name}' is damaged or truncated ({error}); expected a complete file") from error
    return b"".join(parts)


def skip(stream: BinaryIO, count: int, name: str) -> None:
    """Pass over bytes, which are read so that a damaged stream shows.

    Raises:
        ScanError: see :func:`read_exactly`, or if the count is negative.
    """
    if count < 0:
        raise ScanError(f"'{name}' says that its voxels begin {-count} bytes inside its header; expected them after it")
    while count:
        count -= len(read_exactly(stream, min(count, CHUNK_BYTES), name))


def read_voxels(stream: BinaryIO, layout: Layout, name: str, *, stored_bytes: int | None = None) -> Loaded:
    """Read all voxels, then to the very end of the stream.

    Args:
        stream: stands before the first voxel.
        layout: what to expect.
        name: how messages call the file.
        stored_bytes: size of the compressed stream, which bounds what it can hold.

    Raises:
        ScanError: if the stream is damaged, shorter or longer than expected, if a value does not fit into float32, or
            if no value is finite.
    """
    if stored_bytes is not None and layout.n_bytes > MAX_RATIO * stored_bytes:
        raise ScanError(
            f"'{name}' promises {layout.n_bytes} bytes of voxels in {stored_bytes} bytes; expected a complete file"
        )
    try:
        flat = np.empty(prod(layout.shape), dtype=np.float32)
    except MemoryError as error:
        raise ScanError(
            f"'{name}' needs more memory than there is ({4 * prod(layout.shape) / 2**30:.1f} GiB)"
        ) from error
    step = CHUNK_BYTES // layout.dtype.itemsize
    for start in range(0, flat.size, step):
        part = flat[start : start + step]
        raw = read_exactly(stream, part.size * layout.dtype.itemsize, name)
        _convert(np.frombuffer(raw, layout.dtype), part, layout, name)
    _require_end(stream, layout, name)
    n_nan, n_infinite = int(np.isnan(flat).sum()), int(np.isinf(flat).sum())
    if n_nan + n_infinite == flat.size:
        raise ScanError(f"'{name}' holds no finite value; expected intensities")
    return Loaded(flat.reshape(layout.shape, order="F"), n_nan, n_infinite)


def _convert(stored: NDArray[Any], target: NDArray[Any], layout: Layout, name: str) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float64)
        lost = np.isfinite(values)
        if (layout.slope, layout.intercept) != (1.0, 0.0):
            values = values * layout.slope + layout.intercept
        target[:] = values
    lost &= ~np.isfinite(target)
    if lost.any():
        raise ScanError(f"'{name}' holds values beyond 3.4e38, which float32 cannot hold; expected smaller ones")


def _require_end(stream: BinaryIO, layout: Layout, name: str) -> None:
    """Nothing follows but padding: a header whose size was damaged leaves at least a face of voxels over."""
    faces = [layout.shape[a] * layout.shape[b] for a, b in ((0, 1), (0, 2), (1, 2))]
    padding = min(faces) * layout.dtype.itemsize - 1
    allowed = max(padding, layout.trailing_bytes)
    try:
        rest = stream.read(allowed + 1)
        while rest and len(rest) <= allowed and (more := stream.read(allowed + 1 - len(rest))):
            rest += more
    except DAMAGED as error:
        raise ScanError(f"'{name}' is damaged ({error}); expected a complete file") from error
    if len(rest) > allowed or (not layout.trailing_bytes and any(rest)):
        raise ScanError(
            f"'{name}' holds more than the {layout.n_bytes} bytes of voxels that its header names; expected as many"
        )
