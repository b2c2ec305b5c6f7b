"""The unit of intensity: median and interquartile range of the brain."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import (
    MapTransform,
)
from monai.utils import convert_to_tensor

from itermask3d.files.scans import ScanError

__all__ = ["RobustNormalized"]


class RobustNormalized(MapTransform):
    r"""Normalise by the brain's median and interquartile range; zero outside the brain.

    .. math:: x = \operatorname{clip}\left(\frac{I - \mathrm{median}_B(I)}{\mathrm{IQR}_B(I) / 1.349}, \pm c\right)

    The scale equals the standard deviation for a normal distribution. Median and quartiles move little while a lesion
    or a fault holds less than a quarter of the brain, where mean and standard deviation follow it: so the unit of the
    error, and with it gamma, means the same on every scan.

    Args:
        keys: the image, and images that are to be brought to its scale.
        mask_key: the brain mask on the same grid.
        clip: bound :math:`c` in normalised units; keeps single bright vessels from ringing through the guide.

    The centre and scale are those of the first key, and are stored under ``normalisation`` as
    ``{"median": …, "scale": …}``.

    Raises:
        ScanError: if the brain has no contrast (an interquartile range of zero).
    """

    def __init__(self, keys: KeysCollection, mask_key: str = "brain_mask", clip: float = 5.0) -> None:
        super().__init__(keys)
        if not clip > 0:
            raise ValueError(f"clip must be positive, got {clip}")
        self.mask_key = mask_key
        self.clip = clip

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        inside = sample[self.mask_key] > 0.5
        values = sample[self.keys[0]][inside].double()
        if not values.numel():
            raise ScanError("the brain mask is empty on the network's grid; expected a brain")
        low, median, high = _quartiles(convert_to_tensor(values, track_meta=False))
        scale = (high - low) / 1.349
        if not scale > 0:
            raise ScanError(f"the brain has no contrast (interquartile range {high - low:g}); expected an MR scan")
        for key in self.key_iterator(sample):
            normalised = ((sample[key] - median) / scale).clamp(-self.clip, self.clip)
            sample[key] = torch.where(inside, normalised, torch.zeros_like(normalised))
        sample["normalisation"] = {"median": median, "scale": scale}
        return sample


def _quartiles(values: torch.Tensor) -> list[float]:
    """Where the values are; numpy selects faster than torch sorts, but on another device they would have to travel."""
    if values.device.type == "cpu":
        return [float(value) for value in np.percentile(values.numpy(), (25, 50, 75))]
    ranks = torch.tensor((0.25, 0.5, 0.75), dtype=values.dtype, device=values.device)
    return [float(value) for value in torch.quantile(values, ranks).tolist()]
