"""Everything below a folder: each file is a scan, a part of one, or left out for a reason that is told."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread

from itermask3d.files.dicom_files import BROKEN, FoundSeries, group_series, is_dicom
from itermask3d.files.dicom_planes import read_text

__all__ = ["SCAN_SUFFIXES", "LeftOut", "Tree", "grouped", "search"]

SCAN_SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".img.gz", ".img")
"""File endings, in any case, that are taken for scans when a folder is searched; DICOM is known by its content."""

PARTS = {
    ".hdr": (".img",),
    ".hdr.gz": (".img.gz",),
    ".raw": (".mhd", ".nhdr"),
    ".zraw": (".mhd",),
    ".raw.gz": (".nhdr",),
}
"""Endings of what belongs to a scan of the same name that ends otherwise."""

SIDECARS = (".json", ".bval", ".bvec", ".txt", ".tsv")
"""Endings of what is told about a scan of the same name."""

HIDDEN = "hidden, its name begins with a full stop"
DANGLING = "a link to nothing (with git-annex or DataLad, get its content first)"
RESULT = "the result of an earlier run"
UNREADABLE = "it cannot be opened ({reason})"
UNKNOWN = "of no known format"
BROKEN_LINKS = "a link back to a folder above it"


@dataclass(frozen=True)
class LeftOut:
    """A file, folder or series that is no scan for this, and one phrase on why."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class Tree:
    """What lies below a folder.

    Attributes:
        volumes: files of one volume each, sorted.
        series: DICOM series, wherever their files lie.
        left_out: everything else.
    """

    volumes: tuple[Path, ...] = ()
    series: tuple[FoundSeries, ...] = ()
    left_out: tuple[LeftOut, ...] = field(default=())


def search(root: Path, *, ignore: Path | None = None) -> Tree:
    """Look at every file below a folder, through links too.

    Args:
        root: the folder.
        ignore: a folder that is passed over, such as that of the results inside the source.
    """
    left_out: list[LeftOut] = []
    volumes: list[Path] = []
    images: list[Path] = []
    for folder, names in _folders(root, ignore, left_out):
        present = {name.lower() for name in names}
        for name in names:
            path = folder / name
            reason = _passed_over(path)
            if reason:
                left_out.append(LeftOut(str(path), reason))
            elif name.lower().endswith(SCAN_SUFFIXES):
                volumes.append(path)
            elif is_dicom(path) and name.upper() != "DICOMDIR":
                images.append(path)
            elif not _is_part(name, present):
                left_out.append(LeftOut(str(path), UNKNOWN))
    series: list[FoundSeries] = []
    parts: list[LeftOut] = []
    for found in group_series(images):
        told, copies = _told_apart(found)
        series += told
        parts += copies
    known = {file for found in series for file in found.files} | {Path(part.path) for part in parts}
    left_out += parts
    left_out += [LeftOut(str(path), "a DICOM file without an image") for path in images if path not in known]
    return Tree(tuple(sorted(volumes)), tuple(series), tuple(sorted(left_out, key=lambda entry: entry.path)))


def _folders(root: Path, ignore: Path | None, left_out: list[LeftOut]) -> Iterator[tuple[Path, list[str]]]:
    """Every folder that is searched, with the names of its files, in order."""
    above: dict[str, frozenset[str]] = {str(root): frozenset()}
    for place, folders, names in os.walk(root, followlinks=True, onerror=lambda error: _denied(error, left_out)):
        folder, real = Path(place), os.path.realpath(place)
        seen = above.pop(place) | {real}
        if folder != root and "result.json" in names:
            left_out.append(LeftOut(place, RESULT))
            folders.clear()
            continue
        for name in sorted(folders):
            reason = HIDDEN if name.startswith(".") else ""
            if os.path.realpath(folder / name) in seen:
                reason = BROKEN_LINKS
            if reason:
                left_out.append(LeftOut(str(folder / name), reason))
            if reason or folder / name == ignore:
                folders.remove(name)
            above[os.path.join(place, name)] = seen
        folders.sort()
        yield folder, sorted(names)


def _denied(error: OSError, left_out: list[LeftOut]) -> None:
    left_out.append(LeftOut(str(error.filename), UNREADABLE.format(reason=error.strerror)))


def _passed_over(path: Path) -> str:
    """Why a file is no scan before anything of it is known; empty where nothing speaks against it."""
    if path.name.startswith("."):
        return HIDDEN
    if not path.exists():
        return DANGLING
    if not path.is_file():
        return "no regular file"
    return "" if os.access(path, os.R_OK) else UNREADABLE.format(reason="no permission")


def _is_part(name: str, present: set[str]) -> bool:
    lower = name.lower()
    if lower == "dicomdir":
        return True
    for ending, others in PARTS.items():
        if lower.endswith(ending) and any(lower.removesuffix(ending) + other in present for other in others):
            return True
    stem, dot, last = lower.rpartition(".")
    return dot + last in SIDECARS and any(stem + suffix in present for suffix in SCAN_SUFFIXES)


def _told_apart(found: FoundSeries) -> tuple[Sequence[FoundSeries], Sequence[LeftOut]]:
    """One series that an archive split over folders, or whole ones in several; parts of a whole one are left out."""
    folders: dict[Path, list[Path]] = {}
    for file in found.files:
        folders.setdefault(file.parent, []).append(file)
    if len(folders) < 2:
        return (found,), ()
    places = {folder: {_position(file) for file in files} for folder, files in folders.items()}
    everywhere = set().union(*places.values())
    whole = [folder for folder in folders if places[folder] == everywhere]
    if not whole:
        return (found,), ()
    single = found.n_images == len(found.files)
    series = [FoundSeries(found.uid, tuple(folders[folder]), found.header, len(folders[folder]) if single else 1)
              for folder in whole]  # fmt: skip
    reason = f"an image of a series that lies whole in '{whole[0]}'"
    parts = [LeftOut(str(file), reason) for folder in folders if folder not in whole for file in folders[folder]]
    return series, parts


def _position(file: Path) -> str:
    try:
        return read_text(dcmread(file, specific_tags=["ImagePositionPatient"], stop_before_pixels=True, force=True),
                         "ImagePositionPatient")  # fmt: skip
    except BROKEN:
        return str(file)


def grouped(left_out: Sequence[LeftOut], examples: int = 3) -> list[str]:
    """Lines for a person: a reason, how many were left out for it, and some of them."""
    by_reason: dict[str, list[str]] = {}
    for entry in left_out:
        by_reason.setdefault(entry.reason, []).append(entry.path)
    lines = []
    for reason, paths in by_reason.items():
        more = f" and {len(paths) - examples} more" if len(paths) > examples else ""
        lines.append(f"left out: {', '.join(paths[:examples])}{more}: {reason}")
    return lines
