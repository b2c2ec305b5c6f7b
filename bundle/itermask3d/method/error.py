"""The error of a batch of scans under a mask, and its quantiles over the brain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from itermask3d.method.masking import corrupt
from itermask3d.method.network import split_prediction
from itermask3d.method.residual_bias import residual_bias_field
from itermask3d.method.settings import RefinementSettings

__all__ = ["Reconstructor", "RefinementTask", "brain_quantile"]

Reconstructor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``(corrupted image, guide) -> prediction``: both ``(B, 1, D, H, W)``, the prediction with one channel or two, see
:func:`itermask3d.method.network.split_prediction`. An object with a method ``reconstruct`` of the same form is asked
through it where one channel is enough."""


_LEAST_SHARE = 1e-4
"""Keeps the mean of saturated errors finite."""


class RefinementTask:
    """A batch of scans with everything that stays the same during the loop.

    Args:
        image: normalised scans ``(B, 1, D, H, W)``, zero outside the brain.
        brain_mask: same shape, above 0.5 in the brain; every scan needs at least one such voxel.
        high_frequency: the guide, same shape.
        reconstructor: see :data:`Reconstructor`.
        seed: of the noise; each scan of the batch gets the same draw, whatever the batch size.
        noise: its standard deviation.
        relative_error, predicted_variance_floor, error_saturation, error_window, error_level,
            residual_bias_order: see :class:`RefinementSettings`.
        signs: ``(B,)``, of the differences that count in each scan: 1 only what is brighter than its reconstruction,
            -1 only what is darker, 0 both. Without it, both.

    Raises:
        ValueError: if the shapes differ, a brain mask is empty, or ``relative_error`` is asked of a reconstructor that
            does not predict its variance.
    """

    def __init__(
        self,
        image: torch.Tensor,
        brain_mask: torch.Tensor,
        high_frequency: torch.Tensor,
        reconstructor: Reconstructor,
        *,
        seed: int = 0,
        noise: float = 1.0,
        relative_error: bool = False,
        predicted_variance_floor: float = 0.0,
        error_saturation: float | None = None,
        error_window: int = 1,
        error_level: float | None = None,
        residual_bias_order: int | None = None,
        signs: torch.Tensor | None = None,
    ) -> None:
        _check_shapes(image, brain_mask, high_frequency)
        self.image = image
        self.signs: torch.Tensor | None = None  # the scan's own measure comes from all differences
        self.brain = brain_mask > 0.5
        self.high_frequency = high_frequency
        self.reconstructor = reconstructor
        drawn = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(seed)).to(image)[None]
        self.noise = noise * drawn
        self.error_window = error_window
        self._outside = ~self.brain
        self._box = (slice(None), slice(None), *_bounding_box(self.brain))
        self._brain_voxels = [scan.flatten().nonzero().flatten() for scan in self.brain]
        nothing_shown = corrupt(image, self.brain, self.noise)
        self._from_nothing, log_error = split_prediction(reconstructor(nothing_shown, high_frequency))
        if relative_error and log_error is None:
            raise ValueError("relative_error needs a network that predicts its variance (two output channels), got one")
        self.error_saturation = error_saturation
        self._expected = None
        self.levels = torch.ones(len(image), dtype=image.dtype, device=image.device)
        if relative_error and log_error is not None:
            self._expected = log_error.exp() + predicted_variance_floor
        if self._expected is not None and error_level is not None:
            self.levels = (self._median_error() / error_level).clamp_(min=1)
            self._expected = self._expected * as_voxels(self.levels)
        self.signs = None if signs is None or not signs.any() else as_voxels(signs.to(image))
        self.residual_bias = torch.zeros_like(image)
        if residual_bias_order is not None:
            residual = image - self._from_nothing
            self.residual_bias = residual_bias_field(residual, self._expected, self.brain, order=residual_bias_order)
            self.image = image - self.residual_bias

    @classmethod
    def from_settings(
        cls,
        image: torch.Tensor,
        brain_mask: torch.Tensor,
        high_frequency: torch.Tensor,
        reconstructor: Reconstructor,
        settings: RefinementSettings,
        signs: torch.Tensor | None = None,
    ) -> RefinementTask:
        """The task that the settings ask for."""
        return cls(
            image,
            brain_mask,
            high_frequency,
            reconstructor,
            seed=settings.seed,
            noise=settings.noise,
            relative_error=settings.relative_error,
            predicted_variance_floor=settings.predicted_variance_floor,
            error_saturation=settings.error_saturation,
            error_window=settings.error_window,
            error_level=settings.error_level,
            residual_bias_order=settings.residual_bias_order,
            signs=signs,
        )

    def _median_error(self) -> torch.Tensor:
        """Median over each brain of the error of the first reconstruction, ``(B,)``."""
        return self.quantile(self._voxel_error(self._from_nothing, ...), 0.5)

    def reconstruct(self, mask: torch.Tensor) -> torch.Tensor:
        """Fill in the masked voxels; ``(B, 1, D, H, W)``. The whole brain masked is done once and kept."""
        if mask is self.brain:
            return self._from_nothing
        reconstruct = getattr(self.reconstructor, "reconstruct", self.reconstructor)
        return split_prediction(reconstruct(corrupt(self.image, mask, self.noise), self.high_frequency))[0]

    def quantile(self, error: torch.Tensor, share: float) -> torch.Tensor:
        """:func:`brain_quantile` of an error ``(B, 1, D, H, W)``, with the brain's voxels looked up once."""
        scans = zip(error.flatten(1), self._brain_voxels, strict=True)
        return torch.stack([_smallest(scan.index_select(0, voxels), share) for scan, voxels in scans])

    def error(self, reconstruction: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Error of every brain voxel, zero outside; with a window, of the masked voxels, zero elsewhere."""
        if self.error_window == 1:
            return self._voxel_error(reconstruction, ...).masked_fill_(self._outside, 0)
        masked = mask[self._box].to(self.image.dtype)
        counts = self._counted(self._voxel_error(reconstruction, self._box))
        mean = _box_sum(counts * masked, self.error_window) / _box_sum(masked, self.error_window).clamp(min=1)
        averaged = torch.zeros_like(self.image)
        averaged[self._box] = self._brought_back(mean) * masked
        return averaged

    def _counted(self, error: torch.Tensor) -> torch.Tensor:
        return error if self.error_saturation is None else error.div_(1 + error / self.error_saturation)

    def _brought_back(self, mean: torch.Tensor) -> torch.Tensor:
        if self.error_saturation is None:
            return mean
        return mean.div_((1 - mean / self.error_saturation).clamp_(min=_LEAST_SHARE))

    def _voxel_error(self, reconstruction: torch.Tensor, where: Any) -> torch.Tensor:
        residual = self.image[where] - reconstruction[where]
        if self.signs is not None:
            residual = residual.masked_fill_(residual * self.signs < 0, 0)
        error = residual.square_()
        return error if self._expected is None else error.div_(self._expected[where])


def brain_quantile(error: torch.Tensor, brain: torch.Tensor, *, share: float) -> torch.Tensor:
    """Smallest error that at least ``share`` of the brain's voxels do not exceed, for each scan.

    With ``n`` brain voxels it is the ``floor(share * n)``-th smallest error, so ``ceil((1 - share) * n)`` voxels lie
    above it (fewer where errors tie). No sort of the volume, no interpolation.

    Args:
        error: ``(B, 1, D, H, W)``.
        brain: boolean, same shape, not empty.
        share: in (0, 1].

    Returns:
        ``(B,)`` on the error's device.
    """
    quantiles = []
    for values, inside in zip(error, brain, strict=True):
        quantiles.append(_smallest(values[inside], share))
    return torch.stack(quantiles)


def _smallest(voxels: torch.Tensor, share: float) -> torch.Tensor:
    rank = int(share * voxels.numel() + 1e-6)
    return voxels.kthvalue(max(rank, 1)).values


def _bounding_box(brain: torch.Tensor) -> tuple[slice, ...]:
    """The voxels of all scans of a batch on each spatial axis."""
    voxels = brain.amax(dim=(0, 1)).nonzero()
    first, last = voxels.amin(0).tolist(), voxels.amax(0).tolist()
    return tuple(slice(start, stop + 1) for start, stop in zip(first, last, strict=True))


def _box_sum(volume: torch.Tensor, window: int) -> torch.Tensor:
    """Sum over a cube around each voxel, one axis after the other; zero beyond the grid."""
    half = window // 2
    for axis in (2, 3, 4):
        total = volume.clone()
        size = volume.shape[axis]
        for shift in range(1, min(half, size - 1) + 1):
            ahead, behind = volume.narrow(axis, shift, size - shift), volume.narrow(axis, 0, size - shift)
            total.narrow(axis, 0, size - shift).add_(ahead)
            total.narrow(axis, shift, size - shift).add_(behind)
        volume = total
    return volume


def as_voxels(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1, 1)


def _check_shapes(image: torch.Tensor, brain_mask: torch.Tensor, high_frequency: torch.Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in (image, brain_mask, high_frequency)]
    if image.ndim != 5 or image.shape[1] != 1 or len(set(shapes)) != 1:
        raise ValueError(f"image, brain_mask and high_frequency must all be (B, 1, D, H, W), got {shapes}")
    if not (brain_mask > 0.5).flatten(1).any(1).all():
        raise ValueError("every brain_mask needs at least one voxel")
