"""Which part of a volume each stage of the network has to compute, and how its tiles are cut and put together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch.nn.functional import pad

SLAB = {"cpu": 8}
"""Planes of the second finest level that the last stage does at once: on a CPU what the cache holds, else all."""

Box = tuple[tuple[int, int], ...]
"""First and past-the-last voxel on each axis."""


@dataclass(frozen=True)
class Plan:
    """What has to be computed: a box of input voxels for each stage of the way up, and slabs of the last box."""

    boxes: list[Box]
    slabs: list[Box]

    @classmethod
    def of(cls, inside: torch.Tensor, *, slab: int) -> Plan:
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


def join(features: torch.Tensor, origin: tuple[int, ...], skip: torch.Tensor, box: Box) -> torch.Tensor:
    whole = (0,) * len(origin)
    return torch.cat((_with_halo(features, origin, box), _with_halo(skip, whole, box)), dim=1)


def _with_halo(features: torch.Tensor, origin: tuple[int, ...], box: Box) -> torch.Tensor:
    """The box and one voxel around it, of features that begin at ``origin``; zero beyond the grid."""
    margins: list[int] = []
    for axis in (2, 1, 0):
        first, last = box[axis]
        margins += [origin[axis] - first + 1, last + 1 - origin[axis] - features.shape[2 + axis]]
    return pad(features, margins)


def add_shifted(output: torch.Tensor, sums: torch.Tensor, slab: Box) -> None:
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
