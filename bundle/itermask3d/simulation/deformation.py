"""Other heads: a smooth elastic deformation, and wider or narrower ventricles, as age and build bring them.

The parameters of a deformation are drawn first and then applied; strength 0 is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from itermask3d.method.masking import smooth_field
from itermask3d.simulation.ranges import Range, check_ranges

__all__ = ["Deformation", "DeformationRanges", "displacement_mm", "draw_deformation"]

CENTRES_MM = ((-13.0, 0.0, 4.0), (13.0, 0.0, 4.0))
"""Middles of the lateral ventricles, from the centre of the brain's bounding box: right, front and up."""


@dataclass(frozen=True)
class DeformationRanges:
    """Of a smooth deformation.

    Attributes:
        probability: share of the samples that are deformed.
        amplitude_mm: root mean square of the displacement along each axis.
        cell_mm: distance over which it changes.
        widening_mm: how far tissue is pushed away from the middle of each lateral ventricle; negative is drawn in.
        widening_radius_mm: over which that falls off.
    """

    probability: float = 0.6
    amplitude_mm: Range = (0.0, 3.0)
    cell_mm: Range = (16.0, 48.0)
    widening_mm: Range = (-3.0, 7.0)
    widening_radius_mm: Range = (14.0, 26.0)

    def __post_init__(self) -> None:
        check_ranges(self, signed=("widening_mm",))


@dataclass(frozen=True)
class Deformation:
    """One deformation; attributes as in :class:`DeformationRanges`."""

    amplitude_mm: float = 0.0
    cell_mm: float = 32.0
    widening_mm: float = 0.0
    widening_radius_mm: float = 20.0
    seed: int = 0


def draw_deformation(ranges: DeformationRanges, rng: np.random.RandomState) -> Deformation:
    """Draw one deformation; the state of ``rng`` advances, nothing else is touched."""
    if rng.rand() >= ranges.probability:
        return Deformation()
    return Deformation(
        amplitude_mm=float(rng.uniform(*ranges.amplitude_mm)),
        cell_mm=float(rng.uniform(*ranges.cell_mm)),
        widening_mm=float(rng.uniform(*ranges.widening_mm)) if rng.rand() < 0.6 else 0.0,
        widening_radius_mm=float(rng.uniform(*ranges.widening_radius_mm)),
        seed=int(rng.randint(2**31 - 1)),
    )


def displacement_mm(brain_mask: torch.Tensor, deformation: Deformation, *, spacing_mm: float) -> torch.Tensor:
    """Where each voxel of the deformed scan takes its content from, relative to itself.

    Args:
        brain_mask: boolean ``(D, H, W)``; its bounding box places the ventricles.
        deformation: from :func:`draw_deformation`.
        spacing_mm: edge of a voxel.

    Returns:
        ``(3, D, H, W)`` in millimetres along the three axes; zero for strength 0.
    """
    shape, device = brain_mask.shape, brain_mask.device
    moved = torch.zeros((3, *shape), device=device)
    if deformation.amplitude_mm > 0:
        rng = np.random.default_rng(deformation.seed)
        cells = (deformation.cell_mm / spacing_mm,) * 3
        fields = torch.stack([smooth_field(shape, cells, rng, device) for _ in range(3)])
        moved = fields * (deformation.amplitude_mm / fields.square().mean().sqrt().clamp(min=1e-6))
    voxels = brain_mask.nonzero()
    if deformation.widening_mm == 0 or not len(voxels):
        return moved
    middle = (voxels.amin(0) + voxels.amax(0)).float() / 2
    places = torch.stack(torch.meshgrid(*(torch.arange(n, device=device) for n in shape), indexing="ij")).float()
    for centre in CENTRES_MM:
        offset = (places - middle.view(3, 1, 1, 1)) * spacing_mm - torch.tensor(centre, device=device).view(3, 1, 1, 1)
        distance = offset.square().sum(0).sqrt()
        scaled = distance / deformation.widening_radius_mm
        push = deformation.widening_mm * scaled * torch.exp(0.5 - 0.5 * scaled.square())
        moved = moved - push * offset / distance.clamp(min=1e-3)
    return moved
