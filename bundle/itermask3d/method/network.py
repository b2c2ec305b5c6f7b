"""The reconstruction network: a residual 3D U-Net without a full-resolution skip connection."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks import Convolution
from torch import nn

__all__ = ["SIZE_DIVISOR", "ReconstructionUNet", "check_input", "split_prediction"]

SIZE_DIVISOR = 16
"""Every spatial size of the input must be a multiple of this (four halvings)."""

_MIN_SIZE = 32
"""The last pooling needs three voxels under its kernel, so one multiple is not enough."""


_LOG_ERROR_RANGE = (-7.0, 4.0)
"""Squared errors of 0.001 to 55 in normalised intensity, whose range is -5 to 5."""


class DownUnit(nn.Module):
    """Two 3x3x3 convolutions with an average-pool shortcut onto the leading channels.

    The shortcut carries no weights: the input, averaged over 3x3x3 at the same stride, is added to the first
    ``in_channels`` of the output and the remaining channels pass unchanged.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Sequential()
        for index, (channels, step) in enumerate(((in_channels, stride), (out_channels, 1))):
            self.conv.add_module(f"unit{index}", _convolution(channels, out_channels, stride=step, dropout=dropout))
        self.pool = nn.AvgPool3d(kernel_size=3, stride=stride, padding=1) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.pool(x)
        out = self.conv(x)
        leading = shortcut.shape[1]
        return torch.cat((out[:, :leading] + shortcut, out[:, leading:]), dim=1)


class ReconstructionUNet(nn.Module):
    """Predicts a whole brain from its visible part and its high-frequency guide.

    Input ``(B, in_channels, D, H, W)``: the corrupted image and the guide; output ``(B, out_channels, D, H, W)`` in
    the same normalised intensity units. ``D``, ``H`` and ``W`` must be multiples of 16.

    Module names follow the public reference implementation, so its checkpoints load with ``strict=True``.

    Args:
        in_channels: channels of the input, image first.
        out_channels: 1 for the reconstruction alone, as published; 2 with the logarithm of the squared error that the
            network expects of itself, see :func:`split_prediction`.
        channels: five widths, from the first level to the bottleneck. ``(16, 32, 64, 128, 256)`` is the published
            network (8,902,626 parameters).
        dropout: probability of channel dropout during training.

    Raises:
        ValueError: if ``channels`` does not hold five increasing widths that the shortcut can serve.

    Source: Liang et al., Medical Image Analysis 107, 103763 (2026), arXiv 2504.04911.
    """

    def __init__(
        self,
        in_channels: int = 2,
        out_channels: int = 1,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        widths = (in_channels, *channels)
        if len(channels) != 5 or any(a > b for a, b in pairwise(widths)):
            raise ValueError(
                f"channels must hold five widths that never fall below the level before, got {tuple(channels)} "
                f"after {in_channels} input channels"
            )
        c1, c2, c3, c4, c5 = channels
        self.conv_1 = DownUnit(in_channels, c1, stride=2, dropout=dropout)
        self.conv_2 = DownUnit(c1, c2, stride=2, dropout=dropout)
        self.conv_3 = DownUnit(c2, c3, stride=2, dropout=dropout)
        self.conv_4 = DownUnit(c3, c4, stride=2, dropout=dropout)
        self.conv_5 = DownUnit(c4, c5, stride=1, dropout=dropout)
        self.up_stage_1 = _up_stage(c5 + c4, c3, dropout=dropout)
        self.up_stage_2 = _up_stage(2 * c3, c2, dropout=dropout)
        self.up_stage_3 = _up_stage(2 * c2, c1, dropout=dropout)
        self.up_stage_4 = _up_stage(2 * c1, out_channels, dropout=dropout, last=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_input(x)
        level_1 = self.conv_1(x)
        level_2 = self.conv_2(level_1)
        level_3 = self.conv_3(level_2)
        level_4 = self.conv_4(level_3)
        level_5 = self.conv_5(level_4)
        up = self.up_stage_1(torch.cat((level_5, level_4), dim=1))
        up = self.up_stage_2(torch.cat((up, level_3), dim=1))
        up = self.up_stage_3(torch.cat((up, level_2), dim=1))
        reconstruction: torch.Tensor = self.up_stage_4(torch.cat((up, level_1), dim=1))
        return reconstruction


def split_prediction(prediction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The reconstruction, and the logarithm of the predicted variance, where the network has one.

    Args:
        prediction: output of the network, ``(B, 1 or 2, D, H, W)``.

    Returns:
        Two tensors ``(B, 1, D, H, W)``; the second is clamped to a range that no real error leaves, or ``None``.
    """
    if prediction.shape[1] == 1:
        return prediction, None
    return prediction[:, :1], prediction[:, 1:2].clamp(*_LOG_ERROR_RANGE)


def _convolution(
    in_channels: int, out_channels: int, *, stride: int = 1, dropout: float, bare: bool = False
) -> nn.Module:
    return Convolution(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        strides=stride,
        kernel_size=3,
        adn_ordering="NDA",
        act="PRELU",
        norm="BATCH",
        dropout=dropout,
        conv_only=bare,
    )


def _up_stage(in_channels: int, out_channels: int, *, dropout: float, last: bool = False) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        _convolution(in_channels, in_channels, dropout=dropout),
        _convolution(in_channels, out_channels, dropout=dropout, bare=last),
    )


def check_input(x: torch.Tensor, divisor: int = SIZE_DIVISOR, smallest: int = _MIN_SIZE) -> None:
    """Refuse a tensor that the network cannot halve four times, with a :class:`ValueError` that names its shape."""
    # TorchScript compiles this too, and it knows neither globals nor generators nor tuples of any length.
    if x.dim() != 5 or sum([size % divisor for size in x.shape[2:]]) > 0 or min(x.shape[2:]) < smallest:
        shape = ", ".join([str(size) for size in x.shape])
        raise ValueError(
            f"the network needs a (B, C, D, H, W) tensor whose spatial sizes divide by {divisor} and "
            f"are at least {smallest}, got shape ({shape})"
        )
