r"""Synthetic anomalies of normal scans, which the network learns not to reproduce.

The guide shows the edges of a lesion as it shows those of a gyrus, so a network that has only ever seen unaltered
scans trusts it and reconstructs the lesion. Trained with regions whose content is wrong in the image and in the guide,
and the unaltered scan as target, it learns to fill in what belongs there. The shapes are smooth random ones, the
contents random: no lesion and no shape of a lesion is shown.

First the parameters of an anomaly are drawn, then it is applied: the same parameters give the same voxels on one kind
of device, and one of strength 0 leaves the scan as it is.

Source of the idea: Zavrtanik et al., DRAEM, ICCV 2021, doi:10.1109/ICCV48922.2021.00822; Kascenas et al., Medical
Image Analysis 90, 102963 (2023), doi:10.1016/j.media.2023.102963.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor
from torch.nn.functional import avg_pool3d

from itermask3d.method.masking import smooth_field

__all__ = [
    "BASES",
    "AlteredScan",
    "RandSyntheticAnomalyd",
    "SyntheticAnomalies",
    "SyntheticAnomaly",
    "alter",
    "draw_synthetic_anomaly",
]

BASES = ("mean", "elsewhere", "blurred")
"""What a region is filled with, before contrast and texture: its mean, tissue of another place, its blurred self."""

_VISIBLE = 0.05
"""Share of the new content from which on a voxel counts as altered."""


@dataclass(frozen=True)
class SyntheticAnomalies:
    """What is drawn, and in which range. Intensities are those of a normalised scan (its robust SD is 1).

    Attributes:
        probability: share of the samples that are altered; 0 leaves all as they are.
        max_regions: at most so many regions in a sample, at least one.
        radius_mm: of a region, log-uniform; each axis is stretched or shrunk by up to a half.
        roughness: how far a random field dents the region, as a share of its radius.
        border_mm: width of the soft border.
        contrast: shift of the intensity, brighter or darker.
        texture: standard deviation of random texture.
        texture_cell_mm: distance over which the texture changes.
        keep: share of the original structure that shows through.

    Raises:
        ValueError: for a probability outside 0 to 1, or a range that is negative or falls.
    """

    probability: float = 0.7
    max_regions: int = 3
    radius_mm: tuple[float, float] = (4.0, 45.0)
    roughness: tuple[float, float] = (0.0, 0.8)
    border_mm: tuple[float, float] = (1.0, 6.0)
    contrast: tuple[float, float] = (0.0, 3.0)
    texture: tuple[float, float] = (0.0, 1.0)
    texture_cell_mm: tuple[float, float] = (3.0, 20.0)
    keep: tuple[float, float] = (0.0, 0.8)

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability = {self.probability}; expected 0 to 1")
        if not self.max_regions >= 1:
            raise ValueError(f"max_regions = {self.max_regions}; expected at least 1")
        for name, value in asdict(self).items():
            if isinstance(value, (tuple, list)) and not 0 <= value[0] <= value[1]:
                raise ValueError(f"{name} = {tuple(value)}; expected a range that is not negative and does not fall")
        if not (self.radius_mm[0] > 0 and self.border_mm[0] > 0 and self.texture_cell_mm[0] > 0):
            raise ValueError("radius_mm, border_mm and texture_cell_mm must be positive")


@dataclass(frozen=True)
class SyntheticAnomaly:
    """One region: attributes as in :class:`SyntheticAnomalies`.

    Attributes:
        base: one of :data:`BASES`.
        radius_mm: along each axis.
        contrast: negative is darker.
        seed: of place, shape and texture.
    """

    base: str
    radius_mm: tuple[float, float, float]
    roughness: float
    border_mm: float
    contrast: float
    texture: float
    texture_cell_mm: float
    keep: float
    seed: int


class AlteredScan(NamedTuple):
    """An altered scan ``(D, H, W)`` and where it is altered.

    Attributes:
        image: same unit as the scan; outside the brain unchanged.
        weight: share of the new content in each voxel, 0 to 1.
    """

    image: torch.Tensor
    weight: torch.Tensor


def draw_synthetic_anomaly(ranges: SyntheticAnomalies, rng: np.random.RandomState) -> SyntheticAnomaly:
    """Draw one region; the state of ``rng`` advances, nothing else is touched."""
    low, high = np.log(ranges.radius_mm)
    radius = np.exp(rng.uniform(low, high)) * np.exp(rng.uniform(-np.log(1.5), np.log(1.5), 3))
    return SyntheticAnomaly(
        base=BASES[rng.choice(len(BASES), p=(0.5, 0.3, 0.2))],
        radius_mm=(float(radius[0]), float(radius[1]), float(radius[2])),
        roughness=float(rng.uniform(*ranges.roughness)),
        border_mm=float(rng.uniform(*ranges.border_mm)),
        contrast=float(rng.choice((-1, 1)) * rng.uniform(*ranges.contrast)),
        texture=float(rng.uniform(*ranges.texture)),
        texture_cell_mm=float(rng.uniform(*ranges.texture_cell_mm)),
        keep=float(rng.uniform(*ranges.keep)),
        seed=int(rng.randint(2**31 - 1)),
    )


def alter(
    image: torch.Tensor, brain_mask: torch.Tensor, anomaly: SyntheticAnomaly, *, spacing_mm: float
) -> AlteredScan:
    r"""Put one synthetic anomaly into a scan.

    .. math:: x' = x + w \, (b + k (x - b) + c + s\,n - x)

    with the weight :math:`w`, the base :math:`b`, the share that is kept :math:`k`, the contrast :math:`c` and the
    texture :math:`s\,n`.

    Args:
        image: normalised scan ``(D, H, W)``, zero outside the brain.
        brain_mask: boolean, same shape, with at least one voxel.
        anomaly: from :func:`draw_synthetic_anomaly`.
        spacing_mm: edge of a voxel.

    Returns:
        See :class:`AlteredScan`; the arguments are not changed.
    """
    rng = np.random.default_rng(anomaly.seed)
    weight = _weight(brain_mask, anomaly, spacing_mm, rng)
    base = _base(image, brain_mask, weight, anomaly.base, spacing_mm, rng)
    content = base + anomaly.keep * (image - base) + anomaly.contrast
    if anomaly.texture > 0:
        content = content + anomaly.texture * _field(image, anomaly.texture_cell_mm / spacing_mm, rng)
    return AlteredScan(image + weight * (content - image), weight)


class RandSyntheticAnomalyd(RandomizableTransform, MapTransform):
    """Alter the image of a sample and keep the unaltered one as its target.

    Adds ``target``, the image as it was, and ``altered``, 1 where it was changed. The random state is MONAI's.

    Args:
        keys: the normalised image, ``(1, D, H, W)``.
        spacing_mm: edge of a voxel.
        synthetic_anomalies: what to draw from.
        mask_key: the brain mask on the same grid.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing_mm: float,
        synthetic_anomalies: SyntheticAnomalies,
        mask_key: str = "brain_mask",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob=synthetic_anomalies.probability)
        self.spacing_mm = float(spacing_mm)
        self.synthetic_anomalies = synthetic_anomalies
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        self.randomize(None)
        for key in self.key_iterator(sample):
            image, brain = (convert_to_tensor(sample[name], track_meta=False) for name in (key, self.mask_key))
            changed, altered, inside = image[0], torch.zeros_like(image[0]), brain[0] > 0.5
            for _ in range(self.R.randint(1, self.synthetic_anomalies.max_regions + 1) if self._do_transform else 0):
                drawn = draw_synthetic_anomaly(self.synthetic_anomalies, self.R)
                changed, weight = alter(changed, inside, drawn, spacing_mm=self.spacing_mm)
                altered = torch.maximum(altered, (weight > _VISIBLE).to(altered))
            sample |= {key: changed[None], "target": image, "altered": altered[None]}
        return sample


def _weight(
    brain: torch.Tensor, anomaly: SyntheticAnomaly, spacing_mm: float, rng: np.random.Generator
) -> torch.Tensor:
    """Soft shape around a random voxel of the brain."""
    voxels = brain.flatten().nonzero().flatten()
    centre = np.unravel_index(int(voxels[int(rng.integers(len(voxels)))]), brain.shape)
    squared = torch.zeros((1, 1, 1), device=brain.device)
    for axis, (size, middle, radius) in enumerate(zip(brain.shape, centre, anomaly.radius_mm, strict=True)):
        offsets = (torch.arange(size, device=brain.device) - int(middle)) * (spacing_mm / radius)
        squared = squared + offsets.square().view([-1 if other == axis else 1 for other in range(3)])
    typical_mm = float(np.prod(anomaly.radius_mm) ** (1 / 3))
    cost = squared.sqrt()
    if anomaly.roughness > 0:
        cost = cost + anomaly.roughness * _field(brain, max(1.0, 0.5 * typical_mm / spacing_mm), rng)
    return torch.sigmoid(4 * typical_mm / anomaly.border_mm * (1 - cost)) * brain


def _base(
    image: torch.Tensor,
    brain: torch.Tensor,
    weight: torch.Tensor,
    name: str,
    spacing_mm: float,
    rng: np.random.Generator,
) -> torch.Tensor:
    if name == "mean":
        return (image * weight).sum() / weight.sum().clamp(min=1e-6)
    if name == "elsewhere":
        flips = [axis for axis in range(3) if rng.random() < 0.5]
        shifts = [int(rng.integers(-size // 4, size // 4 + 1)) for size in image.shape]
        return image.flip(flips).roll(shifts, dims=(0, 1, 2))
    half = max(1, round(float(rng.uniform(2.0, 6.0)) / spacing_mm))
    pooled = avg_pool3d(torch.stack((image, brain.to(image)))[None], 2 * half + 1, stride=1, padding=half)[0]
    return pooled[0] / pooled[1].clamp(min=1e-3)


def _field(like: torch.Tensor, cell_voxels: float, rng: np.random.Generator) -> torch.Tensor:
    """Smooth random field with a standard deviation of 1 over the grid."""
    field = smooth_field(like.shape, (cell_voxels,) * 3, rng, like.device)
    return field / field.std().clamp(min=1e-6)
