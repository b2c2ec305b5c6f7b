r"""A scan's unit and zero taken out of it, so that no answer depends on either.

.. math:: I = \text{offset} + \text{unit} \cdot x

Scans come in any unit: stored integers with a slope, z-scores, or the numbers of another reconstruction. N4 takes a
logarithm, filters pad with zero, and float32 ends at 3e38. So every scan is worked on as :math:`x`, in which the
background is zero and, where the scan was stored as whole numbers, neighbouring values differ by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["IntensityScale", "common_scale"]

BACKGROUND_SHARE = 0.1
"""Of the voxels that have one and the same value, where a background is constant."""

BELOW_BACKGROUND = 0.01
"""At most this share of the voxels lies below a constant background."""

LOW_SHARE = 0.001
"""Of the voxels below what counts as zero where the background is not constant: single voxels decide nothing."""

MAX_STEPS = 1.5 * 2**20
"""Whole numbers that are looked for; more steps than these are no stored integers."""

OFF_STEP = (1e-3, 0.25)
"""How far, least and most, a value may lie from a whole step where float32 has rounded it."""

ORDINARY = (1.0, 2.0**20)
"""Range of intensities that need no other unit."""

TYPICAL_EXPONENT = 10


@dataclass(frozen=True)
class IntensityScale:
    """What stands between a scan's own intensities and those that are worked on.

    Attributes:
        offset: own intensity of the background.
        unit: own intensity of a step of one, positive.
        whole: whether the scan consists of whole steps.
    """

    offset: float
    unit: float
    whole: bool

    def inward(self, image: np.ndarray) -> np.ndarray:
        """Own intensities to common ones, float32."""
        if (self.offset, self.unit) == (0.0, 1.0):
            return image.astype(np.float32, copy=False)
        steps = (image.astype(np.float64) - self.offset) / self.unit
        return (np.round(steps) if self.whole else steps).astype(np.float32)

    def outward(self, *, median: float, scale: float) -> dict[str, float]:
        """A median and a scale of common intensities in the scan's own ones."""
        return {"median": self.offset + self.unit * median, "scale": self.unit * scale}


def common_scale(values: np.ndarray, counts: np.ndarray) -> IntensityScale:
    """Find the offset and unit of a scan; scaling or shifting the scan changes these and nothing else.

    Exactly so for scans of whole steps, which all that were stored as integers are; within rounding for others.

    Args:
        values: the different intensities of the scan, finite, rising, two or more.
        counts: how many voxels have each.
    """
    levels = np.asarray(values, dtype=np.float64)
    offset = _background(levels, counts)
    step = _step(levels)
    if step is not None:
        return IntensityScale(offset, step, True)
    reach = float(levels[_at(counts, 1 - LOW_SHARE)]) - offset
    if not reach > 0:
        reach = float(levels[-1]) - float(levels[0])
    low, high = ORDINARY
    unit = 1.0 if low <= reach <= high else 2.0 ** (math.floor(math.log2(reach)) - TYPICAL_EXPONENT)
    return IntensityScale(offset, unit, False)


def _background(levels: np.ndarray, counts: np.ndarray) -> float:
    total, most = counts.sum(), int(counts.argmax())
    constant = counts[most] >= BACKGROUND_SHARE * total and counts[:most].sum() <= BELOW_BACKGROUND * total
    return float(levels[most if constant else _at(counts, LOW_SHARE)])


def _at(counts: np.ndarray, share: float) -> int:
    """Index of the level below which a share of the voxels lies."""
    reached = np.cumsum(counts)
    return int(np.searchsorted(reached, share * reached[-1]))


def _step(levels: np.ndarray) -> float | None:
    """The step of which all levels are whole multiples, counted from the first; ``None`` if there is none."""
    above, gaps = levels - levels[0], np.diff(levels)
    if above[-1] > MAX_STEPS * gaps.min():
        return None
    smallest = float(gaps[gaps <= 1.5 * gaps.min()].mean())
    rounded = 2 * float(np.finfo(np.float32).eps) * max(abs(levels[0]), abs(levels[-1]))
    for step in (smallest / parts for parts in (1, 2, 3, 4)):
        refined = _refined(above, step, min(max(OFF_STEP[0], rounded / step), OFF_STEP[1]))
        if refined is not None:
            return refined
    return None


def _refined(above: np.ndarray, step: float, tolerance: float) -> float | None:
    """The step by least squares, over a window that grows as the step becomes certain."""
    window = 4.0
    while _off(above[: (end := np.searchsorted(above, window * step, side="right"))], step) <= OFF_STEP[1]:
        whole = np.round(above[:end] / step)
        if whole[-1] > 0:
            step = float(above[:end] @ whole / (whole @ whole))
        if end == len(above):
            return step if _off(above, step) <= tolerance else None
        window *= 2
    return None


def _off(above: np.ndarray, step: float) -> float:
    steps = above / step
    return float(np.abs(steps - np.round(steps)).max())
