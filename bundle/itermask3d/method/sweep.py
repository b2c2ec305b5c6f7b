"""The sweep: which steps are taken, the curve that they give, and the curve at the steps between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from itermask3d.method.error import RefinementTask, as_voxels
from itermask3d.method.settings import SCHEDULES

__all__ = ["Sweep", "fill_curve", "sweep_steps"]

_GAP_DIVISOR = 4
"""A gap of the fast sweep is this part of the share that is still masked."""

_FIRST_GAP, _LARGEST_GAP = 0.1, 0.2
"""Of the sweep: the curve bends a little at its beginning too."""


def sweep_steps(n_steps: int, schedule: str = "exact") -> tuple[int, ...]:
    """Steps of which the mask is reconstructed, from 0 (the whole brain masked).

    The threshold is taken late in the sweep, where the curve bends. So the fast sweep leaves out most early steps and
    none of the last ones. It is a definition of the curve of its own, the same for every scan, and not a guess at that
    of every step.

    Args:
        n_steps: steps from the whole brain masked to nothing masked.
        schedule: ``"exact"``, every step, as published, or ``"fast"``.

    Raises:
        ValueError: if the schedule is unknown.

    >>> sweep_steps(100, "fast")
    (0, 10, 30, 47, 60, 70, 77, 82, 86, 89, 91, 93, 94, 95, 96, 97, 98, 99)
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got '{schedule}'")
    if schedule == "exact":
        return tuple(range(n_steps))
    largest = max(1, round(_LARGEST_GAP * n_steps))
    steps = [0] if n_steps == 1 else [0, max(1, round(_FIRST_GAP * n_steps))]
    while steps[-1] < n_steps - 1:
        steps.append(steps[-1] + min(largest, max(1, (n_steps - steps[-1]) // _GAP_DIVISOR)))
    return tuple(steps)


def fill_curve(steps: Sequence[int], values: NDArray[Any], n_steps: int) -> NDArray[Any]:
    r"""The whole curve :math:`\tau(t)`, from its values one step after each of those that were taken.

    Between them the logarithms are interpolated monotonically (Fritsch and Carlson 1980, doi:10.1137/0717021), on a
    logarithmic axis: the curve grows from hundredths to tens. Where a value is zero, the values themselves.

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
    return np.stack(
        [
            _between(np.asarray(steps) + 1, curve, np.arange(1, n_steps + 1)) if whole else np.full(n_steps, np.nan)
            for curve, whole in zip(values, finite, strict=True)
        ]
    )


def _between(known: NDArray[Any], values: NDArray[Any], wanted: NDArray[Any]) -> NDArray[Any]:
    if (values > 0).all():
        return np.asarray(np.exp(PchipInterpolator(np.log(known), np.log(values))(np.log(wanted))))
    return np.asarray(PchipInterpolator(known, values)(wanted))


class Sweep:
    """Shrink the mask by a fixed share of the brain per step and record the error quantile that does it.

    Args:
        task: the scans.
        n_steps: steps from the whole brain masked to nothing masked.
        schedule: which of them are taken, see :func:`itermask3d.method.sweep.sweep_steps`.
    """

    phase = "sweep"

    def __init__(self, task: RefinementTask, n_steps: int = 100, *, schedule: str = "exact") -> None:
        self.task = task
        self.n_steps = n_steps
        self.steps = sweep_steps(n_steps, schedule)
        self.mask = task.brain
        self._quantiles: list[torch.Tensor] = []

    def progress(self) -> tuple[int, int]:
        """Updates so far, and at most."""
        return len(self._quantiles), len(self.steps)

    def done(self) -> bool:
        """Whether the whole brain has been unmasked."""
        return len(self._quantiles) >= len(self.steps)

    def update(self) -> None:
        """Reconstruct, find the quantile of the next step, mask what lies above that of the next step taken."""
        error = self.task.error(self.task.reconstruct(self.mask), self.mask)
        step, *later = self.steps[len(self._quantiles) :]
        quantile = self.task.quantile(error, (step + 1) / self.n_steps)
        self._quantiles.append(quantile)
        if later and later[0] > step + 1:
            quantile = self.task.quantile(error, later[0] / self.n_steps)
        self.mask = error > as_voxels(quantile)

    def curves(self) -> torch.Tensor:
        """``(B, steps done)``, float64 on the CPU; ``(B, n_steps)`` after a sweep with gaps, which it fills."""
        values = torch.stack(self._quantiles, dim=1).double().cpu()
        if len(self.steps) == self.n_steps:
            return values
        return torch.from_numpy(fill_curve(self.steps, values.numpy(), self.n_steps))
