"""Figures against a ground truth: the algorithm's own mask, on the scan's own grid, case by case."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from itermask3d.calibration import false_alarm_interval
from itermask3d.discrimination import scan_discrimination, voxel_discrimination
from itermask3d.metrics import count_lesions, overlap, surface_distances, volumes
from itermask3d.results import write_atomically, write_table
from itermask3d.scans import voxel_volume_ml

__all__ = ["CaseMetrics", "case_metrics", "summarise"]

logger = logging.getLogger(__name__)

MEANS = ("iou", "sensitivity", "precision", "surface_dice", "lesion_f1", "voxel_auroc", "voxel_ap")
"""Columns with a mean over the cases with a lesion, beside Dice."""

COLUMNS = (
    "case",
    "outcome",
    "score",
    "percentile_among_normals",
    "label_ml",
    "flagged_ml",
    "volume_difference_ml",
    "volume_difference_share",
    "flagged_share",
    "dice",
    "iou",
    "sensitivity",
    "precision",
    "surface_dice",
    "assd_mm",
    "hd95_mm",
    "lesions",
    "lesions_found",
    "regions",
    "true_regions",
    "lesion_f1",
    "voxel_auroc",
    "voxel_ap",
)


def case_metrics(mask: torch.Tensor, label: torch.Tensor) -> dict[str, float]:
    """Overlap of one mask with its ground truth.

    Args:
        mask: boolean ``(1, D, H, W)``.
        label: boolean, same shape.

    Returns:
        See :func:`itermask3d.metrics.overlap`.

    Raises:
        ValueError: if the shapes differ.
    """
    if mask.shape != label.shape:
        raise ValueError(f"mask and label must have one shape, got {tuple(mask.shape)} and {tuple(label.shape)}")
    return overlap(mask[0], label[0])


def summarise(rows: Sequence[Mapping[str, Any]], *, scan_level: bool = True) -> dict[str, Any]:
    """Summary over cases with a lesion and, apart from them, over normal cases (an empty label).

    Args:
        rows: with the columns of ``metrics.csv``; one that is missing counts as without a value.
        scan_level: with the figures that need a bootstrap.

    Returns:
        ``lesion_cases`` and ``normal_cases`` (counts). Over the former: mean and median Dice; means of the columns in
        :data:`MEANS`; medians of HD95 and ASSD, in which a missed lesion counts as infinite; ``lesions_found_share``,
        pooled over all lesions. An empty mask has no precision and is left out of its mean. Over the latter: median and
        largest flagged share, the share of scans with any flag and its exact 95 % interval. ``scan_level``: see
        :func:`itermask3d.discrimination.scan_discrimination`. ``None`` where there is no finite value.
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


class CaseMetrics:
    """Handler that writes ``metrics.csv`` (a row a case) and ``metrics.json`` (the summary), anew after every case.

    The summary's figures of the scan level come with the last case.

    Works on what :func:`itermask3d.cohort.inference_postprocessing` leaves on the scan's grid: ``mask`` and
    ``anomaly_map`` beside ``findings`` in the output, ``brain_mask`` in the item. A scan without a ``label`` is left
    out.

    Args:
        directory: where both files go.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Register on MONAI's evaluator."""
        engine.add_event_handler(Events.STARTED, lambda: self.rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _collect(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item, found in zip(batch, output, strict=True):
            if item.get("label") is not None:
                self.rows.append(_row(item, found))
        if self.rows:
            self._write(scan_level=False)

    def _finish(self) -> None:
        if self.rows:
            self._write(scan_level=True)
        else:
            logger.error("no scan had a label: name label_dir, or 'label' in every item of the list")

    def _write(self, *, scan_level: bool) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        write_table(self.rows, COLUMNS, self.directory / "metrics.csv")
        summary = json.dumps(summarise(self.rows, scan_level=scan_level), indent=1, allow_nan=False)
        write_atomically(summary + "\n", self.directory / "metrics.json")


def _row(item: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    affine = np.asarray(item["label"].affine)
    volumes_of_case = (found["mask"], item["label"], item["brain_mask"])
    mask, label, brain = (torch.as_tensor(volume).cpu()[0] > 0.5 for volume in volumes_of_case)
    findings = json.loads(found["findings"])
    lesions = count_lesions(mask, label)
    return {
        "case": item["case"],
        **{key: findings[key] for key in ("outcome", "score", "percentile_among_normals", "flagged_share")},
        **volumes(mask, label, voxel_ml=voxel_volume_ml(affine)),
        **overlap(mask, label),
        **surface_distances(mask, label, spacing_mm=np.linalg.norm(affine[:3, :3], axis=0).tolist()),
        "lesions": lesions.lesions,
        "lesions_found": lesions.found,
        "regions": lesions.regions,
        "true_regions": lesions.true_regions,
        "lesion_f1": lesions.f1,
        **voxel_discrimination(torch.as_tensor(found["anomaly_map"]).cpu()[0], label, brain_mask=brain),
    }


def _scan_level(normals: Sequence[Mapping[str, Any]], lesions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scores = [values[np.isfinite(values)] for values in (_values(normals, "score"), _values(lesions, "score"))]
    figures = scan_discrimination(*(group.tolist() for group in scores))
    return {name: figure.to_json() for name, figure in figures.items()}


def _over(statistic: Any, rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    values = _values(rows, column)
    value = float(statistic(values)) if np.isfinite(values).any() else float("nan")
    return value if np.isfinite(value) else None


def _share(parts: np.ndarray, wholes: np.ndarray) -> float | None:
    return float(parts.sum() / wholes.sum()) if np.isfinite(wholes).all() and wholes.sum() > 0 else None


def _values(rows: Sequence[Mapping[str, Any]], column: str) -> np.ndarray:
    """A column as numbers; NaN where a row has none."""
    return np.array([np.nan if row.get(column) is None else row[column] for row in rows], dtype=float)
