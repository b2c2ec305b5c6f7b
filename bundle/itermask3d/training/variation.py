"""What another head, scanner and brain extraction would change in a training scan."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor
from torch.nn.functional import affine_grid, grid_sample

from itermask3d.simulation.acquisition import AcquisitionRanges, acquire, draw_acquisition
from itermask3d.simulation.deformation import DeformationRanges, displacement_mm, draw_deformation
from itermask3d.simulation.mask_change import MaskRanges, change_mask, draw_mask_change

__all__ = ["RandVaryd", "Variation", "displaced_grid", "vary"]


@dataclass(frozen=True)
class Variation:
    """Ranges of all three; each has its own probability, and 0 switches it off.

    Attributes:
        deformation: of the head.
        masks: of the brain mask.
        acquisition: of the scan.
    """

    deformation: DeformationRanges = field(default_factory=DeformationRanges)
    masks: MaskRanges = field(default_factory=MaskRanges)
    acquisition: AcquisitionRanges = field(default_factory=AcquisitionRanges)


def vary(
    image: torch.Tensor,
    brain_mask: torch.Tensor,
    variation: Variation,
    rng: np.random.RandomState,
    *,
    spacing_mm: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw another brain mask and another acquisition, and apply both; the head keeps its shape.

    Args:
        image: normalised scan ``(D, H, W)``.
        brain_mask: boolean, same shape.
        variation: what to draw from.
        rng: source of everything random.
        spacing_mm: edge of a voxel.

    Returns:
        New image, to be normalised again, and new boolean mask.
    """
    changed, mask = change_mask(image, brain_mask, draw_mask_change(variation.masks, rng), spacing_mm=spacing_mm)
    return acquire(changed, mask, draw_acquisition(variation.acquisition, rng), spacing_mm=spacing_mm), mask


def displaced_grid(
    grid: torch.Tensor,
    brain_mask: torch.Tensor,
    variation: Variation,
    rng: np.random.RandomState,
    *,
    spacing_mm: float,
) -> torch.Tensor:
    """Add a deformation for each scan of a batch to the places of :func:`torch.nn.functional.grid_sample`.

    Args:
        grid: ``(B, D, H, W, 3)``, with ``align_corners``.
        brain_mask: boolean ``(B, 1, D, H, W)``.
        variation: what to draw from.
        rng: source of everything random.
        spacing_mm: edge of a voxel.
    """
    drawn = [
        displacement_mm(brain[0], draw_deformation(variation.deformation, rng), spacing_mm=spacing_mm)
        for brain in brain_mask
    ]
    half_mm = spacing_mm * (torch.tensor(grid.shape[1:4], device=grid.device) - 1) / 2
    units = torch.stack(drawn).to(grid) / half_mm.to(grid).view(1, 3, 1, 1, 1)
    return grid + units.flip(1).permute(0, 2, 3, 4, 1)  # torch counts axes from the last one


class RandVaryd(RandomizableTransform, MapTransform):
    """Deform a sample, redraw its brain mask and acquire it anew. The random state is MONAI's.

    Args:
        keys: the normalised image, ``(1, D, H, W)``.
        spacing_mm: edge of a voxel.
        variation: what to draw from.
        mask_key: the brain mask on the same grid.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing_mm: float,
        variation: Variation,
        mask_key: str = "brain_mask",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.spacing_mm = float(spacing_mm)
        self.variation = variation
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        for key in self.key_iterator(sample):
            image, brain = (convert_to_tensor(sample[name], track_meta=False)[None] for name in (key, self.mask_key))
            still = affine_grid(torch.eye(3, 4)[None].to(image), list(image.shape), align_corners=True)
            grid = displaced_grid(still, brain > 0.5, self.variation, self.R, spacing_mm=self.spacing_mm)
            moved = grid_sample(torch.cat((image, brain.to(image)), dim=1), grid, align_corners=True)[0]
            varied, mask = vary(moved[0], moved[1] > 0.5, self.variation, self.R, spacing_mm=self.spacing_mm)
            sample |= {key: varied[None], self.mask_key: mask[None].to(brain.dtype)}
        return sample
