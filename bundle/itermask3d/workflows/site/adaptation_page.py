"""Measured adaptations as a page of tables: each site before and after, with as many local scans as were tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from itermask3d.evaluation.text import Table, to_markdown
from itermask3d.inference.calibration import conformal_p_value, false_alarm_interval
from itermask3d.inference.results import RESEARCH_USE

__all__ = ["measured_page"]

LEVEL = 0.05

ABOUT = (
    "Written by `scripts/measure_adaptation.py`. Virtual scanners show IXI subjects: those of the calibration and "
    "validation subsets are adapted with, test subjects are reported. Real sites likewise by the bundle's split. No "
    "reported scan took part in training, adaptation or any choice. Lesions are simulated. A seed draws the local "
    "scans and the training; with few scans and seeds the statistics are coarse."
)


def measured_page(content: Mapping[str, Any]) -> str:
    """Markdown with a table of normal scans, one of false alarms and one of lesions, as far as they were measured.

    Args:
        content: of ``adaptation.json``.
    """
    rows = content["rows"]
    tables = [_normals(rows), _alarms(rows), _lesions(rows), _home(rows)]
    told = "\n".join(to_markdown(table) for table in tables if table.rows)
    return f"# Adaptation, measured\n\n{RESEARCH_USE}\n\n{ABOUT}\n\n{told}"


def _place(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"site": row["site"], "number": row["number"], "seed": row["seed"]}


PLACE = {"site": "site", "number": "local scans", "seed": "seed"}


def _volumes(scores: Mapping[str, Mapping[str, float]]) -> np.ndarray:
    return np.array([one["flagged_ml"] for one in scores.values()])


def _statistics(name: str, scores: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    volumes = _volumes(scores)
    return {
        f"median_{name}": f"{np.median(volumes):.2f}",
        f"p90_{name}": f"{np.percentile(volumes, 90):.2f}",
        f"score_{name}": f"{np.median([one['score'] for one in scores.values()]):.3f}",
    }


def _normals(rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = [
        {
            **_place(row),
            "scans": len(row["after"]),
            **_statistics("before", row["before"]),
            **_statistics("after", row["after"]),
        }
        for row in rows
        if "after" in row
    ]
    columns = {**PLACE, "scans": "reported scans"}
    for state in ("before", "after"):
        columns |= {
            f"median_{state}": f"flagged ml, median, {state}",
            f"p90_{state}": f"90th percentile, {state}",
            f"score_{state}": f"median score, {state}",
        }
    return Table("normals", "Normal scans of the site", "Less is better.", columns, shown)


def _alarms(rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = []
    for row in rows:
        if "calibration" not in row:
            continue
        normal = [one["score"] for one in row["calibration"].values()]
        flagged = sum(conformal_p_value(one["score"], normal) <= LEVEL + 1e-12 for one in row["after"].values())
        low, high = false_alarm_interval(flagged, len(row["after"]))
        shown.append(
            {
                **_place(row),
                "scores": len(normal),
                "flagged": f"{flagged} of {len(row['after'])}",
                "interval": f"{100 * low:.0f} to {100 * high:.0f} %",
            }
        )
    columns = {**PLACE, "scores": "calibration scores", "flagged": "flagged at 5 %", "interval": "95 % interval"}
    note = "Reported normal scans with a p-value of at most 5 % among the cross-fitted scores."
    return Table("alarms", "Realised false alarms", note, columns, shown)


def _lesions(rows: Sequence[Mapping[str, Any]]) -> Table:
    kinds = ("dice_before", "dice_after", "dice_matched_before", "dice_matched_after")
    shown = []
    for row in rows:
        cases = list(row.get("lesions", {}).values())
        if cases:
            means = {kind: [case[kind] for case in cases if kind in case] for kind in kinds}
            told = {kind: f"{np.mean(values):.3f}" if values else None for kind, values in means.items()}
            shown.append({**_place(row), "cases": len(cases), **told})
    columns = {
        **PLACE,
        "cases": "lesions",
        "dice_before": "Dice before",
        "dice_after": "Dice after",
        "dice_matched_before": "matched, before",
        "dice_matched_after": "matched, after",
    }
    note = "Matched: a threshold at which at most 5 % of the local normal scans hold a region of the smallest volume."
    return Table("lesions", "Simulated lesions", note, columns, shown)


def _home(rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = [
        {**_place(row), **_statistics("before", row["home_before"]), **_statistics("after", row["home_after"])}
        for row in rows
        if "home_after" in row
    ]
    columns = dict(PLACE)
    for state in ("before", "after"):
        columns |= {f"median_{state}": f"flagged ml, median, {state}", f"score_{state}": f"median score, {state}"}
    note = "IXI test scans as they are, by the shipped weights and by the adapted ones: what was forgotten."
    return Table("home", "The training site", note, columns, shown)
