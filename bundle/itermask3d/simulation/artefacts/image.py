"""Artefacts of a whole scan that are made in the image: noise, bias field, blur, thick slices.

Each artefact is two pure functions. ``draw_<artefact>(level, brain_mask, affine, rng)`` returns JSON-ready keyword
arguments of ``apply_<artefact>(image, brain_mask, affine, …)``, which returns a new image and holds no randomness but
that of a seed among them. The number of draws does not depend on the level: one seed gives the same artefact at every
level, only stronger. MONAI's transforms do the work where they take physical parameters;
:mod:`itermask3d.simulation.artefacts.registry` names the levels.

Arguments of all: ``image`` float ``(D, H, W)`` in the scan's own unit; ``brain_mask`` boolean, same grid, not empty;
``affine`` voxel to RAS millimetres.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.transforms import GaussianSmooth, RandBiasField, RandRicianNoise

__all__ = ["IMAGE_ARTEFACTS", "axis_towards", "brain_span", "by_monai", "draw_seed", "robust_scale", "spacing_of"]

FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Edges of a voxel in millimetres, by voxel axis."""
    return np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0)


def axis_towards(affine: np.ndarray, direction: str) -> tuple[int, bool]:
    """Voxel axis nearest to a direction of the body, and whether its index grows that way.

    >>> axis_towards(np.diag([-2.0, 2.0, 2.0, 1.0]), "R")
    (0, False)
    """
    opposite = dict(zip("RLAPSI", "LRPAIS", strict=True))
    codes = nib.aff2axcodes(affine)
    axis = next(index for index, code in enumerate(codes) if code in (direction, opposite[direction]))
    return axis, codes[axis] == direction


def brain_span(brain_mask: np.ndarray, axis: int) -> tuple[int, int]:
    """First index of the brain along a voxel axis, and the one after its last."""
    inside = np.flatnonzero(brain_mask.any(axis=tuple({0, 1, 2} - {axis})))
    return int(inside[0]), int(inside[-1]) + 1


def robust_scale(image: np.ndarray, brain_mask: np.ndarray) -> float:
    """Interquartile range of the brain's intensities over 1.349: the standard deviation, were they normal."""
    low, high = np.percentile(image[brain_mask], (25, 75))
    return float(high - low) / 1.349


def draw_noise(level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Level: standard deviation in robust SDs."""
    return {"deviation": level, "seed": draw_seed(rng)}


def apply_noise(
    image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray, *, deviation: float, seed: int
) -> np.ndarray:
    """Rician noise: the magnitude of the image with Gaussian noise in both channels (MONAI)."""
    noise = RandRicianNoise(prob=1.0, std=deviation * robust_scale(image, brain_mask), sample_std=False)
    return by_monai(noise.set_random_state(seed), image)


def draw_bias_field(
    level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Level: ratio of the field's largest to its smallest value in the brain."""
    seed = draw_seed(rng)
    field = np.log(_bias_field(brain_mask.shape, coefficient=0.1, seed=seed)[brain_mask])
    reach = float(np.ptp(field))
    return {"coefficient": float(0.1 * np.log(level) / reach) if reach > 0 else 0.0, "seed": seed}


def apply_bias_field(
    image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray, *, coefficient: float, seed: int
) -> np.ndarray:
    """A smooth gain, the exponential of a Legendre polynomial of degree 3 (MONAI), 1 on average in the brain."""
    field = _bias_field(image.shape, coefficient=coefficient, seed=seed)
    return image * (field / field[brain_mask].mean())


def draw_blur(level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Level: full width at half maximum in millimetres. Nothing is drawn."""
    return {"fwhm_mm": level}


def apply_blur(image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray, *, fwhm_mm: float) -> np.ndarray:
    """A Gaussian of the same width in every direction (MONAI)."""
    return by_monai(GaussianSmooth(sigma=(fwhm_mm / FWHM_PER_SIGMA / spacing_of(affine)).tolist()), image)


def draw_thick_slices(
    level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Level: thickness in millimetres. Drawn: the voxel axis across the slices."""
    return {"thickness_mm": level, "axis": int(rng.integers(3))}


def apply_thick_slices(
    image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray, *, thickness_mm: float, axis: int
) -> np.ndarray:
    """Slices that average over their thickness, brought back to the scan's grid by linear interpolation.

    The average is exact for any thickness: differences of the linearly interpolated running integral.
    """
    size = image.shape[axis]
    voxels = thickness_mm / spacing_of(affine)[axis]
    if voxels <= 1:
        return image.copy()
    edges = np.arange(0, size + voxels, voxels)
    integral = np.insert(np.cumsum(np.moveaxis(image, axis, 0), axis=0, dtype=float), 0, 0, axis=0)
    slices = np.diff(_sampled(integral, np.minimum(edges, size)), axis=0)
    slices /= np.maximum(np.diff(np.minimum(edges, size)), 1e-6)[:, None, None]
    return np.moveaxis(_sampled(slices, (np.arange(size) + 0.5) / voxels - 0.5), 0, axis)


def _sampled(planes: np.ndarray, positions: np.ndarray) -> np.ndarray:
    positions = np.clip(positions, 0, len(planes) - 1)
    before = np.minimum(positions.astype(int), len(planes) - 2)
    weight = (positions - before)[:, None, None]
    return (1 - weight) * planes[before] + weight * planes[before + 1]


def _bias_field(shape: Sequence[int], *, coefficient: float, seed: int) -> np.ndarray:
    field = RandBiasField(prob=1.0, coeff_range=(-coefficient, coefficient)).set_random_state(seed)
    return by_monai(field, np.ones(shape, dtype=np.float32))


def draw_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def by_monai(transform: Any, image: np.ndarray) -> np.ndarray:
    changed = transform(torch.from_numpy(np.ascontiguousarray(image))[None])
    return np.asarray(torch.as_tensor(changed)[0].numpy(force=True))


IMAGE_ARTEFACTS: Mapping[str, tuple[Any, Any]] = MappingProxyType(
    {
        "noise": (draw_noise, apply_noise),
        "bias_field": (draw_bias_field, apply_bias_field),
        "blur": (draw_blur, apply_blur),
        "thick_slices": (draw_thick_slices, apply_thick_slices),
    }
)
"""How each artefact is drawn and applied."""
