"""How well a score tells abnormal from normal, whatever the threshold: voxels of one scan, and scans of a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_average_precision, compute_roc_auc

__all__ = ["Estimate", "false_positive_rate_at", "scan_discrimination", "voxel_discrimination"]

TRUE_POSITIVE_RATES = (0.80, 0.90, 0.95)


@dataclass(frozen=True)
class Estimate:
    """A value with a bootstrap interval.

    Attributes:
        value: of the whole set.
        low, high: ends of the percentile interval.
    """

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def voxel_discrimination(
    anomaly_map: torch.Tensor, label: torch.Tensor, *, brain_mask: torch.Tensor
) -> dict[str, float]:
    """How well a map ranks the voxels of one brain; voxels outside the brain do not count.

    Args:
        anomaly_map: real ``(D, H, W)``, larger where more anomalous.
        label: boolean, same shape; a voxel of it outside the brain does not count.
        brain_mask: boolean, same shape.

    Returns:
        ``voxel_auroc`` (0.5 by chance) and ``voxel_ap``, average precision (by chance the label's share of the brain:
        no metric to compare between lesions of different size). Ties count half, and as one step. Both are NaN where
        the brain holds no labelled voxel, or no other.

    Raises:
        ValueError: if the shapes differ or the map is not finite in the brain.
    """
    if not anomaly_map.shape == label.shape == brain_mask.shape:
        shapes = ", ".join(str(tuple(volume.shape)) for volume in (anomaly_map, label, brain_mask))
        raise ValueError(f"anomaly_map, label and brain_mask must have one shape, got {shapes}")
    inside = brain_mask > 0.5
    scores, classes = anomaly_map[inside], label[inside] > 0.5
    if not torch.isfinite(scores).all():
        raise ValueError("anomaly_map must be finite in the brain, got NaN or infinite values")
    if classes.all() or not classes.any():
        return {"voxel_auroc": float("nan"), "voxel_ap": float("nan")}
    return {"voxel_auroc": _auroc(scores, classes), "voxel_ap": _average_precision(scores, classes)}


def scan_discrimination(
    normal_scores: Sequence[float],
    abnormal_scores: Sequence[float],
    *,
    normal_subjects: Sequence[str] | None = None,
    abnormal_subjects: Sequence[str] | None = None,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """How well a scan-level score tells abnormal from normal scans.

    The interval is the percentile bootstrap over subjects: one is drawn with all its scans, so that a person's normal
    and abnormal scan stay a pair. Subjects with both kinds of scan, with normal ones alone and with abnormal ones alone
    are drawn apart, so that no draw lacks a kind. Where the groups do not overlap the interval shrinks to a point,
    which is a limit of the method and no certainty; for a rate of zero see
    :func:`itermask3d.inference.calibration.false_alarm_interval`.

    Args:
        normal_scores, abnormal_scores: higher is more anomalous.
        normal_subjects, abnormal_subjects: whose scan each is; without them each scan is a subject of its own.
        n_resamples: of the bootstrap.
        confidence: of the interval.
        seed: of the bootstrap.

    Returns:
        ``auroc``; ``ap``, average precision (it depends on the share of abnormal scans in the set: by chance it is that
        share); ``fpr_at_tpr_80``, ``_90``, ``_95``: see :func:`false_positive_rate_at`. Empty where a group has no
        scan.

    Raises:
        ValueError: if a score is not finite or a setting is out of its range.
    """
    normal, abnormal = (np.asarray(scores, dtype=float) for scores in (normal_scores, abnormal_scores))
    if not (np.isfinite(normal).all() and np.isfinite(abnormal).all()):
        raise ValueError("scores must be finite, got NaN or infinite values")
    if not 0 < confidence < 1 or n_resamples < 1:
        raise ValueError(f"confidence must lie in (0, 1), n_resamples be positive, got {confidence}, {n_resamples}")
    if not normal.size or not abnormal.size:
        return {}
    subjects = [*_subjects("normal", normal.size, normal_subjects)]
    subjects += _subjects("abnormal", abnormal.size, abnormal_subjects)
    abnormals = np.arange(len(subjects)) >= normal.size
    weights = _draw_subjects(subjects, abnormals, n_resamples, np.random.default_rng(seed))
    draws = _weighted_metrics(np.concatenate([normal, abnormal]), abnormals, weights)
    tail = (1 - confidence) / 2
    bounds = {name: np.quantile(values, [tail, 1 - tail]).tolist() for name, values in draws.items()}
    return {name: Estimate(value, *bounds[name]) for name, value in _metrics(normal, abnormal).items()}


def false_positive_rate_at(
    normal_scores: Sequence[float] | np.ndarray,
    abnormal_scores: Sequence[float] | np.ndarray,
    *,
    true_positive_rate: float,
) -> float:
    """Share of normal scans flagged at the highest threshold that flags this share of the abnormal ones, or more.

    A point of the empirical curve, not interpolated: with few abnormal scans the true rate in fact reached is higher
    than the one asked for.

    >>> false_positive_rate_at([1.0, 2.0, 3.0, 4.0], [2.5, 3.5, 5.0, 6.0, 7.0], true_positive_rate=0.8)
    0.25
    """
    if not 0 < true_positive_rate <= 1:
        raise ValueError(f"true_positive_rate must lie in (0, 1], got {true_positive_rate}")
    abnormal = np.sort(np.asarray(abnormal_scores, dtype=float))[::-1]
    needed = max(1, int(np.ceil(true_positive_rate * abnormal.size - 1e-9)))
    return float(np.mean(np.asarray(normal_scores, dtype=float) >= abnormal[needed - 1]))


def _subjects(kind: str, n_scans: int, names: Sequence[str] | None) -> list[str]:
    if names is None:
        return [f"{kind} {index}" for index in range(n_scans)]
    if len(names) != n_scans:
        raise ValueError(f"{kind}_subjects must name one subject a score, got {len(names)} for {n_scans} scores")
    return list(names)


def _draw_subjects(
    subjects: Sequence[str], abnormal: np.ndarray, n_resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """How often each scan is drawn in each resample, ``(n_resamples, n_scans)``."""
    names, owner = np.unique(np.asarray(subjects), return_inverse=True)
    kinds = np.zeros(len(names), dtype=int)
    np.bitwise_or.at(kinds, owner, np.where(abnormal, 2, 1))
    drawn = np.zeros((n_resamples, len(names)), dtype=np.int64)
    for kind in np.unique(kinds):
        members = np.flatnonzero(kinds == kind)
        drawn[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=n_resamples)
    return drawn[:, owner]


def _weighted_metrics(scores: np.ndarray, abnormal: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of :func:`_metrics` for every row of weights (how often each scan counts), all at once.

    Both rates are taken at every distinct score, from the highest down; ties make one step, as in scikit-learn.
    """
    _, place = np.unique(-scores, return_inverse=True)
    steps = np.zeros((2, len(weights), place.max() + 1))
    for kind in (0, 1):
        chosen = np.flatnonzero(abnormal == bool(kind))
        np.add.at(steps[kind].T, place[chosen], weights[:, chosen].T)
    false, true = steps.cumsum(axis=2)
    n_false, n_true = false[:, -1:], true[:, -1:]
    flagged = np.maximum(false + true, 1e-12)
    rates = {}
    for rate in TRUE_POSITIVE_RATES:
        reached = (true >= rate * n_true - 1e-9).argmax(axis=1)
        rates[f"fpr_at_tpr_{round(100 * rate)}"] = (
            np.take_along_axis(false, reached[:, None], axis=1)[:, 0] / n_false[:, 0]
        )
    return {
        "auroc": (steps[0] * (true - steps[1] / 2)).sum(axis=1) / (n_false * n_true)[:, 0],
        "ap": (steps[1] * true / flagged).sum(axis=1) / n_true[:, 0],
        **rates,
    }


def _metrics(normal: np.ndarray, abnormal: np.ndarray) -> dict[str, float]:
    scores = torch.from_numpy(np.concatenate([normal, abnormal]))
    classes = torch.arange(len(scores)) >= normal.size
    rates = {
        f"fpr_at_tpr_{round(100 * rate)}": false_positive_rate_at(normal, abnormal, true_positive_rate=rate)
        for rate in TRUE_POSITIVE_RATES
    }
    return {"auroc": _auroc(scores, classes), "ap": _average_precision(scores, classes), **rates}


def _auroc(scores: torch.Tensor, classes: torch.Tensor) -> float:
    value: Any = compute_roc_auc(scores, classes.long())
    return float(value)


def _average_precision(scores: torch.Tensor, classes: torch.Tensor) -> float:
    value: Any = compute_average_precision(scores, classes.long())
    return float(value)
