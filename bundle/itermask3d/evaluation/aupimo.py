r"""How a map ranks voxels, without a threshold of its own, and how much of a lesion a reconstruction repeats.

AUPIMO: at every threshold, the share of *one* scan's lesion that is flagged (:math:`T_i`, its recall) stands against
the false positive rate :math:`F` of the *normal* scans alone, in the mean over scans; the recall is averaged over the
logarithm of that rate:

.. math:: \mathrm{AUPIMO}_i = \frac{1}{\log(U/L)} \int_{\log L}^{\log U} T_i(F^{-1}(z))\, d\log z

with :math:`L = 10^{-5}` and :math:`U = 10^{-4}`. So each scan has a metric, and what a method flags beside a lesion
counts for nothing. Source: Bertoldo et al. 2024, arXiv 2401.01984.

anomalib integrates over thresholds on a linear grid, by trapezoids, from the rates nearest to the bounds. Here the
thresholds are the normal scans' own values and the recall at a rate is that of the lowest threshold which does not
exceed it: the same in the limit, exact where values are tied, and never above what a threshold can reach.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["FPR_BOUNDS", "SharedRate", "aupimo", "reconstructed_share", "shared_rate", "voxel_average_precision"]

FPR_BOUNDS = (1e-5, 1e-4)


@dataclass(frozen=True)
class SharedRate:
    """The false positive rate of normal scans at the thresholds that matter.

    Attributes:
        thresholds: descending; a voxel above one is flagged.
        rates: mean over the scans of the share of voxels above, ascending from 0.
        bounds: of the rate, between which is integrated.
    """

    thresholds: np.ndarray
    rates: np.ndarray
    bounds: tuple[float, float]


def shared_rate(normal_maps: Sequence[np.ndarray], *, bounds: tuple[float, float] = FPR_BOUNDS) -> SharedRate:
    """Find the rate at every threshold up to the upper bound.

    Args:
        normal_maps: of each normal scan, the values of its brain's voxels in any shape; sizes may differ.
        bounds: lower and upper rate.

    Raises:
        ValueError: without a scan, for an empty or non-finite one, or for bounds that do not rise within 0 to 1.
    """
    low, high = bounds
    if not 0 < low < high <= 1:
        raise ValueError(f"bounds must rise between 0 and 1, got {bounds}")
    if not normal_maps or min(np.size(values) for values in normal_maps) == 0:
        raise ValueError(f"a rate needs normal scans with voxels, got {len(normal_maps)} scans, or one without any")
    tops, weights = [], []
    for values in normal_maps:
        flat = np.ravel(values)
        if not np.isfinite(flat).all():
            raise ValueError("a normal scan's map must be finite, got NaN or infinite values")
        # One scan alone cannot hold more than its number of scans times the upper bound.
        kept = min(flat.size, math.ceil(len(normal_maps) * high * flat.size) + 1)
        tops.append(np.partition(flat, flat.size - kept)[flat.size - kept :].astype(np.float64))
        weights.append(np.full(kept, 1 / (len(normal_maps) * flat.size)))
    values, weight = np.concatenate(tops), np.concatenate(weights)
    thresholds, place = np.unique(values, return_inverse=True)
    at_least = np.bincount(place, weights=weight)[::-1].cumsum()
    above = np.concatenate([[0.0], at_least[:-1]])
    reached = above <= high
    return SharedRate(thresholds[::-1][reached], above[reached], bounds)


def aupimo(lesion_values: np.ndarray, shared: SharedRate) -> float:
    """Area under one scan's recall, 0 to 1.

    Args:
        lesion_values: values of the map in the voxels of the lesion.
        shared: of the normal scans.

    Returns:
        1 where the whole lesion lies above what normal scans show even at the lower bound; a random map has
        the mean rate, ``(U - L) / log(U / L)``. NaN for an empty truth.

    Raises:
        ValueError: if a value is not finite.
    """
    values = np.sort(np.ravel(lesion_values).astype(np.float64))
    if not values.size:
        return math.nan
    if not np.isfinite(values).all():
        raise ValueError("lesion_values must be finite, got NaN or infinite values")
    recall = 1 - np.searchsorted(values, shared.thresholds, side="right") / values.size
    edges = np.clip([*shared.rates, shared.bounds[1]], *shared.bounds)
    area = float((recall * np.diff(np.log(edges))).sum()) / math.log(shared.bounds[1] / shared.bounds[0])
    return min(1.0, area)  # the sum of the logarithms may exceed the whole in its last digit


def voxel_average_precision(values: np.ndarray, truth: np.ndarray) -> float:
    """Average precision of a ranking of voxels; ties are one step.

    The metric of :func:`itermask3d.evaluation.discrimination.voxel_discrimination`, in a hundredth of its time.

    Args:
        values: of the voxels of one brain, any shape.
        truth: boolean, same shape.

    Returns:
        0 to 1; by chance the share of the truth. NaN where the truth is empty or everything.

    Raises:
        ValueError: if the shapes differ or a value is not finite.
    """
    if np.shape(values) != np.shape(truth):
        raise ValueError(f"values and truth must have one shape, got {np.shape(values)} and {np.shape(truth)}")
    scores, classes = np.ravel(values), np.ravel(truth) > 0
    if not np.isfinite(scores).all():
        raise ValueError("values must be finite, got NaN or infinite ones")
    if classes.all() or not classes.any():
        return math.nan
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    hits = classes[order].cumsum()[last_of_tie]
    return float((np.diff(hits, prepend=0) * hits / (last_of_tie + 1)).sum() / hits[-1])


def reconstructed_share(
    reconstruction: np.ndarray, lesioned: np.ndarray, healthy: np.ndarray, truth: np.ndarray
) -> float:
    r"""The share of a lesion's change that a reconstruction repeats.

    .. math:: \frac{\langle r - h,\; l - h \rangle}{\langle l - h,\; l - h \rangle} \quad \text{over the lesion}

    Args:
        reconstruction, lesioned, healthy: ``(D, H, W)`` in one unit; the healthy scan is the same one without lesion.
        truth: boolean, the lesion.

    Returns:
        0 for a reconstruction of the healthy scan, 1 for one that paints the lesion back; below 0 where it errs to
        the other side. NaN where the lesion is empty or changes nothing.

    Raises:
        ValueError: if the shapes differ.
    """
    shapes = [np.shape(part) for part in (reconstruction, lesioned, healthy, truth)]
    if len(set(shapes)) > 1:
        raise ValueError(f"reconstruction, lesioned, healthy and truth must have one shape, got {shapes}")
    inside = np.asarray(truth) > 0
    base = np.asarray(healthy)[inside].astype(np.float64)
    change = np.asarray(lesioned)[inside] - base
    energy = float(change @ change)
    return float((np.asarray(reconstruction)[inside] - base) @ change) / energy if energy > 0 else math.nan
