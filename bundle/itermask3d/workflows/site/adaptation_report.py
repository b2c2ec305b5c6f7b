"""What an adaptation came to, on one page: every scan before and after it, and what the statistics promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from itermask3d.evaluation.page import evaluation_page
from itermask3d.evaluation.text import Table
from itermask3d.inference.calibration import attainable_level, false_alarm_range
from itermask3d.workflows.site.data_check import Finding
from itermask3d.workflows.site.normal_scans import ScanScore, flagged_table

__all__ = ["adaptation_page"]

LEVEL = 0.05
NOTE = "After: each scan by a network that was adapted without it."


def adaptation_page(
    *,
    before: Mapping[str, ScanScore],
    after: Mapping[str, ScanScore],
    findings: Sequence[Finding],
    excluded: Mapping[str, str],
    facts: Mapping[str, Any],
) -> str:
    """The report as one HTML file.

    Args:
        before: by the model as it was.
        after: by networks adapted without the scan.
        findings, excluded: of the checks.
        facts: command, recipe and versions by name.
    """
    tables = [
        flagged_table({"before": before.values(), "after": after.values()}, title="Before and after", note=NOTE),
        _false_alarm_table(sum(one.usable for one in after.values())),
        _scan_table(before, after),
        _listed("findings", "What the checks found", [(one.level.value, one.sentence) for one in findings]),
        _listed("excluded", "Left out", list(excluded.items())),
    ]
    return evaluation_page("Adapted to a site", [table for table in tables if table.rows], [], facts=facts)


def _false_alarm_table(n_scores: int) -> Table:
    low, high = false_alarm_range(n_scores, level=LEVEL)
    rows = [
        {
            "scores": n_scores,
            "least": f"1/{n_scores + 1} = {attainable_level(n_scores):.3f}",
            "range": f"{100 * low:.1f} to {100 * high:.1f} %" if high > 0 else "nothing can be flagged at 5 %",
        }
    ]
    columns = {
        "scores": "calibration scores",
        "least": "smallest p-value",
        "range": "false alarms of one calibration at a nominal 5 % (95 % of calibrations)",
    }
    note = (
        "The range would hold if the scores were exchangeable with those of later normal scans. Cross-fitted ones are "
        "so nearly: see the how-to. The realised rate can only be measured on further normal scans of the site."
    )
    return Table("false_alarms", "What a p-value can promise", note, columns, rows)


def _scan_table(before: Mapping[str, ScanScore], after: Mapping[str, ScanScore]) -> Table:
    rows = [
        {
            "case": case,
            "ml_before": round(before[case].flagged_ml, 2),
            "ml_after": round(after[case].flagged_ml, 2),
            "score_before": round(before[case].score, 3),
            "score_after": round(after[case].score, 3),
        }
        for case in sorted(after, key=lambda case: -after[case].score)
    ]
    columns = {
        "case": "scan",
        "ml_before": "flagged before (ml)",
        "ml_after": "flagged after (ml)",
        "score_before": "score before",
        "score_after": "score after",
    }
    note = "Highest score first. A normal scan with a high score is worth a look: it enters the calibration as normal."
    return Table("scans", "Every scan", note, columns, rows)


def _listed(name: str, title: str, pairs: Sequence[tuple[str, str]]) -> Table:
    rows = [{"what": what, "told": told} for what, told in pairs]
    return Table(name, title, "", {"what": "", "told": "what was seen"}, rows)
