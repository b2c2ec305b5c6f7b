r"""The refinement loop: a sweep that finds the threshold, then a shrink that applies it.

Both start from the whole brain masked. The loop knows neither files nor networks: it takes any callable that maps a
corrupted image and its guide to a reconstruction, and treats every scan of a batch on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from itermask3d.method.error import Reconstructor, RefinementTask
from itermask3d.method.settings import RefinementSettings
from itermask3d.method.shrink import Constraints, Shrink
from itermask3d.method.sweep import Sweep
from itermask3d.method.threshold import ThresholdEstimate, estimate_threshold

__all__ = ["IterationCallback", "Refinement", "Thresholding", "find_thresholds", "refine", "run_to_end"]

IterationCallback = Callable[[str, int, int], None]
"""``(phase, iterations done, iterations at most)``, phase ``"sweep"`` or ``"shrink"``."""


@dataclass(frozen=True)
class Refinement:
    """What the loop found for a batch of ``B`` scans.

    Attributes:
        mask: boolean ``(B, 1, D, H, W)``, the anomaly on the network's grid, inside the brain.
        anomaly_map: error, zero outside the brain, same shape: squared, or relative to the expected one. Where masks
            are nested, that of the iteration that unmasked a voxel, or of the last; else that of the last.
        reconstruction: network output at the final iteration, same shape.
        curves: ``(B, n_steps)`` float64 on the CPU, the error quantiles of the sweep.
        estimates: per scan, how the threshold was found.
        thresholds: per scan, the threshold applied: the estimate, clamped between floor and ceiling.
        iterations: per scan, iterations of the shrink.
        converged: per scan, whether the stop rule was met within ``max_iterations``.
    """

    mask: torch.Tensor
    anomaly_map: torch.Tensor
    reconstruction: torch.Tensor
    curves: torch.Tensor
    estimates: tuple[ThresholdEstimate, ...]
    thresholds: tuple[float, ...]
    iterations: tuple[int, ...]
    converged: tuple[bool, ...]


@dataclass(frozen=True)
class Thresholding:
    """The threshold of each scan of a batch and where it came from.

    Attributes:
        curves: ``(B, n_steps)`` float64 on the CPU, the error quantiles of the sweep.
        estimates: per scan, how the threshold was found.
        thresholds: per scan, the threshold to apply.
    """

    curves: torch.Tensor
    estimates: tuple[ThresholdEstimate, ...]
    thresholds: tuple[float, ...]


Loop = TypeVar("Loop", Sweep, Shrink)


def refine(
    image: torch.Tensor,
    brain_mask: torch.Tensor,
    high_frequency: torch.Tensor,
    reconstructor: Reconstructor,
    *,
    settings: RefinementSettings | None = None,
    iter_callback: IterationCallback | None = None,
    constraints: Constraints | None = None,
    thresholding: Thresholding | None = None,
    signs: torch.Tensor | None = None,
) -> Refinement:
    """Segment what the reconstructor cannot reproduce, for each scan of a batch on its own.

    Args:
        image: normalised scans ``(B, 1, D, H, W)``, zero outside the brain.
        brain_mask: same shape, above 0.5 in the brain.
        high_frequency: the guide, same shape.
        reconstructor: see :data:`Reconstructor`.
        settings: see :class:`RefinementSettings`.
        iter_callback: called after every iteration.
        constraints: what a person knows beforehand; for the shrink only, so the threshold does not depend on it.
        thresholding: of an earlier run on the same scans; saves the sweep.
        signs: of the differences that count in each scan, see :class:`itermask3d.method.error.RefinementTask`.

    Returns:
        See :class:`Refinement`. A scan without a threshold, which a ceiling would give it, gets an empty mask and the
        map of the first reconstruction.

    Raises:
        ValueError: if the shapes differ or a brain mask is empty.

    Source: Liang et al. 2026 (arXiv 2504.04911), iterative mask refinement and subject-specific thresholding.
    """
    settings = settings or RefinementSettings()
    task = RefinementTask.from_settings(image, brain_mask, high_frequency, reconstructor, settings, signs)
    thresholding = thresholding or find_thresholds(task, settings, iter_callback)
    shrink = run_to_end(Shrink.from_settings(task, thresholding.thresholds, settings, constraints), iter_callback)
    return Refinement(
        mask=shrink.mask,
        anomaly_map=shrink.anomaly_map,
        reconstruction=shrink.reconstruction + task.residual_bias,
        curves=thresholding.curves,
        estimates=thresholding.estimates,
        thresholds=thresholding.thresholds,
        iterations=tuple(shrink.iterations),
        converged=tuple(shrink.converged),
    )


def find_thresholds(
    task: RefinementTask, settings: RefinementSettings, iter_callback: IterationCallback | None = None
) -> Thresholding:
    """Sweep, then take the threshold of each scan from its curve."""
    rule = {name: getattr(settings, name) for name in ("gamma", "fit_limit", "min_r_squared", "interpolate")}
    curves = run_to_end(Sweep(task, settings.n_steps, schedule=settings.schedule), iter_callback).curves()
    estimates = tuple(estimate_threshold(curve.numpy(), **rule) for curve in curves)
    return Thresholding(curves, estimates, tuple(settings.clamp(estimate) for estimate in estimates))


def run_to_end(loop: Loop, iter_callback: IterationCallback | None = None) -> Loop:
    """Update a :class:`Sweep` or a :class:`Shrink` until it is done; return it."""
    while not loop.done():
        loop.update()
        if iter_callback:
            iter_callback(loop.phase, *loop.progress())
    return loop
