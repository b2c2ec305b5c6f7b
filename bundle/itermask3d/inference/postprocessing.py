"""The way back: to the scan's own grid, then to a result and its files."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureTyped, FlattenSubKeysd, Invertd, MapTransform

from itermask3d.files.scans import ScanError
from itermask3d.inference.domain import DomainCheck
from itermask3d.inference.models import Choice
from itermask3d.inference.picture import save_picture
from itermask3d.inference.results import OUTPUTS, ScanResult, write_result
from itermask3d.inference.store import ResultStore
from itermask3d.method.detection import Findings, Outcome
from itermask3d.preprocessing.load import load_volume
from itermask3d.preprocessing.measure import MeasureScand
from itermask3d.preprocessing.scan_features import measure_acquisition

__all__ = ["SaveResultd", "inference_postprocessing"]

OUTSIDE = "The score has no percentile or p-value: it means something only for scans like those of the training."


class SaveResultd(MapTransform):
    """Write the result of one scan, on its own grid, through a :class:`ResultStore`.

    Expects ``mask``, ``anomaly_map``, ``reconstruction`` and ``brain_mask`` inverted to the scan's grid, ``findings``
    as JSON text, ``figures`` of :class:`MeasureScand`, ``path``, ``case``, ``normalisation`` and ``brain_extraction``.
    A scan that changed meanwhile gets no result but an entry of ``store.failures``.
    What was written as mask and findings goes back under these keys, so that figures are taken from what the user gets.
    """

    def __init__(self, store: ResultStore, picture: bool = True) -> None:
        super().__init__(OUTPUTS)
        self.store = store
        self.picture = picture

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        try:
            result = self.result(sample)
        except ScanError as error:
            self.store.failures[str(sample["case"])] = str(error)
            return sample
        write_result(result, self.store.folder(result.case), draw=save_picture if self.picture else None)
        sample["mask"] = torch.from_numpy(result.mask)[None].float()
        sample["findings"] = json.dumps(result.findings.to_json())
        return sample

    def result(self, sample: Mapping[Hashable, Any], store: ResultStore | None = None) -> ScanResult:
        """The result of a sample, not yet written; settings and calibration are those of ``store``."""
        store = store or self.store
        choice = Choice.from_json(json.loads(sample["model"])) if "model" in sample else store.choice
        store = store.for_model(choice.name)
        image = _scan_again(sample)
        voxels = {key: sample[key][0].numpy(force=True) for key in (*OUTPUTS, "brain_mask")}
        brain = voxels["brain_mask"] > 0.5
        normalisation = {key: float(value) for key, value in sample["normalisation"].items()}
        intensity = voxels["reconstruction"] * normalisation["scale"] + normalisation["median"]
        findings = Findings.from_json(json.loads(sample["findings"]))
        affine = np.asarray(image.affine, dtype=float)
        domain = _domain(sample, store, brain, affine)
        outside = domain is not None and not domain.in_domain
        comparable = findings.outcome is not Outcome.FIT_FAILED and not outside and not store.caveats
        calibration = store.applying_calibration() if comparable else None
        p_value = None if calibration is None else calibration.p_value(findings.score)
        if calibration is not None:
            findings = replace(findings, percentile_among_normals=calibration.percentile(findings.score))
        mask = (voxels["mask"] > 0.5) & brain
        return ScanResult(
            case=str(sample["case"]),
            path=str(sample["path"]),
            findings=findings,
            image=image.numpy(force=True),
            mask=mask,
            anomaly_map=np.where(brain, voxels["anomaly_map"], 0).astype(np.float32),
            reconstruction=np.where(brain, intensity, 0).astype(np.float32),
            brain_mask=brain,
            affine=affine,
            preprocessing={"brain_extraction": str(sample["brain_extraction"]), **normalisation},
            settings=store.settings,
            inputs=_inputs(sample),
            warnings=(*image.meta["warnings"], *_warnings(findings, mask, domain, () if outside else store.caveats)),
            p_value=p_value,
            p_value_note=None if calibration is None or p_value is None else calibration.guarantee,
            domain=domain,
            model=choice.to_json(),
            placement=image.meta["placement"],
            known_sides=image.meta["known_sides"],
        )


def inference_postprocessing(preprocessing: Compose, store: ResultStore | None, picture: bool = True) -> Compose:
    """Compose the way back: to the scan's own grid, then to files.

    Args:
        preprocessing: the transforms that made the network's input; their inverse is exact.
        store: where results go; ``None`` writes nothing.
        picture: draw ``picture.png``.
    """
    keys = [*OUTPUTS, "brain_mask"]
    return Compose(
        [
            FlattenSubKeysd("pred"),
            EnsureTyped(keys, dtype=torch.float32, track_meta=True, device=torch.device("cpu")),
            MeasureScand(),
            Invertd(keys, transform=preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True),
            *([SaveResultd(store, picture=picture)] if store is not None else []),
        ]
    )


def _scan_again(sample: Mapping[Hashable, Any]) -> MetaTensor:
    """The scan in its own intensities, which the network's input no longer has.

    Raises:
        ScanError: if it is no longer the one that was segmented.
    """
    image = load_volume(json.loads(str(sample.get("files", "[]"))) or str(sample["path"]))
    read = json.loads(str(sample.get("read", "{}"))).get("image", image.meta["read"])
    if image.meta["read"] != read:
        raise ScanError(f"'{sample['path']}' was written while it was segmented; expected a scan that stays as it is")
    return image


def _inputs(sample: Mapping[Hashable, Any]) -> dict[str, Any]:
    """What the files were, and the digests of what was read."""
    files, read = (json.loads(str(sample.get(key, "{}"))) for key in ("inputs", "read"))
    return {key: {**described, **read.get(key, {})} for key, described in files.items()}


def _domain(
    sample: Mapping[Hashable, Any], store: ResultStore, brain: np.ndarray, affine: np.ndarray
) -> DomainCheck | None:
    measured = json.loads(str(sample["figures"]))
    return store.check_domain(measured["figures"] | measure_acquisition(brain, affine), measured)


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
