"""A cohort on one page that opens from disk: outliers first, a table to sort, the scores beside those of normals."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
from PIL import Image, UnidentifiedImageError

from itermask3d.files.tree import LeftOut, grouped
from itermask3d.files.writing import write_atomically
from itermask3d.inference.model import Model
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.workflows.screening.cohort_table import COLUMNS, Row, rows_of, write_cohort_table
from itermask3d.workflows.screening.journal import Journal

__all__ = ["Distribution", "Throughput", "distribution", "duration", "matching_normals", "write_cohort_report"]


@dataclass(frozen=True)
class Throughput:
    """Scans that a run finished, in how long and with how many workers.

    Attributes:
        scans: finished in this run, failed ones included; skipped ones are not.
        seconds: from the first scan's start to the last one's end, loading of the model included.
        workers: at work at the same time.
        threads: cores of each worker; ``None`` if unknown.
    """

    scans: int
    seconds: float
    workers: int
    threads: int | None = None

    @property
    def scans_per_hour(self) -> float:
        """Of all workers together; 0 before the first scan."""
        return 3600 * self.scans / self.seconds if self.scans and self.seconds > 0 else 0.0

    @property
    def worker_seconds(self) -> float:
        """What one scan costs one worker."""
        return self.workers * self.seconds / self.scans if self.scans else float("nan")

    def hours(self, n_scans: int, n_workers: int) -> float:
        r"""Hours for many scans on many such workers.

        .. math:: h = \frac{n_{scans}}{n_{workers}} \cdot \frac{s}{3600}

        where :math:`s` are the worker-seconds of a scan. Scans do not depend on each other, so this holds as long as a
        worker keeps its cores or its GPU to itself and the disk keeps up; workers that share what one had do not
        count as further ones.

        Raises:
            ValueError: if there is no worker.
        """
        if n_workers < 1:
            raise ValueError(f"n_workers must be at least 1, got {n_workers}")
        return n_scans / n_workers * self.worker_seconds / 3600


def duration(seconds: float) -> str:
    """In words that fit a line: ``42 s``, ``3 min 05 s``, ``7 h 12 min``, ``3 d 4 h``.

    >>> [duration(value) for value in (42, 185, 25920, 273600)]
    ['42 s', '3 min 05 s', '7 h 12 min', '3 d 4 h']
    """
    if not 0 <= seconds < float("inf"):
        return "unknown"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    if total < 48 * 3600:
        return f"{total // 3600} h {total % 3600 // 60:02d} min"
    return f"{total // 86400} d {total % 86400 // 3600} h"


N_OUTLIERS = 24
"""Scans shown with a thumbnail."""

THUMBNAIL_WIDTH = 560
PICTURE_SIZE = (1650, 1496)
AXIAL_ROW = (0.03, 0.544, 0.985, 0.763)
"""Left, top, right and bottom of the axial panels, as shares of the picture's size."""

COST_SCANS = 10_000
COST_WORKERS = (1, 2, 4, 8, 16, 32)
N_BINS = 32

SHOWN = ("case", "outcome", "score", "percentile_among_normals", "p_value", "in_distribution", "model", "anomaly_ml",
         "flagged_percent", "components", "largest_ml", "brain_ml", "warnings")  # fmt: skip
HEADINGS = {
    "case": "Scan", "outcome": "Outcome", "score": "Score", "percentile_among_normals": "Above % of normals",
    "p_value": "p-value", "in_distribution": "As in training", "model": "Model", "anomaly_ml": "Flagged ml",
    "flagged_percent": "Flagged % of brain", "components": "Regions", "largest_ml": "Largest ml",
    "brain_ml": "Brain ml", "warnings": "Warnings",
}  # fmt: skip
OUTCOMES = {
    "anomaly": "flagged", "no_anomaly": "nothing flagged", "fit_failed": "no statement", None: "failed",
}  # fmt: skip
WORDS = {"outcome": OUTCOMES, "in_distribution": {"true": "yes", "false": "no", None: "–"}}
DECIMALS = {"score": 4, "percentile_among_normals": 0, "p_value": 3, "anomaly_ml": 1, "flagged_percent": 2,
            "components": 0, "largest_ml": 1, "brain_ml": 0}  # fmt: skip


@dataclass(frozen=True)
class Distribution:
    """Histogram of scores, ready to draw; places and heights are shares of the axis, 0 to 1.

    Attributes:
        bars: left, width and height of each bar of the cohort.
        normals: place of each normal score of the calibration.
        ticks: place and label.
        summary: the same in words.
    """

    bars: tuple[tuple[float, float, float], ...]
    normals: tuple[float, ...]
    ticks: tuple[tuple[float, str], ...]
    summary: str


def matching_normals(model: Model, rows: Sequence[Row]) -> list[float]:
    """Scores of the calibration's normal scans; empty without one for the model's weights and settings.

    Empty too where scans got several models: their scores have no common normal scans.
    """
    name = model.fixed_name
    if model.chooses:
        chosen = {row["model"] for row in rows if row["outcome"] is not None}
        if len(chosen) != 1 or not chosen.issubset(model.models.names):
            return []
        (name,) = chosen
    used = model.variant(name)
    calibration = None if used.calibration is None or used.caveats else used.applying_calibration()
    return [] if calibration is None else list(calibration.normal_scores)


def distribution(scores: Sequence[float], normals: Sequence[float]) -> Distribution | None:
    """Lay out scores beside those of normal scans on a square-root axis, on which small ones keep their room.

    Returns:
        ``None`` without any score.
    """
    if not scores:
        return None
    top = math.sqrt(max([*scores, *normals])) or 1.0
    counts, edges = np.histogram(np.sqrt(np.asarray(scores)) / top, bins=N_BINS, range=(0, 1))
    height = counts / counts.max()
    bars = tuple(
        (float(left), 1 / N_BINS, float(value)) for left, value in zip(edges[:-1], height, strict=True) if value
    )
    ticks = tuple((share, f"{(share * top) ** 2:.2g}") for share in (0, 0.25, 0.5, 0.75, 1))
    return Distribution(bars, tuple(math.sqrt(value) / top for value in normals), ticks, _summary(scores, normals))


def _summary(scores: Sequence[float], normals: Sequence[float]) -> str:
    text = f"{len(scores)} scans: median score {np.median(scores):.4f}, highest {max(scores):.4f}."
    if not normals:
        return f"{text} No calibration holds for all of these scans, so there is nothing to compare with."
    above = sum(score > max(normals) for score in scores)
    return (
        f"{text} {len(normals)} normal scans of the calibration: median {np.median(normals):.4f}, highest "
        f"{max(normals):.4f}; {above} of {len(scores)} scans score higher than that."
    )


def write_cohort_report(
    journal: Journal,
    *,
    title: str,
    rows: Sequence[Row] | None = None,
    normals: Sequence[float] = (),
    throughput: Throughput | None = None,
    left_out: Sequence[LeftOut] = (),
) -> Path:
    """Write ``index.html``, ``scans.tsv`` and ``scans.json`` about all scans of an output folder.

    The page holds all that it shows and asks for nothing from elsewhere; it links to the folders beside it.

    Args:
        journal: of the folder of the results.
        title: of the cohort.
        rows: of the journal, where they were collected before.
        normals: see :func:`matching_normals`.
        throughput: of the run that ends; ``None`` leaves the cost out.
        left_out: files and DICOM series that were no scans.

    Returns:
        The page.
    """
    output, rows = journal.path.parent, rows_of(journal) if rows is None else rows
    write_cohort_table(rows, output)
    counts = Counter(OUTCOMES[row["outcome"]] for row in rows)
    scored = [row["score"] for row in rows if row["outcome"] not in (None, "fit_failed") and row["score"] is not None]
    page = _template().render(
        title=title,
        research_use=RESEARCH_USE,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        total=len(rows),
        counts={name: counts[name] for name in OUTCOMES.values()},
        distribution=distribution(scored, normals),
        n_normals=len(normals),
        n_unlike=sum(row["in_distribution"] == "false" for row in rows),
        outliers=[_outlier(output, row) for row in rows if row["outcome"] in ("anomaly", "fit_failed")][:N_OUTLIERS],
        headings=[(HEADINGS[name], COLUMNS[name], name in DECIMALS) for name in SHOWN],
        rows=[_shown(output, row) for row in sorted(rows, key=_by_score) if row["outcome"] is not None],
        failures=[row for row in rows if row["outcome"] is None],
        left_out=left_out,
        left_out_lines=grouped(left_out, examples=20),
        cost=_cost(throughput),
        dictionary=COLUMNS,
    )
    write_atomically(page, output / "index.html")
    return output / "index.html"


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("itermask3d.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("cohort.html")


def _by_score(row: Row) -> float:
    return math.inf if row["score"] is None else -row["score"]


def _shown(output: Path, row: Row) -> dict[str, Any]:
    cells = []
    for name in SHOWN[1:]:
        value = row[name]
        text = WORDS[name][value] if name in WORDS else _text(value, DECIMALS.get(name))
        cells.append({"text": text, "value": "" if value is None else value, "number": name in DECIMALS})
    return {"case": row["case"], "link": _link(output, row), "outcome": row["outcome"], "cells": cells}


def _text(value: Any, decimals: int | None) -> str:
    if value is None:
        return "–"
    return str(value) if decimals is None else f"{value:.{decimals}f}"


def _link(output: Path, row: Row) -> str:
    """The scan's report, else its picture, else its folder."""
    folder = output / row["folder"]
    name = next((name for name in ("report.html", "overview.png") if (folder / name).exists()), "")
    return quote(f"{row['folder']}/{name}")


def _outlier(output: Path, row: Row) -> dict[str, Any]:
    return {
        **row,
        "verdict": OUTCOMES[row["outcome"]],
        "link": _link(output, row),
        "thumbnail": _thumbnail(output / row["folder"] / "overview.png"),
    }


def _thumbnail(picture: Path) -> str:
    """The axial row of a scan's picture as a data URI; empty where there is none."""
    try:
        with Image.open(picture) as opened:
            image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return ""
    width, height = image.size
    if image.size == PICTURE_SIZE:
        left, top, right, bottom = AXIAL_ROW
        image = image.crop((int(left * width), int(top * height), int(right * width), int(bottom * height)))
    image.thumbnail((THUMBNAIL_WIDTH, THUMBNAIL_WIDTH))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _cost(throughput: Throughput | None) -> dict[str, Any] | None:
    if throughput is None or not throughput.scans:
        return None
    return {
        "scans": throughput.scans,
        "took": duration(throughput.seconds),
        "workers": throughput.workers,
        "threads": throughput.threads,
        "rate": f"{throughput.scans_per_hour:.1f}",
        "each": duration(throughput.worker_seconds),
        "target": f"{COST_SCANS:,}",
        "table": [(n, duration(3600 * throughput.hours(COST_SCANS, n))) for n in COST_WORKERS],
    }
