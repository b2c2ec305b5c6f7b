"""Which scans lie in a folder, a list, a BIDS dataset or a tree of DICOM files, and where their results belong."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from itermask3d.files.identity import series_name
from itermask3d.files.scans import SCAN_SUFFIXES, ScanError, list_scans

__all__ = ["BIDS_SUFFIXES", "Discovery", "FoundScan", "SkippedSeries", "discover", "is_bids"]

BIDS_SUFFIXES = ("T1w",)
"""Contrasts taken from a BIDS dataset unless others are asked for: those that the shipped weights know."""

MIN_SLICES = 20
"""A DICOM series of fewer images is a localiser or a part of a volume."""

MAX_NAME_BYTES = 160
"""Of a case; the names of its files are longer."""

NIFTI = (".nii.gz", ".nii")
NOT_RAW = {"derivatives", "sourcedata", "code", "stimuli"}
"""Folders at the top of a BIDS dataset that hold no raw scans (BIDS specification, common principles)."""

TAGS = ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "ImageType", "SamplesPerPixel",
        "NumberOfFrames")  # fmt: skip


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
class SkippedSeries:
    """A DICOM series that is no scan for this, and one sentence on why."""

    folder: str
    reason: str


@dataclass(frozen=True)
class Discovery:
    """What was found in a source.

    Attributes:
        kind: ``list``, ``folder``, ``bids`` or ``dicom``.
        source: absolute path.
        scans: in the order of their names; a list keeps its own.
        skipped: DICOM series left out.
    """

    kind: str
    source: str
    scans: tuple[FoundScan, ...]
    skipped: tuple[SkippedSeries, ...] = field(default=())


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
    skipped: tuple[SkippedSeries, ...] = ()
    if not path.is_dir():
        kind, scans = "list", [_plain(item) for item in list_scans(path)]
    elif is_bids(path):
        kind, scans = "bids", _bids(path, suffixes)
    else:
        kind, scans, skipped = _folder(path, None if ignore is None else Path(ignore).absolute())
    _require_unique(scans)
    if brain_mask_dir is not None:
        scans = _with_brain_masks(scans, brain_mask_dir)
    return Discovery(kind, str(path), tuple(scans), skipped)


def is_bids(folder: Path) -> bool:
    """Whether a folder is a raw BIDS dataset: it says so, or has subjects with a folder of anatomy."""
    description = folder / "dataset_description.json"
    if description.is_file():
        try:
            content = json.loads(description.read_text())
        except ValueError:
            content = {}
        if isinstance(content, dict) and "BIDSVersion" in content:
            return content.get("DatasetType", "raw") == "raw"
    return any(_anatomy(folder))


def _anatomy(folder: Path) -> Iterator[Path]:
    yield from folder.glob("sub-*/anat")
    yield from folder.glob("sub-*/ses-*/anat")


def _bids(root: Path, suffixes: Sequence[str]) -> list[FoundScan]:
    scans = []
    for file in sorted(file for anat in _anatomy(root) for file in anat.iterdir()):
        ending = next((ending for ending in NIFTI if file.name.endswith(ending)), None)
        case = file.name[: -len(ending)] if ending else ""
        if case.startswith("sub-") and case.rsplit("_", 1)[-1] in suffixes:
            parent = file.parent.relative_to(root).as_posix()
            scans.append(FoundScan(case, str(file), f"{parent}/{case}"))
    if not scans:
        wanted = " or ".join(f"*_{suffix}.nii.gz" for suffix in suffixes)
        raise ScanError(f"BIDS dataset '{root}' holds no scan in sub-*/[ses-*/]anat; expected {wanted}")
    return scans


def _folder(root: Path, ignore: Path | None) -> tuple[str, list[FoundScan], tuple[SkippedSeries, ...]]:
    files = [file for file in sorted(root.rglob("*")) if _is_input(file, root, ignore)]
    volumes = [file for file in files if file.name.lower().endswith(SCAN_SUFFIXES)]
    if volumes:
        return "folder", [_volume(file, root) for file in volumes], ()
    scans, skipped = _dicom(files, root)
    if not scans:
        found = f"{len(skipped)} DICOM series that cannot be used ({skipped[0].reason})" if skipped else "no scan"
        raise ScanError(f"folder '{root}' holds {found}; expected {', '.join(SCAN_SUFFIXES)} or MR series in DICOM")
    return "dicom", scans, skipped


def _is_input(file: Path, root: Path, ignore: Path | None) -> bool:
    if ignore is not None and ignore != root and ignore in file.parents:
        return False
    parts = file.relative_to(root).parts
    hidden = any(part.startswith(".") for part in parts)
    return not hidden and parts[0] not in NOT_RAW and file.is_file() and not (file.parent / "result.json").exists()


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
    suffix = next(suffix for suffix in SCAN_SUFFIXES if file.name.lower().endswith(suffix))
    name = _name((*file.relative_to(root).parts[:-1], file.name[: -len(suffix)]))
    return FoundScan(name, str(file), name)


def _name(parts: tuple[str, ...]) -> str:
    """A name that stays when other scans join the folder: all folders below the source, and the file's stem.

    File systems allow 255 bytes; a longer one keeps its end and a digest of the whole.
    """
    name = "_".join(parts)
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{digest}_{name.encode()[-MAX_NAME_BYTES + 9 :].decode(errors='ignore')}"


def _require_unique(scans: Sequence[FoundScan]) -> None:
    counts = Counter(scan.folder for scan in scans)
    twice = next((scan for scan in scans if counts[scan.folder] > 1), None)
    if twice is not None:
        images = [scan.image for scan in scans if scan.folder == twice.folder]
        raise ScanError(
            f"'{images[0]}' and '{images[1]}' share the name '{twice.case}'; give a .json list with a 'case' for each"
        )


def _dicom(files: Sequence[Path], root: Path) -> tuple[list[FoundScan], tuple[SkippedSeries, ...]]:
    """Group DICOM files by folder and SeriesInstanceUID; names come from folders, never from a patient's header."""
    series: dict[tuple[Path, str], list[Path]] = {}
    headers: dict[tuple[Path, str], Dataset] = {}
    for file in files:
        header = _header(file)
        if header is not None:
            key = (file.parent, str(header.get("SeriesInstanceUID", "")))
            series.setdefault(key, []).append(file)
            headers.setdefault(key, header)
    n_series = Counter(folder for folder, _ in series)
    n_files = Counter(file.parent for file in files)
    skipped, scans, uids = [], [], []
    for (folder, uid), own in series.items():
        header = headers[folder, uid]
        reason = _unsuitable(header, len(own))
        if reason:
            skipped.append(SkippedSeries(str(folder), f"{_title(header)}: {reason}"))
            continue
        name = _name(_series_parts(folder, root, header, n_series[folder] > 1))
        alone = n_files[folder] == len(own)  # else a reader would stumble over the others
        scan = FoundScan(name, str(folder), name)
        scans.append(scan if alone else replace(scan, files=tuple(map(str, own)), series=series_name(uid)))
        uids.append(uid)
    return _told_apart(scans, uids), tuple(skipped)


def _header(file: Path) -> Dataset | None:
    try:
        with file.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return None
            stream.seek(0)
            return pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(TAGS))
    except (OSError, InvalidDicomError, EOFError):
        return None


def _unsuitable(header: Dataset, n_files: int) -> str:
    """Why a series cannot be screened; empty where nothing in its header speaks against it."""
    image_type = [str(value) for value in header.get("ImageType", None) or []]
    if str(header.get("Modality", "")) != "MR":
        return f"modality {header.get('Modality', 'unknown')}, expected MR"
    if any("LOCALIZER" in value.upper() for value in image_type):
        return "a localiser"
    if image_type and image_type[0] == "DERIVED":
        return "derived from other images (ImageType DERIVED), expected one as acquired"
    if int(header.get("SamplesPerPixel", 1) or 1) != 1:
        return "colour images, expected grey values"
    slices = max(n_files, int(header.get("NumberOfFrames", 1) or 1))
    return f"{slices} images, expected at least {MIN_SLICES}" if slices < MIN_SLICES else ""


def _title(header: Dataset) -> str:
    return f"series {header.get('SeriesNumber', '?')} ({header.get('SeriesDescription', '') or 'no description'})"


def _series_parts(folder: Path, root: Path, header: Dataset, crowded: bool) -> tuple[str, ...]:
    parts = PurePosixPath(folder.relative_to(root).as_posix()).parts or (root.name,)
    if not crowded:
        return parts
    number = header.get("SeriesNumber", None)
    label = re.sub(r"[^A-Za-z0-9]+", "-", str(header.get("SeriesDescription", "") or "")).strip("-")
    series = f"series-{'x' if number is None else int(number)}"
    return (*parts[:-1], "_".join(part for part in (parts[-1], series, label) if part))


def _told_apart(scans: Sequence[FoundScan], uids: Sequence[str]) -> list[FoundScan]:
    """Scanners may repeat number and description of a series: such names end in a digest of the series' UID."""
    counts = Counter(scan.case for scan in scans)
    named = []
    for scan, uid in zip(scans, uids, strict=True):
        digest = hashlib.sha256(uid.encode()).hexdigest()[:6]
        name = scan.case if counts[scan.case] == 1 else f"{scan.case}_{digest}"
        named.append(replace(scan, case=name, folder=name))
    return named
