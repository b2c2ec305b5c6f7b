"""What the refinement loop does: its settings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from itermask3d.method.threshold import ThresholdEstimate, ThresholdStatus

__all__ = ["SCHEDULES", "RefinementSettings"]

SCHEDULES = ("exact", "fast")
"""``exact``: every step, as published; ``fast``: about a sixth of them, the same for every scan."""


@dataclass(frozen=True)
class RefinementSettings:
    """What the loop does; the defaults of the first block are the published ones.

    Attributes:
        gamma: slope of the curve, in the unit of the error per percent of the brain, at which the threshold is
            taken.
        n_steps: steps of the sweep; each leaves ``1 / n_steps`` less of the brain masked.
        fit_limit, min_r_squared: see :func:`itermask3d.method.threshold.estimate_threshold`.
        stop_ratio: the shrink stops when an iteration removes less than this share of the mask.
        max_iterations: bound on the shrink; hitting it is recorded.
        nested: a voxel once unmasked stays unmasked. Published: no, voxels can come back.
        average_passes: the error of a voxel in the shrink is the mean over the iterations in which it was masked; for
            ``nested``. Published: no, that of the last.
        relative_error: divide the squared error by the one that the network expected there when the whole brain was
            masked, which needs a network with two output channels (:func:`itermask3d.method.network.split_prediction`).
            The error is then near 1 on any normal tissue, and thresholds mean the same on every scan. Published: no.
        predicted_variance_floor: added to the predicted variance, in squared normalised intensity: so that a network
            which is too sure of itself makes no anomaly of a small error. For ``relative_error``.
        error_saturation: with a window, a voxel's error :math:`e` counts as :math:`e / (1 + e / c)`, and the mean is
            brought back: so that the strong error of a lesion does not mark the tissue beside it. Published: none.
        error_window: edge of the cube in voxels over which the error of a masked voxel is averaged with that of its
            masked neighbours; odd; above 1 only with ``nested``. Published: 1, no averaging.
        error_level: median of the relative error of the first reconstruction over the brains of the training's kind. A
            scan in which it is higher, as on another scanner, has all that the network expected scaled up by the ratio,
            so that its own normal tissue sets the measure. A scan in which it is lower is left alone. For
            ``relative_error``. Published: none.
        residual_bias_order: a smooth field, a polynomial of this order in space, is taken out of the scan before the
            loop: the one by which the scan differs from its first reconstruction
            (:mod:`itermask3d.method.residual_bias`). On another scanner the shading that bias correction left is
            no anomaly. Published: none.
        interpolate: take the threshold where the slope crosses gamma between two steps instead of at the step after.
            Published: no.
        threshold_floor, threshold_ceiling: the threshold is clamped between these: the error that normal brains show
            anyway, and one that no normal brain shows. Published: 0 and none. With a ceiling, a scan whose slope never
            exceeds gamma is clamped to it.
        peak_threshold: a region of the final mask counts only if some of it, as much as the smallest region that is
            kept, exceeds this; above the threshold, which outlines it. So a weak wide error is no finding, and a
            strong one is outlined to its edge (hysteresis, Canny 1986, DOI 10.1109/TPAMI.1986.4767851). Published:
            none, every region counts.
        score_quantile: the score of a scan is this quantile of the anomaly map over the brain: a number that normal
            scans differ in, too. Published: none, the score is the mean over the brain of the map inside the mask,
            which is 0 for most normal scans.
        noise: standard deviation of what the network is shown in place of the masked voxels; must be that of the
            training. Published: 1, standard normal noise. With 0 they are shown as zeros.
        seed: of the noise, drawn once per scan.
        schedule: ``"exact"`` takes every step of the sweep, as published; ``"fast"`` those of
            :func:`itermask3d.method.sweep.sweep_steps`, the same for every scan.
    """

    gamma: float = 0.01
    n_steps: int = 100
    fit_limit: float = 10.0
    min_r_squared: float = 0.85
    stop_ratio: float = 0.01
    max_iterations: int = 50
    nested: bool = False
    average_passes: bool = False
    relative_error: bool = False
    predicted_variance_floor: float = 0.0
    error_saturation: float | None = None
    error_window: int = 1
    error_level: float | None = None
    residual_bias_order: int | None = None
    interpolate: bool = False
    threshold_floor: float = 0.0
    threshold_ceiling: float | None = None
    peak_threshold: float | None = None
    score_quantile: float | None = None
    noise: float = 1.0
    seed: int = 0
    schedule: str = "exact"

    def __post_init__(self) -> None:
        requirements = {
            "gamma": self.gamma > 0,
            "n_steps": self.n_steps >= 1,
            "stop_ratio": 0 < self.stop_ratio < 1,
            "max_iterations": self.max_iterations >= 1,
            "predicted_variance_floor": self.predicted_variance_floor >= 0,
            "error_saturation": self.error_saturation is None or self.error_saturation > 0,
            "error_window": self.error_window >= 1
            and self.error_window % 2 == 1
            and (self.error_window == 1 or self.nested),
            "average_passes": self.nested or not self.average_passes,
            "error_level": self.error_level is None or self.error_level > 0,
            "residual_bias_order": self.residual_bias_order is None or self.residual_bias_order in (0, 1, 2, 3, 4),
            "threshold_floor": self.threshold_floor >= 0,
            "threshold_ceiling": self.threshold_ceiling is None
            or self.threshold_ceiling >= max(self.threshold_floor, 1e-9),
            "peak_threshold": self.peak_threshold is None or self.peak_threshold >= self.threshold_floor,
            "score_quantile": self.score_quantile is None or 0 < self.score_quantile < 1,
            "noise": self.noise >= 0,
            "schedule": self.schedule in SCHEDULES,
        }
        for name, fulfilled in requirements.items():
            if not fulfilled:
                raise ValueError(f"{name} = {getattr(self, name)} is outside its range, see RefinementSettings")

    def clamp(self, estimate: ThresholdEstimate) -> float:
        """The threshold to apply: the estimate between floor and ceiling; infinite where the curve is unusable."""
        if estimate.status is ThresholdStatus.UNUSABLE_CURVE:
            return math.inf
        ceiling = math.inf if self.threshold_ceiling is None else self.threshold_ceiling
        return min(max(estimate.threshold, self.threshold_floor), ceiling)
