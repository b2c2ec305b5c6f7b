r"""The refinement loop: a sweep that finds the threshold, then a shrink that applies it.

Both start from the whole brain masked. The loop knows neither files nor networks: it takes any callable that maps a
corrupted image and its guide to a reconstruction, and treats every scan of a batch on its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from itermask3d.masking import corrupt
from itermask3d.network import split_prediction
from itermask3d.schedule import SCHEDULES, SWEEPS, fill_curve, sweep_steps
from itermask3d.threshold import (
    SLOPE_TOLERANCE,
    ThresholdEstimate,
    ThresholdStatus,
    estimate_threshold,
    is_decided,
)

__all__ = [
    "Constraints",
    "IterationCallback",
    "Reconstructor",
    "Refinement",
    "RefinementSettings",
    "RefinementTask",
    "Shrink",
    "Sweep",
    "Thresholding",
    "brain_quantile",
    "find_thresholds",
    "refine",
    "run_to_end",
]

Reconstructor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``(corrupted image, guide) -> prediction``: both ``(B, 1, D, H, W)``, the prediction with one channel or two, see
:func:`itermask3d.network.split_prediction`. An object with a method ``reconstruct`` of the same form is asked
through it where one channel is enough."""

IterationCallback = Callable[[str, int, int], None]
"""``(phase, iterations done, iterations at most)``, phase ``"sweep"`` or ``"shrink"``."""


_LEAST_SHARE = 1e-4
"""Keeps the mean of saturated errors finite."""

HELD_TOLERANCE = 0.15
"""How far the threshold of a fine sweep may be from the exact one, as chosen with the second weights; with the third it
is lower by up to a quarter on validation scans, so 3 of 30 are held at a floor that the exact one exceeds by 1 to 7 %.
"""

COARSE_TOLERANCE = 0.4
"""The same of a coarse sweep. It finds lower ones, by a third on validation scans where that matters; 1 of 30 is held
at a floor that the exact one exceeds by 6 %."""


@dataclass(frozen=True)
class RefinementSettings:
    """What the loop does; the defaults of the first block are the published ones.

    Attributes:
        gamma: slope of the curve, in the unit of the error per percent of the brain, at which the threshold is
            taken.
        n_steps: steps of the sweep; each leaves ``1 / n_steps`` less of the brain masked.
        fit_limit, min_r_squared: see :func:`itermask3d.threshold.estimate_threshold`.
        stop_ratio: the shrink stops when an iteration removes less than this share of the mask.
        max_iterations: bound on the shrink; hitting it is recorded.
        nested: a voxel once unmasked stays unmasked. Published: no, voxels can come back.
        relative_error: divide the squared error by the one that the network expected there when the whole brain was
            masked, which needs a network with two output channels (:func:`itermask3d.network.split_prediction`). The
            error is then near 1 on any normal tissue, and thresholds mean the same on every scan. Published: no.
        expected_error_floor: added to the error that the network expected, in squared normalised intensity: so that a
            network which is too sure of itself makes no anomaly of a small error. For ``relative_error``.
        error_saturation: with a window, a voxel's error :math:`e` counts as :math:`e / (1 + e / c)`, and the mean is
            brought back: so that the strong error of a lesion does not mark the tissue beside it. Published: none.
        error_window: edge of the cube in voxels over which the error of a masked voxel is averaged with that of its
            masked neighbours; odd; above 1 only with ``nested``. Published: 1, no averaging.
        interpolate: take the threshold where the slope crosses gamma between two steps instead of at the step after.
            Published: no.
        threshold_floor, threshold_ceiling: the threshold is held between these: the error that normal brains show
            anyway, and one that no normal brain shows. Published: 0 and none. With a ceiling, a scan whose slope never
            exceeds gamma is held to it.
        noise: standard deviation of what the network is shown in place of the masked voxels; must be that of the
            training. Published: 1, standard normal noise. With 0 they are shown as zeros.
        seed: of the noise, drawn once per scan.
        schedule: ``"exact"`` takes every step of the sweep. ``"fast"`` leaves most out
            (:func:`itermask3d.schedule.sweep_steps`), first nearly all, then fewer, and falls back to every step where
            no curve can tell which threshold the exact one gives: unless that is plainly one of the two bounds, or
            plainly one step.
    """

    gamma: float = 0.01
    n_steps: int = 100
    fit_limit: float = 10.0
    min_r_squared: float = 0.85
    stop_ratio: float = 0.01
    max_iterations: int = 50
    nested: bool = False
    relative_error: bool = False
    expected_error_floor: float = 0.0
    error_saturation: float | None = None
    error_window: int = 1
    interpolate: bool = False
    threshold_floor: float = 0.0
    threshold_ceiling: float | None = None
    noise: float = 1.0
    seed: int = 0
    schedule: str = "exact"

    def __post_init__(self) -> None:
        requirements = {
            "gamma": self.gamma > 0,
            "n_steps": self.n_steps >= 1,
            "stop_ratio": 0 < self.stop_ratio < 1,
            "max_iterations": self.max_iterations >= 1,
            "expected_error_floor": self.expected_error_floor >= 0,
            "error_saturation": self.error_saturation is None or self.error_saturation > 0,
            "error_window": self.error_window >= 1
            and self.error_window % 2 == 1
            and (self.error_window == 1 or self.nested),
            "threshold_floor": self.threshold_floor >= 0,
            "threshold_ceiling": self.threshold_ceiling is None
            or self.threshold_ceiling >= max(self.threshold_floor, 1e-9),
            "noise": self.noise >= 0,
            "schedule": self.schedule in SCHEDULES,
        }
        for name, fulfilled in requirements.items():
            if not fulfilled:
                raise ValueError(f"{name} = {getattr(self, name)} is outside its range, see RefinementSettings")

    def hold(self, estimate: ThresholdEstimate) -> float:
        """The threshold to apply: the estimate between floor and ceiling; infinite where the curve is unusable."""
        if estimate.status is ThresholdStatus.UNUSABLE_CURVE:
            return math.inf
        ceiling = math.inf if self.threshold_ceiling is None else self.threshold_ceiling
        return min(max(estimate.threshold, self.threshold_floor), ceiling)

    @property
    def is_bounded(self) -> bool:
        """Whether a bound can hold the threshold."""
        return self.threshold_floor > 0 or self.threshold_ceiling is not None

    def is_held(self, estimate: ThresholdEstimate, tolerance: float = HELD_TOLERANCE) -> bool:
        """Whether the same bound would be applied if the estimate were a little different.

        Args:
            estimate: of a curve that may not be exact.
            tolerance: relative change of its threshold that must not matter. Where the steepest slope is near gamma,
                a small change makes a crossing appear or vanish, and with it the other bound.
        """
        if abs(max(estimate.slope, default=0.0) - self.gamma) < SLOPE_TOLERANCE * self.gamma:
            return False
        lower, upper = (replace(estimate, threshold=estimate.threshold * (1 + sign * tolerance)) for sign in (-1, 1))
        return self.hold(lower) == self.hold(upper)


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
        thresholds: per scan, the threshold applied: the estimate, held between floor and ceiling.
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


@dataclass(frozen=True)
class Constraints:
    """What a person knows about a batch beforehand; each a boolean ``(B, 1, D, H, W)`` or ``None``.

    Attributes:
        start: the shrink begins here instead of with the whole brain, and the result lies inside; the rest of the brain
            is shown to the network as normal.
        always: voxels that stay masked: suspicious, whatever the network says.
        never: voxels that are never masked: normal. They win over ``always``.
    """

    start: torch.Tensor | None = None
    always: torch.Tensor | None = None
    never: torch.Tensor | None = None

    def first_mask(self, brain: torch.Tensor) -> torch.Tensor:
        """Where the shrink begins."""
        return self.apply(brain if self.start is None else self.start & brain, brain)

    def apply(self, mask: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        """A mask of an iteration as the person allows it; inside the brain."""
        if self.start is not None:
            mask = mask & self.start
        if self.always is not None:
            mask = mask | (self.always & brain)
        return mask if self.never is None else mask & ~self.never


class RefinementTask:
    """A batch of scans with everything that stays the same during the loop.

    Args:
        image: normalised scans ``(B, 1, D, H, W)``, zero outside the brain.
        brain_mask: same shape, above 0.5 in the brain; every scan needs at least one such voxel.
        high_frequency: the guide, same shape.
        reconstructor: see :data:`Reconstructor`.
        seed: of the noise; each scan of the batch gets the same draw, whatever the batch size.
        noise: its standard deviation.
        relative_error, expected_error_floor, error_saturation, error_window: see :class:`RefinementSettings`.

    Raises:
        ValueError: if the shapes differ, a brain mask is empty, or ``relative_error`` is asked of a reconstructor that
            does not foretell its error.
    """

    def __init__(
        self,
        image: torch.Tensor,
        brain_mask: torch.Tensor,
        high_frequency: torch.Tensor,
        reconstructor: Reconstructor,
        *,
        seed: int = 0,
        noise: float = 1.0,
        relative_error: bool = False,
        expected_error_floor: float = 0.0,
        error_saturation: float | None = None,
        error_window: int = 1,
    ) -> None:
        _check_shapes(image, brain_mask, high_frequency)
        self.image = image
        self.brain = brain_mask > 0.5
        self.high_frequency = high_frequency
        self.reconstructor = reconstructor
        drawn = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(seed)).to(image)[None]
        self.noise = noise * drawn
        self.error_window = error_window
        self._outside = ~self.brain
        self._box = (slice(None), slice(None), *_bounding_box(self.brain))
        self._brain_voxels = [scan.flatten().nonzero().flatten() for scan in self.brain]
        nothing_shown = corrupt(image, self.brain, self.noise)
        self._from_nothing, log_error = split_prediction(reconstructor(nothing_shown, high_frequency))
        if relative_error and log_error is None:
            raise ValueError("relative_error needs a network that foretells its error (two output channels), got one")
        self.error_saturation = error_saturation
        self._expected = None
        if relative_error and log_error is not None:
            self._expected = log_error.exp() + expected_error_floor

    @classmethod
    def from_settings(
        cls,
        image: torch.Tensor,
        brain_mask: torch.Tensor,
        high_frequency: torch.Tensor,
        reconstructor: Reconstructor,
        settings: RefinementSettings,
    ) -> RefinementTask:
        """The task that the settings ask for."""
        return cls(
            image,
            brain_mask,
            high_frequency,
            reconstructor,
            seed=settings.seed,
            noise=settings.noise,
            relative_error=settings.relative_error,
            expected_error_floor=settings.expected_error_floor,
            error_saturation=settings.error_saturation,
            error_window=settings.error_window,
        )

    def reconstruct(self, mask: torch.Tensor) -> torch.Tensor:
        """Fill in the masked voxels; ``(B, 1, D, H, W)``. The whole brain masked is done once and kept."""
        if mask is self.brain:
            return self._from_nothing
        reconstruct = getattr(self.reconstructor, "reconstruct", self.reconstructor)
        return split_prediction(reconstruct(corrupt(self.image, mask, self.noise), self.high_frequency))[0]

    def quantile(self, error: torch.Tensor, share: float) -> torch.Tensor:
        """:func:`brain_quantile` of an error ``(B, 1, D, H, W)``, with the brain's voxels looked up once."""
        scans = zip(error.flatten(1), self._brain_voxels, strict=True)
        return torch.stack([_smallest(scan.index_select(0, voxels), share) for scan, voxels in scans])

    def error(self, reconstruction: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Error of every brain voxel, zero outside; with a window, of the masked voxels, zero elsewhere."""
        if self.error_window == 1:
            return self._voxel_error(reconstruction, ...).masked_fill_(self._outside, 0)
        masked = mask[self._box].to(self.image.dtype)
        counts = self._counted(self._voxel_error(reconstruction, self._box))
        mean = _box_sum(counts * masked, self.error_window) / _box_sum(masked, self.error_window).clamp(min=1)
        averaged = torch.zeros_like(self.image)
        averaged[self._box] = self._brought_back(mean) * masked
        return averaged

    def _counted(self, error: torch.Tensor) -> torch.Tensor:
        return error if self.error_saturation is None else error.div_(1 + error / self.error_saturation)

    def _brought_back(self, mean: torch.Tensor) -> torch.Tensor:
        if self.error_saturation is None:
            return mean
        return mean.div_((1 - mean / self.error_saturation).clamp_(min=_LEAST_SHARE))

    def _voxel_error(self, reconstruction: torch.Tensor, where: Any) -> torch.Tensor:
        error = (self.image[where] - reconstruction[where]).square_()
        return error if self._expected is None else error.div_(self._expected[where])


class Sweep:
    """Shrink the mask by a fixed share of the brain per step and record the error quantile that does it.

    Args:
        task: the scans.
        n_steps: steps from the whole brain masked to nothing masked.
        sweep: which of them are taken, see :func:`itermask3d.schedule.sweep_steps`.
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
        self.mask = error > _as_voxels(quantile)

    def curves(self) -> torch.Tensor:
        """``(B, steps done)``, float64 on the CPU; ``(B, n_steps)`` after a sweep with gaps, which it fills."""
        values = torch.stack(self._quantiles, dim=1).double().cpu()
        if len(self.steps) == self.n_steps:
            return values
        return torch.from_numpy(fill_curve(self.steps, values.numpy(), self.n_steps))


class Shrink:
    """Apply one threshold per scan again and again, from the whole brain, until the mask hardly changes.

    With :class:`Constraints` it begins where a person says, and keeps to what the person says.
    """

    phase = "shrink"

    def __init__(
        self,
        task: RefinementTask,
        thresholds: Sequence[float],
        *,
        stop_ratio: float = 0.01,
        max_iterations: int = 50,
        nested: bool = False,
        constraints: Constraints | None = None,
    ) -> None:
        self.task = task
        self.constraints = constraints or Constraints()
        self.thresholds = _as_voxels(torch.tensor(thresholds, dtype=task.image.dtype, device=task.image.device))
        self.stop_ratio = stop_ratio
        self.max_iterations = max_iterations
        self.nested = nested
        self.mask = self.constraints.first_mask(task.brain)
        self.reconstruction = torch.zeros_like(task.image)
        self.anomaly_map = torch.zeros_like(task.image)
        self.iterations = [0] * len(task.image)
        self.converged = [False] * len(task.image)

    @classmethod
    def from_settings(
        cls,
        task: RefinementTask,
        thresholds: Sequence[float],
        settings: RefinementSettings,
        constraints: Constraints | None = None,
    ) -> Shrink:
        """The shrink that the settings ask for."""
        return cls(
            task,
            thresholds,
            stop_ratio=settings.stop_ratio,
            max_iterations=settings.max_iterations,
            nested=settings.nested,
            constraints=constraints,
        )

    def progress(self) -> tuple[int, int]:
        """Iterations so far, and at most."""
        return max(self.iterations), self.max_iterations

    def done(self) -> bool:
        """Whether every scan has converged or the bound is reached."""
        return all(self.converged) or max(self.iterations) >= self.max_iterations

    def update(self) -> None:
        """One iteration for the scans that have not converged; the others keep what they have.

        As published, the iteration that meets the stop rule, or is the last allowed, does not replace its mask: so the
        mask, the map and the reconstruction of the result belong together. Nested, it does, and the map keeps for each
        voxel the error that unmasked it: so the mask is what exceeds the threshold in the map. Where nothing can exceed
        the threshold, the mask is empty after one iteration, and the map is that of the whole brain masked.
        """
        active = _as_voxels(~torch.tensor(self.converged, device=self.mask.device))
        reconstruction = self.task.reconstruct(self.mask)
        error = self.task.error(reconstruction, self.mask)
        mask = error > self.thresholds
        if self.nested:
            mask &= self.mask
        mask = self.constraints.apply(mask, self.task.brain)
        removed = (_count(self.mask) - _count(mask)) / _count(self.mask).clamp(min=1)
        self.reconstruction = torch.where(active, reconstruction, self.reconstruction)
        self.anomaly_map = torch.where(active & self.mask if self.nested else active, error, self.anomaly_map)
        unreachable = self.thresholds.flatten().isinf()
        for index, share in enumerate(removed.tolist()):
            if not self.converged[index]:
                self.iterations[index] += 1
                self.converged[index] = share < self.stop_ratio or bool(unreachable[index])
        goes_on = ~torch.tensor(self.converged, device=self.mask.device) & (max(self.iterations) < self.max_iterations)
        replaced = active if self.nested else _as_voxels(goes_on | unreachable)
        self.mask = torch.where(replaced, mask, self.mask)


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

    Returns:
        See :class:`Refinement`. A scan without a threshold, which a ceiling would give it, gets an empty mask and the
        map of the first reconstruction.

    Raises:
        ValueError: if the shapes differ or a brain mask is empty.

    Source: Liang et al. 2026 (arXiv 2504.04911), iterative mask refinement and subject-specific thresholding.
    """
    settings = settings or RefinementSettings()
    task = RefinementTask.from_settings(image, brain_mask, high_frequency, reconstructor, settings)
    thresholding = thresholding or find_thresholds(task, settings, iter_callback)
    shrink = run_to_end(Shrink.from_settings(task, thresholding.thresholds, settings, constraints), iter_callback)
    return Refinement(
        mask=shrink.mask,
        anomaly_map=shrink.anomaly_map,
        reconstruction=shrink.reconstruction,
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
    curves, estimates = _swept(task, settings, iter_callback)
    return Thresholding(curves, estimates, tuple(settings.hold(estimate) for estimate in estimates))


def _swept(
    task: RefinementTask, settings: RefinementSettings, iter_callback: IterationCallback | None
) -> tuple[torch.Tensor, tuple[ThresholdEstimate, ...]]:
    """Curves and estimates of the first sweep that decides the threshold of every scan."""
    rule = {name: getattr(settings, name) for name in ("gamma", "fit_limit", "min_r_squared", "interpolate")}
    sweeps = SWEEPS[settings.schedule]
    for sweep in sweeps if settings.is_bounded else sweeps[-2:]:
        curves = run_to_end(Sweep(task, settings.n_steps, sweep=sweep), iter_callback).curves()
        estimates = tuple(estimate_threshold(curve.numpy(), **rule) for curve in curves)
        if all(_is_decided(estimate, settings, sweep) for estimate in estimates):
            break
    return curves, estimates


def _is_decided(estimate: ThresholdEstimate, settings: RefinementSettings, sweep: str) -> bool:
    """Whether the sweep with every step would lead to the same threshold, as far as its curve can tell."""
    if sweep == "coarse":
        return settings.is_held(estimate, COARSE_TOLERANCE)
    if settings.is_held(estimate):
        return True
    rule = {"gamma": settings.gamma, "min_r_squared": settings.min_r_squared}
    return not settings.interpolate and is_decided(estimate, **rule)


def run_to_end(loop: Loop, iter_callback: IterationCallback | None = None) -> Loop:
    """Update a :class:`Sweep` or a :class:`Shrink` until it is done; return it."""
    while not loop.done():
        loop.update()
        if iter_callback:
            iter_callback(loop.phase, *loop.progress())
    return loop


def brain_quantile(error: torch.Tensor, brain: torch.Tensor, *, share: float) -> torch.Tensor:
    """Smallest error that at least ``share`` of the brain's voxels do not exceed, for each scan.

    With ``n`` brain voxels it is the ``floor(share * n)``-th smallest error, so ``ceil((1 - share) * n)`` voxels lie
    above it (fewer where errors tie). No sort of the volume, no interpolation.

    Args:
        error: ``(B, 1, D, H, W)``.
        brain: boolean, same shape, not empty.
        share: in (0, 1].

    Returns:
        ``(B,)`` on the error's device.
    """
    quantiles = []
    for values, inside in zip(error, brain, strict=True):
        quantiles.append(_smallest(values[inside], share))
    return torch.stack(quantiles)


def _smallest(voxels: torch.Tensor, share: float) -> torch.Tensor:
    rank = int(share * voxels.numel() + 1e-6)
    return voxels.kthvalue(max(rank, 1)).values


def _bounding_box(brain: torch.Tensor) -> tuple[slice, ...]:
    """The voxels of all scans of a batch on each spatial axis."""
    voxels = brain.amax(dim=(0, 1)).nonzero()
    first, last = voxels.amin(0).tolist(), voxels.amax(0).tolist()
    return tuple(slice(start, stop + 1) for start, stop in zip(first, last, strict=True))


def _box_sum(volume: torch.Tensor, window: int) -> torch.Tensor:
    """Sum over a cube around each voxel, one axis after the other; zero beyond the grid."""
    half = window // 2
    for axis in (2, 3, 4):
        total = volume.clone()
        size = volume.shape[axis]
        for shift in range(1, min(half, size - 1) + 1):
            ahead, behind = volume.narrow(axis, shift, size - shift), volume.narrow(axis, 0, size - shift)
            total.narrow(axis, 0, size - shift).add_(ahead)
            total.narrow(axis, shift, size - shift).add_(behind)
        volume = total
    return volume


def _as_voxels(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1, 1)


def _count(mask: torch.Tensor) -> torch.Tensor:
    return mask.flatten(1).sum(1)


def _check_shapes(image: torch.Tensor, brain_mask: torch.Tensor, high_frequency: torch.Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in (image, brain_mask, high_frequency)]
    if image.ndim != 5 or image.shape[1] != 1 or len(set(shapes)) != 1:
        raise ValueError(f"image, brain_mask and high_frequency must all be (B, 1, D, H, W), got {shapes}")
    if not (brain_mask > 0.5).flatten(1).any(1).all():
        raise ValueError("every brain_mask needs at least one voxel")
