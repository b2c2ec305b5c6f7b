"""DICOM series of a folder: which can be segmented, and what they are called."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydicom.dataset import Dataset

from itermask3d.files.dicom_files import FoundSeries
from itermask3d.files.dicom_planes import is_phase
from itermask3d.files.tree import LeftOut

__all__ = ["NamedSeries", "named_series", "place_of", "title", "unsuitable"]

MIN_SLICES = 20
"""A DICOM series of fewer images is a localiser or a part of a volume."""


@dataclass(frozen=True)
class NamedSeries:
    """A series that can be segmented.

    Attributes:
        parts: its name, by folder, from below the source; never from a patient's header.
        place: its folder; of one that lies in several, the one above them.
        files: its own, where the folder holds others too or it lies in several; else empty.
        uid: SeriesInstanceUID.
    """

    parts: tuple[str, ...]
    place: str
    files: tuple[str, ...]
    uid: str


def named_series(
    found: Sequence[FoundSeries], root: Path, *, any_kind: bool = False
) -> tuple[list[NamedSeries], list[LeftOut]]:
    """Tell the series that can be segmented from others.

    Args:
        found: below ``root``.
        root: the source.
        any_kind: take a single series whatever its header says, as for a folder that somebody named.
    """
    n_series = Counter(place_of(series) for series in found)
    n_files = Counter(str(file.parent) for series in found for file in series.files)
    named: list[NamedSeries] = []
    left_out: list[LeftOut] = []
    for series in found:
        place = place_of(series)
        reason = "" if any_kind and len(found) == 1 else unsuitable(series)
        if reason:
            left_out.append(LeftOut(place, f"{title(series)}: {reason}"))
            continue
        alone = n_files[place] == len(series.files)  # else a reader would stumble over the others
        files = () if alone else tuple(str(file) for file in series.files)
        named.append(NamedSeries(_parts(Path(place), root, series, n_series[place] > 1), place, files, series.uid))
    return named, left_out


def unsuitable(series: FoundSeries) -> str:
    """Why a series cannot be segmented; empty where nothing in its header speaks against it."""
    header = series.header
    image_type = [str(value) for value in header.get("ImageType", None) or []]
    if str(header.get("Modality", "")) != "MR":
        return f"modality {header.get('Modality', 'unknown')}, expected MR"
    if any("LOCALIZER" in value.upper() for value in image_type):
        return "a localiser"
    if image_type and image_type[0] == "DERIVED":
        return "derived from other images (ImageType DERIVED), expected one as acquired"
    if is_phase(image_type):
        return "phase images, expected the magnitude"
    if _count(header, "SamplesPerPixel") != 1:
        return "colour images, expected grey values"
    if series.n_images < MIN_SLICES:
        return f"{series.n_images} images, expected at least {MIN_SLICES}"
    return ""


def _count(header: Dataset, name: str) -> int:
    try:
        return int(header.get(name, 1) or 1)
    except (TypeError, ValueError):
        return 0


def title(series: FoundSeries) -> str:
    """How a series is called in a sentence."""
    number = series.header.get("SeriesNumber", "?")
    return f"series {number} ({series.header.get('SeriesDescription', '') or 'no description'})"


def place_of(series: FoundSeries) -> str:
    """The folder of a series; of one that lies in several, the one above them."""
    return os.path.commonpath({str(file.parent) for file in series.files})


def _parts(folder: Path, root: Path, series: FoundSeries, crowded: bool) -> tuple[str, ...]:
    parts = PurePosixPath(folder.relative_to(root).as_posix()).parts or (root.name,)
    if not crowded:
        return parts
    number = series.header.get("SeriesNumber", None)
    label = re.sub(r"[^A-Za-z0-9]+", "-", str(series.header.get("SeriesDescription", "") or "")).strip("-")
    told = f"series-{'x' if number is None else number}"
    return (*parts[:-1], "_".join(part for part in (parts[-1], told, label) if part))
