"""Artefacts of a whole scan that are made in k-space: spike, zipper, ghosting, motion, Gibbs ringing, wrap-around.

Draw and apply as in :mod:`itermask3d.simulation.artefacts.image`. Ghosting and motion follow TorchIO's models
(Pérez-García et al. 2021, DOI 10.1016/j.cmpb.2021.106236) without needing it: its next major version has another
interface, its motion turns the head about the origin of the scanner's coordinates wherever the head lies, and always
along the last voxel axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import nibabel as nib
import numpy as np
from monai.transforms import GibbsNoise, KSpaceSpikeNoise
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from itermask3d.simulation.artefacts.image import (
    axis_towards,
    brain_span,
    by_monai,
    draw_seed,
    robust_scale,
    spacing_of,
)

__all__ = ["KSPACE_ARTEFACTS"]

MOVEMENTS = 6
ZIPPER_LINES = 3
SMALLEST = 1e-10


def draw_spike(level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Level: amplitude of the stripes in robust SDs. Drawn: their direction and their period, 5 to 15 mm."""
    direction = rng.standard_normal(3)
    cycles_per_mm = direction / np.linalg.norm(direction) / rng.uniform(5, 15)
    bins = np.round(cycles_per_mm * spacing_of(affine) * brain_mask.shape).astype(int)
    nyquist = (np.asarray(brain_mask.shape) - 1) // 2
    return {"amplitude": level, "bins": np.clip(bins, -nyquist, nyquist).tolist()}


def apply_spike(
    image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray, *, amplitude: float, bins: Sequence[int]
) -> np.ndarray:
    """One bright point of k-space (MONAI): stripes over the whole image, air included."""
    where = tuple(size // 2 + offset for size, offset in zip(image.shape, bins, strict=True))
    height = amplitude * robust_scale(image, brain_mask) * image.size
    return _magnitude(
        by_monai(KSpaceSpikeNoise(loc=where, k_intensity=float(np.log(max(height, SMALLEST)))), image), image
    )


def draw_zipper(level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Level: amplitude in robust SDs. Drawn: the frequency axis (not the slices') and where on it the lines lie."""
    axis = _in_plane_axis(affine, rng)
    start, stop = brain_span(brain_mask, axis)
    lines = np.floor(start + rng.random(ZIPPER_LINES) * (stop - start)).astype(int)
    return {"amplitude": level, "axis": axis, "lines": lines.tolist(), "seed": draw_seed(rng)}


def apply_zipper(
    image: np.ndarray,
    brain_mask: np.ndarray,
    affine: np.ndarray,
    *,
    amplitude: float,
    axis: int,
    lines: Sequence[int],
    seed: int,
) -> np.ndarray:
    """Radio interference at single frequencies: planes of incoherent signal across the phase-encoding direction.

    An interfering tone falls on one position of the frequency axis; its phase changes from one excitation to the next,
    so along the other axes it is complex noise, added before the magnitude is taken.
    """
    out = np.moveaxis(image.copy(), axis, 0)
    noise = np.random.default_rng(seed).standard_normal((2, len(lines), *out.shape[1:]))
    real, imaginary = amplitude * robust_scale(image, brain_mask) * noise
    for number, line in enumerate(lines):
        out[line] = np.hypot(out[line] + real[number], imaginary[number])
    return np.moveaxis(out, 0, axis)


def draw_ghosting(level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Level: share of the signal that every n-th line loses, above 1 its sign turns. Drawn: n, 2 to 4, and the axis."""
    return {"loss": level, "axis": _in_plane_axis(affine, rng), "every": int(rng.integers(2, 5))}


def apply_ghosting(
    image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray, *, loss: float, axis: int, every: int
) -> np.ndarray:
    """Every n-th phase-encoding line weakened, but not the central one: copies, an n-th of the field of view apart.

    The rule of TorchIO's ``Ghosting`` (Pérez-García et al. 2021, DOI 10.1016/j.cmpb.2021.106236).
    """
    size = image.shape[axis]
    weights = np.ones(size)
    weights[::every] = 1 - loss
    weights[size // 2] = 1
    spectrum = fft.fftshift(fft.fft(image, axis=axis), axes=axis)
    spectrum *= np.moveaxis(weights[:, None, None], 0, axis)
    return _magnitude(fft.ifft(fft.ifftshift(spectrum, axes=axis), axis=axis), image)


def draw_motion(level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Level: standard deviation of the head's positions in millimetres and in degrees. Drawn: when, whither, the axis.

    The head moves three times before the centre of k-space is reached and three times after it.
    """
    width = 1 / (MOVEMENTS + 1)
    slots = width * np.arange(1, MOVEMENTS + 1)
    return {
        "axis": _in_plane_axis(affine, rng),
        "times": (slots + width * rng.uniform(-0.4, 0.4, MOVEMENTS)).tolist(),
        "degrees": (level * rng.standard_normal((MOVEMENTS, 3))).tolist(),
        "shifts_mm": (level * rng.standard_normal((MOVEMENTS, 3))).tolist(),
    }


def apply_motion(
    image: np.ndarray,
    brain_mask: np.ndarray,
    affine: np.ndarray,
    *,
    axis: int,
    times: Sequence[float],
    degrees: Sequence[Sequence[float]],
    shifts_mm: Sequence[Sequence[float]],
) -> np.ndarray:
    """K-space put together from rigidly moved heads, line by line along one phase-encoding axis.

    The centre of k-space is that of the head at rest, so that the scan stays where its masks are. The model of Shaw et
    al. 2019 (http://proceedings.mlr.press/v102/shaw19a.html), turning about the brain's centre.

    Args:
        axis: phase-encoding axis.
        times: when the head moves, as shares of the lines, rising.
        degrees: rotations about right, front and up, a row a movement.
        shifts_mm: translations to right, front and up, a row a movement.
    """
    poses = _poses_by_line(image.shape[axis], times)
    spectrum = fft.fftshift(fft.fft(image, axis=axis), axes=axis)
    lines = np.moveaxis(spectrum, axis, 0)
    for number, (angles, shift) in enumerate(zip(degrees, shifts_mm, strict=True)):
        moved = _moved(image, brain_mask, affine, angles, shift)
        moved_lines = np.moveaxis(fft.fftshift(fft.fft(moved, axis=axis), axes=axis), axis, 0)
        lines[poses == number] = moved_lines[poses == number]
    return _magnitude(fft.ifft(fft.ifftshift(spectrum, axes=axis), axis=axis), image)


def draw_gibbs(level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Level: resolution in millimetres that is left along the axis with most voxels. Nothing is drawn."""
    return {"kept": min(1.0, float(spacing_of(affine)[np.argmax(brain_mask.shape)] / level))}


def apply_gibbs(image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray, *, kept: float) -> np.ndarray:
    """K-space cut off at a sphere (MONAI), at a share of the Nyquist frequency: ringing beside edges, detail lost."""
    # MONAI's radius is (1 - alpha) * max(shape) / sqrt(2) bins; the Nyquist frequency lies at max(shape) / 2.
    return _magnitude(by_monai(GibbsNoise(alpha=1 - kept / np.sqrt(2)), image), image)


def draw_wrap_around(
    level: float, brain_mask: np.ndarray, affine: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Level: field of view as a share of the brain's extent. Drawn: the phase-encoding axis."""
    axis = _in_plane_axis(affine, rng)
    start, stop = brain_span(brain_mask, axis)
    size = max(1, round(level * (stop - start)))
    return {"axis": axis, "start": round((start + stop - size) / 2), "size": size}


def apply_wrap_around(
    image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray, *, axis: int, start: int, size: int
) -> np.ndarray:
    """A field of view too small for the head: what lies beyond one side appears on the other; outside is nothing."""
    source = np.moveaxis(image, axis, 0)
    out = np.zeros_like(source)
    for index, plane in enumerate(source):
        target = start + (index - start) % size
        if 0 <= target < len(out):
            out[target] += plane
    return np.moveaxis(out, 0, axis)


def _poses_by_line(size: int, times: Sequence[float]) -> np.ndarray:
    """Number of the movement that each line follows; -1, the head at rest, for the stretch with the central line."""
    stretch = np.searchsorted(np.asarray(times), (np.arange(size) + 0.5) / size)
    centre = stretch[size // 2]
    return np.where(stretch == centre, -1, np.where(stretch < centre, stretch, stretch - 1))


def _moved(
    image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray, degrees: Sequence[float], shift_mm: Sequence[float]
) -> np.ndarray:
    centre = nib.affines.apply_affine(affine, np.argwhere(brain_mask).mean(axis=0))
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    motion[:3, 3] = centre - motion[:3, :3] @ centre + np.asarray(shift_mm)
    back = np.linalg.inv(affine) @ np.linalg.inv(motion) @ affine
    return ndimage.affine_transform(image, back[:3, :3], back[:3, 3], order=1, mode="nearest")


def _in_plane_axis(affine: np.ndarray, rng: np.random.Generator) -> int:
    """Left-right or front-back: the axes that a head is usually phase-encoded along."""
    return axis_towards(affine, "RA"[int(rng.integers(2))])[0]


def _magnitude(changed: np.ndarray, image: np.ndarray) -> np.ndarray:
    """What a scanner shows of a complex image; the real part where the scan itself has negative values."""
    return np.abs(changed) if image.min() >= 0 else np.real(changed)


KSPACE_ARTEFACTS: Mapping[str, tuple[Any, Any]] = MappingProxyType(
    {
        "spike": (draw_spike, apply_spike),
        "zipper": (draw_zipper, apply_zipper),
        "ghosting": (draw_ghosting, apply_ghosting),
        "motion": (draw_motion, apply_motion),
        "gibbs": (draw_gibbs, apply_gibbs),
        "wrap_around": (draw_wrap_around, apply_wrap_around),
    }
)
"""How each artefact is drawn and applied."""
