"""Equal steps from slice to slice, or the places in millimetres where they are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itermask3d.files.errors import ScanError

__all__ = ["list_places", "regular_step", "slice_location_mm"]

PLACE_TOLERANCE_MM = 0.05
"""How far a plane may lie from its place in the regular stack, at most a tenth of a gap: positions are rounded."""

WHOLE_TOLERANCE = 0.05
"""How far a gap may be from a whole number of slices, as a share of a slice, to be called missing slices."""

MAX_SLICES = 10000
"""Beyond which a gap is a stray position and not missing slices."""

LISTED = 12


def regular_step(positions: NDArray[Any], normal: NDArray[Any], name: str) -> NDArray[Any]:
    """From one slice to the next, LPS millimetres; the positions are sorted along the normal of the image plane.

    Raises:
        ScanError: unless all slices lie on one line at equal distances; it names the places of missing ones.
    """
    heights = positions @ normal
    gaps = np.diff(heights)
    _require_none_missing(positions, heights, normal, name)
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    apart = np.abs(positions - positions[0] - np.arange(len(positions))[:, None] * step).max(axis=1)
    if apart.max() > min(PLACE_TOLERANCE_MM, gaps.min() / 10):
        worst = int(apart.argmax())
        if np.ptp(gaps) > min(PLACE_TOLERANCE_MM, gaps.min() / 10):
            found = f"slices {gaps.min():.2f} to {gaps.max():.2f} mm apart"
        else:
            found = f"a slice {apart[worst]:.2f} mm beside the line of the others"
        raise ScanError(f"series '{name}' has {found}, first at {_at(positions[worst], normal)}; expected equal steps")
    return np.asarray(step)


def _require_none_missing(positions: NDArray[Any], heights: NDArray[Any], normal: NDArray[Any], name: str) -> None:
    gaps = np.diff(heights)
    base = float(np.median(gaps[gaps <= 1.5 * gaps.min()]))
    steps = np.round(gaps / base)
    if steps.max() < 2 or steps.sum() > MAX_SLICES or np.abs(gaps / base - steps).max() > WHOLE_TOLERANCE * steps.max():
        return
    missing = [
        positions[index] + (positions[index + 1] - positions[index]) * part / steps[index]
        for index in np.flatnonzero(steps > 1)
        for part in range(1, int(steps[index]))
    ]
    total = len(positions) + len(missing)
    where = list_places([slice_location_mm(place, normal) for place in missing])
    raise ScanError(f"series '{name}' lacks {len(missing)} of {total} slices, {where}; expected all of them")


def slice_location_mm(position: NDArray[Any], normal: NDArray[Any]) -> float:
    """Distance along the normal, in the direction in which its main coordinate grows, as SliceLocation counts."""
    return float(position @ normal * np.sign(normal[np.abs(normal).argmax()]))


def _at(position: NDArray[Any], normal: NDArray[Any]) -> str:
    return f"{slice_location_mm(position, normal):.1f} mm along the {_axis(normal)} axis"


def _axis(normal: NDArray[Any]) -> str:
    return ("left-right", "front-back", "foot-head")[int(np.abs(normal).argmax())]


def list_places(places: Sequence[float]) -> str:
    """The first places, in order, for a sentence."""
    ordered = sorted(places)
    rest = f" and {len(ordered) - LISTED} more" if len(ordered) > LISTED else ""
    return f"at {', '.join(f'{place:.1f}' for place in ordered[:LISTED])}{rest} mm"
