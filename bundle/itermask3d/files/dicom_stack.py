"""Whether the planes of a series make one regular volume, and where that lies: decided from their headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itermask3d.files.dicom_planes import DISTINCT, SHARED, Plane, is_phase
from itermask3d.files.dicom_steps import list_places, regular_step, slice_location_mm
from itermask3d.files.errors import ScanError
from itermask3d.files.volume import check_affine

__all__ = ["Stack", "arrange"]

UNIT_TOLERANCE = 1e-3
"""How far an orientation vector's length may be from 1, and the two from a right angle: rounding in the header."""

TURN_TOLERANCE = 5e-4
"""How far a component of the orientation may differ between planes of one stack."""

SAME_PLACE_MM = 0.01
SHEAR_DEGREES = 0.1
SPACING_TOLERANCE = 0.02
MIXED = ("EchoTime", "EchoNumbers", "InversionTime", "FlipAngle", "DiffusionBValue", "TemporalPosition")
"""What may not differ within one volume, even where each plane has a place of its own."""

MIXED_TOLERANCE = 0.1
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes in the order of the third voxel axis.

    Attributes:
        planes: indices of the given planes, along the normal (row direction × column direction).
        affine: ``(4, 4)``, voxel (column, row, slice) to RAS millimetres (PS3.3, equation C.7.6.2.1-1).
        shape: columns, rows, slices.
        warnings: a sentence each.
    """

    planes: tuple[int, ...]
    affine: NDArray[Any]
    shape: tuple[int, int, int]
    warnings: tuple[str, ...]


def arrange(planes: Sequence[Plane], name: str, *, identical: Callable[[int, int], bool] | None = None) -> Stack:
    """Order planes into one regular volume, however oblique or sheared.

    Args:
        planes: in any order.
        name: how messages call the series.
        identical: whether the pixels of two planes, by index, are the same; without it no two are.

    Raises:
        ScanError: naming the first of these that is found: images of several patients, studies, series or frames of
            reference; planes of several sizes or orientations; orientations that are no unit vectors at right angles;
            several volumes; different images at one place; missing planes; unequal gaps; fewer than two planes.
    """
    _require_one_source(planes, name)
    _require_one_grid(planes, name)
    row, column = np.reshape(planes[0].orientation, (2, 3))
    normal = np.cross(row, column)
    positions = np.array([plane.position for plane in planes])
    order = np.argsort(positions @ normal, kind="stable")
    kept, warnings = _without_copies(planes, order, normal, name, identical)
    _require_unmixed([planes[index] for index in kept], name)
    if len(kept) < 2:
        raise ScanError(f"series '{name}' holds a single slice; expected a volume")
    step = regular_step(positions[kept], normal, name)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * planes[0].pixel_mm[1], column * planes[0].pixel_mm[0]
    affine[:3, 2], affine[:3, 3] = step, positions[kept[0]]
    warnings += _oddities([planes[index] for index in kept], step, normal)
    shape = (planes[0].columns, planes[0].rows, len(kept))
    return Stack(tuple(kept), check_affine(TO_RAS @ affine, name), shape, tuple(warnings))


def _require_one_source(planes: Sequence[Plane], name: str) -> None:
    if not planes:
        raise ScanError(f"series '{name}' holds no image; expected MR or CT images")
    titles = {"StudyInstanceUID": "studies", "SeriesInstanceUID": "series",
              "FrameOfReferenceUID": "frames of reference"}  # fmt: skip
    for key in SHARED:
        found = {plane.shared[key] for plane in planes if plane.shared.get(key)}
        if len(found) > 1:
            raise ScanError(
                f"'{name}' holds images of {len(found)} {titles.get(key, 'patients')} (by {key}); expected one"
            )


def _require_one_grid(planes: Sequence[Plane], name: str) -> None:
    sizes = Counter((plane.columns, plane.rows) for plane in planes)
    orientations = _clusters([plane.orientation for plane in planes], TURN_TOLERANCE)
    if len(orientations) > 1:
        counts = " and ".join(map(str, orientations[:4])) + (" …" if len(orientations) > 4 else "")
        raise ScanError(f"series '{name}' holds slices in {len(orientations)} orientations ({counts}); expected one")
    if len(sizes) > 1:
        found = " and ".join(f"{columns} x {rows}" for columns, rows in sizes)
        raise ScanError(f"series '{name}' holds images of {found} pixels; expected one size")
    spacings = np.array([plane.pixel_mm for plane in planes])
    if np.ptp(spacings, axis=0).max() > 1e-4 * spacings.min():
        raise ScanError(
            f"series '{name}' holds pixels of {spacings.min():g} to {spacings.max():g} mm (PixelSpacing); "
            "expected one spacing"
        )
    row, column = np.reshape(planes[0].orientation, (2, 3))
    off = max(abs(np.linalg.norm(row) - 1), abs(np.linalg.norm(column) - 1))
    if off > UNIT_TOLERANCE:
        raise ScanError(f"series '{name}' has orientation vectors whose length is {off:.3f} off; expected length 1")
    if abs(row @ column) > UNIT_TOLERANCE:
        raise ScanError(
            f"series '{name}' has rows and columns {np.degrees(np.arccos(np.clip(row @ column, -1, 1))):.1f} degrees "
            "apart; expected a right angle"
        )


def _clusters(vectors: Sequence[tuple[float, ...]], tolerance: float) -> list[int]:
    """How many vectors are alike, group by group."""
    groups: list[tuple[NDArray[Any], int]] = []
    for vector in np.array(vectors):
        for index, (first, count) in enumerate(groups):
            if np.abs(vector - first).max() <= tolerance:
                groups[index] = (first, count + 1)
                break
        else:
            groups.append((vector, 1))
    return sorted((count for _, count in groups), reverse=True)


def _without_copies(
    planes: Sequence[Plane],
    order: NDArray[Any],
    normal: NDArray[Any],
    name: str,
    identical: Callable[[int, int], bool] | None,
) -> tuple[list[int], list[str]]:
    """Indices in order, identical copies left out.

    Raises:
        ScanError: if different images share a place.
    """
    places: list[list[int]] = []
    for index in map(int, order):
        if places and (_position(planes[index]) - _position(planes[places[-1][0]])) @ normal < SAME_PLACE_MM:
            places[-1].append(index)
        else:
            places.append([index])
    different = [place for place in places if _different(place, planes, identical)]
    if different:
        raise ScanError(_shared_place(planes, places, different, normal, name))
    n_copies = sum(len(place) - 1 for place in places)
    warnings = [f"{n_copies} identical copies of images were left out"] if n_copies else []
    return [place[0] for place in places], warnings


def _different(place: list[int], planes: Sequence[Plane], identical: Callable[[int, int], bool] | None) -> bool:
    first = planes[place[0]]
    for index in place[1:]:
        plane = planes[index]
        alike = (
            float(np.abs(_position(plane) - _position(first)).max()) < SAME_PLACE_MM
            and (plane.slope, plane.intercept) == (first.slope, first.intercept)
            and not _differing([first, plane])
        )
        if not alike or identical is None or not identical(place[0], index):
            return True
    return False


def _shared_place(
    planes: Sequence[Plane], places: list[list[int]], different: list[list[int]], normal: NDArray[Any], name: str
) -> str:
    together = [planes[index] for place in different for index in place]
    counts = Counter(map(len, places))
    how = "; ".join(f"{label} {', '.join(values[:6])}" for label, values in list(_differing(together).items())[:3])
    if len(counts) == 1 and len(places) > 1:
        return (
            f"series '{name}' holds {counts.popitem()[0]} volumes of {len(places)} slices "
            f"({how or 'nothing in their headers tells them apart'}); expected one"
        )
    where = list_places([slice_location_mm(_position(planes[place[0]]), normal) for place in different])
    return (
        f"series '{name}' holds different images at one place, {where} ({how or 'same headers, other pixels'}); "
        "expected one image a slice"
    )


def _differing(planes: Sequence[Plane]) -> dict[str, list[str]]:
    """What tells planes apart, and its values, where both tell it."""
    found = {}
    for label in DISTINCT:
        values = list(dict.fromkeys(plane.distinct[label] for plane in planes if label in plane.distinct))
        if len(values) > 1:
            found[label] = values
    return found


def _require_unmixed(planes: Sequence[Plane], name: str) -> None:
    n_phase = sum(_is_phase(plane) for plane in planes)
    if n_phase:
        raise ScanError(f"series '{name}' holds {n_phase} phase images of {len(planes)}; expected the magnitude")
    for label, values in _differing(planes).items():
        if label not in MIXED:
            continue
        numbers = np.array([float(value) for value in values if _is_number(value)])
        if len(numbers) > 1 and np.ptp(numbers) > MIXED_TOLERANCE * np.abs(numbers).max():
            raise ScanError(
                f"series '{name}' mixes images of {label} {', '.join(values[:6])}; expected one volume of one kind"
            )


def _is_phase(plane: Plane) -> bool:
    told = plane.distinct.get("ComplexImageComponent", "").upper() == "PHASE"
    return told or is_phase(plane.distinct.get("ImageType", "").split("\\"))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _position(plane: Plane) -> NDArray[Any]:
    return np.asarray(plane.position)


def _oddities(planes: Sequence[Plane], step: NDArray[Any], normal: NDArray[Any]) -> list[str]:
    warnings = sorted({note for plane in planes for note in plane.notes})
    gap = float(step @ normal)
    tilt = float(np.degrees(np.arccos(np.clip(gap / np.linalg.norm(step), -1, 1))))
    if tilt > SHEAR_DEGREES:
        warnings.append(f"the slices are stacked at a slant of {tilt:.1f} degrees (gantry tilt) and are placed by it")
    told = planes[0].spacing_mm
    if told is not None and abs(told - gap) > SPACING_TOLERANCE * gap:
        warnings.append(
            f"the header tells {told:g} mm between slices and the positions {gap:g} mm, which are taken; "
            "slices may be missing"
        )
    numbers = sorted({plane.number for plane in planes if plane.number is not None})
    if len(numbers) == len(planes) and (numbers[0] > 1 or numbers[-1] - numbers[0] >= len(numbers)):
        where = "" if numbers[-1] - numbers[0] >= len(numbers) else " at an end"
        warnings.append(
            f"the {len(numbers)} images are numbered {numbers[0]} to {numbers[-1]}; slices{where} may be missing"
        )
    acquired = max((plane.acquired for plane in planes if plane.acquired is not None), default=0)
    if acquired > len(planes):
        warnings.append(f"the header tells of {acquired} images and {len(planes)} are here; slices may be missing")
    uids = {plane.uid for plane in planes}
    if uids != {""} and len(uids) < len({plane.name for plane in planes}):
        warnings.append("images of the series share a SOPInstanceUID")
    return warnings
