"""Scanners that exist nowhere: each shows every raw head with one contrast, shading, resolution, noise and brain mask.

They make sites of any size from scans of one, for measuring how an answer carries over to another scanner. What belongs
to the scanner is the same in all its scans; noise and the wavering of the brain mask's border are drawn for each
subject. The kinds of effect are those of the training's augmentation, but here the whole head gets them before bias
correction and normalisation, and each site keeps its own. A virtual scanner is no real one: report it by its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch

from itermask3d.simulation.acquisition import ZERO_INTENSITY, Acquisition, acquire
from itermask3d.simulation.mask_change import MaskChange, change_mask

__all__ = ["VIRTUAL_SCANNERS", "VirtualScan", "VirtualScanner", "show_with"]


@dataclass(frozen=True)
class VirtualScanner:
    """One scanner with its brain-extraction tool; everything at its default leaves a scan as it is.

    Attributes:
        optics: contrast curve, bias pattern and resolution; the same in every scan.
        finish: noise, denoising and sharpening, applied after it; its seed is that of the subject.
        mask: how its tool draws the brain mask; its seed is that of the subject.
    """

    optics: Acquisition = field(default_factory=Acquisition)
    finish: Acquisition = field(default_factory=Acquisition)
    mask: MaskChange = field(default_factory=MaskChange)


class VirtualScan(NamedTuple):
    """A scan as a virtual scanner shows it.

    Attributes:
        image: float32 ``(D, H, W)``, not negative, in the unit of the scan that it was made from.
        brain_mask: boolean, as the scanner's tool draws it.
    """

    image: np.ndarray
    brain_mask: np.ndarray


VIRTUAL_SCANNERS: Mapping[str, VirtualScanner] = MappingProxyType({
    "soft": VirtualScanner(
        Acquisition(log_gamma=0.25, curve=0.3, bias=0.1, field_mm=90.0, blur_mm=1.0, seed=11),
        Acquisition(noise=0.25, noise_grain_mm=1.2),
        MaskChange(margin_mm=1.0, unevenness_mm=1.0),
    ),
    "shaded": VirtualScanner(
        Acquisition(log_gamma=-0.2, bias=0.45, field_mm=60.0, seed=12),
        Acquisition(noise=0.08),
        MaskChange(unevenness_mm=0.5),
    ),
    "thick": VirtualScanner(
        Acquisition(curve=0.2, bias=0.1, field_mm=70.0, thickness_mm=5.0, axis=2, seed=13),
        Acquisition(noise=0.1, sharpening=0.4),
        MaskChange(margin_mm=-1.5, unevenness_mm=1.5),
    ),
    "sharp": VirtualScanner(
        Acquisition(curve=0.5, bias=0.05, field_mm=80.0, ringing=0.2, axis=1, seed=14),
        Acquisition(noise=0.12, denoising=0.5, sharpening=1.2),
        MaskChange(margin_mm=2.0, unevenness_mm=1.0),
    ),
    "flat": VirtualScanner(
        Acquisition(log_gamma=-0.5, curve=0.6, bias=0.15, field_mm=50.0, blur_mm=0.6, seed=15),
        Acquisition(noise=0.15, noise_grain_mm=0.8),
        MaskChange(unevenness_mm=2.0),
    ),
})  # fmt: skip
"""Five fixed sites by name: metrics of one are comparable from version to version."""


def show_with(
    scanner: VirtualScanner, image: np.ndarray, brain_mask: np.ndarray, *, spacing_mm: float, subject: str
) -> VirtualScan:
    """Show a raw scan as a virtual scanner would.

    Args:
        scanner: such as one of :data:`VIRTUAL_SCANNERS`.
        image: raw intensities ``(D, H, W)`` with the head on or stripped, zero where nothing is.
        brain_mask: boolean, same shape.
        spacing_mm: edge of a voxel, the same along all axes.
        subject: whose scan; noise and mask depend on it and on nothing else.

    Raises:
        ValueError: if the shapes differ, the brain is empty, or its median is not positive.
    """
    if image.shape != brain_mask.shape or image.ndim != 3 or not brain_mask.any():
        raise ValueError(f"image {image.shape} and brain mask {brain_mask.shape}; expected one 3D shape and a brain")
    median = float(np.median(image[brain_mask]))
    if not median > 0:
        raise ValueError(f"the median of the brain is {median:g}; expected raw intensities above 0")
    unit = median / -ZERO_INTENSITY
    seed = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:4], "big") % (2**31 - 1)
    # The brain's median becomes 0 and the raw zero lies where simulation.acquisition expects it.
    head = torch.from_numpy(np.asarray((image - median) / unit, dtype=np.float32))
    everywhere = torch.ones(head.shape, dtype=torch.bool)
    shown = acquire(head, everywhere, scanner.optics, spacing_mm=spacing_mm)
    shown = acquire(shown, everywhere, replace(scanner.finish, seed=seed), spacing_mm=spacing_mm)
    drawn = replace(scanner.mask, seed=seed)
    _, mask = change_mask(head, torch.from_numpy(brain_mask), drawn, spacing_mm=spacing_mm)
    raw = ((shown - ZERO_INTENSITY) * unit).clamp(min=0)
    raw[head <= ZERO_INTENSITY + 1e-6] = 0.0  # nothing was measured there: a stripped scan stays one
    return VirtualScan(raw.numpy(), mask.numpy())
