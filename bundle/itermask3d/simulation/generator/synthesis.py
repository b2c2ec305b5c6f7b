"""Scans of normal brains made from tissue maps: draw a recipe, then render it.

A recipe is plain values and one seed: rendered again on the same device it gives the same voxels. An ingredient of
strength 0 leaves no trace. Steps: deformation and flip, signals by tissue with partial volume, variation and texture
inside tissues, vessels, a residual bias field, resolution, noise, a brain mask drawn tighter or wider.

Source of the idea: Billot et al., Medical Image Analysis 86, 102789 (2023), doi:10.1016/j.media.2023.102789.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.networks.layers import GaussianFilter
from monai.transforms import MapTransform, Randomizable
from monai.transforms.utils import create_rotate, create_scale
from monai.utils import convert_to_tensor
from torch.nn.functional import grid_sample, interpolate

from itermask3d.simulation.generator.contrasts import CONTRASTS, Contrast, draw_contrast
from itermask3d.simulation.generator.tissues import Tissue

__all__ = ["Generated", "Ingredients", "Recipe", "SynthesizeBraind", "draw_recipe", "moved_with", "render"]

VESSEL_CELL_MM = 12.0
VESSEL_WIDTH = 0.2
"""Tubes through fields that change over the first; the second, in standard deviations of the field, is a radius of 2 to
3 mm."""

_FLUIDS = (Tissue.VENTRICLE, Tissue.OUTER_FLUID)


@dataclass(frozen=True)
class Ingredients:
    """What is drawn, and in which range; ``(0, 0)`` or a probability of 0 leaves an ingredient out.

    Intensities are in units of the clean brain's robust SD (interquartile range / 1.349).

    Attributes:
        contrasts: weights by name of :data:`itermask3d.simulation.generator.contrasts.CONTRASTS`.
        flip_probability: of a left-right flip.
        warp_probability: of a deformation; without one voxels are not interpolated.
        rotation_rad, scaling: largest angle, and largest share by which an axis is stretched or shrunk.
        elastic_mm: standard deviation of the displacement of control points.
        elastic_cell_mm: distance of control points.
        texture: standard deviation of the fine variation inside tissues, correlated over about ``texture_cell_mm``.
        variation: the same of the slow variation, over ``variation_cell_mm``.
        vessel_probability: of vessels in the fluid.
        bias_log_sd: standard deviation of the logarithm of the field that correction leaves behind.
        blur_mm: standard deviation of the point spread.
        slice_probability, slice_mm: of thick slices, along any axis.
        noise: standard deviation of Rician noise; drawn log-uniformly where both ends are positive.
        mask_shift_mm: by how much the brain mask is tighter or wider, evenly and from place to place.
    """

    contrasts: Mapping[str, float]
    flip_probability: float = 0.5
    warp_probability: float = 0.6
    rotation_rad: float = 0.15
    scaling: float = 0.1
    elastic_mm: tuple[float, float] = (0.0, 2.5)
    elastic_cell_mm: tuple[float, float] = (20.0, 45.0)
    texture: tuple[float, float] = (0.02, 0.12)
    texture_cell_mm: tuple[float, float] = (3.0, 8.0)
    variation: tuple[float, float] = (0.05, 0.25)
    variation_cell_mm: tuple[float, float] = (20.0, 50.0)
    vessel_probability: float = 0.7
    bias_log_sd: tuple[float, float] = (0.0, 0.05)
    blur_mm: tuple[float, float] = (0.0, 0.7)
    slice_probability: float = 0.15
    slice_mm: tuple[float, float] = (3.0, 6.0)
    noise: tuple[float, float] = (0.02, 0.2)
    mask_shift_mm: tuple[float, float] = (0.0, 1.5)

    def __post_init__(self) -> None:
        unknown = self.contrasts.keys() - CONTRASTS.keys()
        if unknown or not sum(self.contrasts.values()) > 0 or min(self.contrasts.values()) < 0:
            raise ValueError(
                f"contrasts = {dict(self.contrasts)}; expected weights that are not negative and not all 0, by names "
                f"among {', '.join(CONTRASTS)}"
            )
        for name, value in asdict(self).items():
            if name.endswith("probability") and not 0 <= value <= 1:
                raise ValueError(f"{name} = {value}; expected 0 to 1")
            if isinstance(value, (tuple, list)) and not 0 <= value[0] <= value[1]:
                raise ValueError(f"{name} = {tuple(value)}; expected a range that is not negative and does not fall")


@dataclass(frozen=True)
class Recipe:
    """Everything that was drawn for one scan; attributes as in :class:`Ingredients`.

    Attributes:
        contrast: see :class:`itermask3d.simulation.generator.contrasts.Contrast`.
        warp: whether the brain is deformed, which costs some sharpness.
        rotation_rad, scaling: three numbers each.
        slice_axis: of thick slices; ``None`` for none.
        mask_wander_mm: by how much the mask's shift differs from place to place.
        seed: of all fields of noise.
    """

    contrast: Contrast
    flip: bool
    warp: bool
    rotation_rad: tuple[float, ...]
    scaling: tuple[float, ...]
    elastic_mm: float
    elastic_cell_mm: float
    texture: float
    texture_cell_mm: float
    variation: float
    variation_cell_mm: float
    vessels: bool
    bias_log_sd: float
    blur_mm: float
    slice_axis: int | None
    slice_mm: float
    noise: float
    mask_shift_mm: float
    mask_wander_mm: float
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "contrast": self.contrast.to_json()}


class Generated(NamedTuple):
    """A scan, ``(1, D, H, W)`` float32 each, on the tissue map's device.

    Attributes:
        image: signal, not negative, zero outside the brain mask.
        brain_mask: 0 or 1.
    """

    image: torch.Tensor
    brain_mask: torch.Tensor


def moved_with(volumes: torch.Tensor, recipe: Recipe, *, spacing_mm: float) -> torch.Tensor:
    """Flip and deform volumes as :func:`render` does the tissue map of the same recipe.

    Args:
        volumes: ``(C, D, H, W)`` float, axes run right, front and up.
        recipe: from :func:`draw_recipe`.
        spacing_mm: edge of a voxel.
    """
    noise = _Noise(volumes.shape[1:], spacing_mm, recipe.seed, volumes.device)
    return _deform(volumes, recipe, spacing_mm, noise)


def draw_recipe(ingredients: Ingredients, rng: np.random.RandomState) -> Recipe:
    """Draw all that is random about one scan.

    Args:
        ingredients: what from.
        rng: its state advances; nothing else is touched.
    """
    names = sorted(name for name, weight in ingredients.contrasts.items() if weight > 0)
    weights = np.array([ingredients.contrasts[name] for name in names], dtype=float)
    contrast = draw_contrast(names[rng.choice(len(names), p=weights / weights.sum())], rng)
    angle, stretch = ingredients.rotation_rad, ingredients.scaling
    widest = rng.uniform(*ingredients.mask_shift_mm)
    return Recipe(
        contrast=contrast,
        flip=bool(rng.rand() < ingredients.flip_probability),
        warp=bool(rng.rand() < ingredients.warp_probability),
        rotation_rad=tuple(rng.uniform(-angle, angle, 3).tolist()),
        scaling=tuple(rng.uniform(1 - stretch, 1 + stretch, 3).tolist()),
        elastic_mm=float(rng.uniform(*ingredients.elastic_mm)),
        elastic_cell_mm=float(rng.uniform(*ingredients.elastic_cell_mm)),
        texture=float(rng.uniform(*ingredients.texture)),
        texture_cell_mm=float(rng.uniform(*ingredients.texture_cell_mm)),
        variation=float(rng.uniform(*ingredients.variation)),
        variation_cell_mm=float(rng.uniform(*ingredients.variation_cell_mm)),
        vessels=bool(rng.rand() < ingredients.vessel_probability),
        bias_log_sd=float(rng.uniform(*ingredients.bias_log_sd)),
        blur_mm=float(rng.uniform(*ingredients.blur_mm)),
        slice_axis=int(rng.randint(3)) if rng.rand() < ingredients.slice_probability else None,
        slice_mm=float(rng.uniform(*ingredients.slice_mm)),
        noise=_log_uniform(ingredients.noise, rng),
        mask_shift_mm=float(rng.choice((-1, 1)) * widest / 2),
        mask_wander_mm=float(widest / 2),
        seed=int(rng.randint(2**31 - 1)),
    )


def render(mixture: torch.Tensor, brain_mask: torch.Tensor, recipe: Recipe, *, spacing_mm: float) -> Generated:
    """Make the scan of a recipe.

    Args:
        mixture: tissues of every voxel, ``(3, D, H, W)``,
            see :func:`itermask3d.simulation.generator.tissues.two_tissues`; axes run right, front and up.
        brain_mask: ``(1, D, H, W)``.
        recipe: from :func:`draw_recipe`.
        spacing_mm: edge of a voxel.

    Returns:
        See :class:`Generated`; the arguments are not changed.
    """
    noise = _Noise(mixture.shape[1:], spacing_mm, recipe.seed, mixture.device)
    maps = _maps(mixture, brain_mask, recipe.contrast)
    maps = _deform(maps, recipe, spacing_mm, noise)
    clean, fluid, soft_mask = maps[0], maps[1], maps[2]
    brain = _mask(soft_mask, recipe, noise, spacing_mm)
    scale = _robust_scale(clean[brain])
    image = _vary(clean, fluid, scale, recipe, noise)
    if recipe.vessels:
        image = _vessels(image, fluid, recipe.contrast, noise)
    if recipe.bias_log_sd > 0:
        image = image * torch.exp(recipe.bias_log_sd * noise.smooth(70.0))
    image = _acquire(image.clamp(min=0), scale, recipe, noise, spacing_mm)
    brain_out = brain.float()
    return Generated((image * brain_out)[None], brain_out[None])


class SynthesizeBraind(MapTransform, Randomizable):
    """Replace the tissue map of a sample by a scan made from it.

    Input: the tissue map ``(3, D, H, W)`` in ``keys`` and ``brain_mask``; output: ``image`` and ``brain_mask``, and the
    name of the contrast under ``contrast``. The tissue map leaves the sample. The random state is MONAI's own, so that
    data loaders and :class:`itermask3d.training.handlers.EpochSeed` reach it.

    Args:
        keys: the tissue map.
        spacing_mm: edge of a voxel.
        ingredients: what from.
        track_recipe: keep the whole recipe as plain values under ``recipe``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing_mm: float,
        ingredients: Ingredients,
        track_recipe: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not spacing_mm > 0:
            raise ValueError(f"spacing_mm must be positive, got {spacing_mm}")
        self.spacing_mm = float(spacing_mm)
        self.ingredients = ingredients
        self.track_recipe = track_recipe

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        for key in self.key_iterator(sample):
            recipe = draw_recipe(self.ingredients, self.R)
            mixture, brain = (convert_to_tensor(sample[name], track_meta=False) for name in (key, "brain_mask"))
            affine = sample[key].affine if isinstance(sample[key], MetaTensor) else None
            scan = render(mixture, brain, recipe, spacing_mm=self.spacing_mm)
            sample["image"], sample["brain_mask"] = (MetaTensor(part, affine=affine) for part in scan)
            sample["contrast"] = recipe.contrast.name
            if self.track_recipe:
                sample["recipe"] = recipe.to_json()
            del sample[key]
        return sample


class _Noise:
    """Fields of noise ``(D, H, W)`` from one seed, on one device."""

    def __init__(self, shape: Sequence[int], spacing_mm: float, seed: int, device: torch.device) -> None:
        self.shape, self.spacing_mm = tuple(shape), spacing_mm
        self.generator = torch.Generator(device=device).manual_seed(seed)
        self.device = device

    def white(self, shape: Sequence[int] | None = None) -> torch.Tensor:
        return torch.randn(tuple(shape or self.shape), generator=self.generator, device=self.device)

    def smooth(self, cell_mm: float) -> torch.Tensor:
        """Mean 0 and standard deviation 1 over the grid, independent beyond about ``cell_mm``."""
        coarse = [max(2, round(size * self.spacing_mm / cell_mm)) for size in self.shape]
        field = self._enlarged(self.white((1, 1, *coarse)))[0, 0]
        return (field - field.mean()) / field.std().clamp(min=1e-6)

    def displacement(self, sd_mm: float, cell_mm: float) -> torch.Tensor:
        """Along each axis, in millimetres ``(3, D, H, W)``."""
        coarse = [max(3, round(size * self.spacing_mm / cell_mm) + 1) for size in self.shape]
        return self._enlarged(sd_mm * self.white((1, 3, *coarse)))[0]

    def _enlarged(self, field: torch.Tensor) -> torch.Tensor:
        return interpolate(field, size=self.shape, mode="trilinear", align_corners=True)


def _log_uniform(ends: tuple[float, float], rng: np.random.RandomState) -> float:
    drawn = rng.rand()
    if ends[0] <= 0:
        return float(ends[0] + drawn * (ends[1] - ends[0]))
    return float(ends[0] * (ends[1] / ends[0]) ** drawn)


def _maps(mixture: torch.Tensor, brain_mask: torch.Tensor, contrast: Contrast) -> torch.Tensor:
    """Signal, share of fluid and brain, ``(3, D, H, W)``; around the brain is what the contrast says."""
    signals = torch.tensor(contrast.signals, dtype=torch.float32, device=mixture.device)
    is_fluid = torch.zeros_like(signals)
    is_fluid[list(_FLUIDS)] = 1
    first, second, share = mixture[0].long(), mixture[1].long(), mixture[2]
    parts = [share * values[first] + (1 - share) * values[second] for values in (signals, is_fluid)]
    return torch.stack((*parts, brain_mask[0].float()))


def _deform(maps: torch.Tensor, recipe: Recipe, spacing_mm: float, noise: _Noise) -> torch.Tensor:
    if recipe.flip:
        maps = maps.flip(1)
    if not recipe.warp:
        return maps
    shape = torch.tensor(maps.shape[1:], device=maps.device)
    linear = create_rotate(3, recipe.rotation_rad) @ create_scale(3, recipe.scaling)
    axes = [torch.arange(size, device=maps.device, dtype=torch.float32) - (size - 1) / 2 for size in maps.shape[1:]]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    matrix = torch.as_tensor(np.asarray(linear)[:3, :3], dtype=torch.float32, device=maps.device)
    places = torch.einsum("ij,jdhw->idhw", matrix, places)
    if recipe.elastic_mm > 0:
        places = places + noise.displacement(recipe.elastic_mm, recipe.elastic_cell_mm) / spacing_mm
    unit = places / ((shape - 1) / 2).reshape(3, 1, 1, 1)
    grid = unit.flip(0).permute(1, 2, 3, 0)[None]
    return grid_sample(maps[None], grid, mode="bilinear", padding_mode="border", align_corners=True)[0]


def _mask(soft_mask: torch.Tensor, recipe: Recipe, noise: _Noise, spacing_mm: float) -> torch.Tensor:
    """Cut the softened mask higher or lower; a millimetre is about a fifth of the way from brain to background."""
    if recipe.mask_shift_mm == 0 and recipe.mask_wander_mm == 0:
        return soft_mask > 0.5
    sigma_mm = 2.0
    soft = _blurred(soft_mask, [sigma_mm / spacing_mm] * 3)
    shift = recipe.mask_shift_mm + recipe.mask_wander_mm * noise.smooth(25.0).clamp(-2, 2)
    shift = shift.clamp(-2.0, 2.0)
    return soft > 0.5 * (1 - torch.erf(shift / (sigma_mm * 2**0.5)))


def _robust_scale(values: torch.Tensor) -> float:
    low, high = np.percentile(values.numpy(force=True), (25, 75))
    spread = float(high - low) / 1.349
    return spread if spread > 1e-3 else 1e-3


def _vary(clean: torch.Tensor, fluid: torch.Tensor, scale: float, recipe: Recipe, noise: _Noise) -> torch.Tensor:
    """Slow and fine variation, of which fluid has little."""
    strength = scale * (1 - 0.7 * fluid)
    image = clean
    for level, cell_mm in (
        (recipe.variation, recipe.variation_cell_mm),
        (recipe.texture, recipe.texture_cell_mm),
    ):
        if level > 0:
            image = image + level * strength * noise.smooth(cell_mm)
    return image


def _vessels(image: torch.Tensor, fluid: torch.Tensor, contrast: Contrast, noise: _Noise) -> torch.Tensor:
    """Curved tubes through the fluid: where two smooth fields are both near zero."""
    squared = noise.smooth(VESSEL_CELL_MM).square() + noise.smooth(VESSEL_CELL_MM).square()
    share = torch.exp(-squared / (2 * VESSEL_WIDTH**2)) * fluid.sqrt()
    return image + share * (contrast.signals[Tissue.VESSEL] - image)


def _acquire(image: torch.Tensor, scale: float, recipe: Recipe, noise: _Noise, spacing_mm: float) -> torch.Tensor:
    """Resolution, and noise at that resolution."""
    if recipe.blur_mm > 0.1 * spacing_mm:
        image = _blurred(image, [recipe.blur_mm / spacing_mm] * 3)
    shape = list(image.shape)
    if recipe.slice_axis is not None:
        coarse = list(shape)
        coarse[recipe.slice_axis] = max(2, round(shape[recipe.slice_axis] * spacing_mm / recipe.slice_mm))
        image = interpolate(image[None, None], size=coarse, mode="area")[0, 0]
    if recipe.noise > 0:
        level = recipe.noise * scale
        real = image + level * noise.white(image.shape)
        image = torch.hypot(real, level * noise.white(image.shape))
    if list(image.shape) != shape:
        image = interpolate(image[None, None], size=shape, mode="trilinear")[0, 0]
    return image


def _blurred(image: torch.Tensor, sigma_voxels: Sequence[float]) -> torch.Tensor:
    blur = GaussianFilter(3, list(sigma_voxels), truncated=3.0).to(image.device)
    with torch.no_grad():
        return blur(image[None, None])[0, 0]
