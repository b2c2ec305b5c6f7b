"""The tables of an evaluation that are about whole scans: which are told from normal ones, and which are flagged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from itermask3d.evaluation.cases import (
    EVIDENCE,
    MethodResults,
    artefact_of,
    groups_of,
    is_pooled,
    mean_of,
    median_of,
    normals_of,
)
from itermask3d.evaluation.discrimination import Estimate, scan_discrimination
from itermask3d.evaluation.rows import NORMAL
from itermask3d.evaluation.text import Table
from itermask3d.inference.calibration import attainable_level, false_alarm_interval, false_alarm_range

__all__ = ["artefact_matrix", "artefact_table", "detection_table", "score_table", "specificity_table"]

RATES = {f"fpr_at_tpr_{rate}": f"FPR at {rate} % TPR" for rate in (80, 90, 95)}
N_RESAMPLES = 1000

SCORES = {
    "score": "extent and strength",
    "flagged_share": "extent alone",
    "mean_error": "mean error of the brain",
    "error_p99": "99th percentile of the error",
}
"""Metrics that can rank scans, by their column; the first is the method's own."""

_DETECTION_COLUMNS = {"auroc": "AUROC", "ap": "AP", **RATES, "flagged": "Flagged at the level", "level": "Level"}

_INTERVALS = (
    "Intervals: 95 %; bootstrap over subjects, each drawn with all its scans, and Clopper and Pearson for what is "
    "flagged."
)

_EVIDENCE_NOTE = (
    "The domain distance says how far the worst of the domain check's metrics lies outside its range; it needs no mask "
    "and is the same for all methods. Both: the smaller of the two p-values, doubled. "
)


def detection_table(methods: Sequence[MethodResults], *, level: float) -> Table:
    """How well scores tell the scans of each group from the normal ones."""
    groups = groups_of(methods, lambda row: row["group"] not in (NORMAL, "unlabelled") and is_pooled(row["group"]))
    rows = [_detection_row(method, group, level) for group in groups for method in methods]
    return Table(
        "detection",
        "Detection of scans",
        "Each group against the normal scans of the list, by each method's scan-level score. AP depends on the share "
        "of abnormal scans and is no metric to compare between groups. " + _flag_note(methods, level) + _INTERVALS,
        {"method": "Method", "group": "Group", "n": "Scans", "n_normal": "Normal scans", **_DETECTION_COLUMNS},
        [row for row in rows if row],
    )


def artefact_matrix(methods: Sequence[MethodResults]) -> Table:
    """AUROC of the first method alone: a row per artefact, a column per severity and kind of evidence."""
    method = next(iter(methods), None)
    groups = groups_of(methods[:1], lambda row: artefact_of(row["group"]) is not None)
    artefacts = [artefact for group in groups if (artefact := artefact_of(group))]
    severities, names = (
        sorted({artefact.severity for artefact in artefacts}),
        sorted({artefact.name for artefact in artefacts}),
    )
    kinds = [kind for kind in EVIDENCE if method and any(method.ranks_by(row, kind) is not None for row in method.rows)]
    rows = [
        {"artefact": name}
        | {
            f"{kind}_{severity}": None if method is None else _auroc(method, f"artefact:{name}:{severity}", kind)
            for severity in severities
            for kind in kinds
        }
        for name in names
    ]
    columns = {f"{kind}_{severity}": f"{severity}: {EVIDENCE[kind]}" for severity in severities for kind in kinds}
    return Table(
        "artefact_matrix",
        "Artefacts by severity, at a glance",
        f"AUROC of {method.name if method else 'the first method'} for scans with a simulated artefact against the "
        "normal ones; the number before the colon is the severity, 1 to 5. " + _EVIDENCE_NOTE,
        {"artefact": "Artefact", **columns},
        rows,
    )


def _auroc(method: MethodResults, group: str, kind: str) -> float | None:
    chosen = [row for row in method.rows if row["group"] == group]
    metrics = _discriminate(normals_of(method), chosen, lambda row: method.ranks_by(row, kind))
    return metrics["auroc"].value if metrics else None


def artefact_table(methods: Sequence[MethodResults], *, level: float) -> Table:
    """Detection of simulated artefacts: a row per artefact, severity and method; for the first one each evidence."""
    rows = []
    for group in groups_of(methods, lambda row: artefact_of(row["group"]) is not None):
        artefact = artefact_of(group)
        for method in methods:
            for kind in EVIDENCE if method is methods[0] else ("score",):
                row = _detection_row(method, group, level, kind)
                if row and artefact:
                    local = [row for row in method.rows if row["group"] == group and row.get("label_ml")]
                    dice = mean_of(local, "dice") if kind == "score" else None
                    rows.append({**row, "artefact": artefact.name, "severity": artefact.severity, "dice": dice})
    rows.sort(key=lambda row: (row["artefact"], row["severity"]))
    columns = {"artefact": "Artefact", "severity": "Severity", "method": "Method", "evidence": "By", "n": "Scans"}
    columns |= {"n_normal": "Normal scans", "auroc": "AUROC", "flagged": "Flagged at the level", "level": "Level"}
    return Table(
        "artefacts",
        "Detection of simulated acquisition artefacts",
        "Scans with an artefact against the normal ones. " + _EVIDENCE_NOTE + _flag_note(methods, level, both=True)
        + "Dice where the artefact has a place of its own. " + _INTERVALS,
        {**columns, "dice": "Dice, mean"},
        rows,
    )  # fmt: skip


def specificity_table(methods: Sequence[MethodResults], *, level: float) -> Table:
    """What is flagged on normal scans, against the nominal rate."""
    rows = []
    for method in methods:
        normals = normals_of(method)
        for kind in EVIDENCE if method is methods[0] else ("score",):
            row = _specificity_row(method, normals, level, kind)
            if row:
                rows.append(row)
    columns = {
        "method": "Method",
        "evidence": "By",
        "n": "Normal scans",
        "n_calibration": "Calibration scans",
        "flagged": "Share flagged",
        "level": "Level",
        "agrees": "Level within the interval",
        "expected": "Where one calibration's rate lies",
        "any_voxel": "Share with any voxel flagged",
        "brain_median": "Brain flagged, median",
        "brain_max": "Brain flagged, largest",
    }
    return Table(
        "specificity",
        "Specificity on held-out normal scans",
        _flag_note(methods, level, both=True)
        + "Interval of the share: Clopper and Pearson, 95 %. A single calibration may have a rate well away from the "
        "level: 95 % of calibrations with so many scans lie in the range given.",
        columns,
        rows,
    )


def _specificity_row(
    method: MethodResults, normals: Sequence[Mapping[str, Any]], nominal: float, kind: str
) -> dict[str, Any] | None:
    level = method.level(nominal, kind)
    if not normals or (level is None and kind != "score"):
        return None
    n_calibration = len(method.normal_scores("score" if kind == "score" else "domain_distance"))
    row = {"method": method.name, "evidence": EVIDENCE[kind], "n": len(normals), "n_calibration": n_calibration}
    if kind == "score":
        row |= {
            "any_voxel": sum(bool(row["flagged_ml"]) for row in normals) / len(normals),
            "brain_median": median_of(normals, "flagged_share"),
            "brain_max": max((row["flagged_share"] or 0.0 for row in normals), default=None),
        }
    if level is None:
        return row
    flagged = sum(method.is_flagged(one, nominal, kind) for one in normals)
    low, high = false_alarm_interval(flagged, len(normals))
    row |= {"flagged": Estimate(flagged / len(normals), low, high), "level": level}
    row["agrees"] = "yes" if low <= level <= high else "no"
    if kind != "both":  # of two calibrations at once no such range is known
        expected = false_alarm_range(n_calibration, level=level)
        row["expected"] = f"{expected[0]:.3f} to {expected[1]:.3f}"
    return row


def _flag_note(methods: Sequence[MethodResults], nominal: float, *, both: bool = False) -> str:
    """At which rate of false alarms scans are flagged, in words."""
    counts = sorted({len(method.normal_scores()) for method in methods} - {0})
    if not counts:
        return "Without calibration scans nothing can be flagged at a level. "
    kinds = EVIDENCE if both else ("score",)
    levels = {method.level(nominal, kind) for method in methods for kind in kinds} - {None, nominal}
    rate = f"A scan is flagged when its p-value among the calibration scans is at most the level, {100 * nominal:g} %"
    if not levels:
        return f"{rate}. "
    few = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    smallest = attainable_level(counts[0])
    twice = f", and {200 * smallest:.3g} % for both together" if both else ""
    return (
        f"{rate}; so low a rate cannot be had everywhere from {few} calibration scans, and there the level is the "
        f"smallest that can: {100 * smallest:.3g} %{twice}. "
    )


def _discriminate(
    normals: Sequence[Mapping[str, Any]],
    chosen: Sequence[Mapping[str, Any]],
    rank: Callable[[Mapping[str, Any]], float | None],
) -> dict[str, Estimate]:
    """Metrics of scans against the normal ones, each subject drawn with all its scans; no rank, no part in it."""
    values: list[list[float]] = [[], []]
    subjects: list[list[str]] = [[], []]
    for side, rows in enumerate((normals, chosen)):
        for row in rows:
            value = rank(row)
            if value is not None and math.isfinite(value):
                values[side].append(value)
                subjects[side].append(str(row["subject"]))
    return scan_discrimination(
        *values, normal_subjects=subjects[0], abnormal_subjects=subjects[1], n_resamples=N_RESAMPLES
    )


def _detection_row(method: MethodResults, group: str, nominal: float, kind: str = "score") -> dict[str, Any] | None:
    normals, chosen = normals_of(method), [row for row in method.rows if row["group"] == group]
    metrics = _discriminate(normals, chosen, lambda row: method.ranks_by(row, kind))
    if not metrics:
        return None
    row: dict[str, Any] = {"method": method.name, "group": group, "evidence": EVIDENCE[kind]}
    row |= {"n": len(chosen), "n_normal": len(normals), **metrics}
    level = method.level(nominal, kind)
    if level is not None:
        flagged = sum(method.is_flagged(one, nominal, kind) for one in chosen)
        row |= {"flagged": Estimate(flagged / len(chosen), *false_alarm_interval(flagged, len(chosen))), "level": level}
    return row


def score_table(methods: Sequence[MethodResults]) -> Table:
    """The scan-level score against simpler ones from the same results."""
    rows = []
    for method in methods:
        normals = normals_of(method)
        abnormal = [row for row in method.rows if row["group"] not in (NORMAL, "unlabelled")]
        kinds = {
            "lesions": [row for row in abnormal if is_pooled(row["group"])],
            "artefacts": [row for row in abnormal if artefact_of(row["group"])],
        }
        for score, title in SCORES.items():
            metrics = {
                kind: _discriminate(normals, chosen, itemgetter(score)).get("auroc") for kind, chosen in kinds.items()
            }
            if any(metrics.values()):
                rows.append({"method": method.name, "score": title, **metrics})
    return Table(
        "scores",
        "Which metric should rank scans",
        "AUROC of other scores taken from the same results; the first of each method is the one in use.",
        {"method": "Method", "score": "Score", "lesions": "AUROC, lesions", "artefacts": "AUROC, all artefacts"},
        rows,
    )
