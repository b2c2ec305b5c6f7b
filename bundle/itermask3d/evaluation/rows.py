"""Metrics against a ground truth: the algorithm's own mask, on the scan's own grid, case by case.

A case's metrics can be taken again from what lies on disk, so an evaluation that was interrupted goes on, and a label
that changed needs no second run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from itermask3d.evaluation.discrimination import voxel_discrimination
from itermask3d.evaluation.metrics import count_lesions, masked_psnr, masked_ssim, overlap, surface_distances, volumes
from itermask3d.files.scans import require_same_grid, voxel_volume_ml
from itermask3d.inference.domain import Domain
from itermask3d.preprocessing.load import load_volume

__all__ = [
    "COLUMNS",
    "NORMAL",
    "CaseVolumes",
    "case_metrics",
    "case_row",
    "domain_facts",
    "group_of",
    "oracle_dice",
    "read_case",
]

NORMAL = "normal"
"""Group of the scans without an anomaly."""

DATA_RANGE = 10.0
"""Of a normalised scan, which is clipped at ±5: the peak of PSNR and the range of SSIM."""

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
    "in_distribution",
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
        See :func:`itermask3d.evaluation.metrics.overlap`.

    Raises:
        ValueError: if the shapes differ.
    """
    if mask.shape != label.shape:
        raise ValueError(f"mask and label must have one shape, got {tuple(mask.shape)} and {tuple(label.shape)}")
    return overlap(mask[0], label[0])


@dataclass(frozen=True)
class CaseVolumes:
    """What the metrics of one case are taken from, all on the scan's own grid ``(D, H, W)``.

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
    """All metrics of one case, by the names in :data:`COLUMNS`; ``None`` or NaN where there is none.

    A scan of the group ``normal`` needs no label: it has an empty one. Any other without a label has no overlap.

    Args:
        item: ``case`` and, where known, ``group``, ``contrast`` and ``subject`` (by default the case itself).
        findings: ``result.json``, or the part of it that :class:`itermask3d.method.detection.Findings` writes.
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
        ``in_distribution``, ``domain_distance`` and ``outside`` (what is unusual, in words); ``None`` where nothing was
        checked.
    """
    rows = findings.get("domain") or []
    distance = findings.get("domain_distance")
    if distance is None and rows and domain is not None:
        values = {row["feature"]: math.nan if row["value"] is None else row["value"] for row in rows}
        distance = domain.check(values).distance
    outside = ", ".join(dict.fromkeys(row["group"] for row in rows if not row["within"]))
    return {"in_distribution": findings.get("in_distribution"), "domain_distance": distance, "outside": outside or None}


def read_case(item: Mapping[str, Any], folder: Path, *, image: np.ndarray | None = None) -> dict[str, Any] | None:
    """The row of a case whose result lies in a folder; ``None`` where there is none.

    Args:
        item: as listed, with paths.
        folder: what :func:`itermask3d.inference.results.write_result` wrote.
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


def _against(label: torch.Tensor, found: CaseVolumes) -> dict[str, Any]:
    """The metrics that need a ground truth."""
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
    label = load_volume(item["label"])
    require_same_grid("label", label.shape, np.asarray(label.affine), scan_shape=shape, scan_affine=affine)
    return torch.as_tensor(label.as_tensor() > 0.5)
