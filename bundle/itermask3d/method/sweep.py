"""The sweep: which steps are taken, the curve that they give, and the curve at the steps between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator

from itermask3d.method.error import RefinementTask, as_voxels

__all__ = ["SWEEPS", "Sweep", "fill_curve", "sweep_steps"]

SWEEPS: Mapping[str, tuple[str, ...]] = MappingProxyType({"exact": ("exact",), "fast": ("coarse", "fine", "exact")})
"""The sweeps that each schedule makes in turn, until one decides."""

_COARSE = (0.0, 0.4, 0.73, 0.88, 0.95)
"""Parts of the sweep: where the steps of the coarse one lie, beside the last."""

_GAP_DIVISOR = 3
"""A fine gap is this part of the share that is still masked. Eleven steps of 100."""

_FIRST_GAP, _SMALLEST_GAP = 0.1, 0.03
"""Of the sweep: the curve bends a little at its beginning too; near its end it is beyond any threshold."""


def sweep_steps(n_steps: int, sweep: str = "exact") -> tuple[int, ...]:
    """Steps of which the mask is reconstructed, from 0 (the whole brain masked).

    The threshold is taken late in the sweep, where the curve bends. So a fine sweep leaves out most early steps and two
    of three later ones, a coarse one all but a few; both end with the very last.

    Args:
        n_steps: steps from the whole brain masked to nothing masked.
        sweep: ``"coarse"``, ``"fine"`` or ``"exact"``.

    Raises:
        ValueError: if the sweep is unknown.

    >>> sweep_steps(100, "coarse")
    (0, 40, 73, 88, 95, 99)
    >>> sweep_steps(100, "fine")
    (0, 10, 40, 60, 73, 82, 88, 92, 95, 98, 99)
    """
    if sweep not in SWEEPS["fast"]:
        raise ValueError(f"sweep must be one of {', '.join(SWEEPS['fast'])}, got '{sweep}'")
    if sweep == "exact":
        return tuple(range(n_steps))
    if sweep == "coarse":
        return tuple(sorted({*(min(round(share * n_steps), n_steps - 1) for share in _COARSE), n_steps - 1}))
    smallest = max(1, round(_SMALLEST_GAP * n_steps))
    steps = [0, max(1, round(_FIRST_GAP * n_steps))]
    while steps[-1] < n_steps:
        steps.append(steps[-1] + max(smallest, (n_steps - steps[-1]) // _GAP_DIVISOR))
    return tuple(sorted({*(step for step in steps if step < n_steps), n_steps - 1}))


def fill_curve(steps: Sequence[int], values: np.ndarray, n_steps: int) -> np.ndarray:
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


def _between(known: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    if (values > 0).all():
        return np.exp(PchipInterpolator(np.log(known), np.log(values))(np.log(wanted)))
    return PchipInterpolator(known, values)(wanted)


class Sweep:
    """Shrink the mask by a fixed share of the brain per step and record the error quantile that does it.

    Args:
        task: the scans.
        n_steps: steps from the whole brain masked to nothing masked.
        sweep: which of them are taken, see :func:`itermask3d.method.sweep.sweep_steps`.
    """

    phase = "sweep"

    def __init__(self, task: RefinementTask, n_steps: int = 100, *, sweep: str = "exact") -> None:
        self.task = task
        self.n_steps = n_steps
        self.steps = sweep_steps(n_steps, sweep)
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
