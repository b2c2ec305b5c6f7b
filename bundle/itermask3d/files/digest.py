"""What was read, so that a result can be held against its scan later: size and SHA-256 of the files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from itermask3d.files.errors import ScanError

__all__ = ["Identity", "combine", "describe_difference", "hash_stream", "identify"]

CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Identity:
    """The files of a scan as they were when it was read.

    Attributes:
        paths: the file, header and image of a pair, or the files of a series, absolute.
        size: bytes of all files together.
        digest: SHA-256 in hexadecimal; of several files, that of their sorted digests, so that names and order, which
            carry no voxel, may change.
    """

    paths: tuple[str, ...]
    size: int
    digest: str

    @property
    def record(self) -> dict[str, Any]:
        """For JSON, see :meth:`from_record`."""
        return {"paths": list(self.paths), "size": self.size, "sha256": self.digest}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Identity:
        """Read :attr:`record` back.

        Raises:
            ScanError: if it is none.
        """
        try:
            return cls(tuple(map(str, record["paths"])), int(record["size"]), str(record["sha256"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ScanError(f"a scan's record lacks {error}; expected paths, size and sha256") from error


def hash_stream(stream: BinaryIO) -> tuple[int, str]:
    """Bytes and SHA-256 of a stream from where it stands to its end."""
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


def identify(paths: str | Path | Sequence[str | Path]) -> Identity:
    """Identify a file, or the files of one scan.

    Raises:
        ScanError: if there is none, or one cannot be read.
    """
    files = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    parts = []
    for file in files:
        try:
            with file.open("rb") as stream:
                parts.append((file, *hash_stream(stream)))
        except OSError as error:
            raise ScanError(f"'{file}' cannot be read ({error.strerror}); expected a file") from error
    return combine(parts)


def combine(parts: Iterable[tuple[Path, int, str]]) -> Identity:
    """One identity of files whose size and digest are known.

    Raises:
        ScanError: if there is none.
    """
    known = list(parts)
    if not known:
        raise ScanError("a scan without files cannot be identified; expected one at least")
    digests = sorted({digest for _, _, digest in known})
    whole = digests[0] if len(known) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return Identity(tuple(str(path.absolute()) for path, _, _ in known), sum(size for _, size, _ in known), whole)


def describe_difference(recorded: Identity, present: Identity) -> str:
    """One sentence on how a scan differs from what was recorded of it; empty where it does not.

    Where the files lie does not matter, what they hold does.
    """
    if recorded.digest == present.digest:
        return ""
    name = recorded.paths[0] if recorded.paths else "the scan"
    if len(recorded.paths) != len(present.paths):
        return f"the scan of '{name}' had {len(recorded.paths)} files when it was read and has {len(present.paths)} now"
    if recorded.size != present.size:
        return f"the scan '{name}' had {recorded.size} bytes when it was read and has {present.size} now"
    return f"the scan '{name}' has as many bytes as when it was read, but others (SHA-256 {present.digest[:12]}…)"
