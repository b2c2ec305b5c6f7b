"""Random training masks, and the corruption of an image with one.

Sampling is a pure draw: everything random comes from the generator that is passed in, so a mask can be drawn again
from its seed. The global random state is never read or written. Masks are drawn on the device of the brain mask: one
seed gives one mask on one kind of device.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor
from numpy.typing import NDArray
from torch.nn.functional import interpolate

__all__ = ["BlobMask", "FieldMask", "FullMask", "MaskMixture", "RandMaskd", "corrupt", "smooth_field"]


def corrupt(image: torch.Tensor, mask: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    r"""Replace the masked voxels: :math:`(1-M)\,x + M\,n`.

    Args:
        image: normalised image, any shape.
        mask: same shape, 1 (or True) = masked.
        noise: same shape; standard normal as published.

    Returns:
        New tensor of the image's shape and dtype.
    """
    return torch.where(mask.bool(), noise.to(image.dtype), image)


@dataclass(frozen=True)
class FullMask:
    """Mask the whole brain: what the network sees in the first step at test time."""

    def sample(
        self, brain_mask: torch.Tensor, *, spacing_mm: Sequence[float], rng: np.random.Generator
    ) -> torch.Tensor:
        """Return ``brain_mask`` itself as a new boolean tensor ``(D, H, W)``."""
        return brain_mask.bool().clone()


@dataclass(frozen=True)
class BlobMask:
    """The paper's mask: one anisotropic Gaussian cloud of points around a random brain voxel.

    Points fall on a coarse grid; a coarse cell that holds a point is masked. Points outside the volume are dropped,
    never wrapped to the other side.

    Attributes:
        variance_range: range of the covariance's eigenvalues in squared coarse cells.
        cell_sizes_mm: edge of a coarse cell; 2, 4 and 8 voxels of 1 mm in the paper.
        cell_probabilities: how often each is used.
        n_points: points in the cloud.
        quarter_turn_probability: how often the cloud is turned by 90 degrees about the volume's centre.

    Source: Liang et al. 2026 (arXiv 2504.04911), training masks; parameters of the public reference.
    """

    variance_range: tuple[float, float] = (0.3, 10.0)
    cell_sizes_mm: tuple[float, ...] = (2.0, 4.0, 8.0)
    cell_probabilities: tuple[float, ...] = (0.25, 0.5, 0.25)
    n_points: int = 100_000
    quarter_turn_probability: float = 0.1

    def sample(
        self, brain_mask: torch.Tensor, *, spacing_mm: Sequence[float], rng: np.random.Generator
    ) -> torch.Tensor:
        """Draw one mask; boolean ``(D, H, W)``, inside ``brain_mask``, possibly small but centred on the brain."""
        brain = brain_mask.bool()
        cell = rng.choice(self.cell_sizes_mm, p=self.cell_probabilities)
        factors = np.maximum(1, np.round(cell / np.asarray(spacing_mm))).astype(int)
        coarse_shape = -(-np.asarray(brain.shape) // factors)
        voxels = brain.flatten().nonzero().flatten()
        chosen = int(voxels[int(rng.integers(len(voxels)))])
        centre = np.stack(np.unravel_index(chosen, brain.shape)) / factors
        points = _normal((self.n_points, 3), rng, brain.device)
        points = points @ _as_tensor(self._square_root_covariance(rng), points) + _as_tensor(centre, points)
        if rng.random() < self.quarter_turn_probability:
            points = _quarter_turn(points, coarse_shape, rng)
        cells = points.floor().long()
        size = torch.as_tensor(coarse_shape, device=brain.device)
        cells = cells[((cells >= 0) & (cells < size)).all(dim=1)]
        coarse = torch.zeros(coarse_shape.tolist(), dtype=torch.bool, device=brain.device)
        coarse[tuple(cells.T)] = True
        for axis, factor in enumerate(factors.tolist()):
            coarse = coarse.repeat_interleave(factor, dim=axis)
        return coarse[tuple(slice(size) for size in brain.shape)] & brain

    def _square_root_covariance(self, rng: np.random.Generator) -> NDArray[Any]:
        basis, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        return np.asarray(np.sqrt(rng.uniform(*self.variance_range, size=3))[:, None] * basis)


@dataclass(frozen=True)
class FieldMask:
    """Mask where a smooth random field is highest: scattered, irregular, of any coverage.

    At test time the mask is a thresholded error map, not one blob. This draws such shapes and, with ``coverage``
    uniform, every share of the brain from nearly nothing to nearly all.

    Attributes:
        coverage: range of the share of brain voxels that is masked.
        correlation_mm: range of distances between independent values of the field, drawn log-uniformly.
    """

    coverage: tuple[float, float] = (0.005, 1.0)
    correlation_mm: tuple[float, float] = (2.0, 40.0)

    def sample(
        self, brain_mask: torch.Tensor, *, spacing_mm: Sequence[float], rng: np.random.Generator
    ) -> torch.Tensor:
        """Draw one mask; boolean ``(D, H, W)``, inside ``brain_mask``, with the drawn share of it to one voxel."""
        brain = brain_mask.bool()
        share = rng.uniform(*self.coverage)
        width_mm = np.exp(rng.uniform(*np.log(self.correlation_mm)))
        field = smooth_field(brain.shape, width_mm / np.asarray(spacing_mm), rng, brain.device)
        inside = field[brain]
        n_masked = round(share * inside.numel())
        if n_masked == 0:
            return torch.zeros_like(brain)
        return (field >= inside.kthvalue(inside.numel() - n_masked + 1).values) & brain


@dataclass(frozen=True)
class MaskMixture:
    """Choose one of the samplers by probability for every draw.

    Attributes:
        blob, field, full: probabilities, summing to 1. ``MaskMixture(blob=1, field=0, full=0)`` is the published
            recipe; the default covers the whole range that refinement meets.

    Raises:
        ValueError: if the probabilities are negative or do not sum to 1.
    """

    blob: float = 0.4
    field: float = 0.35
    full: float = 0.25

    def __post_init__(self) -> None:
        weights = (self.blob, self.field, self.full)
        if not (min(weights) >= 0 and abs(sum(weights) - 1) <= 1e-6):
            raise ValueError(f"mask probabilities must be non-negative and sum to 1, got blob, field, full = {weights}")

    def sample(
        self, brain_mask: torch.Tensor, *, spacing_mm: Sequence[float], rng: np.random.Generator
    ) -> torch.Tensor:
        """Draw one boolean mask ``(D, H, W)`` inside ``brain_mask``.

        Raises:
            ValueError: if ``brain_mask`` is not 3D or holds no voxel.
        """
        if brain_mask.ndim != 3 or not brain_mask.any():
            raise ValueError(f"brain_mask must be 3D with at least one voxel, got shape {brain_mask.shape}")
        samplers = (BlobMask(), FieldMask(), FullMask())
        chosen = samplers[rng.choice(3, p=(self.blob, self.field, self.full))]
        return chosen.sample(brain_mask, spacing_mm=spacing_mm, rng=rng)


class RandMaskd(RandomizableTransform, MapTransform):
    """Draw a fresh training mask under ``mask`` for the brain mask in ``keys``.

    Its random state is MONAI's: seeded per worker and per epoch by the data loader, logged nowhere else.

    Args:
        keys: the brain mask, ``(1, D, H, W)``.
        spacing_mm: voxel size of the grid.
        mixture: what to draw from.
        output_key: where the boolean mask ``(1, D, H, W)`` goes.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing_mm: float,
        mixture: MaskMixture | None = None,
        output_key: str = "mask",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.spacing_mm = (float(spacing_mm),) * 3
        self.mixture = MaskMixture() if mixture is None else mixture
        self.output_key = output_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        for key in self.key_iterator(sample):
            rng = np.random.default_rng(self.R.randint(2**31))
            brain = convert_to_tensor(sample[key], track_meta=False)[0] > 0.5
            sample[self.output_key] = self.mixture.sample(brain, spacing_mm=self.spacing_mm, rng=rng)[None]
        return sample


def smooth_field(
    shape: Sequence[int], cell_voxels: Sequence[float] | NDArray[Any], rng: np.random.Generator, device: torch.device
) -> torch.Tensor:
    """A random field ``(D, H, W)`` that is independent beyond about ``cell_voxels``; mean 0, on ``device``."""
    coarse_shape = [max(2, round(size / max(1.0, cell))) for size, cell in zip(shape, cell_voxels, strict=True)]
    noise = _normal((1, 1, *coarse_shape), rng, device)
    return interpolate(noise, size=tuple(shape), mode="trilinear", align_corners=True)[0, 0]


def _normal(shape: Sequence[int], rng: np.random.Generator, device: torch.device) -> torch.Tensor:
    generator = torch.Generator(device=device).manual_seed(int(rng.integers(2**63 - 1)))
    return torch.randn(tuple(shape), generator=generator, device=device)


def _as_tensor(values: NDArray[Any], like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(values, dtype=like.dtype, device=like.device)


def _quarter_turn(points: torch.Tensor, shape: NDArray[Any], rng: np.random.Generator) -> torch.Tensor:
    a, b = rng.permutation(3)[:2].tolist()
    middle = (shape / 2).tolist()
    turned = points.clone()
    turned[:, a] = middle[a] - (points[:, b] - middle[b])
    turned[:, b] = middle[b] + (points[:, a] - middle[a])
    return turned
