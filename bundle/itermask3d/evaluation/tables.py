"""The tables of an evaluation: several methods side by side, own thresholds first, every metric with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from itermask3d.evaluation.cases import REAL, MethodResults, artefact_of, groups_of, is_pooled, mean_of, median_of
from itermask3d.evaluation.detection import (
    N_RESAMPLES,
    artefact_matrix,
    artefact_table,
    detection_table,
    score_table,
    specificity_table,
)
from itermask3d.evaluation.discrimination import Estimate
from itermask3d.evaluation.text import Table

__all__ = ["all_tables", "bootstrap_mean", "domain_verdict", "paired_difference"]


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
        artefact_matrix(methods),
        artefact_table(methods, level=level),
        reconstruction_table(methods),
        score_table(methods),
        real_table(methods),
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
    for group in groups_of(methods, lambda row: bool(row.get("label_ml")) and is_pooled(row["group"])):
        for method in methods:
            chosen = [row for row in method.rows if row["group"] == group and row.get("label_ml")]
            if chosen:
                rows.append(
                    {"method": method.name, "group": group, "n": len(chosen), "dice": bootstrap_mean(chosen, "dice")}
                    | {"dice_median": median_of(chosen, "dice")}
                    | {name: mean_of(chosen, name) for name in means}
                    | {name: median_of(chosen, name) for name in medians}
                    | {"oracle_dice": mean_of(chosen, "oracle_dice")}
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


def reconstruction_table(methods: Sequence[MethodResults]) -> Table:
    """How well normal tissue is reconstructed."""
    rows = []
    for group in groups_of(methods, lambda row: row.get("psnr_db") is not None and is_pooled(row["group"])):
        for method in methods:
            chosen = [row for row in method.rows if row["group"] == group and row.get("psnr_db") is not None]
            if chosen:
                metrics = {name: bootstrap_mean(chosen, name) for name in ("psnr_db", "ssim")}
                rows.append({"method": method.name, "group": group, "n": len(chosen)} | metrics)
    return Table(
        "reconstruction",
        "Reconstruction of normal tissue",
        "Mean PSNR (peak 10, the range of a normalised scan) and SSIM over the brain outside the label, of the last "
        "reconstruction. A method that shows the network more of the scan does better without finding more: read this "
        "beside the segmentation.",
        {"method": "Method", "group": "Group", "n": "Scans", "psnr_db": "PSNR, dB", "ssim": "SSIM"},
        rows,
    )


def real_table(methods: Sequence[MethodResults]) -> Table:
    """The real cases, one by one."""
    rows = []
    names = ("label_ml", "flagged_ml", "dice", "sensitivity", "precision", "oracle_dice", "voxel_ap", "score")
    for case in dict.fromkeys(row["case"] for method in methods for row in method.rows if row["group"] == REAL):
        for method in methods:
            for row in (row for row in method.rows if row["case"] == case):
                rows.append({"case": case, "contrast": row.get("contrast"), "method": method.name})
                rows[-1] |= {name: row.get(name) for name in names}
                rows[-1] |= {"p_value": method.p_value(row), "domain": domain_verdict(row)}
    columns = {
        "case": "Case",
        "contrast": "Contrast",
        "method": "Method",
        "label_ml": "Label, ml",
        "flagged_ml": "Flagged, ml",
        "dice": "Dice",
        "sensitivity": "Sensitivity",
        "precision": "Precision",
        "voxel_ap": "Voxel AP",
        "score": "Score",
        "p_value": "p",
        "domain": "Training domain",
        "oracle_dice": "oracle: Dice",
    }
    return Table(
        "real",
        "Real cases, one by one",
        "Few cases: each is shown, and no mean is taken. Out-of-distribution a p-value promises nothing. The "
        "simple rule to compare with is zscore on T1 and bright on T2 and FLAIR, where most lesions are bright; "
        "its threshold comes from the calibration scans whatever their contrast.",
        columns,
        rows,
    )


def domain_verdict(row: Mapping[str, Any]) -> str | None:
    """What the domain check said of a scan, in words; ``None`` where nothing was checked."""
    if row.get("in_distribution") is None:
        return None
    return "inside" if row["in_distribution"] else f"outside: {row.get('outside')}"


def failure_table(methods: Sequence[MethodResults]) -> Table:
    """Scans without a result."""
    rows = [
        {"method": method.name, "case": case, "reason": reason}
        for method in methods
        for case, reason in method.failures.items()
    ]
    columns = {"method": "Method", "case": "Case", "reason": "Why"}
    return Table("failures", "Scans without a result", "They enter no other table.", columns, rows)


def bootstrap_mean(rows: Sequence[Mapping[str, Any]], column: str) -> Estimate | None:
    """Mean of a column's finite values, with a 95 % interval from resampling subjects; ``None`` without any."""
    pairs = [(row["subject"], float(row[column])) for row in rows if row.get(column) is not None]
    return paired_difference([pair for pair in pairs if math.isfinite(pair[1])])


def paired_difference(pairs: Sequence[tuple[str, float]], *, seed: int = 0) -> Estimate | None:
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
    return Estimate(float(sums.sum() / counts.sum()), float(low), float(high))


def _pairs(first: MethodResults, other: MethodResults, column: str) -> list[tuple[str, float]]:
    known = {row["case"]: row for row in first.rows if row.get("label_ml") and not artefact_of(row["group"])}
    both = [(row, known[row["case"]]) for row in other.rows if row["case"] in known]
    return [(row["subject"], float(row[column]) - float(base[column])) for row, base in both]
