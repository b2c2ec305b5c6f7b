"""Finished scans without a network: results of the phantom, as the tests of reports need them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from helpers import Phantom, axes_of, head_phantom, rotation
from itermask3d.files.dicom import write_mr_series
from itermask3d.files.identity import input_files
from itermask3d.files.writing import save_nifti
from itermask3d.inference.results import RECONSTRUCTION_ERROR, TISSUE_DEVIATION, ScanResult, write_result
from itermask3d.method.detection import Findings, Outcome
from itermask3d.method.threshold import estimate_threshold
from itermask3d.preprocessing.load import load_volume

EVIDENCE = {
    "contrast": "flair",
    "side": "bright",
    "tissue_share": 0.8,
    "threshold": 2.0,
    "peak_threshold": 2.5,
    "tissue_intensities": {"fluid": -3.0, "white": 0.1, "cortex": 0.4},
}
"""As :meth:`itermask3d.method.evidence.Evidence.to_json` tells it."""

SETTINGS = {"gamma": 0.05, "weights_sha256": "0123456789abcdef", "calibration_sha256": "none"}


def findings_for(outcome: Outcome, *, percentile: float | None = None) -> Findings:
    """Findings with a curve that leads to this outcome."""
    percent = np.arange(1, 101)
    curve = {
        Outcome.ANOMALY: 0.3 * np.tan(0.0149 * percent),
        Outcome.NO_ANOMALY: 0.0001 * percent,
        Outcome.FIT_FAILED: np.full(100, np.nan),
    }[outcome]
    estimate = estimate_threshold(curve, gamma=0.05)
    found = outcome is Outcome.ANOMALY
    return Findings(
        outcome=outcome,
        score=0.2 if found else 0.0,
        flagged_share=0.05 if found else 0.0,
        mean_error=0.1,
        error_p99=1.0,
        threshold=estimate.threshold if found else None,
        estimate=estimate,
        curve=tuple(curve.tolist()),
        iterations=5,
        converged=True,
        percentile_among_normals=percentile,
    )


def finished_scan(
    phantom: Phantom,
    folder: Path,
    *,
    scan: Path | None = None,
    outcome: Outcome = Outcome.ANOMALY,
    percentile: float | None = None,
    warnings: Sequence[str] = (),
    **changes: Any,
) -> Path:
    """Write a result of the phantom, whose lesion was found or not, and the scan beside it; returns its folder.

    Args:
        scan: of the phantom as DICOM; default: a NIfTI is written.
        changes: entries of ``result.json`` to change afterwards; with ``evidence`` its maps are written too.
    """
    case, evidence = changes.pop("case", "phantom"), changes.pop("evidence", None)
    if scan is None:
        scan = folder / "phantom_scan.nii.gz"
        save_nifti(phantom.image, phantom.affine, scan)
    mask = phantom.label if outcome is Outcome.ANOMALY else np.zeros_like(phantom.label)
    result = ScanResult(
        case=case,
        path=str(scan),
        findings=findings_for(outcome, percentile=percentile),
        image=phantom.image,
        mask=mask,
        anomaly_map=np.where(phantom.brain_mask, 0.05 + 4.0 * phantom.label, 0).astype(np.float32),
        reconstruction=(phantom.image - 60 * phantom.label).astype(np.float32),
        brain_mask=phantom.brain_mask,
        affine=phantom.affine,
        preprocessing={"brain_extraction": "given", "median": 100.0, "scale": 10.0},
        settings=dict(SETTINGS),
        inputs={key: {**told, **load_volume(scan).meta["read"]} for key, told in input_files({"image": scan}).items()},
        warnings=tuple(warnings),
        evidence=evidence,
        evidence_maps={} if evidence is None else evidence_maps(phantom),
    )
    written = write_result(replace(result), folder / case)
    if changes:
        record = json.loads((written / "result.json").read_text()) | changes
        (written / "result.json").write_text(json.dumps(record))
    return written


def evidence_maps(phantom: Phantom) -> dict[str, np.ndarray]:
    """The lesion is 5 robust SD brighter than its tissue, and the error of its reconstruction is 9."""
    return {
        TISSUE_DEVIATION: (5.0 * phantom.label).astype(np.float32),
        RECONSTRUCTION_ERROR: np.where(phantom.brain_mask, 0.5 + 8.5 * phantom.label, 0).astype(np.float32),
    }


def dicom_phantom(folder: Path) -> tuple[Phantom, Path]:
    """A small oblique phantom as a series, and the same on the grid that the loader makes of it."""
    axes = rotation(degrees=(8, -12, 10)) @ axes_of("LPS")
    drawn = head_phantom(axes=axes, spacing_mm=(3, 4, 5))
    series = write_mr_series(np.round(drawn.image), drawn.affine, folder / "series", description="T1").folder
    image = load_volume(series)
    affine = np.asarray(image.affine, dtype=float)
    step = np.linalg.inv(drawn.affine) @ affine
    ijk = np.indices(image.shape).reshape(3, -1)
    voxels = np.round(step[:3, :3] @ ijk + step[:3, 3:]).astype(int)
    brain, label = (a[tuple(voxels)].reshape(image.shape) for a in (drawn.brain_mask, drawn.label))
    return Phantom(image.numpy(), brain, label, affine), series
