"""Simple ways to the same result: what iterative refinement has to beat, through the same metrics.

A baseline maps a normalised scan on the network's grid to an anomaly map. Its one number, the threshold, comes from
normal calibration scans (:func:`threshold_for_share`): the same share of their brains is flagged by every baseline,
after the same cleaning, and no scan that is reported has a say in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from monai.networks.blocks import Convolution
from monai.utils import convert_to_tensor
from torch import nn
from torch.nn.functional import interpolate

from itermask3d.method.detection import remove_small_components
from itermask3d.method.inferer import IterMaskInferer
from itermask3d.method.network import check_input

__all__ = [
    "Autoencoder",
    "Baseline",
    "BaselineFinding",
    "CalibrationMap",
    "IntensityRule",
    "NormalAtlas",
    "Prediction",
    "PrepareDenoising",
    "Reconstruction",
    "SinglePass",
    "decide",
    "threshold_for_share",
]

SIDES = ("both", "bright", "dark")
MIN_SPREAD = 0.1
"""Smallest spread of an atlas voxel in normalised units: where all normals agree, rounding is no anomaly."""

MAD_TO_SIGMA = 1.4826
BISECTIONS = 20


@dataclass(frozen=True)
class Prediction:
    """What a baseline says about one scan before any threshold.

    Attributes:
        anomaly_map: larger where more anomalous, zero outside the brain, ``(1, 1, D, H, W)``.
        reconstruction: what it expected, in normalised units, same shape; ``None`` where it expects nothing in
            particular.
    """

    anomaly_map: torch.Tensor
    reconstruction: torch.Tensor | None = None


class Baseline(Protocol):
    """Anything that maps a normalised scan and its brain mask, both ``(1, 1, D, H, W)``, to a prediction."""

    def __call__(self, image: torch.Tensor, brain_mask: torch.Tensor) -> Prediction: ...


class IntensityRule:
    r"""Squared robust z-score of the intensity: :math:`z^2` with :math:`z = (I - \mathrm{median}) / \sigma`.

    The normalised image is that z-score already, see :class:`itermask3d.preprocessing.normalise.RobustNormalized`. With
    one side alone this is the percentile rule: the brightest or the darkest share of normal brains.

    Args:
        side: ``"both"``, ``"bright"`` or ``"dark"``.
    """

    def __init__(self, side: str = "both") -> None:
        if side not in SIDES:
            raise ValueError(f"side = {side!r}; expected one of {', '.join(SIDES)}")
        self.side = side

    def __call__(self, image: torch.Tensor, brain_mask: torch.Tensor) -> Prediction:
        kept = {"both": image, "bright": image.clamp(min=0), "dark": image.clamp(max=0)}[self.side]
        return Prediction(kept.square() * (brain_mask > 0.5))


class SinglePass:
    """One pass with the whole brain masked, by the method's own network and error: refinement left out.

    Args:
        inferer: of the method; its guide, precision and error are used, its threshold is not.
        network: in evaluation mode.
    """

    def __init__(self, inferer: IterMaskInferer, network: Callable[..., Any]) -> None:
        self.inferer = IterMaskInferer(
            replace(inferer.settings, n_steps=1, max_iterations=1, schedule="exact"),
            spacing_mm=inferer.spacing_mm[0],
            radius_cycles_per_mm=inferer.radius_cycles_per_mm,
            mixed_precision=inferer.mixed_precision,
            accelerate=inferer.accelerate,
        )
        self.network = network

    def __call__(self, image: torch.Tensor, brain_mask: torch.Tensor) -> Prediction:
        # The map of the shrink's only iteration is that of the whole brain masked, whatever the threshold.
        found = self.inferer(image, self.network, brain_mask)
        return Prediction(found["anomaly_map"], found["reconstruction"])


class Reconstruction:
    """Squared error of a network that sees the whole scan, such as :class:`Autoencoder`.

    Args:
        network: maps ``(1, 1, D, H, W)`` to the same shape; in evaluation mode.
    """

    def __init__(self, network: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.network = network

    @torch.no_grad()
    def __call__(self, image: torch.Tensor, brain_mask: torch.Tensor) -> Prediction:
        inside = brain_mask > 0.5
        reconstruction = self.network(image) * inside
        return Prediction((image - reconstruction).square() * inside, reconstruction)


class NormalAtlas:
    r"""Squared z-score against the voxel-wise median and MAD of normal brains.

    Brains are aligned by the affine between the boxes around them, on axes that preprocessing has already turned to the
    scanner's. :math:`z = (x - \mathrm{median}) / \max(1.4826\,\mathrm{MAD}, 0.1)`;
    fewer than some twenty scans mean little.

    Args:
        scans: pairs of normalised image and brain mask, ``(1, 1, D, H, W)``; not those that set the threshold.
        box: voxels of the common box.

    Raises:
        ValueError: without a scan.
    """

    def __init__(self, scans: Iterable[tuple[torch.Tensor, torch.Tensor]], box: Sequence[int] = (64, 80, 64)) -> None:
        self.box = tuple(box)
        aligned = [self._to_box(image, brain_mask) for image, brain_mask in scans]
        if not aligned:
            raise ValueError("an atlas needs normal scans, got none")
        stack = torch.stack(aligned)
        self.median = stack.median(dim=0).values
        deviation = (stack - self.median).abs_().median(dim=0).values
        self.spread = (MAD_TO_SIGMA * deviation).clamp_(min=MIN_SPREAD)

    def __call__(self, image: torch.Tensor, brain_mask: torch.Tensor) -> Prediction:
        inside = brain_mask > 0.5
        where = _brain_box(inside)
        size = [part.stop - part.start for part in where[2:]]
        median, spread = (
            interpolate(volume.to(image), size=size, mode="trilinear") for volume in (self.median, self.spread)
        )
        anomaly_map, reconstruction = torch.zeros_like(image), torch.zeros_like(image)
        reconstruction[where] = median
        anomaly_map[where] = ((image[where] - median) / spread).square()
        return Prediction(anomaly_map * inside, reconstruction * inside)

    def _to_box(self, image: torch.Tensor, brain_mask: torch.Tensor) -> torch.Tensor:
        return interpolate(image[_brain_box(brain_mask > 0.5)], size=self.box, mode="trilinear")


class Autoencoder(nn.Module):
    """An auto-encoder with the widths of the reconstruction U-Net, without guide and without skip connections.

    Trained through :class:`PrepareDenoising` it is a denoising auto-encoder, with a noise of 0 a plain one.

    Args:
        channels: widths of the levels; all but the last halve the grid.
        dropout: probability of channel dropout during training.
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 128, 256), dropout: float = 0.2) -> None:
        super().__init__()
        if len(channels) != 5:
            raise ValueError(f"channels must hold five widths, got {tuple(channels)}")
        strides = (2, 2, 2, 2, 1)
        down = zip((1, *channels), channels, strides, strict=False)
        self.encoder = nn.Sequential(*(_unit(a, b, stride, dropout=dropout) for a, b, stride in down))
        widths = channels[::-1]
        self.decoder = nn.Sequential(*(_up(a, b, dropout=dropout) for a, b in pairwise(widths)))
        self.last = Convolution(3, channels[0], 1, kernel_size=3, conv_only=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, 1, D, H, W)`` to the same shape; sizes divide by 16."""
        check_input(x)
        return self.last(self.decoder(self.encoder(x)))


class PrepareDenoising:
    """Turn a training batch into a noisy image and its target; for ``prepare_batch`` of MONAI's engines.

    The noise is coarse, drawn on a grid of large voxels and enlarged: fine noise is removed by blurring, coarse noise
    only by knowing what a brain looks like.

    Args:
        sigma: standard deviation in normalised units; 0 gives a plain auto-encoder.
        coarseness: edge of a voxel of the noise, in voxels of the image.

    Source: the idea of coarse noise, Kascenas et al., Proceedings of Machine Learning Research 172 (2022).
    """

    def __init__(self, sigma: float = 0.5, coarseness: int = 8) -> None:
        if not sigma >= 0 or coarseness < 1:
            raise ValueError(f"sigma must not be negative and coarseness be positive, got {sigma} and {coarseness}")
        self.sigma = sigma
        self.coarseness = coarseness

    def __call__(
        self, batch: Mapping[str, torch.Tensor], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Input ``(B, 1, D, H, W)``; target: image and brain mask, ``(B, 2, D, H, W)``."""
        image, brain = (
            convert_to_tensor(batch[key], track_meta=False).to(device, non_blocking=non_blocking)
            for key in ("image", "brain_mask")
        )
        target = torch.cat((image, brain), dim=1)
        if self.sigma == 0:
            return image, target
        coarse = torch.randn([*image.shape[:2], *(-(-size // self.coarseness) for size in image.shape[2:])])
        noise = interpolate(coarse, size=image.shape[2:], mode="trilinear").to(image)
        return image + self.sigma * noise * brain, target


@dataclass(frozen=True)
class CalibrationMap:
    """The anomaly map of one normal scan, cropped to its brain.

    Attributes:
        values: float32 ``(d, h, w)``, zero outside the brain.
        inside: boolean, same shape.
    """

    values: np.ndarray
    inside: np.ndarray

    @classmethod
    def of(cls, anomaly_map: torch.Tensor, brain_mask: torch.Tensor) -> CalibrationMap:
        """Crop a map ``(1, 1, D, H, W)``."""
        inside = brain_mask > 0.5
        box = _brain_box(inside)
        values = anomaly_map[box][0, 0].numpy(force=True).astype(np.float32)
        return cls(values, inside[box][0, 0].numpy(force=True))

    def decide(self, threshold: float, *, min_volume_ml: float, spacing_mm: Sequence[float]) -> BaselineFinding:
        """See :func:`decide`."""
        values, inside = (torch.from_numpy(part)[None, None] for part in (self.values, self.inside))
        return decide(
            Prediction(values), inside, threshold=threshold, min_volume_ml=min_volume_ml, spacing_mm=spacing_mm
        )

    def flagged_share(self, threshold: float, *, min_volume_ml: float, spacing_mm: Sequence[float]) -> float:
        """Share of the brain above a threshold in components of some size."""
        mask = torch.from_numpy(self.values > threshold)[None, None]
        return int(_clean(mask, min_volume_ml, spacing_mm).sum()) / int(self.inside.sum())


@dataclass(frozen=True)
class BaselineFinding:
    """Mask and metrics of one scan on the network's grid, see :class:`itermask3d.method.detection.Findings`.

    Attributes:
        mask: boolean ``(1, 1, D, H, W)``.
        score: mean over the brain of the anomaly map inside the mask.
        flagged_share: share of the brain that the mask covers.
        mean_error, error_p99: of the map over the brain.
    """

    mask: torch.Tensor
    score: float
    flagged_share: float
    mean_error: float
    error_p99: float


def threshold_for_share(
    maps: Sequence[CalibrationMap], *, share: float, min_volume_ml: float, spacing_mm: Sequence[float]
) -> float:
    """The threshold at which normal scans are flagged by a share of their brain, in the mean, after cleaning.

    Args:
        maps: of normal calibration scans.
        share: 0 to 1 (exclusive); what remains after small components are dropped.
        min_volume_ml, spacing_mm: see :func:`itermask3d.method.detection.remove_small_components`.

    Returns:
        A threshold whose mean share is at most ``share``, found by bisection.

    Raises:
        ValueError: without a map, or if the share is out of its range.
    """
    if not maps or not 0 <= share < 1:
        raise ValueError(f"needs at least one map and a share from 0 to 1, got {len(maps)} maps and {share}")
    low, high = 0.0, max(float(one.values.max()) for one in maps)
    how = {"min_volume_ml": min_volume_ml, "spacing_mm": spacing_mm}

    def mean_share(threshold: float) -> float:
        return float(np.mean([one.flagged_share(threshold, **how) for one in maps]))  # type: ignore[arg-type]

    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if mean_share(middle) <= share else (middle, high)
    return high


def decide(
    prediction: Prediction,
    brain_mask: torch.Tensor,
    *,
    threshold: float,
    min_volume_ml: float,
    spacing_mm: Sequence[float],
) -> BaselineFinding:
    """Apply a threshold and drop small components."""
    inside = brain_mask > 0.5
    mask = _clean((prediction.anomaly_map > threshold) & inside, min_volume_ml, spacing_mm)
    errors = prediction.anomaly_map[inside].double()
    n_brain = int(inside.sum())
    return BaselineFinding(
        mask=mask,
        score=float(prediction.anomaly_map[mask].double().sum()) / n_brain,
        flagged_share=int(mask.sum()) / n_brain,
        mean_error=float(errors.mean()),
        error_p99=float(np.percentile(errors.numpy(force=True), 99)),
    )


def _clean(mask: torch.Tensor, min_volume_ml: float, spacing_mm: Sequence[float]) -> torch.Tensor:
    return remove_small_components(mask, min_volume_ml=min_volume_ml, spacing_mm=spacing_mm)


def _brain_box(inside: torch.Tensor) -> tuple[slice, ...]:
    where = inside[0, 0].nonzero()
    if not len(where):
        raise ValueError("brain_mask must hold a voxel, got an empty mask")
    low, high = where.amin(dim=0).tolist(), where.amax(dim=0).tolist()
    return (slice(None), slice(None), *(slice(a, b + 1) for a, b in zip(low, high, strict=True)))


def _unit(in_channels: int, out_channels: int, stride: int, *, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        _convolution(in_channels, out_channels, stride=stride, dropout=dropout),
        _convolution(out_channels, out_channels, dropout=dropout),
    )


def _up(in_channels: int, out_channels: int, *, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        _convolution(in_channels, in_channels, dropout=dropout),
        _convolution(in_channels, out_channels, dropout=dropout),
    )


def _convolution(in_channels: int, out_channels: int, *, stride: int = 1, dropout: float) -> nn.Module:
    return Convolution(
        3, in_channels, out_channels, strides=stride, kernel_size=3, adn_ordering="NDA", norm="BATCH", dropout=dropout
    )
