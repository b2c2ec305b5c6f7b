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
from monai.metrics import DiceMetric, compute_confusion_matrix_metric, get_confusion_matrix

from itermask3d.results import write_atomically, write_table
from itermask3d.scans import voxel_volume_ml

__all__ = ["CaseMetrics", "case_metrics", "summarise"]

logger = logging.getLogger(__name__)

COLUMNS = (
    "case",
    "outcome",
    "score",
    "percentile_among_normals",
    "label_ml",
    "flagged_ml",
    "flagged_share",
    "dice",
    "sensitivity",
    "precision",
)


def case_metrics(mask: torch.Tensor, label: torch.Tensor) -> dict[str, float]:
    """Overlap of one mask with its ground truth, by MONAI's metrics.

    Args:
        mask: boolean ``(1, D, H, W)``.
        label: boolean, same shape.

    Returns:
        ``dice`` (1 where both are empty, 0 where one is), ``sensitivity`` (NaN for an empty label) and ``precision``
        (NaN for an empty mask).

    Raises:
        ValueError: if the shapes differ.
    """
    if mask.shape != label.shape:
        raise ValueError(f"mask and label must have one shape, got {tuple(mask.shape)} and {tuple(label.shape)}")
    predicted, truth = mask[None].float(), label[None].float()
    counts = get_confusion_matrix(predicted, truth, include_background=True)
    dice = DiceMetric(include_background=True, ignore_empty=False)(predicted, truth)
    sensitivity = compute_confusion_matrix_metric("sensitivity", counts)
    precision = compute_confusion_matrix_metric("precision", counts)
    return {"dice": float(torch.as_tensor(dice)), "sensitivity": float(sensitivity), "precision": float(precision)}


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summary over cases with a lesion and, apart from them, over normal cases (an empty label).

    Returns:
        ``lesion_cases`` and ``normal_cases`` (counts); over the former the mean and median Dice, mean sensitivity and
        precision (an empty mask has no precision and is left out of it); over the latter the median and the largest
        flagged share and the share of scans with any flag.
    """
    lesions = [row for row in rows if row["label_ml"] > 0]
    normals = [row for row in rows if row["label_ml"] == 0]
    return {
        "lesion_cases": len(lesions),
        "dice_mean": _over(np.mean, lesions, "dice"),
        "dice_median": _over(np.median, lesions, "dice"),
        "sensitivity_mean": _over(np.nanmean, lesions, "sensitivity"),
        "precision_mean": _over(np.nanmean, lesions, "precision"),
        "normal_cases": len(normals),
        "normal_flagged_share_median": _over(np.median, normals, "flagged_share"),
        "normal_flagged_share_max": _over(np.max, normals, "flagged_share"),
        "normal_scans_flagged": float(np.mean([row["flagged_ml"] > 0 for row in normals])) if normals else None,
    }


class CaseMetrics:
    """Handler that writes ``metrics.csv`` (a row a case) and ``metrics.json`` (the summary), anew after every case.

    Works on what :func:`itermask3d.cohort.inference_postprocessing` leaves: ``mask`` on the scan's grid and
    ``findings``; a scan without a ``label`` is left out.

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
        engine.add_event_handler(Events.COMPLETED, self._check)

    def _collect(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item, found in zip(batch, output, strict=True):
            if item.get("label") is not None:
                self.rows.append(_row(item, found))
        if self.rows:
            self._write()

    def _check(self) -> None:
        if not self.rows:
            logger.error("no scan had a label: name label_dir, or 'label' in every item of the list")

    def _write(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        write_table(self.rows, COLUMNS, self.directory / "metrics.csv")
        write_atomically(json.dumps(summarise(self.rows), indent=1) + "\n", self.directory / "metrics.json")


def _row(item: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    mask = torch.as_tensor(found["mask"]).cpu() > 0.5
    label = torch.as_tensor(item["label"]).cpu() > 0.5
    voxel_ml = voxel_volume_ml(item["label"].affine)
    findings = json.loads(found["findings"])
    return {
        "case": item["case"],
        **{key: findings[key] for key in ("outcome", "score", "percentile_among_normals", "flagged_share")},
        "label_ml": float(label.sum()) * voxel_ml,
        "flagged_ml": float(mask.sum()) * voxel_ml,
        **case_metrics(mask, label),
    }


def _over(statistic: Any, rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    values = np.array([row[column] for row in rows], dtype=float)
    return float(statistic(values)) if np.isfinite(values).any() else None
