"""From what the network found to what is said about a scan, on its own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from monai.data import MetaTensor

from itermask3d.inference.domain import DomainCheck
from itermask3d.inference.model import Model, Prediction
from itermask3d.inference.preparation import PreparedScan
from itermask3d.inference.results import OUTPUTS, RECONSTRUCTION_ERROR, TISSUE_DEVIATION, ScanResult
from itermask3d.method.detection import Findings, Outcome
from itermask3d.preprocessing.measure import on_own_grid

__all__ = ["OUTSIDE", "conclude"]

OUTSIDE = "The score has no percentile or p-value: it means something only for scans like those of the training."


def conclude(prediction: Prediction, prepared: PreparedScan, model: Model) -> ScanResult:
    """Bring a prediction to the scan's own grid, and say what it means: percentile, p-value, warnings.

    Args:
        prediction: of ``model``.
        prepared: the scan.
        model: its preprocessing leads back; domain and calibration of the network that was chosen say what the score
            means.

    Raises:
        ValueError: if the model's domain or calibration file is none.
    """
    used = model.variant(prediction.choice.name)
    domain = used.check_domain(prepared.features)
    outside = domain is not None and not domain.in_distribution
    comparable = prediction.findings.outcome is not Outcome.FIT_FAILED and not outside and not used.caveats
    calibration = used.applying_calibration() if comparable else None
    findings = prediction.findings
    p_value = None if calibration is None else calibration.p_value(findings.score)
    if calibration is not None:
        findings = replace(findings, percentile_among_normals=calibration.percentile(findings.score))
    evidence = _evidence(prediction)
    volumes = {**{name: getattr(prediction, name) for name in OUTPUTS}, **evidence}
    moved = on_own_grid({"image": prepared.image}, model.preprocessing, **volumes)
    voxels = _voxels(moved, prepared)
    warnings = _warnings(findings, voxels["mask"], domain, () if outside else used.caveats)
    return ScanResult(
        case=prepared.case,
        path=prepared.path,
        findings=findings,
        image=prepared.native_image,
        brain_mask=prepared.native_brain,
        affine=prepared.affine,
        preprocessing={"brain_extraction": prepared.brain_extraction, **prepared.normalisation},
        settings=used.settings,
        inputs=prepared.inputs,
        warnings=(*prepared.warnings, *warnings),
        p_value=p_value,
        p_value_note=None if calibration is None or p_value is None else calibration.guarantee,
        domain=domain,
        model=prediction.choice.to_json(),
        placement=prepared.placement,
        known_sides=prepared.known_sides,
        evidence=None if prediction.evidence is None else prediction.evidence.to_json(),
        evidence_maps={
            name: np.where(prepared.native_brain, moved[name][0].numpy(force=True), 0).astype(np.float32)
            for name in evidence
        },
        **voxels,
    )


def _voxels(moved: Mapping[str, MetaTensor], prepared: PreparedScan) -> dict[str, np.ndarray]:
    """Mask, map and reconstruction on the scan's own grid, as :class:`ScanResult` has them."""
    voxels = {name: moved[name][0].numpy(force=True) for name in OUTPUTS}
    brain, unit = prepared.native_brain, prepared.normalisation
    intensity = voxels["reconstruction"] * unit["scale"] + unit["median"]
    return {
        "mask": (voxels["mask"] > 0.5) & brain,
        "anomaly_map": np.where(brain, voxels["anomaly_map"], 0).astype(np.float32),
        "reconstruction": np.where(brain, intensity, 0).astype(np.float32),
    }


def _evidence(prediction: Prediction) -> dict[str, torch.Tensor]:
    """Each kind of evidence apart; none where the error alone decided."""
    if prediction.evidence is None or prediction.error is None:
        return {}
    return {TISSUE_DEVIATION: prediction.evidence.deviation.z, RECONSTRUCTION_ERROR: prediction.error}


def _warnings(
    findings: Findings, mask: np.ndarray, domain: DomainCheck | None, caveats: Sequence[str]
) -> tuple[str, ...]:
    sentences = [] if domain is None else [deviation.sentence for deviation in domain.deviations]
    if sentences:
        sentences.append(OUTSIDE)
    sentences += caveats
    if not findings.converged:
        sentences.append(f"The refinement was stopped after {findings.iterations} iterations before it settled.")
    if findings.flagged_share > 0 and not mask.any():
        sentences.append("The flagged region is smaller than a voxel of the scan and vanished on its grid.")
    return tuple(sentences)
