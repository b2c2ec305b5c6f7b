"""Finding scans, naming them, and the one kind of error that a scan can cause."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itermask3d.files.bids import BIDS_SUFFIXES, bids_scans, is_bids
from itermask3d.files.errors import ScanError, bare_scan_errors, first_cause, scan_error
from itermask3d.files.identity import series_name
from itermask3d.files.listed import read_json_list, read_lines
from itermask3d.files.names import case_name
from itermask3d.files.series import NamedSeries, named_series
from itermask3d.files.tree import SCAN_SUFFIXES, LeftOut, search

__all__ = [
    "SCAN_SUFFIXES",
    "ScanError",
    "bare_scan_errors",
    "first_cause",
    "list_scans",
    "no_scan",
    "path_name",
    "require_same_grid",
    "require_scans",
    "scan_error",
    "split_scans",
    "voxel_volume_ml",
]

GRID_TOLERANCE_VOXELS = 0.1

PATHS = ("image", "brain_mask", "label")
"""What names a file in an item; absolute, so that an item means the same wherever it is read."""


def list_scans(
    source: str | Path | Sequence[str | Path],
    *,
    brain_mask_dir: str | Path | None = None,
    label_dir: str | Path | None = None,
    left_out: Callable[[LeftOut], None] | None = None,
) -> list[dict[str, Any]]:
    """Turn one scan, a folder or a list file into MONAI dictionary items.

    Args:
        source: a scan file; a folder of scans, searched recursively; a folder of DICOM files; a ``.txt`` list with one
            path a line; a ``.json`` list of paths or of items (``{"image": …, "brain_mask": …, "label": …}``); or a
            sequence of paths. Relative paths in a list are relative to the list's folder.
        brain_mask_dir: folder with a brain mask of the same file name for every scan.
        label_dir: folder with a ground-truth lesion mask of the same file name for every scan.
        left_out: told of every file of a folder that is no scan nor part of one.

    Returns:
        Items with ``image`` (absolute path), ``case`` (unique name for outputs) and, where given, ``brain_mask``,
        ``label``.

    Raises:
        ScanError: if nothing is found, a listed file or a companion is missing, or two scans have one name.
    """
    items = _named([_item(entry) for entry in _entries(source, left_out or _ignore)])
    for key, folder in (("brain_mask", brain_mask_dir), ("label", label_dir)):
        if folder:
            items = _with_companions(items, Path(folder), key)
    return items


def split_scans(items: Sequence[dict[str, Any]], split_file: str | Path | None, subset: str) -> list[dict[str, Any]]:
    """Keep the items whose case is listed under ``subset`` in a committed split file.

    Without a file, about one scan in six is for ``validation`` and the rest for ``train``, in an order that depends on
    the names alone.

    Args:
        items: from :func:`list_scans`.
        split_file: JSON object that maps a subset's name to a list of cases; ``None`` for a split by name.
        subset: which to keep, in the order of the file.

    Raises:
        ScanError: if the subset is unknown or none of its cases is among the items.
    """
    splits = _read_splits(Path(split_file)) if split_file else _split_by_name(items)
    if subset not in splits:
        raise ScanError(f"split file {split_file} has no subset '{subset}', only {', '.join(map(str, splits))}")
    by_case = {item["case"]: item for item in items}
    chosen = [by_case[case] for case in splits[subset] if case in by_case]
    if not chosen:
        raise ScanError(
            f"none of the {len(splits[subset])} cases of subset '{subset}' is among the {len(items)} scans; "
            "name your own split_file, or null for a split by name"
        )
    return chosen


def require_scans(
    source: str | Path | Sequence[str | Path],
    *,
    brain_mask_dir: str | Path | None = None,
    split_file: str | Path | None = None,
    subsets: Sequence[str] = ("train", "validation"),
) -> None:
    """Stop a training that lacks its scans with one sentence, which a config would bury in tracebacks.

    Args:
        source, brain_mask_dir: see :func:`list_scans`.
        split_file: see :func:`split_scans`.
        subsets: those that the training needs.

    Raises:
        SystemExit: with that sentence, so that the process ends with status 1.
    """
    try:
        items = list_scans(source, brain_mask_dir=brain_mask_dir)
        for subset in subsets:
            split_scans(items, split_file, subset)
    except ScanError as error:
        raise SystemExit(f"error: {error}") from error


def _read_splits(path: Path) -> dict[str, list[str]]:
    try:
        splits = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ScanError(f"split file '{path}' cannot be read ({error}); expected a JSON object of lists") from error
    if not isinstance(splits, dict):
        raise ScanError(f"split file '{path}' holds no object; expected lists of cases by subset")
    return splits


def _split_by_name(items: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    if len(items) < 2:
        raise ScanError(f"training needs at least two scans, one of them for validation, got {len(items)}")
    cases = sorted((item["case"] for item in items), key=lambda case: hashlib.sha256(case.encode()).digest())
    n_validation = max(1, round(len(cases) / 6))
    return {"validation": cases[:n_validation], "train": cases[n_validation:]}


def require_same_grid(
    name: str, shape: Sequence[int], affine: NDArray[Any], *, scan_shape: Sequence[int], scan_affine: NDArray[Any]
) -> None:
    """Refuse a mask whose corners lie elsewhere than the scan's, by more than a tenth of a voxel.

    Raises:
        ScanError: naming the mask and what differs.
    """
    if tuple(shape) != tuple(scan_shape):
        raise ScanError(f"the {name} has shape {tuple(shape)} and the scan {tuple(scan_shape)}; expected the same grid")
    corners = np.array(list(product(*((0, size - 1) for size in shape))))
    moved = np.linalg.inv(scan_affine) @ affine @ np.c_[corners, np.ones(len(corners))].T
    apart = float(np.abs(moved[:3].T - corners).max())
    if not apart <= GRID_TOLERANCE_VOXELS:
        raise ScanError(f"the {name} lies up to {apart:.1f} voxels beside the scan; expected the same affine")


def voxel_volume_ml(affine: NDArray[Any]) -> float:
    """Volume of one voxel, from voxel-to-millimetre axes ``(4, 4)``."""
    return float(abs(np.linalg.det(np.asarray(affine, dtype=float)[:3, :3]))) / 1000


def _ignore(left_out: LeftOut) -> None:
    """For callers who do not ask."""


def _entries(source: str | Path | Sequence[str | Path], told: Callable[[LeftOut], None]) -> list[Any]:
    if not isinstance(source, (str, Path)):
        return list(source)
    path = Path(source)
    if not path.exists():
        raise ScanError(f"'{path}' does not exist; expected a scan, a folder of scans or a list file")
    if path.is_dir():
        return _folder(path, told)
    if path.suffix.lower() == ".txt":
        return list(read_lines(path))
    if path.suffix.lower() == ".json":
        return _json_list(path)
    return [path]


def _folder(root: Path, told: Callable[[LeftOut], None]) -> list[Any]:
    tree = search(root)
    files, left_out = list(tree.volumes), list(tree.left_out)
    items: list[Any] = []
    if is_bids(root):
        files, others = bids_scans(root, tree.volumes, BIDS_SUFFIXES)
        left_out += others
    else:
        alone = not files and {file.parent for series in tree.series for file in series.files} == {root}
        named, others = named_series(tree.series, root, any_kind=alone)
        left_out += others
        items = [_series_item(series) for series in named]
    for entry in left_out:
        told(entry)
    if not files and not items:
        raise ScanError(no_scan(root, left_out))
    items = [{"image": str(file), "case": _stem(file), "longer": path_name(file, root)} for file in files] + items
    return _told_by_folder(items)


def _series_item(series: NamedSeries) -> dict[str, Any]:
    shared = {"files": list(series.files), "series": series_name(series.uid)} if series.files else {}
    return {"image": series.place, "case": series.parts[-1], "longer": "_".join(series.parts), **shared}


def path_name(file: Path, root: Path) -> str:
    """The name of a scan below a folder, with the names of the folders between."""
    return "_".join((*file.relative_to(root).parts[:-1], _stem(file)))


def _told_by_folder(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items whose names are those of their files, and longer ones only where several have the same."""
    counts = Counter(item["case"] for item in items)
    named = []
    for item in items:
        longer = item.pop("longer")
        named.append(item | {"case": longer if counts[item["case"]] > 1 else item["case"]})
    return named


def no_scan(root: Path, left_out: Sequence[LeftOut]) -> str:
    """The sentence about a folder in which nothing can be segmented."""
    why = f" ({left_out[0].path}: {left_out[0].reason})" if left_out else ""
    what = f"no scan among {len(left_out)} files, folders and series{why}" if left_out else "no scan"
    return f"folder '{root}' holds {what}; expected {', '.join(SCAN_SUFFIXES)} or MR series in DICOM"


def _json_list(path: Path) -> list[Any]:
    entries = read_json_list(path)
    if not isinstance(entries, list) or not all(isinstance(entry, (str, dict)) for entry in entries):
        raise ScanError(f"'{path}' holds no list of scans; expected a JSON list of paths or items")
    return [_relative_to(entry, path.parent) for entry in entries]


def _relative_to(entry: Any, folder: Path) -> Any:
    if isinstance(entry, str):
        return folder / entry
    item = {key: value for key, value in entry.items() if value is not None}
    for key in item.keys() & {*PATHS}:
        if not isinstance(item[key], str):
            raise ScanError(f"a listed item has {key} = {item[key]!r}; expected a path")
        item[key] = str(folder / item[key])
    if "files" in item:
        if not isinstance(item["files"], list) or not all(isinstance(file, str) for file in item["files"]):
            raise ScanError(f"a listed item has files = {item['files']!r}; expected a list of paths")
        item["files"] = [str((folder / file).absolute()) for file in item["files"]]
    return item


def _item(entry: Any) -> dict[str, Any]:
    item = dict(entry) if isinstance(entry, dict) else {"image": str(entry)}
    if "image" not in item:
        raise ScanError(f"a listed item has the keys {sorted(item)}, expected at least 'image'")
    return item | {key: str(Path(item[key]).absolute()) for key in PATHS if item.get(key)}


def _named(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not items:
        raise ScanError("the list of scans is empty; expected at least one")
    taken: dict[str, str] = {}
    for item in items:
        case = item["case"] = case_name(str(item.get("case") or _stem(Path(item["image"]))))
        if Path(case).name != case or case in (".", ".."):
            raise ScanError(f"the case '{case}' cannot name a folder; expected a name without '/'")
        if case in taken:
            raise ScanError(f"'{taken[case]}' and '{item['image']}' share the name '{case}'; give each its own 'case'")
        taken[case] = item["image"]
    return items


def _stem(path: Path) -> str:
    for suffix in SCAN_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.resolve().name if path.name in ("", "..") else path.name


def _with_companions(items: list[dict[str, Any]], folder: Path, key: str) -> list[dict[str, Any]]:
    """Items with the file of each in a folder; no two may share one, as scans of one file name would."""
    owners: dict[Path, str] = {}
    for item in items:
        path = _companion(item, folder, key).absolute()
        other = owners.setdefault(path, item["case"])
        if other != item["case"]:
            raise ScanError(
                f"scans '{other}' and '{item['case']}' both have '{path}' for their {key}; expected a file for each, "
                f"such as '{item['case']}.nii.gz'"
            )
        item[key] = str(path)
    return items


def _companion(item: dict[str, Any], folder: Path, key: str) -> Path:
    same = folder / Path(item["image"]).name
    own = [folder / (item["case"] + suffix) for suffix in SCAN_SUFFIXES]
    candidates = [same, *own] if _stem(Path(item["image"])) == item["case"] else [*own, same]
    for candidate in candidates:
        if candidate.exists():
            return Path(candidate)
    names = {candidate.name for candidate in candidates}
    below = [path for path in folder.rglob("*") if path.name in names and str(path.absolute()) != item["image"]]
    if len(below) == 1:
        return below[0]
    if below:
        raise ScanError(
            f"scan '{item['case']}' has {len(below)} files for its {key} ('{below[0]}', '{below[1]}'); expected one"
        )
    raise ScanError(f"scan '{item['case']}' has no {key} in '{folder}'; expected '{same.name}' there")
