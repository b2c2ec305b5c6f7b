"""What tells a scan's kind, measured on the way to the network's grid and back."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import EnsureTyped, Invertd, MapTransform

from itermask3d.preprocessing.scan_features import measure_acquisition, measure_left_out, measure_prepared

__all__ = ["MeasureLeftOutd", "ScanFeatures", "measure_scan", "measured_features", "on_own_grid"]

STACK = "stack"


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


@dataclass(frozen=True)
class ScanFeatures:
    """What tells a scan's kind, and the grid on which it was measured.

    Attributes:
        values: features by name, those of :mod:`itermask3d.preprocessing.scan_features`.
        spacing_mm: edge of a voxel of the network's grid.
        bias_correction: ``n4`` or ``none``.
    """

    values: Mapping[str, float]
    spacing_mm: float
    bias_correction: str

    @property
    def grid(self) -> dict[str, Any]:
        """The preprocessing under which the features mean something."""
        return {"spacing_mm": self.spacing_mm, "bias_correction": self.bias_correction}


def measure_scan(sample: Mapping[Any, Any], brain: np.ndarray, affine: np.ndarray) -> ScanFeatures:
    """Measure what tells a scan's kind.

    Args:
        sample: on the network's grid: ``image`` and ``brain_mask``, and what the preprocessing measured on its way
            (``bias_field``, ``left_out``).
        brain: boolean ``(D, H, W)``, the brain mask on the scan's own grid.
        affine: of that grid, voxel to millimetres.
    """
    image, mask = (sample[key][0].numpy(force=True) for key in ("image", "brain_mask"))
    spacing_mm = round(float(sample["brain_mask"].pixdim[0]), 4)
    bias = sample.get("bias_field")
    log_sd = None if bias is None else float(bias["log_sd"])
    values = measure_prepared(image, mask > 0.5, spacing_mm=spacing_mm, bias_log_sd=log_sd)
    left_out = {name: float(value) for name, value in sample.get("left_out", {}).items()}
    values |= {name: value for name, value in left_out.items() if not math.isnan(value)}
    return ScanFeatures(values | measure_acquisition(brain, affine), spacing_mm, "none" if bias is None else "n4")


def on_own_grid(sample: Mapping[Any, Any], preprocessing: Any, **volumes: torch.Tensor) -> dict[str, MetaTensor]:
    """Bring volumes from the network's grid to the scan's own, exactly as the scan came.

    Args:
        sample: what ``preprocessing`` made of the scan; of it, ``image`` knows the way.
        preprocessing: whose inverse leads to the scan's own grid.
        volumes: ``(1, *grid)`` by name, on any device.

    Returns:
        Float32 ``(1, D, H, W)`` on the CPU, by the same names.
    """
    typed = EnsureTyped(STACK, dtype=torch.float32, track_meta=True, device=torch.device("cpu"))
    back = Invertd(STACK, transform=preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True)
    stack = torch.cat([torch.as_tensor(volume).to("cpu", torch.float32) for volume in volumes.values()])
    moved = back(typed({"image": sample["image"], STACK: stack}))[STACK]  # the way is computed once for all of them
    return {name: moved[place : place + 1] for place, name in enumerate(volumes)}


def measured_features(sample: Mapping[Any, Any], preprocessing: Any) -> ScanFeatures:
    """All features of a prepared scan, those of its own grid included, as a run measures them.

    Args:
        sample: what ``preprocessing`` made of a scan.
        preprocessing: whose inverse leads to the scan's own grid.
    """
    mask = on_own_grid(sample, preprocessing, brain_mask=sample["brain_mask"])["brain_mask"]
    return measure_scan(sample, mask[0].numpy(force=True) > 0.5, mask.affine.numpy(force=True))
