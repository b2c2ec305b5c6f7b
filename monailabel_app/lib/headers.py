"""Reading headers that scanners, anonymisers and people have been at: nothing missing or odd stops it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from lib.contrast import Acquisition

__all__ = [
    "obvious_trouble",
    "read_acquisition",
    "read_number",
    "read_spacing_mm",
    "read_text",
    "read_values",
    "stack_geometry",
]

GAP_TOLERANCE = 0.1
"""How much a distance between slices may differ from the others, as a share of it."""

MAX_DRIFT_MM = 0.5
"""How far the last slice may lie beside the first, seen along the normal: positions are rounded in headers."""

ENHANCED_MR = {"1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.3", "1.2.840.10008.5.1.4.1.1.4.4"}


def read_acquisition(data: Dataset) -> Acquisition:
    """What the header says of how the image was made."""
    names = ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName")
    agents = [read_text(data, "ContrastBolusAgent"), *(read_text(i, "CodeMeaning") for i in _items(data))]
    return Acquisition(
        words=" | ".join(read_text(data, name) for name in names),
        image_type=read_values(data, "ImageType"),
        agent=" ".join(filter(None, agents)),
        scanning_sequence=frozenset(read_values(data, "ScanningSequence")),
        repetition_ms=read_number(data, "RepetitionTime"),
        echo_ms=read_number(data, "EchoTime"),
        inversion_ms=read_number(data, "InversionTime"),
        flip_degrees=read_number(data, "FlipAngle"),
        angiography=read_text(data, "AngioFlag").upper() == "Y",
        diffusion=bool(read_number(data, "DiffusionBValue")),
    )


def _items(data: Dataset) -> Sequence[Dataset]:
    value = data.get("ContrastBolusAgentSequence")
    return value if isinstance(value, Sequence) else ()


def obvious_trouble(data: Dataset) -> str:
    """A clause on what one header alone rules out; empty where it rules out nothing."""
    if read_text(data, "SOPClassUID") in ENHANCED_MR or (read_number(data, "NumberOfFrames") or 1) > 1:
        return "all slices are in one file (enhanced MR), which is not read; convert it to one file a slice"
    if (read_number(data, "SamplesPerPixel") or 1) > 1:
        return "its images are in colour"
    if read_text(data, "PhotometricInterpretation").upper() not in ("", "MONOCHROME2"):
        return f"its grey values are stored as {read_text(data, 'PhotometricInterpretation')}, expected MONOCHROME2"
    if (read_number(data, "NumberOfTemporalPositions") or 1) > 1:
        return "it holds several volumes in time, expected one"
    return ""


def stack_geometry(headers: Sequence[Dataset]) -> dict[str, Any]:
    """Places of the slices from all headers: ``slices``, ``volumes``, ``spacing_mm`` and, if irregular, ``trouble``."""
    positions = [_vector(data, "ImagePositionPatient", 3) for data in headers]
    orientations = [_vector(data, "ImageOrientationPatient", 6) for data in headers]
    if any(value is None for value in (*positions, *orientations)):
        return {"trouble": obvious_trouble(headers[0]) or "an image has no position in the patient"}
    turned = np.abs(np.asarray(orientations, dtype=float) - orientations[0]).max()
    if turned > 1e-3:
        return {"trouble": "its images lie in different planes, expected one stack of slices"}
    if trouble := _not_one_grid(headers):
        return {"trouble": trouble}
    normal = np.cross(*np.reshape(np.asarray(orientations[0], dtype=float), (2, 3)))
    places = np.sort(np.round(np.asarray(positions, dtype=float) @ normal, 3))
    distinct = places[np.concatenate([[True], np.diff(places) > 5e-3])]
    found = {"slices": len(distinct)} | _stack(places, distinct, headers[0])
    if "trouble" not in found and (drift := _drift_mm(np.asarray(positions, dtype=float), normal)) > MAX_DRIFT_MM:
        found["trouble"] = f"its slices are stacked at a slant ({drift:.1f} mm from first to last, a tilted gantry?)"
    return found


def _not_one_grid(headers: Sequence[Dataset]) -> str:
    """A clause on why images at their places make up no grid that a mask can be saved on; empty where they do."""
    if len({(data.get("Rows"), data.get("Columns")) for data in headers}) > 1:
        return "its images differ in size"
    spacings = [_vector(data, "PixelSpacing", 2) for data in headers]
    if any(value is None for value in spacings) or np.ptp(np.asarray(spacings, dtype=float), axis=0).max() > 1e-3:
        return "its images differ in pixel spacing, or do not tell it"
    frames = {read_text(data, "FrameOfReferenceUID") for data in headers}
    if "" in frames or len(frames) > 1:
        return "its images share no frame of reference (FrameOfReferenceUID), without which no mask can be saved"
    return ""


def _drift_mm(positions: np.ndarray, normal: np.ndarray) -> float:
    """How far the stack runs off to the side of its normal, from the first slice to the last."""
    heights = positions @ normal
    across = positions - heights[:, None] * normal
    return float(np.linalg.norm(across[heights.argmax()] - across[heights.argmin()]))


def _stack(places: np.ndarray, distinct: np.ndarray, first: Dataset) -> dict[str, Any]:
    volumes = -(-len(places) // len(distinct))
    if volumes > 1:
        return {"volumes": volumes, "trouble": f"it holds {volumes} images at one place (time points or echoes?)"}
    gaps = np.diff(distinct)
    if not gaps.size:
        return {"volumes": 1}
    gap = float(np.median(gaps))
    pixel = read_spacing_mm(first)
    found: dict[str, Any] = {"volumes": 1, "spacing_mm": (*pixel[:2], gap) if pixel else None}
    if float(np.abs(gaps - gap).max()) > GAP_TOLERANCE * gap:
        found["trouble"] = (
            f"its slices are not equally far apart ({gaps.min():.2f} to {gaps.max():.2f} mm; some missing?)"
        )
    return found


def read_spacing_mm(data: Dataset) -> tuple[float, float, float] | None:
    pixel = _vector(data, "PixelSpacing", 2)
    between = read_number(data, "SpacingBetweenSlices") or read_number(data, "SliceThickness")
    return (pixel[0], pixel[1], between) if pixel and between else None


def _vector(data: Dataset, keyword: str, length: int) -> tuple[float, ...] | None:
    try:
        values = tuple(float(value) for value in data.get(keyword) or ())
    except (TypeError, ValueError):
        return None
    return values if len(values) == length and bool(np.all(np.isfinite(values))) else None


def read_number(data: Dataset, keyword: str) -> float | None:
    """A number, the first of several; ``None`` where it is missing, empty or no number."""
    try:
        value = data.get(keyword)
        value = value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value
        return None if value in (None, "") else float(value)
    except (TypeError, ValueError, IndexError):
        return None


def read_text(data: Dataset, keyword: str) -> str:
    try:
        value = data.get(keyword)
    except (TypeError, ValueError):
        return ""
    return "" if value is None else str(value).strip()


def read_values(data: Dataset, keyword: str) -> tuple[str, ...]:
    value = data.get(keyword)
    parts = [value] if isinstance(value, str) else list(value or ())
    return tuple(str(part).strip().upper() for part in parts)
