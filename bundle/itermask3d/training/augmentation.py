"""Changes of a scan that leave it a normal one, and how far they go: one table for samples and for whole batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.transforms import (
    AsDiscreted,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandHistogramShiftd,
)
from monai.transforms.utils import create_rotate, create_scale
from torch.nn.functional import affine_grid, grid_sample

from itermask3d.training.variation import RandVaryd, Variation, displaced_grid, vary

__all__ = ["Augmentation", "AugmentationRanges", "augmentation_transforms"]


@dataclass(frozen=True)
class AugmentationRanges:
    """How often scans are changed, and how far.

    Attributes:
        flip_probability: left-right.
        affine_probability, rotation_rad, scaling: of a rotation about every axis up to an angle, and a scaling of every
            axis by up to a share.
        gamma_probability, gamma: of a change of the gamma curve.
        histogram_probability, control_points: of a random monotone curve through so many points.
    """

    flip_probability: float = 0.5
    affine_probability: float = 0.5
    rotation_rad: float = 0.15
    scaling: float = 0.1
    gamma_probability: float = 0.3
    gamma: tuple[float, float] = (0.75, 1.35)
    histogram_probability: float = 0.2
    control_points: tuple[int, int] = (6, 10)


def augmentation_transforms(
    ranges: AugmentationRanges | None = None, *, variation: Variation | None = None, spacing_mm: float = 2.0
) -> list[MapTransform]:
    """The changes of one sample, ``image`` and ``brain_mask``; the image is to be normalised again.

    Args:
        ranges: of the changes.
        variation: of head, brain mask and acquisition, in place of the changes of contrast.
        spacing_mm: edge of a voxel.
    """
    ranges = ranges or AugmentationRanges()
    keys = ["image", "brain_mask"]
    contrast = [
        RandAdjustContrastd("image", prob=ranges.gamma_probability, gamma=ranges.gamma),
        RandHistogramShiftd("image", prob=ranges.histogram_probability, num_control_points=ranges.control_points),
    ]
    return [
        RandFlipd(keys, spatial_axis=0, prob=ranges.flip_probability),
        RandAffined(
            keys,
            prob=ranges.affine_probability,
            rotate_range=[ranges.rotation_rad] * 3,
            scale_range=[ranges.scaling] * 3,
            mode="bilinear",
            padding_mode="zeros",
        ),
        AsDiscreted("brain_mask", threshold=0.5),
        *(contrast if variation is None else [RandVaryd("image", spacing_mm, variation)]),
    ]


class Augmentation:
    """The same changes of a whole batch at once, on its device.

    Args:
        ranges: of the changes.
        variation: of head, brain mask and acquisition, in place of the changes of contrast.
        spacing_mm: edge of a voxel.
    """

    def __init__(
        self,
        ranges: AugmentationRanges | None = None,
        *,
        variation: Variation | None = None,
        spacing_mm: float = 2.0,
    ) -> None:
        self.ranges = ranges or AugmentationRanges()
        self.variation = variation
        self.spacing_mm = spacing_mm

    def __call__(
        self, image: torch.Tensor, brain: torch.Tensor, rng: np.random.RandomState
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change a batch.

        Args:
            image: normalised scans ``(B, 1, D, H, W)``, left to right along the first spatial axis.
            brain: boolean, same shape.
            rng: source of everything random.

        Returns:
            New image, to be normalised again, and new boolean brain.
        """
        image, brain = self._move(image, brain, rng)
        if self.variation is None:
            return torch.stack([self._contrast(scan, rng) for scan in image]), brain
        scans = zip(image[:, 0], brain[:, 0], strict=True)
        varied = [vary(scan, mask, self.variation, rng, spacing_mm=self.spacing_mm) for scan, mask in scans]
        images, masks = (torch.stack(volumes)[:, None] for volumes in zip(*varied, strict=True))
        return images, masks

    def _move(
        self, image: torch.Tensor, brain: torch.Tensor, rng: np.random.RandomState
    ) -> tuple[torch.Tensor, torch.Tensor]:
        matrices = np.stack([self._matrix(rng) for _ in image])
        half = (np.array(image.shape[2:]) - 1) / 2
        unit = matrices * half[None, None, :] / half[None, :, None]  # places in units of the half grid
        theta = np.zeros((len(image), 3, 4))
        theta[:, :, :3] = unit[:, ::-1, ::-1]  # torch counts axes from the last one
        grid = affine_grid(torch.from_numpy(theta).to(image), list(image.shape), align_corners=True)
        if self.variation is not None:
            grid = displaced_grid(grid, brain, self.variation, rng, spacing_mm=self.spacing_mm)
        moved = grid_sample(torch.cat((image, brain.to(image)), dim=1), grid, mode="bilinear", align_corners=True)
        return moved[:, :1], moved[:, 1:] > 0.5

    def _matrix(self, rng: np.random.RandomState) -> np.ndarray:
        matrix = np.eye(3)
        if rng.rand() < self.ranges.affine_probability:
            angles = rng.uniform(-self.ranges.rotation_rad, self.ranges.rotation_rad, 3).tolist()
            factors = rng.uniform(1 - self.ranges.scaling, 1 + self.ranges.scaling, 3).tolist()
            matrix = np.asarray(create_rotate(3, angles) @ create_scale(3, factors))[:3, :3]
        return matrix * [-1 if rng.rand() < self.ranges.flip_probability else 1, 1, 1]

    def _contrast(self, scan: torch.Tensor, rng: np.random.RandomState) -> torch.Tensor:
        if rng.rand() < self.ranges.gamma_probability:
            low, span = _span(scan)
            scan = ((scan - low) / span) ** float(rng.uniform(*self.ranges.gamma)) * span + low
        if rng.rand() < self.ranges.histogram_probability:
            low, span = _span(scan)
            points = _monotone(int(rng.randint(self.ranges.control_points[0], self.ranges.control_points[1] + 1)), rng)
            heights = torch.as_tensor(points, dtype=scan.dtype, device=scan.device)
            place = (scan - low) / span * (len(points) - 1)
            left = place.floor().clamp(0, len(points) - 2)
            below = left.long()
            scan = low + span * torch.lerp(heights[below], heights[below + 1], place - left)
        return scan


def _span(scan: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    low = scan.amin()
    return low, (scan.amax() - low).clamp(min=1e-6)


def _monotone(n_points: int, rng: np.random.RandomState) -> np.ndarray:
    """Heights from 0 to 1 of which each lies between its neighbours."""
    heights = np.linspace(0, 1, n_points)
    for index in range(1, n_points - 1):
        heights[index] = rng.uniform(heights[index - 1], heights[index + 1])
    return heights
