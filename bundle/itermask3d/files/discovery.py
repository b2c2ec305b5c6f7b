"""Which scans lie in a folder, a list, a BIDS dataset or a tree of DICOM files, and where their results belong."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from itermask3d.files.bids import BIDS_SUFFIXES, bids_scans, is_bids
from itermask3d.files.errors import ScanError
from itermask3d.files.identity import series_name
from itermask3d.files.names import case_name
from itermask3d.files.scans import list_scans, no_scan, path_name
from itermask3d.files.series import named_series, place_of, title
from itermask3d.files.spreadsheet import safe_row
from itermask3d.files.tree import LeftOut, Tree, search

__all__ = ["BIDS_SUFFIXES", "Discovery", "FoundScan", "LeftOut", "discover", "is_bids", "write_left_out"]
from itermask3d.files.writing import write_atomically


@dataclass(frozen=True)
class FoundScan:
    """A scan and the place of its result.

    Attributes:
        case: unique name; every file of its result begins with it.
        image: absolute path of a file, or of the folder of a DICOM series.
        folder: of the result, relative to the output folder, in POSIX form; its last part is ``case``.
        brain_mask: path, if one was given.
        files: the series' files, where their folder holds other series too; else empty.
        series: of such a series, the name of :func:`itermask3d.files.identity.series_name`.
    """

    case: str
    image: str
    folder: str
    brain_mask: str | None = None
    files: tuple[str, ...] = ()
    series: str | None = None

    @property
    def item(self) -> dict[str, Any]:
        """As :func:`itermask3d.files.scans.list_scans` gives it."""
        item: dict[str, Any] = {"case": self.case, "image": self.image}
        if self.files:
            item |= {"files": list(self.files), "series": self.series}
        return item if self.brain_mask is None else item | {"brain_mask": self.brain_mask}


@dataclass(frozen=True)
class Discovery:
    """What was found in a source.

    Attributes:
        kind: ``list``, ``folder``, ``bids`` or ``dicom``.
        source: absolute path.
        scans: in the order of their names; a list keeps its own.
        left_out: every other file below the source, but for parts of scans, and unusable DICOM series.
    """

    kind: str
    source: str
    scans: tuple[FoundScan, ...]
    left_out: tuple[LeftOut, ...] = field(default=())


def discover(
    source: str | Path,
    *,
    suffixes: Sequence[str] = BIDS_SUFFIXES,
    brain_mask_dir: str | Path | None = None,
    ignore: str | Path | None = None,
) -> Discovery:
    """Find every scan in a source. Files are listed and DICOM headers read; no voxel is.

    Args:
        source: a scan file; a ``.txt`` or ``.json`` list; a BIDS dataset; a folder of scans or of DICOM files, searched
            recursively.
        suffixes: of a BIDS dataset, only files that end so (``T1w``, ``FLAIR``).
        brain_mask_dir: a folder with a brain mask of the same file name, or of the case's name, for every scan.
        ignore: a folder that is not searched, such as the output inside the source.

    Raises:
        ScanError: if the source holds no scan, or a brain mask is missing.
    """
    path = Path(source).absolute()
    left_out: tuple[LeftOut, ...] = ()
    if not path.is_dir():
        kind, scans = "list", [_plain(item) for item in list_scans(path)]
    else:
        kind, scans, left_out = _folder(path, suffixes, None if ignore is None else Path(ignore).absolute())
    _require_unique(scans)
    if brain_mask_dir is not None:
        scans = _with_brain_masks(scans, brain_mask_dir)
    return Discovery(kind, str(path), tuple(scans), left_out)


def write_left_out(left_out: Sequence[LeftOut], folder: Path) -> None:
    """Write ``left_out.tsv``, a path and a reason a line; none where nothing was left out."""
    path = folder / "left_out.tsv"
    if not left_out:
        path.unlink(missing_ok=True)
        return
    rows = [safe_row([entry.path, entry.reason]) for entry in left_out]
    write_atomically("".join("\t".join(row) + "\n" for row in [["path", "reason"], *rows]), path)


def _folder(
    root: Path, suffixes: Sequence[str], ignore: Path | None
) -> tuple[str, list[FoundScan], tuple[LeftOut, ...]]:
    tree = search(root, ignore=ignore)
    if is_bids(root):
        files, others = bids_scans(root, tree.volumes, suffixes)
        scans = [_bids(file, root) for file in files]
        others += [LeftOut(place_of(series), f"{title(series)}: DICOM in a BIDS dataset") for series in tree.series]
        if not scans:
            wanted = " or ".join(f"*_{suffix}.nii.gz" for suffix in suffixes)
            raise ScanError(f"BIDS dataset '{root}' holds no scan in sub-*/[ses-*/]anat; expected {wanted}")
        return "bids", scans, (*tree.left_out, *others)
    series, unusable = _dicom(tree, root)
    scans = [*(_volume(file, root) for file in tree.volumes), *series]
    left_out = (*tree.left_out, *unusable)
    if not scans:
        raise ScanError(no_scan(root, left_out))
    return "folder" if tree.volumes else "dicom", scans, left_out


def _bids(file: Path, root: Path) -> FoundScan:
    case = file.name.removesuffix(".gz").removesuffix(".nii")
    return FoundScan(case, str(file), f"{file.parent.relative_to(root).as_posix()}/{case}")


def _plain(item: dict[str, Any]) -> FoundScan:
    mask = item.get("brain_mask")
    return FoundScan(
        item["case"],
        str(Path(item["image"]).absolute()),
        item["case"],
        None if mask is None else str(Path(mask).absolute()),
    )


def _with_brain_masks(scans: Sequence[FoundScan], folder: str | Path) -> list[FoundScan]:
    entries: Any = [scan.item for scan in scans]
    items = list_scans(entries, brain_mask_dir=folder)
    return [
        replace(scan, brain_mask=str(Path(item["brain_mask"]).absolute()))
        for scan, item in zip(scans, items, strict=True)
    ]


def _volume(file: Path, root: Path) -> FoundScan:
    name = case_name(path_name(file, root))
    return FoundScan(name, str(file), name)


def _require_unique(scans: Sequence[FoundScan]) -> None:
    counts = Counter(scan.folder for scan in scans)
    twice = next((scan for scan in scans if counts[scan.folder] > 1), None)
    if twice is not None:
        images = [scan.image for scan in scans if scan.folder == twice.folder]
        raise ScanError(
            f"'{images[0]}' and '{images[1]}' share the name '{twice.case}'; give a .json list with a 'case' for each"
        )


def _dicom(tree: Tree, root: Path) -> tuple[list[FoundScan], list[LeftOut]]:
    """A scan a series; names come from folders, never from a patient's header."""
    named, left_out = named_series(tree.series, root)
    scans = []
    for series in named:
        name = case_name("_".join(series.parts))
        scan = FoundScan(name, series.place, name, files=series.files)
        scans.append(replace(scan, series=series_name(series.uid)) if series.files else scan)
    return _told_apart(scans, [series.uid for series in named]), left_out


def _told_apart(scans: Sequence[FoundScan], uids: Sequence[str]) -> list[FoundScan]:
    """Scanners may repeat number and description of a series: such names end in a digest of the series' UID."""
    counts = Counter(scan.case for scan in scans)
    named = []
    for scan, uid in zip(scans, uids, strict=True):
        digest = hashlib.sha256(uid.encode()).hexdigest()[:6]
        name = scan.case if counts[scan.case] == 1 else f"{scan.case}_{digest}"
        named.append(replace(scan, case=name, folder=name))
    return named
