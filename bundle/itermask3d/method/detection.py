"""From a refinement to what is said about one scan: an outcome, a score, and the statistics behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum, StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from itermask3d.method.error import brain_quantile
from itermask3d.method.refinement import Refinement
from itermask3d.method.threshold import CurveFit, SlopeSource, ThresholdEstimate, ThresholdStatus

__all__ = [
    "Findings", "Growth", "Outcome", "find", "grow_regions", "percentile_among", "remove_small_components",
    "remove_weak_components", "voxels_in",
]  # fmt: skip


class Outcome(StrEnum):
    """What the algorithm says about a scan."""

    ANOMALY = "anomaly"
    """A threshold was found and the final mask holds voxels."""
    NO_ANOMALY = "no_anomaly"
    """Nothing is marked: the slope never exceeded gamma, or no voxel stayed above the threshold."""
    FIT_FAILED = "fit_failed"
    """The error curve was unusable, so nothing can be said; the mask is empty."""


@dataclass(frozen=True)
class Growth:
    """How far a large region reaches into what is less suspicious: its rim, where only part of a voxel is lesion.

    Attributes:
        threshold: of the anomaly map; what exceeds it and touches the region, directly or through the like, is added.
        from_ml: volume from which on a region grows; what is small and strong says nothing about its surroundings.
        within_mm: distance from the region beyond which nothing is added.

    Raises:
        ValueError: for a value outside its range.
    """

    threshold: float
    from_ml: float
    within_mm: float

    def __post_init__(self) -> None:
        if not (self.threshold > 0 and self.from_ml >= 0 and self.within_mm > 0):
            raise ValueError(f"{self} is outside its range; expected threshold, within_mm > 0 and from_ml of 0 or more")


@dataclass(frozen=True)
class Findings:
    """Everything one run found about one scan on the network's grid. JSON-ready through :meth:`to_json`.

    Attributes:
        outcome: see :class:`Outcome`.
        score: in the unit of the anomaly map: its quantile over the brain that the settings name, or, as published,
            its mean over the brain inside the final mask. Both grow with the extent and with the strength of an
            anomaly, and neither with head size nor with padding.
        flagged_share: share of the brain that the final mask covers, 0 to 1.
        mean_error: mean of the anomaly map over the brain.
        error_p99: its 99th percentile.
        threshold: error above which a voxel was masked; ``None`` where there is none.
        estimate: how the threshold was found.
        curve: error quantile at each step of the sweep.
        iterations: iterations of the shrink.
        converged: whether its stop rule was met.
        percentile_among_normals: share in percent of calibration scans with a lower score; ``None`` if uncalibrated.
    """

    outcome: Outcome
    score: float
    flagged_share: float
    mean_error: float
    error_p99: float
    threshold: float | None
    estimate: ThresholdEstimate
    curve: tuple[float, ...]
    iterations: int
    converged: bool
    percentile_among_normals: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values only; NaN and infinity become ``None``."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Findings:
        """Inverse of :meth:`to_json`."""
        estimate = dict(data["estimate"])
        fit = estimate.pop("fit")
        threshold = estimate.pop("threshold")
        return cls(
            outcome=Outcome(data["outcome"]),
            curve=tuple(_nan(value) for value in data["curve"]),
            score=_nan(data["score"]),
            flagged_share=_nan(data["flagged_share"]),
            mean_error=_nan(data["mean_error"]),
            error_p99=_nan(data["error_p99"]),
            threshold=data["threshold"],
            iterations=data["iterations"],
            converged=data["converged"],
            percentile_among_normals=data["percentile_among_normals"],
            estimate=ThresholdEstimate(
                status=ThresholdStatus(estimate["status"]),
                threshold=float("inf") if threshold is None else threshold,
                step=estimate["step"],
                slope_source=SlopeSource(estimate["slope_source"]),
                slope=tuple(_nan(value) for value in estimate["slope"]),
                fit=CurveFit(_nan(fit["a"]), _nan(fit["b"]), _nan(fit["r_squared"]), fit["n_points"]),
            ),
        )


def find(refinement: Refinement, brain_mask: torch.Tensor, *, score_quantile: float | None = None) -> list[Findings]:
    """Summarise each scan of a batch.

    Args:
        refinement: from :func:`itermask3d.method.refinement.refine`, its mask possibly cleaned.
        brain_mask: ``(B, 1, D, H, W)``, above 0.5 in the brain.
        score_quantile: see :class:`itermask3d.method.settings.RefinementSettings`.

    Returns:
        One :class:`Findings` per scan.
    """
    brains = brain_mask > 0.5
    return [_find_one(refinement, index, brain, score_quantile) for index, brain in enumerate(brains)]


def percentile_among(score: float, normal_scores: Sequence[float]) -> float | None:
    """Share in percent of the normal scores that lie below ``score``; ties count half; ``None`` without any.

    >>> percentile_among(3.0, [1.0, 2.0, 3.0, 4.0])
    62.5
    """
    if len(normal_scores) == 0:
        return None
    normal = np.asarray(normal_scores, dtype=float)
    return float(100 * (np.sum(normal < score) + 0.5 * np.sum(normal == score)) / normal.size)


def remove_small_components(mask: torch.Tensor, *, min_volume_ml: float, spacing_mm: Sequence[float]) -> torch.Tensor:
    """Drop connected components (26 neighbours) below a volume.

    Args:
        mask: boolean ``(B, 1, D, H, W)``.
        min_volume_ml: smallest volume kept; 0 keeps everything.
        spacing_mm: voxel size.

    Returns:
        Boolean tensor of the same shape and device.
    """
    min_voxels = voxels_in(min_volume_ml, spacing_mm)
    if min_voxels <= 1:
        return mask
    return _components(mask, mask, min_voxels)


def remove_weak_components(
    mask: torch.Tensor,
    anomaly_map: torch.Tensor,
    *,
    peak_threshold: float,
    min_volume_ml: float,
    spacing_mm: Sequence[float],
) -> torch.Tensor:
    """Drop connected components (26 neighbours) of which too little exceeds a threshold.

    Args:
        mask: boolean ``(B, 1, D, H, W)``.
        anomaly_map: same shape.
        peak_threshold: what the map must exceed.
        min_volume_ml: in how much of a component; 0 asks for one voxel.
        spacing_mm: voxel size.

    Returns:
        Boolean tensor of the same shape and device; what is kept is kept whole.
    """
    return _components(mask, mask & (anomaly_map > peak_threshold), max(1, voxels_in(min_volume_ml, spacing_mm)))


def grow_regions(
    mask: torch.Tensor,
    anomaly_map: torch.Tensor,
    brain_mask: torch.Tensor,
    growth: Growth,
    *,
    spacing_mm: Sequence[float],
    cut: torch.Tensor | None = None,
) -> torch.Tensor:
    """Let the large connected components (26 neighbours) of a mask grow into their rim (through faces).

    Args:
        mask: boolean ``(B, 1, D, H, W)``.
        anomaly_map: same shape.
        brain_mask: same shape, boolean; nothing grows out of it.
        growth: how far.
        spacing_mm: voxel size.
        cut: where the mask was cut off, boolean, same shape: a component that reaches it counts as large.

    Returns:
        Boolean tensor of the same shape and device, which holds the mask.
    """
    large = _components(mask, mask, max(1, voxels_in(growth.from_ml, spacing_mm)))
    if cut is not None:
        large = large | _components(mask, mask & cut, 1)
    open_to_growth = (anomaly_map > growth.threshold) & brain_mask
    grown = mask.clone()
    for index, (seeds, free) in enumerate(zip(large[:, 0], open_to_growth[:, 0], strict=True)):
        if seeds.any():
            start = seeds.numpy(force=True)
            near = ndimage.distance_transform_edt(~start, sampling=spacing_mm) <= growth.within_mm
            reached = ndimage.binary_propagation(start, mask=start | (near & free.numpy(force=True)))
            grown[index, 0] |= torch.from_numpy(reached).to(mask.device)
    return grown


def voxels_in(volume_ml: float, spacing_mm: Sequence[float]) -> int:
    """How many voxels a volume fills at least.

    >>> voxels_in(0.06, (2.0, 2.0, 2.0))
    8
    """
    return math.ceil(volume_ml * 1000 / float(np.prod(spacing_mm)) - 1e-6)


def _components(mask: torch.Tensor, counted: torch.Tensor, min_voxels: int) -> torch.Tensor:
    """The components of a mask with at least so many voxels that count."""
    scans = zip(mask[:, 0].numpy(force=True), counted[:, 0].numpy(force=True), strict=True)
    return torch.from_numpy(np.stack([_kept(*scan, min_voxels) for scan in scans]))[:, None].to(mask.device)


def _kept(mask: NDArray[Any], counted: NDArray[Any], min_voxels: int) -> NDArray[Any]:
    # Not MONAI's RemoveSmallObjects: from scikit-image 0.26 on it warns at every call, and its bound is off by one.
    labels, n_labels = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    keep = np.bincount(labels[counted], minlength=n_labels + 1) >= min_voxels
    keep[0] = False
    return np.asarray(keep[labels])


def _find_one(refinement: Refinement, index: int, brain: torch.Tensor, score_quantile: float | None) -> Findings:
    mask = refinement.mask[index] & brain
    errors = refinement.anomaly_map[index][brain].double()
    n_brain = int(brain.sum())
    estimate = refinement.estimates[index]
    if score_quantile is None:
        score = float(refinement.anomaly_map[index][mask].double().sum()) / n_brain
    else:
        score = float(brain_quantile(refinement.anomaly_map[index][None], brain[None], share=score_quantile)[0])
    threshold = refinement.thresholds[index]
    return Findings(
        outcome=_outcome(estimate, bool(mask.any())),
        score=score,
        flagged_share=int(mask.sum()) / n_brain,
        mean_error=float(errors.mean()),
        error_p99=float(np.percentile(errors.numpy(force=True), 99)),
        threshold=threshold if math.isfinite(threshold) else None,
        estimate=estimate,
        curve=tuple(refinement.curves[index].tolist()),
        iterations=refinement.iterations[index],
        converged=refinement.converged[index],
    )


def _outcome(estimate: ThresholdEstimate, anything_marked: bool) -> Outcome:
    if estimate.status is ThresholdStatus.UNUSABLE_CURVE:
        return Outcome.FIT_FAILED
    return Outcome.ANOMALY if anything_marked else Outcome.NO_ANOMALY


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
