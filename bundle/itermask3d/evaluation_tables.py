"""The tables of an evaluation: several methods side by side, own thresholds first, every figure with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from itermask3d.calibration import false_alarm_interval, false_alarm_range
from itermask3d.discrimination import Figure, scan_discrimination
from itermask3d.evaluation import NORMAL
from itermask3d.evaluation_cases import MethodResults, fault_of, is_flagged
from itermask3d.evaluation_text import Table

__all__ = ["all_tables", "bootstrap_mean", "paired_difference"]

SCORES = {
    "score": "extent and strength",
    "flagged_share": "extent alone",
    "mean_error": "mean error of the brain",
    "error_p99": "99th percentile of the error",
}
"""Figures that can rank scans, by their column; the first is the method's own."""

RATES = {f"fpr_at_tpr_{rate}": f"FPR at {rate} % TPR" for rate in (80, 90, 95)}
N_RESAMPLES = 1000

REAL = "real"
"""Group of the real cases."""


def all_tables(methods: Sequence[MethodResults], *, level: float) -> list[Table]:
    """Every table that has a row; the first method is the one that others are compared with.

    Args:
        methods: over the same scans.
        level: nominal rate of false alarms at which scans are flagged.
    """
    tables = [
        segmentation_table(methods),
        paired_table(methods),
        detection_table(methods, level=level),
        specificity_table(methods, level=level),
        fault_table(methods, level=level),
        reconstruction_table(methods),
        score_table(methods),
        real_table(methods, level=level),
        failure_table(methods),
    ]
    return [table for table in tables if table.rows]


def segmentation_table(methods: Sequence[MethodResults]) -> Table:
    """Every method's own mask against the label, by group; the oracle stands last and under its name."""
    means = {
        "sensitivity": "Sensitivity",
        "precision": "Precision",
        "surface_dice": "Surface Dice (2 mm)",
        "lesion_f1": "Lesion F1",
        "voxel_auroc": "Voxel AUROC",
        "voxel_ap": "Voxel AP",
    }
    medians = {"hd95_mm": "HD95, mm", "assd_mm": "ASSD, mm", "volume_difference_share": "Volume difference, share"}
    columns = {"method": "Method", "group": "Group", "n": "Scans", "dice": "Dice, mean", "dice_median": "Dice, median"}
    columns |= means | medians | {"oracle_dice": "oracle: Dice, mean"}
    rows = []
    for group in _groups(methods, lambda row: bool(row.get("label_ml")) and _is_pooled(row["group"])):
        for method in methods:
            chosen = [row for row in method.rows if row["group"] == group and row.get("label_ml")]
            if chosen:
                rows.append(
                    {"method": method.name, "group": group, "n": len(chosen), "dice": bootstrap_mean(chosen, "dice")}
                    | {"dice_median": _median(chosen, "dice")}
                    | {name: _mean(chosen, name) for name in means}
                    | {name: _median(chosen, name) for name in medians}
                    | {"oracle_dice": _mean(chosen, "oracle_dice")}
                )
    return Table(
        "segmentation",
        "Segmentation at each method's own threshold",
        "Scans with a lesion. A method that finds nothing has Dice 0 and an infinite distance, which the median "
        "counts; an empty mask has no precision and is left out of that mean. The last column is an oracle: its "
        "threshold is chosen on the ground truth, scan by scan, so it is a bound and no result. Intervals: 95 %, "
        "bootstrap over subjects.",
        columns,
        rows,
    )


def paired_table(methods: Sequence[MethodResults]) -> Table:
    """Dice of every other method less that of the first, on the same scans."""
    rows = []
    for method in methods[1:]:
        pairs = _pairs(methods[0], method, "dice")
        if pairs:
            differences = np.array([difference for _, difference in pairs])
            rows.append(
                {
                    "method": method.name,
                    "n": len(pairs),
                    "difference": paired_difference(pairs),
                    "better": int((differences > 0).sum()),
                    "equal": int((differences == 0).sum()),
                    "worse": int((differences < 0).sum()),
                }
            )
    columns = {
        "method": "Method",
        "n": "Scans",
        "difference": "Dice less that of the first",
        "better": "Better on",
        "equal": "Equal on",
        "worse": "Worse on",
    }
    return Table(
        "paired",
        f"Compared with {methods[0].name if methods else 'the first method'}, scan by scan",
        "Mean difference of Dice over scans with a lesion that both methods have done; above 0 the method of the row "
        "is better. Where the interval (95 %, bootstrap over subjects) holds 0, these scans do not tell them apart.",
        columns,
        rows,
    )


def detection_table(methods: Sequence[MethodResults], *, level: float) -> Table:
    """How well scores tell the scans of each group from the normal ones."""
    groups = _groups(methods, lambda row: row["group"] not in (NORMAL, "unlabelled") and _is_pooled(row["group"]))
    rows = [_detection_row(method, group, level) for group in groups for method in methods]
    return Table(
        "detection",
        "Detection of scans",
        _DETECTION_NOTE.format(level=100 * level),
        {"method": "Method", "group": "Group", **_DETECTION_COLUMNS},
        [row for row in rows if row],
    )


def fault_table(methods: Sequence[MethodResults], *, level: float) -> Table:
    """The same for simulated faults: a row a fault and severity."""
    rows = []
    for group in _groups(methods, lambda row: fault_of(row["group"]) is not None):
        fault = fault_of(group)
        for method in methods:
            row = _detection_row(method, group, level)
            if row and fault:
                local = [row for row in method.rows if row["group"] == group and row.get("label_ml")]
                rows.append({**row, "fault": fault.name, "severity": fault.severity, "dice": _mean(local, "dice")})
    rows.sort(key=lambda row: (row["fault"], row["severity"]))
    return Table(
        "faults",
        "Detection of simulated acquisition faults",
        _DETECTION_NOTE.format(level=100 * level) + " Dice where the fault has a place of its own.",
        {"fault": "Fault", "severity": "Severity", "method": "Method", **_DETECTION_COLUMNS, "dice": "Dice, mean"},
        rows,
    )


def specificity_table(methods: Sequence[MethodResults], *, level: float) -> Table:
    """What is flagged on normal scans, against the nominal rate."""
    rows = []
    for method in methods:
        normals = _normals(method)
        if not normals:
            continue
        above = method.flags_above(level)
        row: dict[str, Any] = {
            "method": method.name,
            "n": len(normals),
            "n_calibration": len(method.calibration),
            "nominal": level,
            "any_voxel": sum(bool(row["flagged_ml"]) for row in normals) / len(normals),
            "brain_median": _median(normals, "flagged_share"),
            "brain_max": max((row["flagged_share"] or 0.0 for row in normals), default=None),
        }
        if above is not None:
            flagged = sum(is_flagged(row, above) for row in normals)
            low, high = false_alarm_interval(flagged, len(normals))
            expected = false_alarm_range(len(method.calibration), level=level)
            row |= {
                "flagged": Figure(flagged / len(normals), low, high),
                "agrees": "yes" if low <= level <= high else "no",
            }
            row["expected"] = f"{expected[0]:.3f} to {expected[1]:.3f}"
        rows.append(row)
    columns = {
        "method": "Method",
        "n": "Normal scans",
        "n_calibration": "Calibration scans",
        "flagged": "Share flagged",
        "nominal": "Nominal",
        "agrees": "Nominal within the interval",
        "expected": "Where one calibration's rate lies",
        "any_voxel": "Share with any voxel flagged",
        "brain_median": "Brain flagged, median",
        "brain_max": "Brain flagged, largest",
    }
    return Table(
        "specificity",
        "Specificity on held-out normal scans",
        "A scan is flagged when its score exceeds the calibrated one. Interval: Clopper and Pearson, 95 %. A single "
        "calibration may have a rate well away from the nominal one: 95 % of calibrations with so many scans lie in "
        "the range given. With too few calibration scans for the level no scan can be flagged; the cells are empty.",
        columns,
        rows,
    )


def reconstruction_table(methods: Sequence[MethodResults]) -> Table:
    """How well normal tissue is reconstructed."""
    rows = []
    for group in _groups(methods, lambda row: row.get("psnr_db") is not None and _is_pooled(row["group"])):
        for method in methods:
            chosen = [row for row in method.rows if row["group"] == group and row.get("psnr_db") is not None]
            if chosen:
                figures = {name: bootstrap_mean(chosen, name) for name in ("psnr_db", "ssim")}
                rows.append({"method": method.name, "group": group, "n": len(chosen)} | figures)
    return Table(
        "reconstruction",
        "Reconstruction of normal tissue",
        "Mean PSNR (peak 10, the range of a normalised scan) and SSIM over the brain outside the label, of the last "
        "reconstruction. A method that shows the network more of the scan does better without finding more: read this "
        "beside the segmentation.",
        {"method": "Method", "group": "Group", "n": "Scans", "psnr_db": "PSNR, dB", "ssim": "SSIM"},
        rows,
    )


def score_table(methods: Sequence[MethodResults]) -> Table:
    """The scan-level score against simpler ones from the same results."""
    rows = []
    for method in methods:
        normals = _normals(method)
        abnormal = [row for row in method.rows if row["group"] not in (NORMAL, "unlabelled")]
        kinds = {
            "lesions": [row for row in abnormal if _is_pooled(row["group"])],
            "faults": [row for row in abnormal if fault_of(row["group"])],
        }
        for score, title in SCORES.items():
            figures = {
                kind: scan_discrimination(_finite(normals, score), _finite(chosen, score)).get("auroc")
                for kind, chosen in kinds.items()
            }
            if any(figures.values()):
                rows.append({"method": method.name, "score": title, **figures})
    return Table(
        "scores",
        "Which figure should rank scans",
        "AUROC of other scores taken from the same results; the first of each method is the one in use.",
        {"method": "Method", "score": "Score", "lesions": "AUROC, lesions", "faults": "AUROC, all faults"},
        rows,
    )


def real_table(methods: Sequence[MethodResults], *, level: float) -> Table:
    """The real cases, one by one."""
    rows = []
    for case in dict.fromkeys(row["case"] for method in methods for row in method.rows if row["group"] == REAL):
        for method in methods:
            above = method.flags_above(level)
            for row in (row for row in method.rows if row["case"] == case):
                names = ("label_ml", "flagged_ml", "dice", "sensitivity", "precision", "oracle_dice", "score")
                flagged = None if above is None else ("yes" if is_flagged(row, above) else "no")
                rows.append({"case": case, "method": method.name, **{name: row.get(name) for name in names}})
                rows[-1]["flagged"] = flagged
    columns = {
        "case": "Case",
        "method": "Method",
        "label_ml": "Label, ml",
        "flagged_ml": "Flagged, ml",
        "dice": "Dice",
        "sensitivity": "Sensitivity",
        "precision": "Precision",
        "score": "Score",
        "flagged": "Scan flagged",
        "oracle_dice": "oracle: Dice",
    }
    return Table("real", "Real cases, one by one", "Few cases: each is shown, and no mean is taken.", columns, rows)


def failure_table(methods: Sequence[MethodResults]) -> Table:
    """Scans without a result."""
    rows = [
        {"method": method.name, "case": case, "reason": reason}
        for method in methods
        for case, reason in method.failures.items()
    ]
    columns = {"method": "Method", "case": "Case", "reason": "Why"}
    return Table("failures", "Scans without a result", "They enter no other table.", columns, rows)


def bootstrap_mean(rows: Sequence[Mapping[str, Any]], column: str) -> Figure | None:
    """Mean of a column's finite values, with a 95 % interval from resampling subjects; ``None`` without any."""
    pairs = [(row["subject"], float(row[column])) for row in rows if row.get(column) is not None]
    return paired_difference([pair for pair in pairs if math.isfinite(pair[1])])


def paired_difference(pairs: Sequence[tuple[str, float]], *, seed: int = 0) -> Figure | None:
    """Mean of values that belong to subjects, with the percentile interval of a bootstrap over subjects.

    Args:
        pairs: subject and value; a subject may have several, and is drawn with all of them.
        seed: of the bootstrap.

    Returns:
        ``None`` without a pair.
    """
    if not pairs:
        return None
    subjects = {subject: index for index, subject in enumerate(dict.fromkeys(subject for subject, _ in pairs))}
    sums, counts = np.zeros(len(subjects)), np.zeros(len(subjects))
    for subject, value in pairs:
        sums[subjects[subject]] += value
        counts[subjects[subject]] += 1
    drawn = np.random.default_rng(seed).integers(len(subjects), size=(N_RESAMPLES, len(subjects)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), (0.025, 0.975))
    return Figure(float(sums.sum() / counts.sum()), float(low), float(high))


_DETECTION_COLUMNS = {
    "n": "Scans",
    "n_normal": "Normal scans",
    "auroc": "AUROC",
    "ap": "AP",
    **RATES,
    "flagged": "Flagged at the level",
}
_DETECTION_NOTE = (
    "Each group against the normal scans of the list, by each method's scan-level score. AP depends on the share of "
    "abnormal scans and is no figure to compare between groups. The last column is the share of the group's scans that "
    "exceed the score calibrated for false alarms of {level:g} %. Intervals: 95 %; bootstrap, and Clopper and Pearson "
    "for the last column."
)


def _detection_row(method: MethodResults, group: str, level: float) -> dict[str, Any] | None:
    normals, chosen = _normals(method), [row for row in method.rows if row["group"] == group]
    if not normals or not chosen:
        return None
    figures = scan_discrimination(_finite(normals, "score"), _finite(chosen, "score"), n_resamples=N_RESAMPLES)
    row: dict[str, Any] = {"method": method.name, "group": group, "n": len(chosen), "n_normal": len(normals), **figures}
    above = method.flags_above(level)
    if above is not None:
        flagged = sum(is_flagged(one, above) for one in chosen)
        row["flagged"] = Figure(flagged / len(chosen), *false_alarm_interval(flagged, len(chosen)))
    return row


def _pairs(first: MethodResults, other: MethodResults, column: str) -> list[tuple[str, float]]:
    known = {row["case"]: row for row in first.rows if row.get("label_ml") and not fault_of(row["group"])}
    both = [(row, known[row["case"]]) for row in other.rows if row["case"] in known]
    return [(row["subject"], float(row[column]) - float(base[column])) for row, base in both]


def _groups(methods: Sequence[MethodResults], wanted: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """Groups of the rows that are wanted, in the order of the list."""
    return list(dict.fromkeys(row["group"] for method in methods for row in method.rows if wanted(row)))


def _is_pooled(group: str) -> bool:
    """Whether a group's scans are taken together: not the real ones, shown one by one; faults have their own table."""
    return group != REAL and fault_of(group) is None


def _normals(method: MethodResults) -> list[Mapping[str, Any]]:
    return [row for row in method.rows if row["group"] == NORMAL]


def _finite(rows: Sequence[Mapping[str, Any]], column: str) -> list[float]:
    return [float(row[column]) for row in rows if row.get(column) is not None and math.isfinite(row[column])]


def _mean(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    values = _finite(rows, column)
    return float(np.mean(values)) if values else None


def _median(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    values = [float(row[column]) for row in rows if row.get(column) is not None and not math.isnan(row[column])]
    with np.errstate(invalid="ignore"):  # the mean of two infinite distances
        return float(np.median(values)) if values else None
