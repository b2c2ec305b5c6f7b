"""Brain masks as other tools draw them: wider, tighter, uneven, cut off, or with remnants of what is not brain.

The parameters of a change are drawn first and then applied; strength 0 is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import max_pool3d

from itermask3d.method.masking import smooth_field
from itermask3d.simulation.acquisition import ZERO_INTENSITY
from itermask3d.simulation.ranges import Range, check_ranges

__all__ = ["MaskChange", "MaskRanges", "change_mask", "draw_mask_change"]


@dataclass(frozen=True)
class MaskRanges:
    """Of a brain mask drawn by another tool.

    Attributes:
        probability: share of the samples whose mask is changed.
        margin_mm: how far the border moves on average; negative is inwards.
        unevenness_mm: SD of a smooth field added to it.
        cut_mm: depth of a piece that is cut off by a plane at an end of an axis, in a third of the changed masks.
    """

    probability: float = 0.6
    margin_mm: Range = (-3.0, 4.0)
    unevenness_mm: Range = (0.0, 2.5)
    cut_mm: Range = (2.0, 16.0)

    def __post_init__(self) -> None:
        check_ranges(self, signed=("margin_mm",))


@dataclass(frozen=True)
class MaskChange:
    """One change of a brain mask; lengths as in :class:`MaskRanges`.

    Attributes:
        rim: intensity of what a wider mask takes in, in normalised units.
        remnants: share of the rim that is bright instead.
        axis, upper_end: where ``cut_mm`` is cut off.
    """

    margin_mm: float = 0.0
    unevenness_mm: float = 0.0
    rim: float = -3.0
    remnants: float = 0.0
    cut_mm: float = 0.0
    axis: int = 2
    upper_end: bool = True
    seed: int = 0


def draw_mask_change(ranges: MaskRanges, rng: np.random.RandomState) -> MaskChange:
    """Draw one change; the state of ``rng`` advances, nothing else is touched."""
    if rng.rand() >= ranges.probability:
        return MaskChange()
    return MaskChange(
        margin_mm=float(rng.uniform(*ranges.margin_mm)),
        unevenness_mm=float(rng.uniform(*ranges.unevenness_mm)),
        rim=float(rng.uniform(ZERO_INTENSITY, -0.5)),
        remnants=float(rng.uniform(0, 0.4)) if rng.rand() < 0.3 else 0.0,
        cut_mm=float(rng.uniform(*ranges.cut_mm)) if rng.rand() < 1 / 3 else 0.0,
        axis=int(rng.choice((0, 1, 2), p=(0.1, 0.2, 0.7))),
        upper_end=bool(rng.rand() < 0.4),
        seed=int(rng.randint(2**31 - 1)),
    )


def change_mask(
    image: torch.Tensor, brain_mask: torch.Tensor, change: MaskChange, *, spacing_mm: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the brain mask as another tool would, and fill in what it takes in.

    Args:
        image: normalised scan ``(D, H, W)``.
        brain_mask: boolean, same shape.
        change: from :func:`draw_mask_change`.
        spacing_mm: edge of a voxel.

    Returns:
        New image and new boolean mask; the mask as it was where nothing would be left of it.
    """
    if change == MaskChange(seed=change.seed, axis=change.axis, upper_end=change.upper_end, rim=change.rim):
        return image, brain_mask
    rng = np.random.default_rng(change.seed)
    border = torch.full(brain_mask.shape, change.margin_mm / spacing_mm, device=brain_mask.device)
    if change.unevenness_mm > 0:
        field = smooth_field(brain_mask.shape, (24.0 / spacing_mm,) * 3, rng, brain_mask.device)
        border = border + field * (change.unevenness_mm / spacing_mm)
    changed = _depth(brain_mask) + border > 0
    changed = _cut(changed, change, spacing_mm)
    if int(changed.sum()) < int(brain_mask.sum()) // 2:
        return image, brain_mask
    generator = torch.Generator(device=image.device).manual_seed(int(rng.integers(2**62)))
    rim = change.rim + 0.4 * torch.randn(image.shape, generator=generator, device=image.device)
    if change.remnants > 0:
        patches = smooth_field(image.shape, (12.0 / spacing_mm,) * 3, rng, image.device)
        rim = torch.where(patches > torch.quantile(patches.flatten()[::7], 1 - change.remnants), rim + 4.0, rim)
    return torch.where(changed & ~brain_mask, rim, image), changed


def _depth(brain: torch.Tensor, layers: int = 4) -> torch.Tensor:
    """Layers of voxels from the border: 0.5 for the outermost inside, -0.5 for the first outside, and so on."""
    inside = brain[None, None].float()
    grown, shrunk = inside, inside
    depth = inside - 0.5
    for _ in range(layers):
        grown, shrunk = max_pool3d(grown, 3, 1, 1), -max_pool3d(-shrunk, 3, 1, 1)
        depth = depth + shrunk - (1 - grown)
    return depth[0, 0]


def _cut(brain: torch.Tensor, change: MaskChange, spacing_mm: float) -> torch.Tensor:
    if not change.cut_mm > 0:
        return brain
    others = [axis for axis in range(3) if axis != change.axis]
    held = brain.any(dim=others[1]).any(dim=others[0]).nonzero().flatten()
    if not len(held):
        return brain
    n = round(change.cut_mm / spacing_mm)
    kept = torch.zeros(brain.shape[change.axis], dtype=torch.bool, device=brain.device)
    low, high = int(held[0]), int(held[-1]) + 1
    kept[slice(low, high - n) if change.upper_end else slice(low + n, high)] = True
    return brain & kept.view([-1 if axis == change.axis else 1 for axis in range(3)])
