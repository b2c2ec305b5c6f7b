"""Correction of the bias field: the slow brightening of a scan that comes from the coils, not from the brain."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import SimpleITK
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

__all__ = ["BiasFieldCorrectd", "estimate_bias_field"]

_COARSE_MM = 6.0
"""Edge of the voxels on which the field is estimated; it changes over centimetres."""


def estimate_bias_field(
    image: np.ndarray, brain: np.ndarray, *, spacing_mm: float, iterations: tuple[int, ...] = (30, 30, 30)
) -> np.ndarray:
    """Estimate the field that multiplies a scan, by N4.

    Args:
        image: intensities ``(D, H, W)`` on an isotropic grid; negative ones count as zero.
        brain: boolean, same shape; only these voxels are used.
        spacing_mm: edge of a voxel.
        iterations: at most, on each of the levels of refinement.

    Returns:
        The field ``(D, H, W)``, float32, positive, with a geometric mean of 1 over the brain.

    Source: Tustison et al., IEEE Transactions on Medical Imaging 29, 1310 (2010), as implemented in ITK.
    """
    volume = SimpleITK.GetImageFromArray(np.ascontiguousarray(image.clip(min=0), dtype=np.float32))
    mask = SimpleITK.GetImageFromArray(np.ascontiguousarray(brain, dtype=np.uint8))
    for part in (volume, mask):
        part.SetSpacing((spacing_mm,) * 3)
    shrink = [max(1, round(_COARSE_MM / spacing_mm))] * 3
    correction = SimpleITK.N4BiasFieldCorrectionImageFilter()
    correction.SetMaximumNumberOfIterations(iterations)
    correction.SetNumberOfThreads(1)  # the order of a parallel sum would change the last bits from run to run
    correction.Execute(SimpleITK.Shrink(volume, shrink), SimpleITK.Shrink(mask, shrink))
    log_field = SimpleITK.GetArrayFromImage(correction.GetLogBiasFieldAsImage(volume))
    return np.exp(log_field - log_field[brain].mean()).astype(np.float32)


class BiasFieldCorrectd(MapTransform):
    """Divide an image by its bias field; see :func:`estimate_bias_field`.

    Args:
        keys: the image, ``(1, D, H, W)`` on an isotropic grid.
        spacing_mm: edge of a voxel.
        mask_key: the brain mask on the same grid.

    The strength of the field, the standard deviation of its logarithm over the brain, is stored under ``bias_field``.
    """

    def __init__(self, keys: KeysCollection, spacing_mm: float, mask_key: str = "brain_mask") -> None:
        super().__init__(keys)
        self.spacing_mm = spacing_mm
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        brain = np.asarray(sample[self.mask_key][0]) > 0.5
        for key in self.key_iterator(sample):
            image: MetaTensor = sample[key]
            field = estimate_bias_field(np.asarray(image[0]), brain, spacing_mm=self.spacing_mm)
            sample[key] = image / torch.from_numpy(field).to(image.device)
            sample["bias_field"] = {"log_sd": float(np.log(field[brain]).std())}
        return sample
