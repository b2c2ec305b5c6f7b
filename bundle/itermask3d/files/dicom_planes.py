"""What the header of an MR or CT image tells about each of its planes, classic or enhanced multi-frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from itermask3d.files.errors import ScanError

__all__ = ["IMAGE_CLASSES", "Plane", "is_phase", "planes_of", "read_number", "read_text"]

IMAGE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT Image",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT Image",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT Image",
    "1.2.840.10008.5.1.4.1.1.4": "MR Image",
    "1.2.840.10008.5.1.4.1.1.4.1": "Enhanced MR Image",
    "1.2.840.10008.5.1.4.1.1.4.4": "Legacy Converted Enhanced MR Image",
}
"""SOP classes that are read: slices of a patient with a place in the scanner (PS3.4, B.5)."""

GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRDiffusionSequence": ("DiffusionBValue",),
    "MRImageFrameTypeSequence": ("FrameType", "ComplexImageComponent"),
    "CTImageFrameTypeSequence": ("FrameType",),
    "FrameContentSequence": ("TemporalPositionIndex", "StackID", "FrameAcquisitionNumber"),
}
"""Functional groups of enhanced images (PS3.3, C.7.6.16), and what is taken from each."""

DISTINCT = {
    "EchoTime": ("EchoTime", "EffectiveEchoTime"),
    "EchoNumbers": ("EchoNumbers",),
    "InversionTime": ("InversionTime",),
    "FlipAngle": ("FlipAngle",),
    "DiffusionBValue": ("DiffusionBValue",),
    "TemporalPosition": ("TemporalPositionIdentifier", "TemporalPositionIndex"),
    "TriggerTime": ("TriggerTime",),
    "AcquisitionNumber": ("AcquisitionNumber", "FrameAcquisitionNumber"),
    "ImageType": ("FrameType", "ImageType"),
    "ComplexImageComponent": ("ComplexImageComponent",),
    "StackID": ("StackID",),
}
"""What tells the volumes of one series apart, in the order in which it is named to people."""

PHASE = frozenset({"P", "PHASE", "PHASE MAP"})
"""What ImageType says, from its third value on, of images whose values are angles."""

FAR_MM = 1e5

SHARED = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "SeriesInstanceUID",
          "FrameOfReferenceUID")  # fmt: skip
"""What all images of one volume have in common."""


@dataclass(frozen=True)
class Plane:
    """One plane of pixels and its place.

    Attributes:
        name: of its file, for messages.
        uid: SOPInstanceUID.
        frame: index within its file.
        position: centre of the first pixel, LPS millimetres.
        orientation: direction of the columns' index (along a row), then of the rows' index; unit vectors in LPS.
        pixel_mm: distance between rows, between columns.
        rows, columns: pixels.
        slope, intercept: stored value to intensity.
        number: InstanceNumber.
        acquired: ImagesInAcquisition, how many images the scanner made; ``None`` where the header does not say.
        spacing_mm: between slices as the header says, which positions overrule; ``None`` where it does not.
        shared: see :data:`SHARED`, without empty ones.
        distinct: see :data:`DISTINCT`, without empty ones.
        notes: odd, but no reason to refuse.
    """

    name: str
    uid: str
    frame: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    pixel_mm: tuple[float, ...]
    rows: int
    columns: int
    slope: float = 1.0
    intercept: float = 0.0
    number: int | None = None
    acquired: int | None = None
    spacing_mm: float | None = None
    shared: Mapping[str, str] = field(default_factory=dict)
    distinct: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def planes_of(data: Dataset, name: str) -> tuple[Plane, ...]:
    """The planes of one image.

    Args:
        data: its header; pixels are not looked at.
        name: how messages call it.

    Raises:
        ScanError: if it is no MR or CT image of grey values, or a plane has no place.
    """
    _require_readable(data, name)
    size = tuple(int(read_number(data, key) or 0) for key in ("Rows", "Columns"))
    if min(size) < 1:
        raise ScanError(f"'{name}' has {size[0]} rows and {size[1]} columns; expected an image")
    shared = {key: text for key in SHARED if (text := read_text(data, key))}
    notes = ("the images were compressed with loss",) if read_text(data, "LossyImageCompression") == "01" else ()
    common: dict[str, Any] = {
        "name": name,
        "uid": read_text(data, "SOPInstanceUID"),
        "rows": size[0],
        "columns": size[1],
        "shared": shared,
        "notes": notes,
    }
    number = read_number(data, "InstanceNumber")
    acquired = read_number(data, "ImagesInAcquisition")
    frames = list(_frames(data, name))
    return tuple(
        Plane(
            frame=index,
            number=None if number is None or len(frames) > 1 else int(number),
            acquired=None if acquired is None or len(frames) > 1 else int(acquired),
            **_place(frame, f"{name}, frame {index + 1}" if len(frames) > 1 else name),
            **common,
        )
        for index, frame in enumerate(frames)
    )


def is_phase(image_type: Sequence[str]) -> bool:
    """Whether ImageType, or FrameType, tells of a phase image."""
    return any(value.upper() in PHASE for value in image_type[2:])


def _require_readable(data: Dataset, name: str) -> None:
    kind = read_text(data, "SOPClassUID")
    if kind and kind not in IMAGE_CLASSES:
        title = getattr(data.SOPClassUID, "name", kind)
        raise ScanError(f"'{name}' is a {title}; expected MR or CT images as the scanner made them")
    if any(value.upper() == "MOSAIC" for value in _values(data, "ImageType")):
        raise ScanError(f"'{name}' is a mosaic of all slices in one image (Siemens); expected one image a slice")
    samples, photometric = read_number(data, "SamplesPerPixel") or 1, read_text(data, "PhotometricInterpretation")
    if samples != 1 or photometric.upper() not in ("MONOCHROME2", ""):
        raise ScanError(f"'{name}' has the pixels {photometric or samples}; expected grey values (MONOCHROME2)")
    if data.get("ModalityLUTSequence"):
        raise ScanError(f"'{name}' has a table in place of a rescale slope; expected a slope and an intercept")
    for key in ("Rows", "Columns"):
        if key not in data:
            raise ScanError(f"'{name}' has no {key}; expected an image")


def _frames(data: Dataset, name: str) -> Iterator[dict[str, Any]]:
    """Each frame's attributes by keyword: those of the file, overruled by shared, then by its own groups."""
    count = int(read_number(data, "NumberOfFrames") or 1)
    groups = _sequence(data, "PerFrameFunctionalGroupsSequence")
    keys = {key for names in GROUPS.values() for key in names} | {key for keys in DISTINCT.values() for key in keys}
    own = {key: data.get(key) for key in keys if key in data}
    if not groups:
        if count != 1:
            raise ScanError(f"'{name}' holds {count} frames without a place for each; expected enhanced MR or CT")
        yield own
        return
    if len(groups) != count:
        raise ScanError(f"'{name}' describes {len(groups)} of {count} frames; expected all")
    shared = own | _grouped(next(iter(_sequence(data, "SharedFunctionalGroupsSequence")), Dataset()))
    for group in groups:
        yield shared | _grouped(group)


def _grouped(group: Dataset) -> dict[str, Any]:
    found = {}
    for sequence, keys in GROUPS.items():
        items = _sequence(group, sequence)
        if items:
            found.update({key: items[0].get(key) for key in keys if key in items[0]})
    return found


def _sequence(data: Dataset, keyword: str) -> Sequence[Dataset]:
    value = data.get(keyword)
    return value if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else []


def _place(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    position = _vector(values, "ImagePositionPatient", 3, name)
    if np.abs(position).max() > FAR_MM:
        raise ScanError(f"'{name}' lies {np.abs(position).max():.3g} mm from the scanner's centre; expected a patient")
    orientation = _vector(values, "ImageOrientationPatient", 6, name)
    pixel_mm = _vector(values, "PixelSpacing", 2, name)
    if min(pixel_mm) <= 1e-3 or max(pixel_mm) > 1e3:
        raise ScanError(f"'{name}' has pixels of {pixel_mm[0]:g} x {pixel_mm[1]:g} mm; expected a patient's image")
    slope, intercept = _scale(values, "RescaleSlope", 1.0, name), _scale(values, "RescaleIntercept", 0.0, name)
    if slope == 0:
        raise ScanError(f"'{name}' has a RescaleSlope of 0; expected another number")
    between = _number(values.get("SpacingBetweenSlices"))
    distinct = {label: _text_of(values, keys) for label, keys in DISTINCT.items()}
    return {
        "position": position,
        "orientation": orientation,
        "pixel_mm": pixel_mm,
        "slope": slope,
        "intercept": intercept,
        "spacing_mm": between if between is not None and between > 0 else None,
        "distinct": {label: text for label, text in distinct.items() if text},
    }


def _vector(values: Mapping[str, Any], keyword: str, length: int, name: str) -> tuple[float, ...]:
    value = values.get(keyword)
    if value is None or value == "":
        raise ScanError(f"'{name}' has no {keyword}; expected each image to tell its place")
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != length or not np.isfinite(numbers).all():
        raise ScanError(f"'{name}' has the {keyword} {str(value)[:80]}; expected {length} numbers")
    return numbers


def _scale(values: Mapping[str, Any], keyword: str, default: float, name: str) -> float:
    value = values.get(keyword)
    if value is None or value == "":
        return default
    number = _number(value)
    if number is None:
        raise ScanError(f"'{name}' has the {keyword} {str(value)[:40]}; expected a number")
    return number


def _text_of(values: Mapping[str, Any], keywords: Sequence[str]) -> str:
    """The first of the attributes that is told, as text; numbers in their shortest form."""
    for keyword in keywords:
        value = values.get(keyword)
        if value is not None and str(value) not in ("", "[]"):
            number = _number(value)
            if number is not None:
                return f"{number:g}"
            return str(value) if isinstance(value, str) else "\\".join(map(str, value)) if _many(value) else str(value)
    return ""


def _many(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _number(value: Any) -> float | None:
    try:
        number = float(value[0] if _many(value) else value)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return number if np.isfinite(number) else None


def read_number(data: Dataset, keyword: str) -> float | None:
    """A finite number, the first of several; ``None`` where it is missing, empty or no number."""
    try:
        return _number(data.get(keyword))
    except (TypeError, ValueError):
        return None


def read_text(data: Dataset, keyword: str) -> str:
    """An attribute as text; empty where it is missing or unreadable."""
    try:
        value = data.get(keyword)
    except (TypeError, ValueError):
        return ""
    return "" if value is None else str(value).strip()


def _values(data: Dataset, keyword: str) -> list[str]:
    value = data.get(keyword)
    return [value] if isinstance(value, str) else [str(part) for part in value or ()]
