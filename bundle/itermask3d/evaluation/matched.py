r"""One rule for every method: the threshold at which few normal scans are flagged, and what it then flags elsewhere.

A scan is flagged when what exceeds the threshold holds a connected region of some volume. For each scan there is a
highest such threshold (:func:`critical_value`): the scan is flagged at every threshold below it and at none from it on.
So the threshold that flags at most a share of the calibration scans is one of their critical values.

That share holds on the calibration scans alone. With n of them, the rate on further scans of the same kind is in the
mean at most :math:`(\lfloor \alpha n \rfloor + 1) / (n + 1)`, and on another site anything: it is measured there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from itermask3d.evaluation.by_size import wilson
from itermask3d.evaluation.discrimination import Estimate

__all__ = ["FalseAlarms", "MatchedThreshold", "critical_value", "false_alarms", "flagged_mask", "matched_threshold"]

_CONNECTIVITY = np.ones((3, 3, 3))


@dataclass(frozen=True)
class MatchedThreshold:
    """A threshold and the scans that it was set on.

    Attributes:
        threshold: a voxel above it is flagged.
        level: share of the calibration scans that may be flagged.
        flagged, total: calibration scans flagged, and all of them.
        expected: bound on the mean rate of further scans of the same kind.
    """

    threshold: float
    level: float
    flagged: int
    total: int
    expected: float


@dataclass(frozen=True)
class FalseAlarms:
    """What a threshold flags among normal scans.

    Attributes:
        flagged, total: scans.
        rate: with Wilson's interval; ``None`` without a scan.
    """

    flagged: int
    total: int
    rate: Estimate | None


def critical_value(anomaly_map: np.ndarray, brain_mask: np.ndarray, *, min_voxels: int = 1) -> float:
    """The highest threshold below which a scan is flagged.

    Args:
        anomaly_map: ``(D, H, W)``, larger where more anomalous.
        brain_mask: boolean, same shape.
        min_voxels: of the smallest region (26 neighbours) that flags a scan; 1 is any voxel.

    Returns:
        A value of the map; minus infinity where the brain holds no region so large.

    Raises:
        ValueError: if the shapes differ, the map is not finite in the brain, or ``min_voxels`` is below 1.
    """
    if anomaly_map.shape != brain_mask.shape:
        raise ValueError(f"map and brain must have one shape, got {anomaly_map.shape} and {brain_mask.shape}")
    if min_voxels < 1:
        raise ValueError(f"min_voxels must be at least 1, got {min_voxels}")
    inside = brain_mask > 0
    values = anomaly_map[inside]
    if not np.isfinite(values).all():
        raise ValueError("anomaly_map must be finite in the brain, got NaN or infinite values")
    if values.size < min_voxels:
        return -math.inf
    if min_voxels == 1:
        return float(values.max())
    (box,) = ndimage.find_objects(inside.astype(np.uint8))
    cut, levels = np.where(inside, anomaly_map, -np.inf)[box], np.unique(values)
    low, high = -1, int(np.searchsorted(levels, np.partition(values, -min_voxels)[-min_voxels]))
    while low < high:  # regions only grow as the level falls
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _largest(cut >= levels[middle]) >= min_voxels else (low, middle - 1)
    return -math.inf if low < 0 else float(levels[low])


def matched_threshold(critical_values: Sequence[float], *, level: float = 0.05) -> MatchedThreshold:
    """The lowest threshold that flags at most a share of the calibration scans.

    Args:
        critical_values: one of each normal calibration scan, see :func:`critical_value`.
        level: the share, 0 to 1 (exclusive).

    Raises:
        ValueError: without a scan, for NaN, or for a level outside its range.
    """
    values = np.sort(np.asarray(critical_values, dtype=float))[::-1]
    if not values.size or np.isnan(values).any() or not 0 <= level < 1:
        raise ValueError(
            f"a matched threshold needs scans without NaN and a level from 0 to below 1, got {values.size} and {level}"
        )
    allowed = math.floor(level * values.size + 1e-9)
    threshold = float(values[allowed])
    flagged = int((values > threshold).sum())
    return MatchedThreshold(threshold, level, flagged, values.size, (allowed + 1) / (values.size + 1))


def false_alarms(critical_values: Mapping[str, Sequence[float]], threshold: float) -> dict[str, FalseAlarms]:
    """Scans flagged by a threshold, by site, and ``"pooled"`` over all.

    Args:
        critical_values: of each site's normal scans, none of which set the threshold.
        threshold: see :func:`matched_threshold`.
    """
    counted = {site: [value > threshold for value in values] for site, values in critical_values.items()}
    counted["pooled"] = [flag for flags in counted.values() for flag in flags]
    return {
        site: FalseAlarms(sum(flags), len(flags), wilson(sum(flags), len(flags))) for site, flags in counted.items()
    }


def flagged_mask(
    anomaly_map: np.ndarray, brain_mask: np.ndarray, *, threshold: float, min_voxels: int = 1
) -> np.ndarray:
    """What exceeds a threshold in the brain, in regions of some size; boolean ``(D, H, W)``."""
    mask = (anomaly_map > threshold) & (brain_mask > 0)
    if min_voxels <= 1:
        return np.asarray(mask)
    labels, _ = ndimage.label(mask, structure=_CONNECTIVITY)
    keep = np.bincount(labels.ravel()) >= min_voxels
    keep[0] = False
    return np.asarray(keep[labels])


def _largest(mask: np.ndarray) -> int:
    labels, found = ndimage.label(mask, structure=_CONNECTIVITY)
    return int(np.bincount(labels.ravel())[1:].max()) if found else 0
