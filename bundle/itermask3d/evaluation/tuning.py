"""Choose the settings of the loop on validation scans, never on the scans that are reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

import numpy as np
import torch

from itermask3d.evaluation.rows import case_metrics
from itermask3d.method.detection import remove_small_components
from itermask3d.method.error import Reconstructor, RefinementTask
from itermask3d.method.refinement import run_to_end
from itermask3d.method.settings import RefinementSettings
from itermask3d.method.shrink import Shrink
from itermask3d.method.sweep import Sweep
from itermask3d.method.threshold import estimate_threshold

__all__ = ["Grid", "TuningRow", "choose", "evaluate_grid", "summarise_rows"]


@dataclass(frozen=True)
class Grid:
    """Values to try, in all combinations.

    Attributes:
        gamma, error_window, predicted_variance_floor, error_saturation, threshold_floor, nested: see
            :class:`itermask3d.method.settings.RefinementSettings`.
        min_volume_ml: smallest component kept.
    """

    gamma: tuple[float, ...] = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12)
    error_window: tuple[int, ...] = (1, 3)
    predicted_variance_floor: tuple[float, ...] = (0.0,)
    error_saturation: tuple[float | None, ...] = (None,)
    threshold_floor: tuple[float, ...] = (0.0,)
    nested: tuple[bool, ...] = (False,)
    min_volume_ml: tuple[float, ...] = (0.0, 0.1, 0.5, 1.0)


@dataclass(frozen=True)
class TuningRow:
    """One scan under one combination; ``label_ml`` is 0 for a normal scan."""

    case: str
    error_window: int
    predicted_variance_floor: float
    error_saturation: float | None
    nested: bool
    gamma: float
    threshold_floor: float
    min_volume_ml: float
    threshold: float
    iterations: int
    label_ml: float
    flagged_share: float
    dice: float


_TRIED = tuple(field.name for field in fields(Grid))


def evaluate_grid(
    case: str,
    image: torch.Tensor,
    brain_mask: torch.Tensor,
    high_frequency: torch.Tensor,
    label: torch.Tensor,
    reconstructor: Reconstructor,
    *,
    grid: Grid,
    spacing_mm: Sequence[float],
    base: RefinementSettings | None = None,
) -> Iterator[TuningRow]:
    """Run one scan through every combination; the sweep once per kind of error, the shrink once per threshold.

    Args:
        case: name of the scan.
        image, brain_mask, high_frequency, label: ``(1, 1, D, H, W)`` on the network's grid.
        reconstructor: see :data:`itermask3d.method.error.Reconstructor`.
        grid: what to try.
        spacing_mm: voxel size.
        base: settings that are not tried.
    """
    base = base or RefinementSettings()
    truth = label > 0.5
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    for window, least, most in product(grid.error_window, grid.predicted_variance_floor, grid.error_saturation):
        error: dict[str, Any] = {"error_window": window, "predicted_variance_floor": least, "error_saturation": most}
        widened = replace(base, **error, nested=True)  # nesting is the shrink's business, not the task's
        task = RefinementTask.from_settings(image, brain_mask, high_frequency, reconstructor, widened)
        curve = run_to_end(Sweep(task, base.n_steps, schedule=base.schedule)).curves()[0].numpy()
        for settings, threshold, shrink in _shrunk(task, curve, grid, widened):
            for min_volume_ml in grid.min_volume_ml:
                mask = remove_small_components(shrink.mask, min_volume_ml=min_volume_ml, spacing_mm=spacing_mm)
                yield TuningRow(
                    case=case,
                    **error,
                    nested=settings.nested,
                    gamma=settings.gamma,
                    threshold_floor=settings.threshold_floor,
                    min_volume_ml=min_volume_ml,
                    threshold=threshold,
                    iterations=shrink.iterations[0],
                    label_ml=float(truth.sum()) * voxel_ml,
                    flagged_share=float(mask.sum() / task.brain.sum()),
                    dice=case_metrics(mask[0].cpu(), truth[0].cpu())["dice"],
                )


def _shrunk(
    task: RefinementTask, curve: np.ndarray, grid: Grid, base: RefinementSettings
) -> Iterator[tuple[RefinementSettings, float, Shrink]]:
    """Settings, threshold and finished shrink of each way to take the threshold; one shrink for equal thresholds."""
    shrunk: dict[tuple[float, bool], Shrink] = {}
    for gamma, floor, nested in product(grid.gamma, grid.threshold_floor, grid.nested):
        settings = replace(base, gamma=gamma, threshold_floor=floor, nested=nested)
        rule = {name: getattr(settings, name) for name in ("fit_limit", "min_r_squared", "interpolate")}
        threshold = settings.clamp(estimate_threshold(curve, gamma=gamma, **rule))
        if (threshold, nested) not in shrunk:
            shrunk[threshold, nested] = run_to_end(Shrink.from_settings(task, [threshold], settings))
        yield settings, threshold, shrunk[threshold, nested]


def summarise_rows(rows: Iterable[TuningRow]) -> list[dict[str, Any]]:
    """Mean Dice over lesion scans and flagged share over normal scans, for each combination."""
    groups: dict[tuple[Any, ...], list[TuningRow]] = {}
    for row in rows:
        key = tuple(getattr(row, name) for name in _TRIED)
        groups.setdefault(key, []).append(row)
    return [_summary(group) for group in groups.values()]


def choose(summaries: Sequence[Mapping[str, Any]], *, max_normal_share: float) -> Mapping[str, Any]:
    """The combination with the highest mean Dice among those whose normals stay below a flagged share.

    Where none does, the one with the lowest share; without normal scans, the highest mean Dice of all.
    """
    allowed = [row for row in summaries if not row["normal_share_median"] > max_normal_share]
    if allowed:
        return max(allowed, key=lambda row: row["dice_mean"])
    return min(summaries, key=lambda row: row["normal_share_median"])


def _summary(group: Sequence[TuningRow]) -> dict[str, Any]:
    settings = {name: getattr(group[0], name) for name in _TRIED}
    lesions = [row for row in group if row.label_ml > 0]
    normals = [row for row in group if row.label_ml == 0]
    return settings | {
        "dice_mean": float(np.mean([row.dice for row in lesions])) if lesions else float("nan"),
        "dice_min": float(np.min([row.dice for row in lesions])) if lesions else float("nan"),
        "normal_share_median": float(np.median([row.flagged_share for row in normals])) if normals else float("nan"),
        "normal_share_max": float(np.max([row.flagged_share for row in normals])) if normals else float("nan"),
        "iterations_mean": float(np.mean([row.iterations for row in group])),
    }
