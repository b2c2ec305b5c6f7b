"""Convolutions that take over the step beside them: upsampling before, batch normalisation after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import conv3d, conv_transpose3d, leaky_relu_

__all__ = ["UpsampledConv3d", "fuse_upsampling"]

_TAPS = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""Which taps of a 3-wide kernel fall on one coarse voxel, for each tap of the 4-wide transposed kernel."""


class UpsampledConv3d(nn.Conv3d):
    """Nearest x2 upsampling followed by a 3x3x3 convolution, in one step and without the large intermediate.

    On the doubled grid, neighbouring taps read the same coarse voxel, so their weights can be summed first: what
    remains is a transposed convolution with a 4x4x4 kernel and stride 2. Parameters keep the names and shapes of the
    3x3x3 convolution, so checkpoints serve both forms and gradients reach the original weights.

    Input ``(B, C, D, H, W)``, output ``(B, C', 2D, 2H, 2W)``.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return conv_transpose3d(input, _transposed_kernel(self.weight), self.bias, stride=2, padding=1)


def fuse_upsampling(network: nn.Module) -> nn.Module:
    """Replace, in place, every nearest upsampling and the convolution after it by :class:`UpsampledConv3d`.

    Args:
        network: a :class:`itermask3d.method.network.ReconstructionUNet`, trained or not, on any device.

    Returns:
        The same object, with the same ``state_dict`` keys.
    """
    for stage in (getattr(network, f"up_stage_{level}") for level in range(1, 5)):
        if isinstance(stage[0], nn.Upsample):
            stage[0] = nn.Identity()
            stage[1].conv = _upsampled(stage[1].conv)
    return network


@dataclass(frozen=True)
class FoldedConv:
    """A convolution with the batch normalisation after it folded in, and the slope of the activation after that."""

    weight: torch.Tensor
    bias: torch.Tensor
    slope: float

    @classmethod
    def of(cls, block: Any, dtype: torch.dtype, *, transposed: bool = False) -> FoldedConv:
        weight, bias = block.conv.weight.detach().double(), block.conv.bias.detach().double()
        norm = block.adn.N
        scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
        weight, bias = weight * scale.view(-1, 1, 1, 1, 1), (bias - norm.running_mean) * scale + norm.bias.detach()
        if transposed:
            weight = _transposed_kernel(weight)
        weight = weight.to(dtype).contiguous(memory_format=torch.channels_last_3d)
        return cls(weight, bias.to(dtype), block.adn.A.weight.item())

    def __call__(self, x: torch.Tensor, *, stride: int = 1) -> torch.Tensor:
        return leaky_relu_(conv3d(x, self.weight, self.bias, stride=stride, padding=1), self.slope)

    def upsampled(self, with_halo: torch.Tensor) -> torch.Tensor:
        return leaky_relu_(conv_transpose3d(with_halo, self.weight, self.bias, stride=2, padding=3), self.slope)


def _transposed_kernel(weight: torch.Tensor) -> torch.Tensor:
    taps = weight.new_tensor(_TAPS)
    return torch.einsum("oixyz,ax,by,cz->ioabc", weight, taps, taps, taps)


def _upsampled(convolution: nn.Conv3d) -> UpsampledConv3d:
    fused = UpsampledConv3d(convolution.in_channels, convolution.out_channels, kernel_size=3, padding=1)
    fused.weight, fused.bias = convolution.weight, convolution.bias
    return fused
