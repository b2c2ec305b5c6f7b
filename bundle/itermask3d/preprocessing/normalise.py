"""The unit of intensity: median and interquartile range of the brain."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from itermask3d.files.scans import ScanError
from itermask3d.preprocessing.intensity import IntensityScale

__all__ = ["RobustNormalized", "brain_quartiles", "quartiles_by_sorting", "rescaled", "robust_normalised"]

IQR_OF_A_NORMAL = 1.349
"""Interquartile range of a normal distribution of standard deviation 1."""

LEAST_SCALE = 1e-3
"""Scale of a flat brain where it is no error."""


class RobustNormalized(MapTransform):
    r"""Normalise by the brain's median and interquartile range; zero outside the brain.

    .. math:: x = \operatorname{clip}\left(\frac{I - \mathrm{median}_B(I)}{\mathrm{IQR}_B(I) / 1.349}, \pm c\right)

    The scale equals the standard deviation for a normal distribution. Median and quartiles move little while a lesion
    or an artefact holds less than a quarter of the brain, where mean and standard deviation follow it: so the unit of
    the error, and with it gamma, means the same on every scan.

    Args:
        keys: the image, and images that are to be brought to its scale.
        mask_key: the brain mask on the same grid.
        clip: bound :math:`c` in normalised units; keeps single bright vessels from ringing through the guide.

    The centre and scale are those of the first key, and are stored under ``normalisation`` as
    ``{"median": …, "scale": …}``, in the scan's own intensities where ``intensity`` says how to get there.

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
        if not inside.any():
            raise ScanError("the brain mask is empty on the network's grid; expected a brain")
        image, brain = (convert_to_tensor(volume, track_meta=False)[None] for volume in (sample[self.keys[0]], inside))
        low, median, high = brain_quartiles(image, brain)[0].tolist()
        scale = (high - low) / IQR_OF_A_NORMAL
        if not scale > 0:
            raise ScanError(f"the brain has no contrast (interquartile range {high - low:g}); expected an MR scan")
        for key in self.key_iterator(sample):
            sample[key] = rescaled(sample[key], inside, median, scale, clip=self.clip)
        own: IntensityScale = sample.get("intensity", IntensityScale(0.0, 1.0, whole=False))
        sample["normalisation"] = own.outward(median=median, scale=scale)
        return sample


def robust_normalised(
    image: torch.Tensor, brain: torch.Tensor, *others: torch.Tensor, clip: float = 5.0
) -> tuple[torch.Tensor, ...]:
    """What :class:`RobustNormalized` does, for a batch; a flat brain has a scale of :data:`LEAST_SCALE`.

    Args:
        image: ``(B, 1, D, H, W)``.
        brain: boolean, same shape, no scan of it empty.
        others: brought to the image's scale.
        clip: bound in normalised units.

    Returns:
        The image and the others, zero outside the brain.
    """
    low, median, high = brain_quartiles(image, brain).T.reshape(3, -1, 1, 1, 1, 1)
    scale = ((high - low) / IQR_OF_A_NORMAL).clamp(min=LEAST_SCALE)
    centre, unit = median.to(image.dtype), scale.to(image.dtype)
    return tuple(rescaled(volume, brain, centre, unit, clip=clip) for volume in (image, *others))


def rescaled(
    volume: torch.Tensor, brain: torch.Tensor, median: torch.Tensor | float, scale: torch.Tensor | float, *, clip: float
) -> torch.Tensor:
    """A volume in units of a scale about a median, clamped to ``clip``, zero outside the brain."""
    normalised = ((volume - median) / scale).clamp(-clip, clip)
    return torch.where(brain, normalised, torch.zeros_like(normalised))


def brain_quartiles(image: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
    """First quartile, median and third quartile of each scan's brain, interpolated linearly.

    numpy selects faster than torch sorts, but from another device the values would have to travel, scan by scan.

    Args:
        image: ``(B, 1, D, H, W)``.
        brain: boolean, same shape, no scan of it empty.

    Returns:
        ``(B, 3)`` float64 on the image's device.
    """
    if image.device.type == "cpu":
        scans = [scan[inside].double().numpy() for scan, inside in zip(image, brain, strict=True)]
        return torch.from_numpy(np.stack([np.percentile(values, (25, 50, 75)) for values in scans]))
    return quartiles_by_sorting(image, brain)


def quartiles_by_sorting(image: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
    """:func:`brain_quartiles` without a step a scan; on any device."""
    ordered = image.masked_fill(~brain, torch.inf).flatten(1).sort(dim=1).values
    last = brain.flatten(1).sum(1, keepdim=True) - 1
    places = last * torch.tensor((0.25, 0.5, 0.75), dtype=torch.float64, device=image.device)
    below, above = (ordered.gather(1, place.long()).double() for place in (places.floor(), places.ceil()))
    return torch.lerp(below, above, places - places.floor())
