"""The high-frequency guide: what the network may see of the structure under the mask."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

__all__ = ["PUBLISHED_RADIUS_CYCLES_PER_MM", "HighFrequencyd", "high_frequency", "low_frequency_region"]

PUBLISHED_RADIUS_CYCLES_PER_MM = 15 / 192
"""The paper's 15 bins in a field of view of 192 mm (192 voxels of 1 mm)."""

_EDGE_TOLERANCE = 1e-9


def low_frequency_region(
    shape: Sequence[int],
    *,
    spacing_mm: Sequence[float],
    radius_cycles_per_mm: float = PUBLISHED_RADIUS_CYCLES_PER_MM,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Mark the frequencies strictly inside a radius, in the order of ``torch.fft.fftn``.

    Args:
        shape: spatial size of the volume in voxels.
        spacing_mm: voxel size along each axis, so that a radius means the same on any grid.
        radius_cycles_per_mm: a bin at exactly this distance from zero frequency is outside.
        device: where the result lives.

    Returns:
        Boolean tensor of ``shape``.
    """
    squared = torch.zeros(tuple(shape), dtype=torch.float64, device=device)
    for axis, (size, spacing) in enumerate(zip(shape, spacing_mm, strict=True)):
        frequency = torch.fft.fftfreq(size, d=float(spacing), dtype=torch.float64, device=device)
        view = [1] * len(shape)
        view[axis] = size
        squared = squared + frequency.reshape(view).square()
    return squared < radius_cycles_per_mm**2 * (1 - _EDGE_TOLERANCE)


def high_frequency(
    image: torch.Tensor,
    *,
    spacing_mm: Sequence[float],
    radius_cycles_per_mm: float = PUBLISHED_RADIUS_CYCLES_PER_MM,
) -> torch.Tensor:
    r"""Structural guide :math:`x_f`: low frequencies keep their phase and lose their amplitude.

    .. math:: x_f = \operatorname{Re} F^{-1}[A' e^{i\varphi}], \quad F[x] = A e^{i\varphi}, \quad
              A'(k) = 1 \text{ if } |k| < r \text{ else } A(k)

    It is no plain high-pass: the phase below the radius survives with unit amplitude.

    Args:
        image: real tensor ``(..., D, H, W)`` in normalised intensity, zero outside the brain. The transform runs over
            the last three axes, each leading index on its own.
        spacing_mm: voxel size of the three axes.
        radius_cycles_per_mm: physical radius; the published value is 15 bins in 192 mm.

    Returns:
        Tensor of the same shape, dtype and device.

    Raises:
        ValueError: if the radius is negative or ``spacing_mm`` does not hold three positive numbers.

    Source: Liang et al. 2026 (arXiv 2504.04911), high-frequency structural guidance.

    >>> guide = high_frequency(torch.rand(1, 1, 16, 16, 16), spacing_mm=(2, 2, 2))
    >>> guide.shape
    torch.Size([1, 1, 16, 16, 16])
    """
    _check(spacing_mm, radius_cycles_per_mm)
    spectrum = torch.fft.fftn(image.float(), dim=(-3, -2, -1))
    inside = low_frequency_region(
        image.shape[-3:],
        spacing_mm=spacing_mm,
        radius_cycles_per_mm=radius_cycles_per_mm,
        device=image.device,
    )
    unit = torch.polar(torch.ones_like(spectrum.real), spectrum.angle())
    guided = torch.where(inside, unit, spectrum)
    guide: torch.Tensor = torch.fft.ifftn(guided, dim=(-3, -2, -1)).real.to(image.dtype)
    return guide


class HighFrequencyd(MapTransform):
    """Add the guide of ``keys[0]`` to a MONAI dictionary sample under ``high_frequency``.

    Input ``(1, D, H, W)``, output the same shape. The voxel size is that of the grid on which the network works: it is
    not read from an affine, which an augmentation may have scaled.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing_mm: float,
        radius_cycles_per_mm: float = PUBLISHED_RADIUS_CYCLES_PER_MM,
        output_key: str = "high_frequency",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spacing_mm = (float(spacing_mm),) * 3
        _check(self.spacing_mm, radius_cycles_per_mm)
        self.radius_cycles_per_mm = radius_cycles_per_mm
        self.output_key = output_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[self.output_key] = high_frequency(
                convert_to_tensor(sample[key], track_meta=False),
                spacing_mm=self.spacing_mm,
                radius_cycles_per_mm=self.radius_cycles_per_mm,
            )
        return sample


def _check(spacing_mm: Sequence[float], radius_cycles_per_mm: float) -> None:
    if len(spacing_mm) != 3 or not all(value > 0 for value in spacing_mm):
        raise ValueError(f"spacing_mm must hold three positive numbers, got {tuple(spacing_mm)}")
    if not radius_cycles_per_mm >= 0:
        raise ValueError(f"radius_cycles_per_mm must not be negative, got {radius_cycles_per_mm}")
