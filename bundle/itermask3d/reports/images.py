"""Volumes of a result for a web page: 8-bit, cropped, compressed for a viewer, and cut into still pictures."""

from __future__ import annotations

import base64
import io
import zlib
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from itermask3d.inference.results import EVIDENCE_MAPS, RECONSTRUCTION_ERROR, TISSUE_DEVIATION, ScanResult

__all__ = ["PLANES", "Shown", "comparison", "embedded", "focus", "mosaic", "show"]

PLANES = (("sagittal", 0), ("coronal", 1), ("axial", 2))
MARGIN_MM = 15.0
FINEST_MM = 0.9
BUDGET_BYTES = 5_000_000
"""Of all volumes of one page, as text."""

ACCENT = (255, 107, 87)
TILE_PIXELS = 190
MOSAIC_TILES = (5, 3)


DEVIATION_SD = 4.0
"""Deviation from the tissues that has the strongest colour."""


@dataclass(frozen=True)
class Shown:
    """Volumes as a reader sees them: axes nearest to right, front and up, cut to the brain and a margin.

    Attributes:
        volumes: ``scan``, ``reconstruction``, ``anomaly_map`` (uint8, windowed) and ``mask`` (0 or 1), one shape; the
            kinds of evidence where the result has them.
        affine: voxels to RAS millimetres.
        spacing_mm: of the voxels.
        window: intensities shown as black and as white.
        top_error: squared error shown as the strongest colour.
        coarser: whether voxels are larger than the scan's.
    """

    volumes: dict[str, np.ndarray]
    affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    window: tuple[float, float]
    top_error: float
    coarser: bool = False


def show(result: ScanResult, *, spacing_mm: float = FINEST_MM) -> Shown:
    """Bring a result into the form that is shown.

    Args:
        result: of one scan.
        spacing_mm: axes with finer voxels are averaged to this; coarser ones stay.
    """
    arrays = {
        "scan": result.image.astype(np.float32),
        "reconstruction": result.reconstruction.astype(np.float32),
        "anomaly_map": result.anomaly_map.astype(np.float32),
        "mask": result.mask.astype(np.float32),
        "brain": result.brain_mask.astype(np.float32),
        **result.evidence_maps,
    }
    images = {name: nib.as_closest_canonical(nib.Nifti1Image(array, result.affine)) for name, array in arrays.items()}
    volumes = {name: np.asarray(image.dataobj) for name, image in images.items()}
    affine = np.asarray(images["scan"].affine, dtype=float)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    box = _box(volumes["brain"] > 0, spacing)
    inside = (volumes["brain"] > 0) & np.isfinite(volumes["scan"])
    values = volumes["scan"][inside] if inside.any() else volumes["scan"].ravel()
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.7)))
    errors = volumes["anomaly_map"][inside] if inside.any() else np.zeros(1)
    top = max(float(np.percentile(errors, 99.8)), 1e-6)
    factors = np.maximum(1, spacing_mm / spacing)
    cut = {name: _coarser(volume[box], factors, mask=name == "mask") for name, volume in volumes.items()}
    start = np.array([part.start for part in box]) + (factors - 1) / 2
    moved = affine @ np.diag([*factors, 1.0])
    moved[:3, 3] = (affine @ [*start, 1.0])[:3]
    bounds = {"scan": (low, high), "reconstruction": (low, high), "anomaly_map": (0.0, top)}
    bounds |= {TISSUE_DEVIATION: (-DEVIATION_SD, DEVIATION_SD), RECONSTRUCTION_ERROR: (0.0, top)}
    eight_bit = {name: _to_bytes(cut[name], *limits) for name, limits in bounds.items() if name in cut}
    eight_bit["reconstruction"][cut["brain"] < 0.5] = 0
    eight_bit["mask"] = (cut["mask"] > 0).astype(np.uint8)
    edge = spacing * factors
    return Shown(
        eight_bit,
        moved,
        (float(edge[0]), float(edge[1]), float(edge[2])),
        (low, high),
        top,
        bool(np.any(factors > 1.001)),
    )


def embedded(result: ScanResult, *, budget_bytes: int = BUDGET_BYTES) -> dict[str, Any]:
    """Volumes for the page's viewer, as plain values, coarser where they would not fit.

    Each volume is stored with its first axis running fastest, as differences from voxel to voxel (modulo 256), deflated
    and written in base64: lossless, and about half as large as without the differences.
    """
    spacing = FINEST_MM
    while True:
        shown = show(result, spacing_mm=spacing)
        kept = {name: volume for name, volume in shown.volumes.items() if name not in EVIDENCE_MAPS}
        volumes = {name: _compressed(volume) for name, volume in kept.items()}
        size = sum(map(len, volumes.values()))
        if size <= budget_bytes or min(shown.volumes["scan"].shape) < 16:
            break
        spacing = max(spacing, min(shown.spacing_mm)) * max(1.05, (size / budget_bytes) ** (1 / 3) * 1.02)
    return {
        "shape": list(shown.volumes["scan"].shape),
        "spacing_mm": list(shown.spacing_mm),
        "affine": shown.affine.tolist(),
        "window": list(shown.window),
        "top_error": shown.top_error,
        "coarser": shown.coarser,
        "volumes": volumes,
    }


def focus(shown: Shown) -> tuple[int, int, int]:
    """Voxel to look at first: where the marked error is largest along each axis, else the middle."""
    weight = np.where(shown.volumes["mask"] > 0, shown.volumes["anomaly_map"].astype(float) + 1, 0)
    if not weight.any():
        middle = [size // 2 for size in weight.shape]
        return middle[0], middle[1], middle[2]
    best = [int(weight.sum(axis=tuple(o for o in range(3) if o != axis)).argmax()) for axis in range(3)]
    return best[0], best[1], best[2]


def mosaic(shown: Shown) -> str:
    """Axial slices from below to above with the marked region outlined, as a data URL."""
    columns, rows = MOSAIC_TILES
    count = columns * rows
    filled = np.flatnonzero(shown.volumes["reconstruction"].any(axis=(0, 1)))
    first, last = (filled[0], filled[-1]) if filled.size else (0, shown.volumes["scan"].shape[2] - 1)
    indices = np.linspace(first + 0.06 * (last - first), last - 0.04 * (last - first), count).astype(int)
    tiles = [_tile(shown, 2, int(index), "scan", outline=True, width=TILE_PIXELS) for index in indices]
    width, height = tiles[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, ((number % columns) * width, (number // columns) * height))
    return _data_url(sheet)


def comparison(shown: Shown, at: tuple[int, int, int]) -> list[dict[str, str]]:
    """Three planes through a voxel: the scan, its reconstruction, the map and the marked region (data URLs).

    Where the result has them, each kind of evidence apart as well.
    """
    evidence = [name for name in EVIDENCE_MAPS if name in shown.volumes]
    return [
        {
            "plane": plane,
            "scan": _data_url(_tile(shown, axis, at[axis], "scan")),
            "reconstruction": _data_url(_tile(shown, axis, at[axis], "reconstruction")),
            "anomaly_map": _data_url(_tile(shown, axis, at[axis], "anomaly_map")),
            "mask": _data_url(_tile(shown, axis, at[axis], "scan", outline=True)),
            **{name: _data_url(_tile(shown, axis, at[axis], name)) for name in evidence},
        }
        for plane, axis in PLANES
    ]


def _box(brain: np.ndarray, spacing: np.ndarray) -> tuple[slice, ...]:
    if not brain.any():
        return tuple(slice(0, size) for size in brain.shape)
    found = ndimage.find_objects(brain.astype(np.uint8))[0]
    margins = np.ceil(MARGIN_MM / spacing).astype(int)
    return tuple(
        slice(max(0, part.start - margin), min(size, part.stop + margin))
        for part, margin, size in zip(found, margins, brain.shape, strict=True)
    )


def _coarser(volume: np.ndarray, factors: np.ndarray, *, mask: bool) -> np.ndarray:
    """Average to larger voxels; a mask keeps whatever covers a quarter of one, so that nothing small vanishes."""
    if np.all(factors <= 1.001):
        return volume
    size = tuple(max(1, int(n / f)) for n, f in zip(volume.shape, factors, strict=True))
    smooth = ndimage.gaussian_filter(volume, (factors - 1) / 2)
    moved = ndimage.affine_transform(
        smooth, factors, offset=(factors - 1) / 2, output_shape=size, order=1, mode="nearest"
    )
    return np.asarray(moved > 0.25 if mask else moved, dtype=np.float32)


def _to_bytes(volume: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = (np.nan_to_num(volume) - low) / max(high - low, 1e-9) * 255
    return np.asarray(np.clip(np.round(scaled), 0, 255), dtype=np.uint8)


def _compressed(volume: np.ndarray) -> str:
    flat = volume.ravel(order="F")
    differences = np.diff(flat, prepend=np.uint8(0))
    return base64.b64encode(zlib.compress(differences.tobytes(), 7)).decode()


def _cut(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """A slice as it stands on the page: up is up, and the patient's left is on the right."""
    plane = np.take(volume, index, axis).T[::-1]
    return plane if axis == 0 else plane[:, ::-1]


def _tile(shown: Shown, axis: int, index: int, name: str, *, outline: bool = False, width: int = 0) -> Image.Image:
    grey = _cut(shown.volumes[name], axis, index)
    across, up = (other for other in range(3) if other != axis)
    pixels = _COLOURS.get(name, _greys)(grey)
    millimetres = grey.shape[1] * shown.spacing_mm[across], grey.shape[0] * shown.spacing_mm[up]
    scale = width / millimetres[0] if width else 1.6
    size = round(millimetres[0] * scale), round(millimetres[1] * scale)
    tile = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BILINEAR)
    if outline:
        tile = _outlined(tile, _cut(shown.volumes["mask"], axis, index))
    if axis != 0:
        draw, font = ImageDraw.Draw(tile), ImageFont.load_default(size=13)
        draw.text((3, size[1] // 2 - 8), "R", fill=(220, 220, 220), font=font)
        draw.text((size[0] - 12, size[1] // 2 - 8), "L", fill=(220, 220, 220), font=font)
    return tile


def _outlined(tile: Image.Image, mask: np.ndarray) -> Image.Image:
    large = np.asarray(Image.fromarray((mask > 0).astype(np.uint8) * 255).resize(tile.size, Image.Resampling.BILINEAR))
    inside = large > 127
    edge = ndimage.binary_dilation(inside) & ~ndimage.binary_erosion(inside)
    return Image.fromarray(np.where(edge[..., None], np.array(ACCENT, np.uint8), np.asarray(tile)))


def _heat(values: np.ndarray) -> np.ndarray:
    """Black over red and yellow to white, equal to the viewer's own."""
    level = values.astype(float)[..., None] * 3 / 255 - np.arange(3)
    return np.asarray(np.clip(level, 0, 1) * 255, dtype=np.uint8)


def _greys(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def _signed(values: np.ndarray) -> np.ndarray:
    """Blue for darker, red for brighter than the middle, which is black."""
    away = values.astype(float) - 127.5
    red, blue = np.clip(2 * away, 0, 255), np.clip(-2 * away, 0, 255)
    return np.stack((red, np.abs(away) / 2, blue), axis=-1).astype(np.uint8)


_COLOURS = {"anomaly_map": _heat, RECONSTRUCTION_ERROR: _heat, TISSUE_DEVIATION: _signed}


def _data_url(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
