"""Artefacts that have a place, and artefacts of the brain mask, each as two pure functions with the place as ground
truth.

``draw_<artefact>(level, brain_mask, affine, rng)`` returns JSON-ready keyword arguments of ``apply_<artefact>(image,
brain_mask, affine, …)``. For an artefact of the image that returns the new image and the label; for one of the mask,
the new mask and the label. Arguments as in :mod:`itermask3d.simulation.artefacts.image`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy import ndimage

from itermask3d.simulation.artefacts.image import axis_towards, brain_span, spacing_of

__all__ = ["LOCAL_ARTEFACTS", "MASK_ARTEFACTS"]

SLICE_MM = 4.0
DEEPEST_LOSS = 0.95
BORDER_MM = 1.5
TISSUE_SHARE = 0.1
CONE_COSINE = 0.5


def draw_missing_top(
    level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Level: millimetres of the brain that are lost at the top. Nothing is drawn."""
    axis, upward = axis_towards(affine, "S")
    start, stop = brain_span(brain_mask, axis)
    lost = min(stop - start, round(level / spacing_of(affine)[axis]))
    return {
        "axis": axis,
        "start": stop - lost if upward else 0,
        "stop": brain_mask.shape[axis] if upward else start + lost,
    }


def draw_missing_slab(
    level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Level: thickness in millimetres. Drawn: the height of its middle, in the central 60 % of the brain."""
    axis, _ = axis_towards(affine, "S")
    start, stop = brain_span(brain_mask, axis)
    middle = start + rng.uniform(0.2, 0.8) * (stop - start)
    half = level / spacing_of(affine)[axis] / 2
    return {
        "axis": axis,
        "start": max(0, round(middle - half)),
        "stop": min(brain_mask.shape[axis], round(middle + half)),
    }


def apply_slab(
    image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray, *, axis: int, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """No signal between two planes; the label is the brain there."""
    lost = np.zeros(image.shape, dtype=bool)
    np.moveaxis(lost, axis, 0)[start:stop] = True
    return np.where(lost, image.dtype.type(0), image), lost & brain_mask


def draw_missing_slices(
    level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Level: number of slices of 4 mm (or one voxel, where voxels are thicker). Drawn: which, along the body's axis."""
    axis, _ = axis_towards(affine, "S")
    start, stop = brain_span(brain_mask, axis)
    width = max(1, round(SLICE_MM / spacing_of(affine)[axis]))
    order = start + width * rng.permutation(max(1, (stop - start) // width))
    return {"axis": axis, "starts": sorted(order[: int(level)].tolist()), "width": width}


def apply_missing_slices(
    image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray, *, axis: int, starts: Sequence[int], width: int
) -> tuple[np.ndarray, np.ndarray]:
    """No signal in single slices; the label is the brain there."""
    lost = np.zeros(image.shape, dtype=bool)
    for start in starts:
        np.moveaxis(lost, axis, 0)[start : start + width] = True
    return np.where(lost, image.dtype.type(0), image), lost & brain_mask


def draw_drop_out(level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Level: radius in millimetres at which half of the deepest loss is left. Drawn: a voxel of the brain."""
    return {"radius_mm": level, "centre": _any_voxel(brain_mask, rng)}


def apply_drop_out(
    image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray, *, radius_mm: float, centre: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Signal lost smoothly around a place, by up to 95 % (near metal or air); the label is the brain in the radius."""
    squared = _squared_mm(image.shape, affine, centre)
    loss = DEEPEST_LOSS * np.exp(-np.log(2) * squared / radius_mm**2)
    return image * (1 - loss), (squared <= radius_mm**2) & brain_mask


def draw_inversion(
    level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Level: radius in millimetres. Drawn: a voxel of the brain."""
    return {"radius_mm": level, "centre": _any_voxel(brain_mask, rng)}


def apply_inversion(
    image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray, *, radius_mm: float, centre: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Contrast turned over about the brain's median in a ball (a sign lost in the reconstruction), softly bordered.

    Never below the scan's least value. The label is the ball in the brain.
    """
    distance = np.sqrt(_squared_mm(image.shape, affine, centre))
    weight = np.clip((radius_mm - distance) / BORDER_MM + 0.5, 0, 1) * brain_mask
    turned = np.maximum(2 * np.median(image[brain_mask]) - image, image.min())
    return image + weight * (turned - image), (distance <= radius_mm) & brain_mask


def draw_remnants(level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Level: millimetres of tissue around the brain that are kept. Drawn: the side of the head."""
    direction = rng.standard_normal(3)
    return {"reach_mm": level, "direction": (direction / np.linalg.norm(direction)).tolist()}


def apply_remnants(
    image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray, *, reach_mm: float, direction: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """A skull-strip that leaves non-brain on one side; the label is what was added to the mask.

    Only voxels with signal (a tenth of the brain's median) are kept, as a tool would: a stripped scan has none to keep.

    Args:
        reach_mm: largest distance from the brain.
        direction: unit vector (right, front, up); a cone of 60° to each side of it, from the brain's middle.
    """
    tissue = image > TISSUE_SHARE * np.median(image[brain_mask])
    voxels = np.argwhere(tissue & ~brain_mask & _near(brain_mask, reach_mm, affine))
    middle = np.argwhere(brain_mask).mean(axis=0)
    outward = (voxels - middle) @ np.asarray(affine, dtype=float)[:3, :3].T
    inside = outward @ np.asarray(direction) > CONE_COSINE * np.linalg.norm(outward, axis=1)
    added = np.zeros_like(brain_mask)
    added[tuple(voxels[inside].T)] = True
    return brain_mask | added, added


def draw_missing_brain(
    level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Level: radius in millimetres of what is bitten off. Drawn: a voxel of the brain's surface."""
    surface = brain_mask & ~ndimage.binary_erosion(brain_mask)
    return {"radius_mm": level, "centre": _any_voxel(surface, rng)}


def apply_missing_brain(
    image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray, *, radius_mm: float, centre: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """A skull-strip that takes a bite of the brain; the label is what the mask lost, so it lies outside of it."""
    lost = (_squared_mm(image.shape, affine, centre) <= radius_mm**2) & brain_mask
    return brain_mask & ~lost, lost


def _near(brain_mask: np.ndarray, reach_mm: float, affine: np.ndarray) -> np.ndarray:
    """Voxels within a distance of the brain; only the part of the grid that can be is worked on."""
    margin = np.ceil(reach_mm / spacing_of(affine)).astype(int)
    spans = [brain_span(brain_mask, axis) for axis in range(3)]
    box = tuple(slice(max(0, a - m), b + m) for (a, b), m in zip(spans, margin, strict=True))
    near = np.zeros_like(brain_mask)
    near[box] = ndimage.distance_transform_edt(~brain_mask[box], sampling=spacing_of(affine)) <= reach_mm
    return near


def _any_voxel(region: np.ndarray, rng: np.random.Generator) -> list[int]:
    voxels = np.argwhere(region)
    return [int(index) for index in voxels[rng.integers(len(voxels))]]


def _squared_mm(shape: Sequence[int], affine: np.ndarray, centre: Sequence[int]) -> np.ndarray:
    """Squared distance of every voxel to one of them, in mm²."""
    i, j, k = (
        axis - middle for axis, middle in zip(np.ogrid[tuple(slice(size) for size in shape)], centre, strict=True)
    )
    rows = np.asarray(affine, dtype=float)[:3, :3]
    return np.asarray(sum((row[0] * i + row[1] * j + row[2] * k) ** 2 for row in rows))


LOCAL_ARTEFACTS: Mapping[str, tuple[Any, Any]] = MappingProxyType(
    {
        "missing_top": (draw_missing_top, apply_slab),
        "missing_slab": (draw_missing_slab, apply_slab),
        "missing_slices": (draw_missing_slices, apply_missing_slices),
        "drop_out": (draw_drop_out, apply_drop_out),
        "inversion": (draw_inversion, apply_inversion),
    }
)
"""How each artefact of the image is drawn and applied."""

MASK_ARTEFACTS: Mapping[str, tuple[Any, Any]] = MappingProxyType(
    {"remnants": (draw_remnants, apply_remnants), "missing_brain": (draw_missing_brain, apply_missing_brain)}
)
"""How each artefact of the brain mask is drawn and applied."""
