"""The same network, rewritten to run faster; equal to float32 rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import avg_pool3d, conv3d

from itermask3d.method.acceleration.folding import FoldedConv
from itermask3d.method.acceleration.tiling import SLAB, Box, Plan, add_shifted, join
from itermask3d.method.network import ReconstructionUNet, check_input

__all__ = ["InferenceUNet"]


class InferenceUNet:
    """A :class:`itermask3d.method.network.ReconstructionUNet` in evaluation mode, rewritten for one batch of scans.

    Inside the brain it computes the same function:

    - upsampling is part of the convolution after it (``UpsampledConv3d``), its kernels are built once;
    - batch normalisation is folded into the convolution before it, activations work in place;
    - channels lie last in memory, which spares the reordering around every convolution;
    - the way up computes only what the brain's voxels depend on, with an exact halo at every level, and the last stage
      goes slab by slab, so that the widest layer at full resolution stays in the cache and is never held whole;
    - the last convolution, with its few output channels, sums along one axis only, for nine taps of the two others at
      once, and adds the nine results up where they belong.

    Args:
        network: plain or after ``fuse_upsampling``; later changes of it are not seen.
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
        self._plans: dict[tuple[int, ...], Plan] = {}

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
            joined = join(features, origin, levels.pop(), box)
            features, origin = up(joined), tuple(2 * first for first, _ in box)
        joined = join(features, origin, levels.pop(), plan.boxes[-1])
        last = self.last if out_channels is None else self.last.first_channels(out_channels)
        output = last(joined, plan.boxes[-1], plan.slabs, grid=x.shape[2:])
        return output if self.inside is None else output * self.inside

    def _plan(self, x: torch.Tensor) -> Plan:
        grid = tuple(x.shape[2:])
        if grid not in self._plans:
            inside = torch.ones(grid, dtype=torch.bool) if self.inside is None else self.inside.cpu()
            self._plans[grid] = Plan.of(inside, slab=SLAB.get(x.device.type, max(grid)))
        return self._plans[grid]


@dataclass(frozen=True)
class _Down:
    first: FoldedConv
    second: FoldedConv
    stride: int

    @classmethod
    def of(cls, unit: Any, dtype: torch.dtype) -> _Down:
        return cls(
            FoldedConv.of(unit.conv.unit0, dtype), FoldedConv.of(unit.conv.unit1, dtype), unit.conv.unit0.conv.stride[0]
        )

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
    first: FoldedConv
    second: FoldedConv

    @classmethod
    def of(cls, stage: Any, dtype: torch.dtype) -> _Up:
        return cls(FoldedConv.of(stage[1], dtype, transposed=True), FoldedConv.of(stage[2], dtype))

    def __call__(self, with_halo: torch.Tensor) -> torch.Tensor:
        return self.second(self.first.upsampled(with_halo))


@dataclass(frozen=True)
class _Last:
    first: FoldedConv
    taps: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def of(cls, stage: Any, dtype: torch.dtype) -> _Last:
        exact = torch.promote_types(dtype, torch.float32)
        weight, bias = stage[2].conv.weight.detach().to(exact), stage[2].conv.bias.detach().to(exact)
        return cls(FoldedConv.of(stage[1], dtype, transposed=True), weight.permute(2, 3, 0, 1, 4), bias)

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
            add_shifted(output, sums.unflatten(1, (3, 3, channels)), slab)
        return output[:, :, 1:-1, 1:-1] + self.bias.view(1, -1, 1, 1, 1)
