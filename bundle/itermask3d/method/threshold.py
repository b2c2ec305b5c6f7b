r"""From the curve :math:`\tau(t)` of error quantiles to one subject-specific threshold.

While the mask shrinks by a fixed share of the brain per step, :math:`\tau(t)` climbs slowly over voxels that agree with
the reconstruction and steeply over those that do not. The threshold is taken where the slope first exceeds
:math:`\gamma`. Nothing here raises on a curve, whatever it holds: what happened is named in the result.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import curve_fit

__all__ = [
    "CurveFit",
    "SlopeSource",
    "ThresholdEstimate",
    "ThresholdStatus",
    "estimate_threshold",
    "fit_curve",
]

FIT_START = (1.0, 0.01)
DETERMINATION_SHARE = 0.8
SMOOTHING_WINDOW = 5


class ThresholdStatus(StrEnum):
    """What became of the search for a threshold."""

    FOUND = "found"
    """The slope exceeded gamma."""
    NO_CROSSING = "no_crossing"
    """The slope never exceeded gamma: the whole brain agrees with its reconstruction."""
    UNUSABLE_CURVE = "unusable_curve"
    """The curve is empty or holds NaN, so no threshold can be given."""


class SlopeSource(StrEnum):
    """Where the slope came from."""

    FIT = "fit"
    """The tangent function fitted the curve well enough."""
    DIFFERENCE = "difference"
    """The fit was poor or impossible: smoothed backward differences of the curve itself."""
    NONE = "none"
    """There was no usable curve."""


@dataclass(frozen=True)
class CurveFit:
    r"""Least-squares fit of :math:`\tau(t) \approx a \tan(b\,t)`.

    Attributes:
        a, b: parameters; NaN where the fit was impossible.
        r_squared: coefficient of determination over the first 80 % of the steps; NaN where undefined.
        n_points: steps that entered the fit.
    """

    a: float
    b: float
    r_squared: float
    n_points: int

    def value(self, percent: NDArray[Any]) -> NDArray[Any]:
        """Fitted error quantile where ``percent`` of the brain is unmasked, in the unit of the error."""
        return np.asarray(self.a * np.tan(self.b * percent))

    def slope(self, percent: NDArray[Any]) -> NDArray[Any]:
        r""":math:`a\,b\,\sec^2(b\,t)`, in the unit of the error per percent of the brain."""
        return np.asarray(self.a * self.b / np.cos(self.b * percent) ** 2)


@dataclass(frozen=True)
class ThresholdEstimate:
    """The threshold of one scan and how it was found.

    Attributes:
        status: see :class:`ThresholdStatus`.
        threshold: error above which a voxel is suspicious, in the unit of the curve; infinite where the status
            is not ``found``, so that nothing exceeds it.
        step: 1-based step at which it was taken; ``None`` where the status is not ``found``.
        slope_source: see :class:`SlopeSource`.
        slope: slope used at each step, per percent of the brain.
        fit: the fit, good or not.
    """

    status: ThresholdStatus
    threshold: float
    step: int | None
    slope_source: SlopeSource
    slope: tuple[float, ...]
    fit: CurveFit


def estimate_threshold(
    curve: Sequence[float] | NDArray[Any],
    *,
    gamma: float,
    fit_limit: float = 10.0,
    min_r_squared: float = 0.85,
    interpolate: bool = False,
) -> ThresholdEstimate:
    r"""Take the threshold where the slope of :math:`\tau(t)` first exceeds :math:`\gamma`.

    Args:
        curve: :math:`\tau(t)` at equal steps up to the whole brain unmasked, non-negative, in the unit of
            the error. Published: 100 steps of 1 %.
        gamma: slope per percent of the brain.
        fit_limit: the fit uses the steps before the curve first exceeds this.
        min_r_squared: below it, or where it is undefined, the slope is the smoothed backward difference.
        interpolate: take the curve where the slope reaches ``gamma`` between two steps; published is the step after, so
            that a change of the slope in its last digit can move the threshold by a whole step.

    Returns:
        The estimate. Never raises on a curve.

    Raises:
        ValueError: if ``gamma`` is not a positive number.

    Source: Liang et al. 2026 (arXiv 2504.04911), subject-specific thresholding.

    >>> estimate_threshold([0.0] * 100, gamma=0.01).status.value
    'no_crossing'
    """
    if not gamma > 0:
        raise ValueError(f"gamma must be a positive slope, got {gamma}")
    values = np.asarray(curve, dtype=np.float64).ravel()
    if values.size == 0 or np.isnan(values).any():
        return _without_threshold(ThresholdStatus.UNUSABLE_CURVE, SlopeSource.NONE, ())
    values = np.minimum(values, np.finfo(np.float32).max)
    fit = fit_curve(values, fit_limit=fit_limit)
    if fit.r_squared >= min_r_squared:
        source, slope = SlopeSource.FIT, fit.slope(_percent(values))
    else:
        source, slope = SlopeSource.DIFFERENCE, _difference_slope(values)
    steep = np.flatnonzero(slope > gamma)
    if steep.size == 0:
        return _without_threshold(ThresholdStatus.NO_CROSSING, source, tuple(slope.tolist()), fit)
    index = int(steep[0])
    threshold = float(values[index])
    if interpolate and index > 0:
        part = (gamma - slope[index - 1]) / (slope[index] - slope[index - 1])
        threshold = float(values[index - 1] + part * (values[index] - values[index - 1]))
    return ThresholdEstimate(ThresholdStatus.FOUND, threshold, index + 1, source, tuple(slope.tolist()), fit)


def fit_curve(curve: NDArray[Any], *, fit_limit: float = 10.0) -> CurveFit:
    r"""Fit :math:`a \tan(b\,t)` to the steps before the curve first exceeds ``fit_limit``.

    Args:
        curve: finite values at equal steps up to the whole brain unmasked.

    Returns:
        The fit; parameters are NaN where fewer than three steps remain or the search does not converge.
    """
    above = np.flatnonzero(curve > fit_limit)
    n_points = int(above[0]) if above.size else curve.size
    failed = CurveFit(float("nan"), float("nan"), float("nan"), n_points)
    if n_points <= len(FIT_START):
        return failed
    percent = _percent(curve)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # an undetermined covariance is not used
            (a, b), _ = curve_fit(lambda t, a, b: a * np.tan(b * t), percent[:n_points], curve[:n_points], p0=FIT_START)
    except (RuntimeError, ValueError):
        return failed
    fit = CurveFit(float(a), float(b), float("nan"), n_points)
    head = slice(round(DETERMINATION_SHARE * curve.size))
    r_squared = _determination(curve[head], fit.value(percent[head]))
    return CurveFit(fit.a, fit.b, r_squared, n_points)


def _percent(curve: NDArray[Any]) -> NDArray[Any]:
    return np.arange(1, curve.size + 1, dtype=np.float64) * (100 / curve.size)


def _determination(observed: NDArray[Any], fitted: NDArray[Any]) -> float:
    total = np.square(observed - observed.mean()).sum()
    residual = np.square(observed - fitted).sum()
    return float(1 - residual / total) if total > 0 and np.isfinite(residual) else float("nan")


def _difference_slope(curve: NDArray[Any]) -> NDArray[Any]:
    difference = np.diff(curve, prepend=0.0) * (curve.size / 100)
    ones = np.ones(SMOOTHING_WINDOW)
    half = SMOOTHING_WINDOW // 2
    padded_sum = np.convolve(difference, ones)[half : half + curve.size]
    count = np.convolve(np.ones(curve.size), ones)[half : half + curve.size]
    return np.asarray(padded_sum / count)


def _without_threshold(
    status: ThresholdStatus, source: SlopeSource, slope: tuple[float, ...], fit: CurveFit | None = None
) -> ThresholdEstimate:
    nothing = CurveFit(float("nan"), float("nan"), float("nan"), 0)
    return ThresholdEstimate(status, float("inf"), None, source, slope, fit or nothing)
