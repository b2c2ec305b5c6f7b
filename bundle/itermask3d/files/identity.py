"""What tells one file from another, and whether it changed since it was read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from itermask3d.files.dicom_files import group_series, series_folder_files
from itermask3d.files.errors import ScanError
from itermask3d.files.read import Source, read_volume
from itermask3d.files.volume import Volume

__all__ = ["file_digest", "input_files", "is_unchanged", "read_record", "require_recorded"]
__all__ += ["require_same_scan", "series_name", "series_source", "source_files", "source_of"]

STAMP = ("path", "files", "bytes", "changed_ns", "touched_ns")
"""Where nothing of this differs, nothing was written since."""

DETACHED = (".mhd", ".nhdr", ".hdr", ".hdr.gz", ".img", ".img.gz")
"""Files that do not hold everything: what lies beside them is compared by its digest."""


def source_of(item: Mapping[Any, Any], key: str = "image") -> Source | None:
    """What a reader is given for a part of an item: a path, or the files of a series; ``None`` without one."""
    if key == "image" and item.get("files"):
        return [str(file) for file in item["files"]]
    return str(item[key]) if item.get(key) else None


def input_files(item: Mapping[str, Any]) -> dict[str, Any]:
    """The files of an item (``image``, ``brain_mask``) as they are now, which tells at once whether one was written.

    Returns:
        By key: absolute ``path``, number of ``files``, their ``bytes``, and the last times at which content
        (``changed_ns``) and entry (``touched_ns``) of any of them changed. What does not exist is left out.
    """
    described: dict[str, Any] = {}
    for key in ("image", "brain_mask"):
        states = [file.stat() for file in source_files(source_of(item, key)) if file.exists()]
        if states:
            described[key] = {
                "path": str(Path(str(item[key])).absolute()),
                "files": len(states),
                "bytes": sum(state.st_size for state in states),
                "changed_ns": max(state.st_mtime_ns for state in states),
                "touched_ns": max(state.st_ctime_ns for state in states),
            }
    return described


def read_record(volume: Volume) -> dict[str, str]:
    """What :func:`input_files` cannot tell: the digest of what was read, and which DICOM series it was."""
    record = {"sha256": volume.source.digest}
    return record | ({"series": series_name(volume.series)} if volume.series else {})


def series_name(uid: str) -> str:
    """A name for a SeriesInstanceUID from which nobody learns it: 16 digits of its SHA-256."""
    return hashlib.sha256(uid.encode()).hexdigest()[:16]


def is_unchanged(recorded: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    """Whether an item holds what was read: nothing was written since, or the digest is the same.

    Args:
        recorded: ``inputs`` of a result.
        item: see :func:`input_files`.
    """
    present = input_files(item)
    return recorded.keys() == present.keys() and all(
        _same(recorded[key], present[key], source_of(item, key)) for key in present
    )


def require_same_scan(recorded: Mapping[str, Any], item: Mapping[str, Any], folder: Path) -> None:
    """Refuse to replace the result of another scan.

    Args:
        recorded: ``inputs`` of the result in ``folder``.
        item: the scan that is to have its result there.
        folder: of the result.

    Raises:
        ScanError: if that result is of a scan that lies elsewhere, or lay there and was another.
    """
    earlier = recorded.get("image") or {}
    told, own = Path(str(earlier.get("path", item["image"]))), Path(str(item["image"]))
    one_place = told.absolute() == own.absolute() or (told.exists() and own.exists() and told.samefile(own))
    series = {earlier.get("series"), item.get("series")} - {None}
    if one_place and len(series) < 2:
        return
    if not told.exists() and _digest(source_of(item)) == earlier.get("sha256", "none"):
        return
    raise ScanError(
        f"'{folder}' holds the result of '{told}'; expected another output folder for '{own}', or a .json list that "
        "gives it another 'case'"
    )


def series_source(path: Path, series: str | None) -> Source:
    """What a reader is given for a scan that was recorded: its path, or the files of its series in or below a folder.

    Raises:
        ScanError: if the folder no longer holds the series.
    """
    if series is None or not path.is_dir():
        return str(path)
    for files in (series_folder_files(path), [file for file in path.rglob("*") if file.is_file()]):
        for found in group_series(files):
            if series_name(found.uid) == series:
                return [str(file) for file in found.files]
    raise ScanError(f"'{path}' does not hold the DICOM series that was segmented; expected its files")


def require_recorded(recorded: Mapping[str, Any], volume_read: Mapping[str, str], source: Source) -> None:
    """Refuse a scan that is not the one that a result was made of.

    Args:
        recorded: ``inputs["image"]`` of the result.
        volume_read: :func:`read_record` of the scan as it is.
        source: what was read.

    Raises:
        ScanError: if digests differ or, where none was recorded, sizes.
    """
    told, found = recorded.get("sha256"), volume_read["sha256"]
    size = sum(file.stat().st_size for file in source_files(source))
    if told == found or (told is None and recorded.get("bytes") in (None, size)):
        return
    name = source if isinstance(source, (str, Path)) else Path(source[0]).parent
    was, now = (told[:12], found[:12]) if told else (f"{recorded['bytes']} bytes", f"{size} bytes")
    raise ScanError(
        f"'{name}' is not the scan that was segmented ({was} then, {now} now); expected it unchanged, or the place "
        "where it lies now"
    )


def _same(recorded: Mapping[str, Any], present: Mapping[str, Any], source: Source | None) -> bool:
    stamped = all(recorded.get(name) == present[name] for name in STAMP)
    if stamped and not str(present["path"]).lower().endswith(DETACHED):
        return True
    return bool(_digest(source) == recorded.get("sha256", "none"))


def _digest(source: Source | None) -> str:
    try:
        return "" if source is None else read_volume(source).source.digest
    except ScanError:
        return ""


def source_files(source: Source | None) -> Sequence[Path]:
    """The files that a reader would look at; none where there is no source."""
    if source is None:
        return ()
    if not isinstance(source, (str, Path)):
        return [Path(file) for file in source]
    return series_folder_files(Path(source)) if Path(source).is_dir() else [Path(source)]


def file_digest(path: str | Path) -> str:
    """First 16 hexadecimal digits of a file's SHA-256; ``"none"`` where there is no file."""
    path = Path(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else "none"
