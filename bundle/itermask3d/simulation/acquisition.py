r"""How another scanner would have shown a normal brain: contrast, shading, resolution, sharpening, ringing and noise.

First the parameters of an acquisition are drawn, then it is applied: the same parameters give the same voxels on one
kind of device, and an acquisition of strength 0 leaves the scan as it is. All works on a normalised scan, whose robust
SD is 1 and whose median is 0; the raw zero then lies at about :data:`ZERO_INTENSITY`.

Source of the idea: Billot et al., Medical Image Analysis 86, 102789 (2023), doi:10.1016/j.media.2023.102789, who train
segmentation networks on randomised acquisitions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import conv3d, interpolate

from itermask3d.method.masking import smooth_field
from itermask3d.simulation.ranges import Range, check_ranges

__all__ = ["ZERO_INTENSITY", "Acquisition", "AcquisitionRanges", "acquire", "draw_acquisition"]

ZERO_INTENSITY = -3.75
"""Where the intensity 0 of a T1-weighted scan lies once it is normalised: the median of IXI's training scans."""


@dataclass(frozen=True)
class AcquisitionRanges:
    """What is drawn, and in which range; a strength is drawn from its range with its chance, else it is 0.

    Attributes:
        probability: share of the samples that are acquired anew; 0 leaves all as they are.
        log_gamma: logarithm of the exponent of the raw intensity.
        curve: share of a random monotone curve of the intensities, 0 to 1.
        drift: SD of a smooth field that stretches the contrast between tissues from place to place.
        bias: SD of the logarithm of a smooth multiplicative field: what bias correction leaves.
        strong_bias: the same where bias correction was skipped.
        field_mm: distance over which drift and bias change.
        blur_mm: SD of an isotropic Gaussian.
        thickness_mm: of slices along one axis, brought back to the grid linearly.
        sharpening: share of the difference from a smoothed scan that is added.
        ringing: share of the spatial frequencies along one axis that is lost at the upper end.
        noise: SD of Rician noise, in robust SD of the brain; drawn log-uniformly.
        noise_grain_mm: SD of the Gaussian that smooths the noise, as interpolation by the scanner does.
        denoising: share of a local median that replaces the scan.
    """

    probability: float = 0.85
    log_gamma: Range = (-0.5, 0.5)
    curve: Range = (0.0, 0.6)
    drift: Range = (0.0, 0.25)
    bias: Range = (0.0, 0.15)
    strong_bias: Range = (0.15, 0.5)
    field_mm: Range = (40.0, 120.0)
    blur_mm: Range = (0.0, 2.0)
    thickness_mm: Range = (2.5, 6.0)
    sharpening: Range = (0.0, 1.2)
    ringing: Range = (0.1, 0.45)
    noise: Range = (0.02, 0.4)
    noise_grain_mm: Range = (0.0, 1.6)
    denoising: Range = (0.3, 1.0)

    def __post_init__(self) -> None:
        check_ranges(self, signed=("log_gamma",))
        if not (self.field_mm[0] > 0 and self.noise[0] > 0):
            raise ValueError("field_mm and noise must be positive")
        if self.ringing[1] >= 1:
            raise ValueError(f"ringing = {self.ringing}; expected shares below 1")


CHANCES = {
    "log_gamma": 0.5,
    "curve": 0.4,
    "drift": 0.4,
    "bias": 0.6,
    "strong_bias": 0.15,
    "blur_mm": 0.35,
    "thickness_mm": 0.15,
    "sharpening": 0.25,
    "ringing": 0.12,
    "noise": 0.6,
    "denoising": 0.12,
}
"""How often each strength is not 0 in a sample that is acquired anew."""


@dataclass(frozen=True)
class Acquisition:
    """One acquisition; strengths as in :class:`AcquisitionRanges`, each 0 without effect.

    Attributes:
        thickness_mm: 0, or the thickness of slices along ``axis``.
        axis: of slices and ringing, 0 to 2.
        seed: of fields, curve and noise.
    """

    log_gamma: float = 0.0
    curve: float = 0.0
    drift: float = 0.0
    bias: float = 0.0
    field_mm: float = 60.0
    blur_mm: float = 0.0
    thickness_mm: float = 0.0
    sharpening: float = 0.0
    ringing: float = 0.0
    noise: float = 0.0
    noise_grain_mm: float = 0.0
    denoising: float = 0.0
    axis: int = 0
    seed: int = 0


def draw_acquisition(ranges: AcquisitionRanges, rng: np.random.RandomState) -> Acquisition:
    """Draw one acquisition; the state of ``rng`` advances, nothing else is touched."""
    if rng.rand() >= ranges.probability:
        return Acquisition()
    drawn = {
        name: float(rng.uniform(*getattr(ranges, name))) if rng.rand() < chance else 0.0
        for name, chance in CHANCES.items()
    }
    if drawn["noise"]:
        drawn["noise"] = float(np.exp(rng.uniform(*np.log(ranges.noise))))
    strong_bias = drawn.pop("strong_bias")
    return Acquisition(
        **{**drawn, "bias": max(drawn["bias"], strong_bias)},
        field_mm=float(rng.uniform(*ranges.field_mm)),
        noise_grain_mm=float(rng.uniform(*ranges.noise_grain_mm)),
        axis=int(rng.randint(3)),
        seed=int(rng.randint(2**31 - 1)),
    )


def acquire(
    image: torch.Tensor, brain_mask: torch.Tensor, acquisition: Acquisition, *, spacing_mm: float
) -> torch.Tensor:
    """Show a scan as another scanner would.

    Args:
        image: normalised scan ``(D, H, W)``.
        brain_mask: boolean, same shape; what lies outside is not mixed in.
        acquisition: from :func:`draw_acquisition`.
        spacing_mm: edge of a voxel.

    Returns:
        New scan, zero outside the brain where anything was changed, to be normalised again; the arguments are not
        changed.
    """
    if acquisition == Acquisition(seed=acquisition.seed, axis=acquisition.axis):
        return image
    rng = np.random.default_rng(acquisition.seed)
    image = _contrast(image, brain_mask, acquisition, spacing_mm, rng)
    image = _resolution(image, brain_mask, acquisition, spacing_mm)
    image = _noise(image, acquisition, spacing_mm, rng)
    if acquisition.denoising > 0:
        image = torch.lerp(image, _local_median(image), acquisition.denoising)
    if acquisition.sharpening > 0:
        image = image + acquisition.sharpening * (image - _smooth_inside(image, brain_mask, 2.0 / spacing_mm))
    return image * brain_mask


def _contrast(
    image: torch.Tensor, brain: torch.Tensor, acquisition: Acquisition, spacing_mm: float, rng: np.random.Generator
) -> torch.Tensor:
    raw = (image - ZERO_INTENSITY).clamp(min=0)
    top = float(raw.amax()) or 1.0
    if acquisition.log_gamma:
        raw = top * (raw / top) ** float(np.exp(acquisition.log_gamma))
    if acquisition.curve > 0:
        raw = torch.lerp(raw, top * _monotone(raw / top, rng), acquisition.curve)
    if acquisition.drift > 0:
        middle = raw[brain].median() if bool(brain.any()) else raw.median()
        raw = middle + (raw - middle) * (acquisition.drift * _field(raw, acquisition, spacing_mm, rng)).exp()
    if acquisition.bias > 0:
        raw = raw * (acquisition.bias * _field(raw, acquisition, spacing_mm, rng)).exp()
    return raw + ZERO_INTENSITY


def _resolution(image: torch.Tensor, brain: torch.Tensor, acquisition: Acquisition, spacing_mm: float) -> torch.Tensor:
    if acquisition.blur_mm > 0:
        image = _smooth_inside(image, brain, acquisition.blur_mm / spacing_mm)
    if acquisition.thickness_mm > spacing_mm:
        size = list(image.shape)
        size[acquisition.axis] = max(2, round(size[acquisition.axis] * spacing_mm / acquisition.thickness_mm))
        volumes = torch.stack((image * brain, brain.to(image)))[None]
        thick = interpolate(interpolate(volumes, size=size, mode="area"), size=image.shape, mode="trilinear")[0]
        image = thick[0] / thick[1].clamp(min=1e-2)
    if acquisition.ringing > 0:
        image = _without_high_frequencies(image, acquisition.axis, acquisition.ringing)
    return image


def _noise(image: torch.Tensor, acquisition: Acquisition, spacing_mm: float, rng: np.random.Generator) -> torch.Tensor:
    if not acquisition.noise > 0:
        return image
    generator = torch.Generator(device=image.device).manual_seed(int(rng.integers(2**62)))
    drawn = torch.randn((2, *image.shape), generator=generator, device=image.device, dtype=image.dtype)
    sigma = acquisition.noise_grain_mm / spacing_mm
    if sigma > 0.2:
        drawn = torch.stack([_smooth(part, sigma) for part in drawn])
        drawn = drawn / drawn.std()
    strength = acquisition.noise * (0.3 * _field(image, acquisition, spacing_mm, rng)).exp()
    real, imaginary = drawn * strength
    raw = image - ZERO_INTENSITY
    return ((raw + real).square() + imaginary.square()).sqrt() + ZERO_INTENSITY


def _monotone(share: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A random rising curve from 0 to 1 through eight points, linear between them."""
    steps = rng.uniform(0.3, 1.7, 8)
    heights = torch.as_tensor(np.concatenate(([0.0], np.cumsum(steps) / steps.sum())), dtype=share.dtype)
    heights = heights.to(share.device)
    place = share.clamp(0, 1) * 8
    below = place.floor().clamp(max=7)
    index = below.long()
    return torch.lerp(heights[index], heights[index + 1], place - below)


def _field(like: torch.Tensor, acquisition: Acquisition, spacing_mm: float, rng: np.random.Generator) -> torch.Tensor:
    """Smooth random field of SD 1 over the grid."""
    field = smooth_field(like.shape, (acquisition.field_mm / spacing_mm,) * 3, rng, like.device)
    return (field - field.mean()) / field.std().clamp(min=1e-6)


def _without_high_frequencies(image: torch.Tensor, axis: int, share: float) -> torch.Tensor:
    spectrum = torch.fft.rfft(image, dim=axis)
    kept = round(spectrum.shape[axis] * (1 - share))
    spectrum.narrow(axis, kept, spectrum.shape[axis] - kept).zero_()
    return torch.fft.irfft(spectrum, n=image.shape[axis], dim=axis)


def _smooth(image: torch.Tensor, sigma_voxels: float) -> torch.Tensor:
    half = max(1, int(np.ceil(3 * sigma_voxels)))
    places = torch.arange(-half, half + 1, dtype=image.dtype, device=image.device)
    taps = torch.exp(-0.5 * (places / sigma_voxels).square())
    taps = taps / taps.sum()
    smoothed = image[None, None]
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = len(taps), half
        smoothed = conv3d(smoothed, taps.view(shape), padding=padding)
    return smoothed[0, 0]


def _smooth_inside(image: torch.Tensor, brain: torch.Tensor, sigma_voxels: float) -> torch.Tensor:
    """Gaussian mean over the voxels of the brain; the scan itself where that is too narrow to matter."""
    if sigma_voxels < 0.2:
        return image
    weight = _smooth(brain.to(image), sigma_voxels)
    return torch.where(brain, _smooth(image * brain, sigma_voxels) / weight.clamp(min=1e-3), image)


def _local_median(image: torch.Tensor) -> torch.Tensor:
    """Median of a voxel and its six neighbours, wrapped at the border of the grid."""
    neighbours = [image.roll(shift, axis) for axis in range(3) for shift in (-1, 1)]
    return torch.stack([image, *neighbours]).median(dim=0).values
