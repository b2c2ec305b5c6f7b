"""The same network, rewritten to run faster; equal to float32 rounding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import torch
from torch import nn
from torch.nn.functional import avg_pool3d, conv3d, conv_transpose3d, leaky_relu_, pad

from itermask3d.network import ReconstructionUNet, check_input

__all__ = ["InferenceUNet", "UpsampledConv3d", "fuse_upsampling"]

_TAPS = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""Which taps of a 3-wide kernel fall on one coarse voxel, for each tap of the 4-wide transposed kernel."""

_SLAB = {"cpu": 8}
"""Planes of the second finest level that the last stage does at once: on a CPU what the cache holds, else all."""

Box = tuple[tuple[int, int], ...]
"""First and past-the-last voxel on each axis."""


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
        network: a :class:`itermask3d.network.ReconstructionUNet`, trained or not, on any device.

    Returns:
        The same object, with the same ``state_dict`` keys.
    """
    for stage in (getattr(network, f"up_stage_{level}") for level in range(1, 5)):
        if isinstance(stage[0], nn.Upsample):
            stage[0] = nn.Identity()
            stage[1].conv = _upsampled(stage[1].conv)
    return network


class InferenceUNet:
    """A :class:`itermask3d.network.ReconstructionUNet` in evaluation mode, rewritten for one batch of scans.

    Inside the brain it computes the same function:

    - upsampling is part of the convolution after it (:class:`UpsampledConv3d`), its kernels are built once;
    - batch normalisation is folded into the convolution before it, activations work in place;
    - channels lie last in memory, which spares the reordering around every convolution;
    - the way up computes only what the brain's voxels depend on, with an exact halo at every level, and the last stage
      goes slab by slab, so that the widest layer at full resolution stays in the cache and is never held whole;
    - the last convolution, with its few output channels, sums along one axis only, for nine taps of the two others at
      once, and adds the nine results up where they belong.

    Args:
        network: plain or after :func:`fuse_upsampling`; later changes of it are not seen.
        brain_mask: ``(B, 1, D, H, W)``, above 0.5 in the brain of each scan; without one, every voxel is computed.
        dtype: of weights and activations; the last convolution is done in float32 at least.

    Raises:
        ValueError: if the network is in training mode.
    """

    def __init__(
        self,
        network: ReconstructionUNet,
        brain_mask: torch.Tensor | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if network.training:
            raise ValueError("the network is in training mode; expected evaluation mode")
        self.dtype = dtype
        self.inside = None if brain_mask is None else (brain_mask > 0.5).amax(dim=(0, 1))
        self.down = [_Down.of(getattr(network, f"conv_{level}"), dtype) for level in range(1, 6)]
        self.up = [_Up.of(getattr(network, f"up_stage_{level}"), dtype) for level in range(1, 4)]
        self.last = _Last.of(network.up_stage_4, dtype)
        self._plans: dict[tuple[int, ...], _Plan] = {}

    def __call__(self, x: torch.Tensor, *, out_channels: int | None = None) -> torch.Tensor:
        """Reconstruct.

        Args:
            x: corrupted image and guide, ``(B, C, D, H, W)``, sizes as for the network.
            out_channels: compute the first of the output channels only.

        Returns:
            Float32 ``(B, C', D, H, W)``; zero outside the brain where one was given.
        """
        check_input(x)
        plan = self._plan(x)
        levels = [x.to(self.dtype).contiguous(memory_format=torch.channels_last_3d)]
        for down in self.down:
            levels.append(down(levels[-1]))
        features = levels.pop()
        origin: tuple[int, ...] = (0, 0, 0)
        for box, up in zip(plan.boxes, self.up, strict=False):
            joined = _joined(features, origin, levels.pop(), box)
            features, origin = up(joined), tuple(2 * first for first, _ in box)
        joined = _joined(features, origin, levels.pop(), plan.boxes[-1])
        last = self.last if out_channels is None else self.last.first_channels(out_channels)
        output = last(joined, plan.boxes[-1], plan.slabs, grid=x.shape[2:])
        return output if self.inside is None else output * self.inside

    def _plan(self, x: torch.Tensor) -> _Plan:
        grid = tuple(x.shape[2:])
        if grid not in self._plans:
            inside = torch.ones(grid, dtype=torch.bool) if self.inside is None else self.inside.cpu()
            self._plans[grid] = _Plan.of(inside, slab=_SLAB.get(x.device.type, max(grid)))
        return self._plans[grid]


@dataclass(frozen=True)
class _Plan:
    """What has to be computed: a box of input voxels for each stage of the way up, and slabs of the last box."""

    boxes: list[Box]
    slabs: list[Box]

    @classmethod
    def of(cls, inside: torch.Tensor, *, slab: int) -> _Plan:
        grid, boxes = tuple(inside.shape), []
        needed = _bounding_box(inside)
        for level in range(1, 5):
            boxes.append(_coarse_box(needed, tuple(size >> level for size in grid)))
            needed = tuple((first - 1, last + 1) for first, last in boxes[-1])
        return cls(boxes[::-1], list(_slabs(inside, boxes[0], slab)))


def _slabs(inside: torch.Tensor, box: Box, slab: int) -> Iterator[Box]:
    first, last = box[0]
    for start, stop in pairwise([*range(first, last, slab), last]):
        planes = inside[max(2 * start - 1, 0) : 2 * stop + 1]
        if planes.any():
            sides = _coarse_box(_bounding_box(planes)[1:], tuple(size // 2 for size in inside.shape[1:]))
            yield (start, stop), *sides


def _bounding_box(inside: torch.Tensor) -> Box:
    voxels = inside.nonzero()
    if not len(voxels):
        return tuple((size // 2, size // 2 + 1) for size in inside.shape)
    firsts, lasts = voxels.amin(0).tolist(), voxels.amax(0).tolist()
    return tuple((first, last + 1) for first, last in zip(firsts, lasts, strict=True))


def _coarse_box(fine: Box, grid: tuple[int, ...]) -> Box:
    """Coarse voxels whose doubled box holds a fine box and the one voxel around it that a convolution reads."""
    return tuple(
        (max((first - 1) // 2, 0), min((last + 2) // 2, size)) for (first, last), size in zip(fine, grid, strict=True)
    )


def _joined(features: torch.Tensor, origin: tuple[int, ...], skip: torch.Tensor, box: Box) -> torch.Tensor:
    whole = (0,) * len(origin)
    return torch.cat((_with_halo(features, origin, box), _with_halo(skip, whole, box)), dim=1)


def _with_halo(features: torch.Tensor, origin: tuple[int, ...], box: Box) -> torch.Tensor:
    """The box and one voxel around it, of features that begin at ``origin``; zero beyond the grid."""
    margins: list[int] = []
    for axis in (2, 1, 0):
        first, last = box[axis]
        margins += [origin[axis] - first + 1, last + 1 - origin[axis] - features.shape[2 + axis]]
    return pad(features, margins)


@dataclass(frozen=True)
class _Conv:
    """A convolution with the batch normalisation after it folded in, and the slope of the activation after that."""

    weight: torch.Tensor
    bias: torch.Tensor
    slope: float

    @classmethod
    def of(cls, block: Any, dtype: torch.dtype, *, transposed: bool = False) -> _Conv:
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


@dataclass(frozen=True)
class _Down:
    first: _Conv
    second: _Conv
    stride: int

    @classmethod
    def of(cls, unit: Any, dtype: torch.dtype) -> _Down:
        return cls(_Conv.of(unit.conv.unit0, dtype), _Conv.of(unit.conv.unit1, dtype), unit.conv.unit0.conv.stride[0])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        if self.stride > 1:
            wide = x.to(torch.promote_types(x.dtype, torch.float32))  # a CPU does not pool in bfloat16
            shortcut = avg_pool3d(wide, kernel_size=3, stride=self.stride, padding=1).to(x.dtype)
        out = self.second(self.first(x, stride=self.stride))
        out[:, : x.shape[1]] += shortcut
        return out


@dataclass(frozen=True)
class _Up:
    first: _Conv
    second: _Conv

    @classmethod
    def of(cls, stage: Any, dtype: torch.dtype) -> _Up:
        return cls(_Conv.of(stage[1], dtype, transposed=True), _Conv.of(stage[2], dtype))

    def __call__(self, with_halo: torch.Tensor) -> torch.Tensor:
        return self.second(self.first.upsampled(with_halo))


@dataclass(frozen=True)
class _Last:
    first: _Conv
    taps: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def of(cls, stage: Any, dtype: torch.dtype) -> _Last:
        exact = torch.promote_types(dtype, torch.float32)
        weight, bias = stage[2].conv.weight.detach().to(exact), stage[2].conv.bias.detach().to(exact)
        return cls(_Conv.of(stage[1], dtype, transposed=True), weight.permute(2, 3, 0, 1, 4), bias)

    def first_channels(self, count: int) -> _Last:
        """The same layer with its first output channels only."""
        return _Last(self.first, self.taps[:, :, :count], self.bias[:count])

    def __call__(self, with_halo: torch.Tensor, box: Box, slabs: list[Box], *, grid: torch.Size) -> torch.Tensor:
        channels, batch = len(self.bias), len(with_halo)
        output = with_halo.new_zeros((batch, channels, grid[0] + 2, grid[1] + 2, grid[2]), dtype=self.taps.dtype)
        rows = self.taps.flatten(0, 2)[:, :, None, None].contiguous(memory_format=torch.channels_last_3d)
        for slab in slabs:
            tile = with_halo[
                (slice(None), slice(None), *(slice(a - c, b - c + 2) for (a, b), (c, _) in zip(slab, box, strict=True)))
            ]
            hidden = self.first.upsampled(tile).to(self.taps.dtype)
            sums = conv3d(hidden, rows, padding=(0, 0, 1))
            _add_shifted(output, sums.unflatten(1, (3, 3, channels)), slab)
        return output[:, :, 1:-1, 1:-1] + self.bias.view(1, -1, 1, 1, 1)


def _add_shifted(output: torch.Tensor, sums: torch.Tensor, slab: Box) -> None:
    """Add what each pair of taps of the first two axes reads in a slab to where it belongs.

    Args:
        output: ``(B, C', D + 2, H + 2, W)``, with one voxel around the first two axes.
        sums: ``(B, 3, 3, C', ...)`` over the slab.
        slab: on the grid of half the resolution.
    """
    (x, _), (y, _), (z, stop) = slab
    depth, height = sums.shape[4:6]
    for i, j in product(range(3), repeat=2):
        rows = output[:, :, 2 * x + 2 - i :, 2 * y + 2 - j :, 2 * z : 2 * stop]
        rows[:, :, :depth, :height] += sums[:, i, j]


def _transposed_kernel(weight: torch.Tensor) -> torch.Tensor:
    taps = weight.new_tensor(_TAPS)
    return torch.einsum("oixyz,ax,by,cz->ioabc", weight, taps, taps, taps)


def _upsampled(convolution: nn.Conv3d) -> UpsampledConv3d:
    fused = UpsampledConv3d(convolution.in_channels, convolution.out_channels, kernel_size=3, padding=1)
    fused.weight, fused.bias = convolution.weight, convolution.bias
    return fused
