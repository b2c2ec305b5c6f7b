"""Figures against a ground truth: the algorithm's own mask, on the scan's own grid, case by case.

A case's figures can be taken again from what lies on disk, so an evaluation that was interrupted goes on, and a label
that changed needs no second run.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events

from itermask3d.calibration import false_alarm_interval
from itermask3d.cohort import ResultStore, ScanStream
from itermask3d.discrimination import scan_discrimination, voxel_discrimination
from itermask3d.domain import Domain
from itermask3d.metrics import count_lesions, masked_psnr, masked_ssim, overlap, surface_distances, volumes
from itermask3d.preprocessing import load_volume, scan_loader
from itermask3d.results import write_atomically, write_table
from itermask3d.scans import require_same_grid, voxel_volume_ml

__all__ = [
    "COLUMNS",
    "NORMAL",
    "CaseMetrics",
    "CaseVolumes",
    "case_metrics",
    "case_row",
    "domain_facts",
    "group_of",
    "oracle_dice",
    "read_case",
    "summarise",
]

logger = logging.getLogger(__name__)

NORMAL = "normal"
"""Group of the scans without an anomaly."""

DATA_RANGE = 10.0
"""Of a normalised scan, which is clipped at ±5: the peak of PSNR and the range of SSIM."""

MEANS = ("iou", "sensitivity", "precision", "surface_dice", "lesion_f1", "voxel_auroc", "voxel_ap")
"""Columns with a mean over the cases with a lesion, beside Dice."""

COLUMNS = (
    "case",
    "group",
    "subject",
    "contrast",
    "outcome",
    "score",
    "mean_error",
    "error_p99",
    "percentile_among_normals",
    "p_value",
    "in_domain",
    "domain_distance",
    "outside",
    "label_ml",
    "flagged_ml",
    "volume_difference_ml",
    "volume_difference_share",
    "flagged_share",
    "dice",
    "oracle_dice",
    "iou",
    "sensitivity",
    "precision",
    "surface_dice",
    "assd_mm",
    "hd95_mm",
    "lesions",
    "lesions_found",
    "regions",
    "true_regions",
    "lesion_f1",
    "voxel_auroc",
    "voxel_ap",
    "psnr_db",
    "ssim",
)


def case_metrics(mask: torch.Tensor, label: torch.Tensor) -> dict[str, float]:
    """Overlap of one mask with its ground truth.

    Args:
        mask: boolean ``(1, D, H, W)``.
        label: boolean, same shape.

    Returns:
        See :func:`itermask3d.metrics.overlap`.

    Raises:
        ValueError: if the shapes differ.
    """
    if mask.shape != label.shape:
        raise ValueError(f"mask and label must have one shape, got {tuple(mask.shape)} and {tuple(label.shape)}")
    return overlap(mask[0], label[0])


def summarise(rows: Sequence[Mapping[str, Any]], *, scan_level: bool = True) -> dict[str, Any]:
    """Summary over cases with a lesion and, apart from them, over normal cases (an empty label).

    Args:
        rows: with the columns of ``metrics.csv``; one that is missing counts as without a value.
        scan_level: with the figures that need a bootstrap.

    Returns:
        ``lesion_cases`` and ``normal_cases`` (counts). Over the former: mean and median Dice; means of the columns in
        :data:`MEANS`; medians of HD95 and ASSD, in which a missed lesion counts as infinite; ``lesions_found_share``,
        pooled over all lesions. An empty mask has no precision and is left out of its mean. Over the latter: median and
        largest flagged share, the share of scans with any flag and its exact 95 % interval. ``scan_level``: see
        :func:`itermask3d.discrimination.scan_discrimination`. ``None`` where there is no finite value.
    """
    lesions = [row for row in rows if row["label_ml"] > 0]
    normals = [row for row in rows if row["label_ml"] == 0]
    flagged = sum(row["flagged_ml"] > 0 for row in normals)
    summary = {
        "lesion_cases": len(lesions),
        "dice_mean": _over(np.mean, lesions, "dice"),
        "dice_median": _over(np.median, lesions, "dice"),
        **{f"{column}_mean": _over(np.nanmean, lesions, column) for column in MEANS},
        **{f"{column}_median": _over(np.nanmedian, lesions, column) for column in ("hd95_mm", "assd_mm")},
        "lesions_found_share": _share(_values(lesions, "lesions_found"), _values(lesions, "lesions")),
        "normal_cases": len(normals),
        "normal_flagged_share_median": _over(np.median, normals, "flagged_share"),
        "normal_flagged_share_max": _over(np.max, normals, "flagged_share"),
        "normal_scans_flagged": flagged / len(normals) if normals else None,
        "normal_scans_flagged_interval": list(false_alarm_interval(flagged, len(normals))) if normals else None,
    }
    return summary | ({"scan_level": _scan_level(normals, lesions)} if scan_level else {})


@dataclass(frozen=True)
class CaseVolumes:
    """What the figures of one case are taken from, all on the scan's own grid ``(D, H, W)``.

    Attributes:
        mask: boolean.
        anomaly_map: real.
        brain_mask: boolean.
        affine: voxel to millimetres.
        label: boolean; ``None`` where there is no ground truth.
        reconstruction, image: in normalised units, zero outside the brain; ``None`` leaves PSNR and SSIM out.
    """

    mask: torch.Tensor
    anomaly_map: torch.Tensor
    brain_mask: torch.Tensor
    affine: np.ndarray
    label: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    image: torch.Tensor | None = None


def group_of(item: Mapping[str, Any], label: torch.Tensor | None) -> str:
    """The item's ``group``; without one ``lesion`` or ``normal`` by the label, ``unlabelled`` without a label."""
    if item.get("group"):
        return str(item["group"])
    if label is None:
        return "unlabelled"
    return "lesion" if bool(label.any()) else NORMAL


def oracle_dice(anomaly_map: torch.Tensor, label: torch.Tensor, *, brain_mask: torch.Tensor) -> float:
    """The best Dice that any threshold on the map could reach, *chosen on the ground truth*: a bound, no result.

    Every value of the map in the brain is tried, and a mask that is empty. Components are not cleaned.

    Args:
        anomaly_map, label, brain_mask: ``(D, H, W)``.

    Returns:
        0 to 1; 1 for an empty label, which an empty mask meets.
    """
    inside = brain_mask > 0.5
    truth = int((label > 0.5).sum())
    if truth == 0:
        return 1.0
    values, order = anomaly_map[inside].double().sort(descending=True)
    hits = (label[inside] > 0.5)[order].double().cumsum(0)
    dice = 2 * hits / (torch.arange(1, len(values) + 1) + truth)
    last_of_its_value = torch.ones(len(values), dtype=torch.bool)
    last_of_its_value[:-1] = values[1:] != values[:-1]
    return float(dice[last_of_its_value].max())


def case_row(item: Mapping[str, Any], findings: Mapping[str, Any], found: CaseVolumes) -> dict[str, Any]:
    """All figures of one case, by the names in :data:`COLUMNS`; ``None`` or NaN where there is none.

    A scan of the group ``normal`` needs no label: it has an empty one. Any other without a label has no overlap.

    Args:
        item: ``case`` and, where known, ``group``, ``contrast`` and ``subject`` (by default the case itself).
        findings: ``result.json``, or the part of it that :class:`itermask3d.detection.Findings` writes.
        found: the volumes.
    """
    label = found.label
    if label is None and item.get("group") == NORMAL:
        label = torch.zeros_like(found.mask)
    known = ("outcome", "score", "mean_error", "error_p99", "percentile_among_normals", "p_value", "flagged_share")
    row: dict[str, Any] = {
        "case": item["case"],
        "group": group_of(item, label),
        "subject": str(item.get("subject") or item["case"]),
        "contrast": item.get("contrast"),
        **{key: findings.get(key) for key in known},
        **domain_facts(findings),
        "flagged_ml": float(found.mask.sum()) * voxel_volume_ml(found.affine),
    }
    return row | _fidelity(found, label) | ({} if label is None else _against(label, found))


def domain_facts(findings: Mapping[str, Any], domain: Domain | None = None) -> dict[str, Any]:
    """What the domain check says of a scan.

    Args:
        findings: ``result.json``.
        domain: the ranges, for the distance of a result that was written before it was part of one.

    Returns:
        ``in_domain``, ``domain_distance`` and ``outside`` (what is unusual, in words); ``None`` where nothing was
        checked.
    """
    rows = findings.get("domain") or []
    distance = findings.get("domain_distance")
    if distance is None and rows and domain is not None:
        values = {row["feature"]: math.nan if row["value"] is None else row["value"] for row in rows}
        distance = domain.check(values).distance
    outside = ", ".join(dict.fromkeys(row["group"] for row in rows if not row["within"]))
    return {"in_domain": findings.get("in_domain"), "domain_distance": distance, "outside": outside or None}


def read_case(item: Mapping[str, Any], folder: Path, *, image: np.ndarray | None = None) -> dict[str, Any] | None:
    """The row of a case whose result lies in a folder; ``None`` where there is none.

    Args:
        item: as listed, with paths.
        folder: what :func:`itermask3d.results.write_result` wrote.
        image: the normalised scan on its own grid, zero outside the brain, for PSNR and SSIM.

    Raises:
        ScanError: if the label cannot be read or lies on another grid.
    """
    path = folder / "result.json"
    if not path.is_file():
        return None
    findings = json.loads(path.read_text())
    names = ("mask", "anomaly_map", "brain_mask", "reconstruction")
    loaded = {name: nib.Nifti1Image.from_filename(folder / f"{item['case']}_{name}.nii.gz") for name in names}
    affine = np.asarray(loaded["mask"].affine)
    arrays = {name: torch.from_numpy(volume.get_fdata(dtype=np.float32)) for name, volume in loaded.items()}
    brain = arrays["brain_mask"] > 0.5
    reconstruction = None
    if findings.get("has_reconstruction", True) and image is not None:
        unit = findings["preprocessing"]
        reconstruction = torch.where(brain, (arrays["reconstruction"] - unit["median"]) / unit["scale"], 0.0)
    found = CaseVolumes(
        mask=arrays["mask"] > 0.5,
        anomaly_map=arrays["anomaly_map"],
        brain_mask=brain,
        affine=affine,
        label=_read_label(item, brain.shape, affine),
        reconstruction=reconstruction,
        image=None if image is None else torch.from_numpy(np.asarray(image, dtype=np.float32)),
    )
    return case_row(item, findings, found)


class CaseMetrics:
    """Handler that writes ``metrics.csv`` (a row a case) and ``metrics.json`` (the summary), anew after every case.

    The summary's figures of the scan level come with the last case.

    Works on what :func:`itermask3d.cohort.inference_postprocessing` leaves on the scan's grid: ``mask`` and
    ``anomaly_map`` beside ``findings`` in the output, ``brain_mask`` in the item. A scan without a ``label`` is left
    out. Scans that were done before are read from the store.

    Args:
        directory: where both files go.
        dataset, store: of the run; without them only what runs now is counted.
    """

    def __init__(
        self, directory: str | Path, dataset: ScanStream | None = None, store: ResultStore | None = None
    ) -> None:
        self.directory = Path(directory)
        self.dataset = dataset
        self.store = store
        self.rows: list[dict[str, Any]] = []
        self._n_read = 0
        self._listed: dict[str, dict[str, Any]] = {}

    def attach(self, engine: Engine) -> None:
        """Register on MONAI's evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self) -> None:
        self.rows.clear()
        self._n_read = 0

    def _collect(self, engine: Engine) -> None:
        self._read_finished()
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item, found in zip(batch, output, strict=True):
            if item.get("label") is not None:
                case = str(item["case"])
                written = None if self.store is None else self.store.read(case)
                self.rows.append(_row(self._facts(case) | dict(item), found, written))
        if self.rows:
            self._write(scan_level=False)

    def _read_finished(self) -> None:
        if self.dataset is None or self.store is None or len(self.dataset.finished) == self._n_read:
            return
        for case in self.dataset.finished[self._n_read :]:
            item = self._facts(case)
            row = read_case(item, self.store.folder(case)) if item.get("label") else None
            self.rows += [row] if row else []
        self._n_read = len(self.dataset.finished)

    def _facts(self, case: str) -> dict[str, Any]:
        """What the list says of a case; preprocessing drops its group and subject."""
        if not self._listed and self.dataset is not None:
            self._listed = {item["case"]: item for item in self.dataset.items()}
        return self._listed.get(case, {})

    def _finish(self) -> None:
        self._read_finished()
        if self.rows:
            self._write(scan_level=True)
        else:
            logger.error("no scan had a label: name label_dir, or 'label' in every item of the list")

    def _write(self, *, scan_level: bool) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        write_table(self.rows, COLUMNS, self.directory / "metrics.csv")
        summary = json.dumps(summarise(self.rows, scan_level=scan_level), indent=1, allow_nan=False)
        write_atomically(summary + "\n", self.directory / "metrics.json")


def _row(item: Mapping[str, Any], found: Mapping[str, Any], written: Mapping[str, Any] | None) -> dict[str, Any]:
    mask, label, brain = (
        torch.as_tensor(volume).cpu()[0] > 0.5 for volume in (found["mask"], item["label"], item["brain_mask"])
    )
    volumes_of_case = CaseVolumes(
        mask=mask,
        anomaly_map=torch.as_tensor(found["anomaly_map"]).cpu()[0],
        brain_mask=brain,
        affine=np.asarray(item["label"].affine),
        label=label,
    )
    return case_row(item, written or json.loads(found["findings"]), volumes_of_case)


def _against(label: torch.Tensor, found: CaseVolumes) -> dict[str, Any]:
    """The figures that need a ground truth."""
    mask, affine = found.mask, found.affine
    lesions = count_lesions(mask, label)
    return {
        **volumes(mask, label, voxel_ml=voxel_volume_ml(affine)),
        **overlap(mask, label),
        "oracle_dice": oracle_dice(found.anomaly_map, label, brain_mask=found.brain_mask),
        **surface_distances(mask, label, spacing_mm=np.linalg.norm(affine[:3, :3], axis=0).tolist()),
        "lesions": lesions.lesions,
        "lesions_found": lesions.found,
        "regions": lesions.regions,
        "true_regions": lesions.true_regions,
        "lesion_f1": lesions.f1,
        **voxel_discrimination(found.anomaly_map, label, brain_mask=found.brain_mask),
    }


def _fidelity(found: CaseVolumes, label: torch.Tensor | None) -> dict[str, float]:
    """PSNR and SSIM of the brain outside the label; the same voxels for every method."""
    normal = found.brain_mask if label is None else found.brain_mask & ~label
    if found.image is None or found.reconstruction is None or not normal.any():
        return {}
    box = _box_with_margin(found.brain_mask)
    parts = {"normal": normal[box], "data_range": DATA_RANGE}
    volumes_of_case = (found.reconstruction[box], found.image[box])
    return {"psnr_db": masked_psnr(*volumes_of_case, **parts), "ssim": masked_ssim(*volumes_of_case, **parts)}  # type: ignore[arg-type]


def _box_with_margin(inside: torch.Tensor, margin: int = 5) -> tuple[slice, ...]:
    where = inside.nonzero()
    low, high = where.amin(dim=0).tolist(), where.amax(dim=0).tolist()
    return tuple(slice(max(0, a - margin), b + 1 + margin) for a, b in zip(low, high, strict=True))


def _read_label(item: Mapping[str, Any], shape: Sequence[int], affine: np.ndarray) -> torch.Tensor | None:
    if not item.get("label"):
        return None
    label = load_volume(item["label"], scan_loader())
    require_same_grid("label", label.shape, np.asarray(label.affine), scan_shape=shape, scan_affine=affine)
    return torch.as_tensor(label.as_tensor() > 0.5)


def _scan_level(normals: Sequence[Mapping[str, Any]], lesions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scores = [values[np.isfinite(values)] for values in (_values(normals, "score"), _values(lesions, "score"))]
    figures = scan_discrimination(*(group.tolist() for group in scores))
    return {name: figure.to_json() for name, figure in figures.items()}


def _over(statistic: Any, rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    values = _values(rows, column)
    value = float(statistic(values)) if np.isfinite(values).any() else float("nan")
    return value if np.isfinite(value) else None


def _share(parts: np.ndarray, wholes: np.ndarray) -> float | None:
    return float(parts.sum() / wholes.sum()) if np.isfinite(wholes).all() and wholes.sum() > 0 else None


def _values(rows: Sequence[Mapping[str, Any]], column: str) -> np.ndarray:
    """A column as numbers; NaN where a row has none."""
    return np.array([np.nan if row.get(column) is None else row[column] for row in rows], dtype=float)
