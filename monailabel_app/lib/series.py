"""Which MR series of a study suits the model: a T1 volume of the brain without contrast agent, unless the model for any
contrast may answer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import requests
from pydicom.dataset import Dataset

from lib.contrast import guess_contrast
from lib.headers import (
    obvious_trouble,
    read_acquisition,
    read_number,
    read_spacing_mm,
    read_text,
    read_values,
    stack_geometry,
)

__all__ = [
    "STRUCTURAL", "T1_ONLY", "Choice", "Series", "Suitability", "choose", "describe", "from_dicomweb", "suitability",
]  # fmt: skip

logger = logging.getLogger(__name__)

MIN_SLICES = 20
MAX_SLICES = 2000
MAX_VOXELS = 1024**3
THICK_MM = 3.0
T1_ONLY = ("T1", "unknown")
"""Contrasts that the preferred model reads."""
STRUCTURAL = ("T1", "T1c", "T2", "FLAIR", "PD", "unknown")
"""Contrasts of which the model for any contrast has seen generated scans."""
BRAIN_PARTS = {"", "BRAIN", "HEAD", "SKULL", "NEURO", "HEADNECK", "HEAD_NECK", "WHOLEBODY", "ROUTINE"}


@dataclass(frozen=True)
class Series:
    """A series as far as its headers tell; what they do not tell is ``None``, 0 or empty.

    Attributes:
        uid, study: SeriesInstanceUID and StudyInstanceUID.
        number, description, instances: SeriesNumber, SeriesDescription, number of files.
        contrast, reason: one of :data:`lib.contrast.CONTRASTS`, and why.
        modality, body_part: as in the header, in capitals.
        native: acquired, not derived (first value of ImageType).
        three_d: acquired as a volume.
        rows, columns: pixels of a slice.
        spacing_mm: between pixels of a column, of a row, and between slices (else a slice's thickness).
        slices, volumes: places along the normal, and images at each; ``None`` where only one header is known.
        trouble: a clause on why the files make up no single regular volume; empty where they do.
    """

    uid: str
    study: str
    number: int | None
    description: str
    instances: int
    contrast: str
    reason: str
    modality: str = "MR"
    body_part: str = ""
    native: bool = True
    three_d: bool = False
    rows: int = 0
    columns: int = 0
    spacing_mm: tuple[float, float, float] | None = None
    slices: int | None = None
    volumes: int | None = None
    trouble: str = ""

    @property
    def title(self) -> str:
        """Number and description for people."""
        return f"series {self.number if self.number is not None else '?'} ({self.description or 'no description'})"


class Suitability(NamedTuple):
    """Whether a series suits, and one sentence on why (not); a doubt is told there too."""

    suitable: bool
    reason: str


class Choice(NamedTuple):
    """The best series or ``None``, all series from best to worst, and one sentence on which and why."""

    best: Series | None
    ranking: tuple[tuple[Series, Suitability], ...]
    reason: str


def describe(headers: Sequence[Dataset | Mapping[str, Any]], *, instances: int | None = None) -> Series:
    """Tell what a series is.

    Args:
        headers: one at least, of any of its images, as datasets or as DICOM JSON; with all of them the places of the
            slices are checked too.
        instances: number of images of the series, where fewer headers are given.

    Raises:
        ValueError: if no header is given.
    """
    if not headers:
        raise ValueError("a series needs one header at least, got none")
    data = [h if isinstance(h, Dataset) else Dataset.from_json(dict(h)) for h in headers]
    first, count = data[0], max(instances or 0, len(data))
    contrast, reason = guess_contrast(read_acquisition(first))
    image_type = read_values(first, "ImageType")
    number = read_number(first, "SeriesNumber")
    facts: dict[str, Any] = {"trouble": obvious_trouble(first), "spacing_mm": read_spacing_mm(first)}
    if len(data) == count and read_text(first, "Modality") == "MR":
        facts |= {name: value for name, value in stack_geometry(data).items() if value}
    return Series(
        uid=read_text(first, "SeriesInstanceUID"),
        study=read_text(first, "StudyInstanceUID"),
        number=None if number is None else int(number),
        description=read_text(first, "SeriesDescription"),
        instances=count,
        contrast=contrast,
        reason=reason,
        modality=read_text(first, "Modality").upper(),
        body_part=read_text(first, "BodyPartExamined").upper().replace(" ", ""),
        native=not image_type or image_type[0] != "DERIVED",
        three_d=read_text(first, "MRAcquisitionType").upper() == "3D",
        rows=int(read_number(first, "Rows") or 0),
        columns=int(read_number(first, "Columns") or 0),
        **facts,
    )


def suitability(series: Series, contrasts: Sequence[str] = T1_ONLY) -> Suitability:
    """Whether a model for such contrasts can be run on a series; the reason names the first obstacle, or the doubts."""
    obstacle = _obstacle(series, contrasts)
    if obstacle:
        return Suitability(False, f"{series.title}: {obstacle}.")
    doubts = [f"{series.contrast}: {series.reason}"]
    if series.contrast == "unknown":
        doubts = [f"the contrast is unknown ({series.reason}); the model knows T1 best, so check that it is T1"]
    if series.spacing_mm and max(series.spacing_mm) > THICK_MM:
        doubts.append(f"voxels of up to {max(series.spacing_mm):.1f} mm are coarse for the model, expect false alarms")
    if series.body_part not in BRAIN_PARTS:
        doubts.append(f"the header names the body part '{series.body_part}', check that it is a brain")
    return Suitability(True, f"{series.title}: {'; '.join(doubts)}.")


def choose(found: Iterable[Series]) -> Choice:
    """Rank the series of a study: suitable before not, sure T1 before unknown, as acquired, 3D, thin, many slices."""
    rated = [(series, suitability(series)) for series in found]
    ranking = tuple(sorted(rated, key=lambda pair: _rank(*pair)))
    if not ranking:
        return Choice(None, ranking, "The study holds no series.")
    best, rating = ranking[0]
    if not rating.suitable:
        return Choice(None, ranking, f"None of the {len(ranking)} series suits the model; the nearest, {rating.reason}")
    others = sum(other.suitable for _, other in ranking) - 1
    rest = f"best of {others + 1} that suit the model" if others else "the only one that suits the model"
    return Choice(best, ranking, f"Chosen: {rating.reason[:-1]}; {rest}.")


def from_dicomweb(client: Any, study_uid: str) -> list[Series]:
    """Describe all series of a study over DICOMweb, with one header each, and all of them for those that may suit.

    Args:
        client: a ``dicomweb_client.DICOMwebClient``.
        study_uid: StudyInstanceUID.

    Raises:
        requests.RequestException: if the server cannot be asked for the study's series; a single series that it
            cannot show is described from the listing alone.
    """
    listed = client.search_for_series(study_instance_uid=study_uid)
    return [_from_listing(client, study_uid, item) for item in listed]


def _from_listing(client: Any, study_uid: str, item: Mapping[str, Any]) -> Series:
    listing = Dataset.from_json(dict(item))
    count = int(read_number(listing, "NumberOfSeriesRelatedInstances") or 0)
    if read_text(listing, "Modality") != "MR":
        return describe([listing], instances=count)
    uid = read_text(listing, "SeriesInstanceUID")
    try:
        instances = client.search_for_instances(study_uid, uid, limit=1 if count else None)
        count = count or len(instances)
        instance_uid = read_text(Dataset.from_json(instances[0]), "SOPInstanceUID")
        series = describe([client.retrieve_instance_metadata(study_uid, uid, instance_uid)], instances=count)
        if suitability(series, STRUCTURAL).suitable:
            series = describe(client.retrieve_series_metadata(study_uid, uid), instances=count)
    except (requests.RequestException, IndexError) as error:
        logger.warning("Series %s is described from the listing alone: %s", uid, error)
        series = describe([listing], instances=count)
    return series


def _obstacle(series: Series, contrasts: Sequence[str]) -> str:
    slices = series.slices or series.instances
    if series.modality != "MR":
        return f"its modality is {series.modality or 'not given'}, and the model reads MR only"
    if series.contrast not in contrasts:
        if series.contrast == "T1c":
            return f"T1 with contrast agent ({series.reason}), which the model would take for an anomaly"
        wanted = "T1" if contrasts == T1_ONLY else "a structural scan"
        return f"{series.contrast} and not {wanted} ({series.reason})"
    if slices > MAX_SLICES:
        return f"{slices} slices are too many, at most {MAX_SLICES} are read"
    if slices * series.rows * series.columns > MAX_VOXELS:
        return f"{series.columns}×{series.rows}×{slices} voxels are too many to be read"
    if series.trouble:
        return series.trouble
    if slices < MIN_SLICES:
        return f"{slices} slices are too few, the model looks at a whole brain and needs {MIN_SLICES} at least"
    return ""


def _rank(series: Series, rating: Suitability) -> tuple[Any, ...]:
    thickness = round(series.spacing_mm[2], 1) if series.spacing_mm else 99.0
    return (
        not rating.suitable,
        ("T1", "unknown", "T1c").index(series.contrast) if series.contrast in ("T1", "unknown", "T1c") else 3,
        not series.native,
        not series.three_d,
        thickness,
        -(series.slices or series.instances),
        series.number if series.number is not None else 10**9,
        series.uid,
    )
