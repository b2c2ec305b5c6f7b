"""Which steps of the sweep are taken, and the curve at the steps between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import PchipInterpolator

__all__ = ["SCHEDULES", "fill_curve", "sweep_steps"]

SCHEDULES = ("exact", "fast")
"""``exact``: every step, as published; ``fast``: gaps that shrink with what is still masked, none at the end."""

_GAP_DIVISOR = 8
"""A fast gap is this part of the share that is still masked. Chosen by measurement, see docs/benchmarks.md."""


def sweep_steps(n_steps: int, schedule: str = "exact") -> tuple[int, ...]:
    """Steps of which the mask is reconstructed, from 0 (the whole brain masked).

    The threshold is taken late in the sweep, where the curve bends, and depends on the masks of the steps shortly
    before it. So the fast schedule skips most early steps and none of the last.

    Args:
        n_steps: steps from the whole brain masked to nothing masked.
        schedule: one of :data:`SCHEDULES`.

    Raises:
        ValueError: if the schedule is unknown.

    >>> sweep_steps(100, "fast")[:6], len(sweep_steps(100, "fast"))
    ((0, 12, 23, 32, 40, 47), 32)
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got '{schedule}'")
    if schedule == "exact":
        return tuple(range(n_steps))
    steps = [0]
    while (step := steps[-1] + max(1, (n_steps - steps[-1]) // _GAP_DIVISOR)) < n_steps:
        steps.append(step)
    return tuple(steps)


def fill_curve(steps: Sequence[int], values: np.ndarray, n_steps: int) -> np.ndarray:
    r"""The whole curve :math:`\tau(t)`, from its values one step after each of those that were taken.

    Between them the curve is interpolated monotonically (Fritsch and Carlson 1980, doi:10.1137/0717021).

    Args:
        steps: from :func:`sweep_steps`; the first is 0, the last ``n_steps - 1``.
        values: ``(B, len(steps))``, the error quantiles.
        n_steps: length of the curve.

    Returns:
        ``(B, n_steps)`` float64; the values themselves where no step was left out. A curve with a value that is not
        finite becomes NaN as a whole where it has to be interpolated.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(steps) == n_steps:
        return values
    finite = np.isfinite(values).all(axis=1)
    filled = np.full((len(values), n_steps), np.nan)
    filled[finite] = PchipInterpolator(np.asarray(steps) + 1, values[finite], axis=1)(np.arange(1, n_steps + 1))
    return filled
