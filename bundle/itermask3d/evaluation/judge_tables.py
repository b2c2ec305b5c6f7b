"""The judge's tables: one row for each method, site and class; each site apart, then all pooled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from itermask3d.evaluation.by_size import (
    MIN_IOU,
    SIZE_CLASSES,
    ScanRecord,
    SizeMetrics,
    bootstrap_mean,
    by_size,
    false_positives,
    metrics_of,
    size_class,
)
from itermask3d.evaluation.judge import NORMAL, POOLED, Judgement, Ranking
from itermask3d.evaluation.text import Table

__all__ = ["judge_tables"]

_WAYS = (
    "A method alone is its own mask; “matched” is a threshold on its map at which no more than the level of the "
    "calibration scans holds a region of the volume named. "
)
_LESIONS = (
    f"A lesion is found when the regions that touch it have an intersection over union with it of {MIN_IOU:g} or more; "
    "any other region is false, and counts in the class of its own volume. Dice: mean over scans, by the volume of all "
    "their lesions. Intervals: 95 %, bootstrap over subjects for Dice and F1, Wilson for recall and precision. "
)
_SEMI = "Lesions are simulated, in real scans. "

_METRICS = {
    "n": "Scans",
    "dice": "Dice",
    "lesions": "Lesions",
    "recall": "Recall",
    "false_regions": "False regions",
    "precision": "Precision",
    "f1": "F1",
}


def judge_tables(judgements: Sequence[Judgement]) -> list[Table]:
    """All tables of some methods that were judged on the same cases."""
    records = [record for part in judgements for record in part.records]
    rankings = [ranking for part in judgements for ranking in part.rankings]
    return [_size_table(records), _kind_table(records), _normal_table(judgements), _ranking_table(rankings)]


def _size_table(records: Sequence[ScanRecord]) -> Table:
    rows = []
    for way in _ways(records):
        for site in _sites(records):
            found = by_size(_at(records, way, site))
            rows += [
                {"method": way, "site": site, "size": name} | _cells(found[name])
                for name in (*SIZE_CLASSES, "all")
                if found[name].scans or found[name].lesions
            ]
    columns = {"method": "Method", "site": "Site", "size": "Volume"} | _METRICS
    return Table("sizes", "Lesions by size", _SEMI + _WAYS + _LESIONS, columns, rows)


def _kind_table(records: Sequence[ScanRecord]) -> Table:
    rows = []
    for way in _ways(records):
        for site in _sites(records):
            chosen = _at(records, way, site)
            for kind in sorted({record.kind for record in chosen} - {NORMAL}):
                metrics = metrics_of([record for record in chosen if record.kind == kind])
                rows.append({"method": way, "site": site, "kind": kind} | _cells(metrics))
    columns = {"method": "Method", "site": "Site", "kind": "Simulator and kind"} | _METRICS
    return Table("kinds", "Lesions by simulator and kind", _SEMI + _WAYS + _LESIONS, columns, rows)


def _normal_table(judgements: Sequence[Judgement]) -> Table:
    rows = []
    for part in judgements:
        for way, sites in part.alarms.items():
            matched = part.thresholds.get(way)
            for site, alarms in sites.items():
                flagged = false_positives(_at(part.records, way, site))
                row: dict[str, Any] = {"method": way, "site": site, "n": alarms.total, "flagged": alarms.flagged}
                row |= {"rate": alarms.rate, "false_ml": flagged}
                if matched is not None:
                    row |= {"level": matched.level, "expected": matched.expected, "calibration": matched.total}
                    row["threshold"] = matched.threshold
                rows.append(row)
    columns = {
        "method": "Method",
        "site": "Site",
        "n": "Normal scans",
        "flagged": "Flagged",
        "rate": "Rate of false alarms",
        "false_ml": "Flagged per scan, ml",
        "level": "Level",
        "expected": "Bound for one's own site",
        "calibration": "Calibration scans",
        "threshold": "Threshold",
    }
    note = (
        _WAYS + "Intervals: 95 %, Wilson for the rate, bootstrap for the volume. The level is kept on the calibration "
        "scans; the bound is that of the mean rate on further scans of the same kind, which other sites are not."
    )
    return Table("normal", "Normal scans", note, columns, rows)


def _ranking_table(rankings: Sequence[Ranking]) -> Table:
    rows = []
    for method in dict.fromkeys(one.method for one in rankings):
        for site in _sites(rankings):
            here = [one for one in rankings if one.method == method and site in (POOLED, one.site)]
            for simulator in sorted({_simulator(one.kind) for one in here}):
                chosen = [one for one in here if _simulator(one.kind) == simulator]
                row = {"method": method, "site": site, "group": simulator}
                rows.append(row | _ranking_cells(chosen, pooled=site == POOLED))
            for name in SIZE_CLASSES:
                chosen = [one for one in here if size_class(one.label_ml) == name]
                if chosen:
                    row = {"method": method, "site": site, "group": name}
                    rows.append(row | _ranking_cells(chosen, pooled=site == POOLED))
    columns = {"method": "Method", "site": "Site", "group": "Simulator or volume", "n": "Scans"}
    columns |= {"aupimo": "AUPIMO", "average_precision": "Average precision", "reconstructed_share": "Reconstructed"}
    note = (
        _SEMI + "AUPIMO: recall of a scan's lesion, averaged over the logarithm of the share of normal brain flagged, "
        "from 1 in 100,000 to 1 in 10,000. Average precision is by chance the lesion's share of the brain. "
        "Reconstructed: the share of the lesion's change that the last reconstruction repeats. Means over scans, with "
        "a bootstrap over subjects."
    )
    return Table("ranking", "Without a threshold", note, columns, rows)


def _ranking_cells(chosen: Sequence[Ranking], *, pooled: bool) -> dict[str, Any]:
    subjects = [one.subject for one in chosen]
    area = "aupimo_pooled" if pooled else "aupimo"
    names = {"aupimo": area, "average_precision": "average_precision", "reconstructed_share": "reconstructed_share"}
    metrics = {key: bootstrap_mean([getattr(one, name) for one in chosen], subjects) for key, name in names.items()}
    return {"n": len(chosen), **metrics}


def _cells(metrics: SizeMetrics) -> dict[str, Any]:
    kept = ("dice", "lesions", "recall", "false_regions", "precision", "f1")
    return {"n": metrics.scans} | {name: getattr(metrics, name) for name in kept}


def _simulator(kind: str) -> str:
    return kind.partition(":")[0]


def _ways(records: Iterable[ScanRecord]) -> list[str]:
    return list(dict.fromkeys(record.method for record in records))


def _sites(records: Iterable[ScanRecord | Ranking]) -> list[str]:
    sites = list(dict.fromkeys(record.site for record in records))
    return [*sites, POOLED] if len(sites) > 1 else sites


def _at(records: Sequence[ScanRecord], way: str, site: str) -> list[ScanRecord]:
    return [record for record in records if record.method == way and site in (POOLED, record.site)]
