"""The summary over the cases of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from itermask3d.evaluation.discrimination import scan_discrimination
from itermask3d.inference.calibration import false_alarm_interval

__all__ = ["summarise"]

MEANS = ("iou", "sensitivity", "precision", "surface_dice", "lesion_f1", "voxel_auroc", "voxel_ap")
"""Columns with a mean over the cases with a lesion, beside Dice."""


def summarise(rows: Sequence[Mapping[str, Any]], *, scan_level: bool = True) -> dict[str, Any]:
    """Summary over cases with a lesion and, apart from them, over normal cases (an empty label).

    Args:
        rows: with the columns of ``metrics.csv``; one that is missing counts as without a value.
        scan_level: with the metrics that need a bootstrap.

    Returns:
        ``lesion_cases`` and ``normal_cases`` (counts). Over the former: mean and median Dice; means of the columns in
        :data:`MEANS`; medians of HD95 and ASSD, in which a missed lesion counts as infinite; ``lesions_found_share``,
        pooled over all lesions. An empty mask has no precision and is left out of its mean. Over the latter: median and
        largest flagged share, the share of scans with any flag and its exact 95 % interval. ``scan_level``: see
        :func:`itermask3d.evaluation.discrimination.scan_discrimination`. ``None`` where there is no finite value.
    """
    lesions = [row for row in rows if row["label_ml"] > 0]
    normals = [row for row in rows if row["label_ml"] == 0]
    flagged = sum(row["flagged_ml"] > 0 for row in normals)
    summary = {
        "lesion_cases": len(lesions),
        "dice_mean": _over(np.mean, lesions, "dice"),
        "dice_median": _over(np.median, lesions, "dice"),
        **{f"{column}_mean": _over(np.nanmean, lesions, column) for column in MEANS},
        **{f"{column}_median": _over(np.nanmedian, lesions, column) for column in ("hd95_mm", "assd_mm")},
        "lesions_found_share": _share(_values(lesions, "lesions_found"), _values(lesions, "lesions")),
        "normal_cases": len(normals),
        "normal_flagged_share_median": _over(np.median, normals, "flagged_share"),
        "normal_flagged_share_max": _over(np.max, normals, "flagged_share"),
        "normal_scans_flagged": flagged / len(normals) if normals else None,
        "normal_scans_flagged_interval": list(false_alarm_interval(flagged, len(normals))) if normals else None,
    }
    return summary | ({"scan_level": _scan_level(normals, lesions)} if scan_level else {})


def _scan_level(normals: Sequence[Mapping[str, Any]], lesions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scores = [values[np.isfinite(values)] for values in (_values(normals, "score"), _values(lesions, "score"))]
    metrics = scan_discrimination(*(group.tolist() for group in scores))
    return {name: metric.to_json() for name, metric in metrics.items()}


def _over(statistic: Any, rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    values = _values(rows, column)
    value = float(statistic(values)) if np.isfinite(values).any() else float("nan")
    return value if np.isfinite(value) else None


def _share(parts: np.ndarray, wholes: np.ndarray) -> float | None:
    return float(parts.sum() / wholes.sum()) if np.isfinite(wholes).all() and wholes.sum() > 0 else None


def _values(rows: Sequence[Mapping[str, Any]], column: str) -> np.ndarray:
    """A column as numbers; NaN where a row has none."""
    return np.array([np.nan if row.get(column) is None else row[column] for row in rows], dtype=float)
