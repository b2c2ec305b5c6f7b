"""Points of a report's two drawings, in the units of their SVG: the error curve, and the score among normal scans."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from itermask3d.files.identity import file_digest
from itermask3d.method.detection import Findings

__all__ = ["curve_drawing", "normal_scores", "score_drawing"]

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 62, 622, 12, 236
TAIL = 0.97
"""Share of the sweep that sets the scale: its steep end must not squeeze the rest."""


def curve_drawing(findings: Findings) -> dict[str, Any] | None:
    """The curve of error quantiles with its fit, its threshold and the step where that was taken.

    Returns:
        Polylines as SVG points, and axes with their ticks; ``None`` where the curve holds no finite value.
    """
    curve = np.asarray(findings.curve, dtype=float)
    if not np.isfinite(curve).any():
        return None
    percent = np.arange(1, curve.size + 1) * (100 / curve.size)
    head = curve[: max(1, round(TAIL * curve.size))]
    largest = float(np.max(head[np.isfinite(head)], initial=0.0))
    top = 1.1 * max(largest, findings.threshold or 0.0, 1e-3)
    estimate, fit = findings.estimate, findings.estimate.fit
    fitted = fit.value(percent) if np.isfinite(fit.a) and np.isfinite(fit.b) else np.full(curve.size, np.nan)
    return {
        "curve": _points(percent, curve, top),
        "fit": _points(percent, np.where(fitted >= 0, fitted, np.nan), top),
        "fit_used": estimate.slope_source.value == "fit",
        "threshold_y": None if findings.threshold is None else round(_y(findings.threshold, top), 1),
        "step_x": None if estimate.step is None else round(_x(float(percent[estimate.step - 1])), 1),
        "step_percent": None if estimate.step is None else float(percent[estimate.step - 1]),
        "x_ticks": [(round(_x(value), 1), f"{value:.0f}") for value in (0, 20, 40, 60, 80, 100)],
        "y_ticks": [(round(_y(value, top), 1), f"{value:.3g}") for value in _ticks(top)],
    }


def normal_scores(settings: Mapping[str, Any], calibration: str | Path) -> list[float]:
    """Scores of the calibration's normal scans, if the file is the one that a result was made with; else none."""
    digest = settings.get("calibration_sha256", "none")
    if digest == "none" or file_digest(calibration) != digest:
        return []
    return [float(value) for value in json.loads(Path(calibration).read_text())["normal_scores"]]


def score_drawing(score: float | None, normal: Sequence[float]) -> dict[str, Any] | None:
    """The score's place on a strip of normal scores (square-root axis); ``None`` without either."""
    if score is None or not np.isfinite(score) or not normal:
        return None
    top = 1.08 * max(score, *normal, 1e-6)

    def x(value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * float(np.sqrt(max(value, 0) / top)), 1)

    return {
        "normal": [x(value) for value in normal],
        "score": x(score),
        "label_end": x(score) > (LEFT + RIGHT) / 2,
        "ticks": [(x(value), f"{value:.3g}") for value in (0, top / 16, top / 4, top / 1.6)],
        "count": len(normal),
    }


def _points(percent: np.ndarray, values: np.ndarray, top: float) -> str:
    shown = np.isfinite(values) & (values <= top)
    pairs = zip(percent[shown], values[shown], strict=True)
    return " ".join(f"{_x(float(p)):.1f},{_y(float(v), top):.1f}" for p, v in pairs)


def _x(percent: float) -> float:
    return LEFT + (RIGHT - LEFT) * percent / 100


def _y(value: float, top: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * min(value, top) / top


def _ticks(top: float) -> list[float]:
    step = 10.0 ** np.floor(np.log10(top))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if top / s <= 5.5)
    return [float(value) for value in np.arange(0, top, step)]
