"""Plain features of a prepared scan that tell of its contrast, resolution, coverage, noise and brain mask.

Pure functions of arrays, without any random draw. What features are usual is the matter of
:mod:`itermask3d.inference.domain`.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["measure_acquisition", "measure_left_out", "measure_prepared"]

RIM_MM = (2.0, 8.0)
"""Depth below the brain's surface that is mostly cortex."""

DEEP_MM = (14.0, 26.0)
"""Depth that is mostly white matter: below the cortex, above the ventricles."""

INNER_MM = 6.0
"""Depth from which texture is measured, clear of the edge that the brain mask cuts."""

LARGE_SLICE = 0.4
"""Slices with at least this share of the largest cross-section are compared with their neighbours."""


REACH_MM = 12.0
"""How far outside the brain mask brain is looked for that it left out."""

BRAIN_LIKE = (10, 95)
"""Percentiles of the brain's intensities between which tissue outside looks like brain."""


def measure_prepared(
    image: np.ndarray, brain_mask: np.ndarray, *, spacing_mm: float, bias_log_sd: float | None = None
) -> dict[str, float]:
    """Features of a scan on the network's grid.

    Args:
        image: normalised intensities ``(D, H, W)``; axes run right, front and up; zero outside the brain.
        brain_mask: boolean, same shape.
        spacing_mm: edge of a voxel.
        bias_log_sd: strength of the bias field that was divided out, see :mod:`itermask3d.preprocessing.bias`.

    Returns:
        Value by name, in the order of :data:`itermask3d.inference.domain.FEATURES`; a feature that cannot be measured,
        such as the depth contrast of a brain too thin to have a depth, is left out.

    Raises:
        ValueError: if the shapes differ or the brain is empty.
    """
    if image.shape != brain_mask.shape or image.ndim != 3 or not brain_mask.any():
        raise ValueError(f"image {image.shape} and brain mask {brain_mask.shape}; expected one shape and a brain")
    box = ndimage.find_objects(brain_mask.astype(np.uint8))[0]
    image, brain = np.pad(image[box].astype(np.float64), 2), np.pad(brain_mask[box], 2)
    depth = ndimage.distance_transform_edt(brain, sampling=spacing_mm)
    features = {
        **_contrast(image, brain, depth),
        **_texture(image, brain & (depth >= INNER_MM)),
        **_slices(image, brain, depth),
        **_shape(brain, spacing_mm),
    }
    return features if bias_log_sd is None else features | {"bias_log_sd": float(bias_log_sd)}


def measure_acquisition(brain_mask: np.ndarray, affine: np.ndarray) -> dict[str, float]:
    """Features of the scan's own grid.

    Args:
        brain_mask: boolean ``(D, H, W)`` on that grid.
        affine: voxel to millimetres ``(4, 4)``.
    """
    edges = np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0)
    on_border = 0.0
    for axis in range(3):
        face_mm2 = float(np.prod(np.delete(edges, axis)))
        on_border += sum(float(np.take(brain_mask, end, axis).sum()) for end in (0, -1)) * face_mm2
    volume_mm3 = max(float(brain_mask.sum()) * float(np.prod(edges)), 1.0)
    return {
        "voxel_mm": float(edges.max()),
        "voxel_ratio": float(edges.max() / edges.min()),
        "border_percent": 100 * on_border / volume_mm3 ** (2 / 3),
    }


def measure_left_out(image: np.ndarray, brain_mask: np.ndarray, *, spacing_mm: float) -> dict[str, float]:
    """How thick the brain-like tissue is that lies beside the brain mask.

    Fluid, bone or air follow where a mask ends at the brain's surface, and the layers beyond them are thin; where it
    lacks a piece, brain goes on. The cord below the brain stem goes on in everybody, with a radius of about 6 mm.

    Args:
        image: intensities ``(D, H, W)`` in any unit, with what lies outside the brain.
        brain_mask: boolean, same shape.
        spacing_mm: edge of a voxel.

    Returns:
        ``left_out_mm``: the largest distance from a brain-like voxel, outside the mask and within :data:`REACH_MM` of
        it, to the nearest voxel that is neither such nor in the mask. NaN where nothing surrounds the brain, as in a
        scan without its head, or the mask is empty.
    """
    if not brain_mask.any():
        return {"left_out_mm": float("nan")}
    margin = int(np.ceil(REACH_MM / spacing_mm)) + 1
    box = tuple(
        slice(max(0, span.start - margin), span.stop + margin)
        for span in ndimage.find_objects(brain_mask.astype(np.uint8))[0]
    )
    image, brain = np.pad(image[box], 1), np.pad(brain_mask[box], 1)
    around = ~brain & (ndimage.distance_transform_edt(~brain, sampling=spacing_mm) <= REACH_MM)
    if np.ptp(image[around]) == 0:
        return {"left_out_mm": float("nan")}
    low, high = np.percentile(image[brain], BRAIN_LIKE)
    alike = around & (image >= low) & (image <= high)
    thickness = ndimage.distance_transform_edt(brain | alike, sampling=spacing_mm)
    return {"left_out_mm": float(thickness[alike].max(initial=0.0))}


def _contrast(image: np.ndarray, brain: np.ndarray, depth: np.ndarray) -> dict[str, float]:
    low, first, middle, third, high = np.percentile(image[brain], (2, 25, 50, 75, 98))
    features = {
        "dark_tail": float(low),
        "bright_tail": float(high),
        "quartile_skewness": float((third + first - 2 * middle) / max(third - first, 1e-6)),
    }
    rim, deep = (brain & (depth >= near) & (depth <= far) for near, far in (RIM_MM, DEEP_MM))
    if rim.any() and deep.any():
        features["depth_contrast"] = _most_frequent(image[deep]) - float(np.median(image[rim]))
    return features


def _most_frequent(values: np.ndarray) -> float:
    """Peak of a smoothed histogram: wide ventricles or a lesion among white matter do not move it."""
    edges = np.linspace(-6, 6, 241)
    counts = ndimage.gaussian_filter1d(np.histogram(values, edges)[0].astype(float), 6)
    return float((edges[:-1] + edges[1:])[counts.argmax()] / 2)


def _texture(image: np.ndarray, inner: np.ndarray) -> dict[str, float]:
    """Energy of neighbours' differences against that of the intensities, and what is left where nothing changes."""
    energies = []
    for axis in range(3):
        both = inner & np.roll(inner, -1, axis)
        difference = (np.roll(image, -1, axis) - image)[both]
        if not difference.size:
            return {}
        energies.append(_spread(difference))
    coarse = ndimage.gaussian_gradient_magnitude(image, 1.5)
    flat = inner & (coarse <= np.percentile(coarse[inner], 25))
    return {
        "sharpness": float(np.mean(energies) / max(_spread(image[inner]), 1e-6)),
        "sharpness_balance": float(min(energies) / max(float(np.mean(energies)), 1e-6)),
        "noise": _spread(_residual(image)[flat]) if flat.any() else 0.0,
    }


def _residual(image: np.ndarray) -> np.ndarray:
    """Second difference along all three axes, scaled to keep the standard deviation of white noise."""
    for axis in range(3):
        image = ndimage.convolve1d(image, np.array([1.0, -2.0, 1.0]) / np.sqrt(6), axis=axis)
    return image


def _slices(image: np.ndarray, brain: np.ndarray, depth: np.ndarray) -> dict[str, float]:
    """The largest step of a slice's middle intensity against both neighbours, and of its area against the next."""
    jump = cut = 0.0
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        areas = brain.sum(axis=others).astype(float)
        cut = max(cut, float(np.abs(np.diff(areas)).max() / areas.max()))
        large = np.flatnonzero(areas >= LARGE_SLICE * areas.max())
        levels = [float(np.mean(np.take(image, i, axis)[np.take(brain, i, axis)])) for i in large]
        if len(levels) > 2:
            bend = np.abs(np.asarray(levels[1:-1]) - (np.asarray(levels[:-2]) + np.asarray(levels[2:])) / 2)
            jump = max(jump, float(bend.max()))
    return {"slice_jump": jump, "flat_cut_percent": 100 * cut}


def _shape(brain: np.ndarray, spacing_mm: float) -> dict[str, float]:
    surface = brain & ~ndimage.binary_erosion(brain)
    volume = float(brain.sum())
    spans = [int(np.ptp(np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis}))))) + 1 for axis in range(3)]
    mirrored = brain[::-1]  # the box of the brain has its middle in the middle
    return {
        "brain_ml": volume * spacing_mm**3 / 1000,
        "width_mm": spans[0] * spacing_mm,
        "length_mm": spans[1] * spacing_mm,
        "height_mm": spans[2] * spacing_mm,
        "asymmetry_percent": 100 * float((brain & ~mirrored).sum()) / volume,
        "surface_ratio": float(surface.sum()) / volume ** (2 / 3),
    }


def _spread(values: np.ndarray) -> float:
    """Standard deviation of a normal distribution with these quartiles: single edges and vessels count little."""
    first, third = np.percentile(values, (25, 75))
    return float((third - first) / 1.349)
