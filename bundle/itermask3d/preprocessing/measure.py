"""Transforms that measure, on the way, what tells a scan's kind."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import (
    Invertd,
    MapTransform,
)

from itermask3d.preprocessing.scan_features import measure_acquisition, measure_left_out, measure_prepared

__all__ = ["measured_figures"]


class MeasureLeftOutd(MapTransform):
    """Measure, while the head is still there, whether the brain mask lacks a piece of brain.

    Args:
        keys: the image, ``(1, D, H, W)`` on an isotropic grid, with its head.
        spacing_mm: edge of a voxel.
        mask_key: the brain mask on the same grid.

    What :func:`itermask3d.preprocessing.scan_features.measure_left_out` found is stored under ``left_out``.
    """

    def __init__(self, keys: KeysCollection, spacing_mm: float, mask_key: str = "brain_mask") -> None:
        super().__init__(keys)
        self.spacing_mm = spacing_mm
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        brain = sample[self.mask_key][0].numpy(force=True) > 0.5
        for key in self.key_iterator(sample):
            image: MetaTensor = sample[key]
            sample["left_out"] = measure_left_out(image[0].numpy(force=True), brain, spacing_mm=self.spacing_mm)
        return sample


class MeasureScand(MapTransform):
    """Measure what tells a scan's kind, while the brain mask lies on the network's grid.

    Adds ``figures``: JSON text with ``figures`` of :func:`itermask3d.preprocessing.scan_features.measure_prepared` and,
    where the scan has its head, what the preprocessing measured beside the brain mask; and the ``spacing_mm`` and
    ``bias_correction`` under which they were measured.
    """

    def __init__(self, key: str = "image", mask_key: str = "brain_mask") -> None:
        super().__init__([key, mask_key])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        image, brain = (sample[key][0].numpy(force=True) for key in self.keys)
        spacing_mm = round(float(sample[self.keys[1]].pixdim[0]), 4)
        bias = sample.get("bias_field")
        log_sd = None if bias is None else float(bias["log_sd"])
        figures = measure_prepared(image, brain > 0.5, spacing_mm=spacing_mm, bias_log_sd=log_sd)
        left_out = {name: float(value) for name, value in sample.get("left_out", {}).items()}
        figures |= {name: value for name, value in left_out.items() if not math.isnan(value)}
        correction = "none" if bias is None else "n4"
        measured = {"figures": figures, "spacing_mm": spacing_mm, "bias_correction": correction}
        return {**sample, "figures": json.dumps(measured)}


def measured_figures(sample: Mapping[Any, Any], preprocessing: Any) -> dict[str, Any]:
    """All figures of a prepared scan, those of its own grid included, as a run measures them.

    Args:
        sample: what ``preprocessing`` made of a scan.
        preprocessing: whose inverse leads to the scan's own grid.

    Returns:
        ``figures`` by name, and the ``spacing_mm`` and ``bias_correction`` under which they were measured.
    """
    measured = json.loads(MeasureScand()(sample)["figures"])
    back = Invertd("brain_mask", transform=preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True)
    mask = back(dict(sample))["brain_mask"]
    acquisition = measure_acquisition(mask[0].numpy(force=True) > 0.5, mask.affine.numpy(force=True))
    return {**measured, "figures": measured["figures"] | acquisition}
