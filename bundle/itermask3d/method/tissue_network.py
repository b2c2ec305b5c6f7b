"""A small 3D U-Net that says which normal tissue each voxel of a scan is, or was before a lesion, in any contrast."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import affine_grid, grid_sample, interpolate, pixel_unshuffle, softmax

from itermask3d.method.network import check_input

__all__ = ["CLASSES", "PRIOR_SIZE", "TissueUNet", "in_box", "tissue_shares"]

CLASSES = (
    "fluid",
    "white",
    "cortex",
    "limbic",
    "deep_grey",
    "cerebellar_grey",
    "cerebellar_white",
    "brainstem",
    "other",
)
"""Tissues that a scan shows with an intensity of their own; ``other`` are vessels, and what is no brain in the mask."""

PRIOR_SIZE = (20, 24, 20)
"""Cells of the prior along the axes of a brain's bounding box."""

_LEAST_SHARE = 0.002
"""Of every tissue in every place, so that no prior rules one out."""


class TissueUNet(nn.Module):
    """Logits of tissues from a normalised scan and its brain mask.

    The volume is taken apart into the eight voxels of every 2x2x2 block, so the widest convolutions run on an eighth of
    the voxels and nothing is lost. Normalisation is of each instance, since contrasts differ from scan to scan. What
    the convolutions say is added to the logarithm of a prior: the mean shares of the training's people at the same
    place of the brain's bounding box. So an untrained network says the prior, and one that sees little falls back to
    it.

    Input: image ``(B, 1, D, H, W)`` in robust SD of the brain and zero outside, and the brain mask, same shape. Output:
    ``(B, len(CLASSES), D, H, W)``. Sizes are multiples of 16.

    Args:
        channels: four widths, from the finest level to the coarsest.

    Raises:
        ValueError: if ``channels`` does not hold four widths that do not fall.

    Source of the training: Billot et al., Medical Image Analysis 86, 102789 (2023), doi:10.1016/j.media.2023.102789.
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 48, 64)) -> None:
        super().__init__()
        if len(channels) != 4 or any(a > b for a, b in pairwise(channels)):
            raise ValueError(f"channels must hold four widths that do not fall, got {tuple(channels)}")
        inputs = (2 * 8 + len(CLASSES) + 3, *channels)
        self.down = nn.ModuleList(_double(a, b) for a, b in pairwise(inputs))
        self.up = nn.ModuleList(_double(low + high, high) for high, low in pairwise(channels))
        self.head = nn.Conv3d(channels[0], 8 * len(CLASSES), kernel_size=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.prior: torch.Tensor
        self.register_buffer("prior", torch.full((len(CLASSES), *PRIOR_SIZE), 1 / len(CLASSES)))

    def forward(self, image: torch.Tensor, brain_mask: torch.Tensor) -> torch.Tensor:
        check_input(image)
        if image.shape[1] != 1 or image.shape != brain_mask.shape:
            raise ValueError(
                f"image and brain_mask must both be (B, 1, D, H, W), got {tuple(image.shape)} and "
                f"{tuple(brain_mask.shape)}"
            )
        prior = self.log_prior(brain_mask)
        blocks = _take_apart(torch.cat((image, brain_mask.to(image)), dim=1))
        x = torch.cat((blocks, nn.functional.avg_pool3d(prior, 2), _coordinates(blocks)), dim=1)
        levels: list[torch.Tensor] = []
        for index, stage in enumerate(self.down):
            x = stage(x if index == 0 else nn.functional.avg_pool3d(x, 2))
            levels.append(x)
        for stage, level in zip(reversed(self.up), reversed(levels[:-1]), strict=True):
            x = stage(torch.cat((interpolate(x, scale_factor=2, mode="nearest"), level), dim=1))
        return prior + _put_together(self.head(x))

    def log_prior(self, brain_mask: torch.Tensor) -> torch.Tensor:
        """Logarithm of the prior at each voxel, by its place in the box of the brain; the border's value around it."""
        parts = [_sampled(self.prior, brain[0] > 0.5) for brain in brain_mask]
        return torch.log(torch.cat(parts) + _LEAST_SHARE)


def in_box(volumes: torch.Tensor, brain_mask: torch.Tensor, size: Sequence[int] = PRIOR_SIZE) -> torch.Tensor:
    """Volumes in the cells of the box around a brain, each cell the mean of its voxels.

    Args:
        volumes: ``(C, D, H, W)``.
        brain_mask: ``(1, D, H, W)``.
        size: cells of the box.

    Raises:
        ValueError: if the brain mask is empty.
    """
    spans = _box(brain_mask[0] > 0.5)
    part = volumes[(slice(None), *(slice(low, high) for low, high in spans))]
    return interpolate(part[None], size=tuple(size), mode="area")[0]


@torch.no_grad()
def tissue_shares(network: nn.Module, image: torch.Tensor, brain_mask: torch.Tensor) -> torch.Tensor:
    """Probability of each tissue in every voxel, the mean over the scan and its mirror image.

    Args:
        network: a :class:`TissueUNet` in evaluation mode.
        image, brain_mask: see there; the first spatial axis runs from left to right.

    Returns:
        ``(B, len(CLASSES), D, H, W)``, zero outside the brain.
    """
    brain = brain_mask > 0.5
    plain = softmax(network(image, brain), dim=1)
    mirrored = softmax(network(image.flip(2), brain.flip(2)), dim=1).flip(2)
    return (plain + mirrored) / 2 * brain


def _double(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(*_unit(in_channels, out_channels), *_unit(out_channels, out_channels))


def _unit(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
    return convolution, nn.InstanceNorm3d(out_channels, affine=True), nn.LeakyReLU(0.1)


def _take_apart(volume: torch.Tensor) -> torch.Tensor:
    """``(B, C, D, H, W)`` to ``(B, 8 C, D / 2, H / 2, W / 2)``: a block's voxels become channels."""
    batch, channels, depth, height, width = volume.shape
    flat = pixel_unshuffle(volume.reshape(batch, channels * depth, height, width), 2)
    halves = flat.reshape(batch, channels, depth // 2, 2, 4, height // 2, width // 2)
    return halves.permute(0, 1, 3, 4, 2, 5, 6).reshape(batch, 8 * channels, depth // 2, height // 2, width // 2)


def _put_together(blocks: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`_take_apart`."""
    batch, channels, depth, height, width = blocks.shape
    parts = blocks.reshape(batch, channels // 8, 2, 2, 2, depth, height, width)
    whole = parts.permute(0, 1, 5, 2, 6, 3, 7, 4)
    return whole.reshape(batch, channels // 8, 2 * depth, 2 * height, 2 * width)


def _box(brain: torch.Tensor) -> list[tuple[int, int]]:
    """First voxel and the one after the last, along each axis."""
    voxels = brain.nonzero()
    if not len(voxels):
        raise ValueError("every brain_mask needs at least one voxel")
    return list(zip(voxels.amin(0).tolist(), (voxels.amax(0) + 1).tolist(), strict=True))


def _sampled(prior: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
    """The prior ``(K, *)`` at each voxel by its place in the brain's box, ``(1, K, D, H, W)``."""
    scale, shift = [], []
    for (low, high), size in zip(_box(brain), brain.shape, strict=True):
        scale.append(size / (high - low))
        shift.append((size - low - high) / (high - low))
    matrix = torch.cat((torch.diag(torch.tensor(scale[::-1])), torch.tensor(shift[::-1])[:, None]), dim=1)
    grid = affine_grid(matrix[None].to(prior), [1, 1, *brain.shape], align_corners=False)
    return grid_sample(prior[None], grid, mode="bilinear", padding_mode="border", align_corners=False)


def _coordinates(like: torch.Tensor) -> torch.Tensor:
    """From -1 to 1 along each axis, ``(B, 3, D, H, W)``."""
    axes = [torch.linspace(-1, 1, size, dtype=like.dtype, device=like.device) for size in like.shape[2:]]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return grid.expand(len(like), *grid.shape)
