"""What a person drew in a viewer, read from a request: labels, scribbles, points, regions of interest."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from itermask3d.files.scans import ScanError, require_same_grid
from itermask3d.inference.preparation import PreparedScan
from itermask3d.preprocessing.load import load_volume
from scipy import ndimage

from lib.errors import RequestError

__all__ = ["MEANINGS", "load_label", "read_points", "region_of_interest", "regions_at", "scribble_values"]

SCRIBBLES = {"foreground_scribbles": "suspicious", "background_scribbles": "normal"}
"""Segments that 3D Slicer's scribbles tool draws, and what they say."""

MEANINGS = ("suspicious", "normal")


def regions_at(mask: np.ndarray, spots: np.ndarray) -> np.ndarray:
    """The connected regions of a mask that hold any of some voxels."""
    regions, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    hit = np.unique(regions[spots])
    return np.isin(regions, hit[hit > 0])


def load_label(path: str, scan: PreparedScan) -> np.ndarray:
    """A label file that came with the request, on the scan's own grid."""
    if Path(tempfile.gettempdir()).resolve() not in Path(path).resolve().parents:
        raise RequestError(422, "the label is no uploaded file; expected a label image in the request")
    try:
        label = load_volume(path)
        require_same_grid(
            "label", label.shape, np.asarray(label.affine), scan_shape=scan.shape, scan_affine=scan.affine
        )
    except ScanError as error:
        raise RequestError(422, f"the label cannot be used: {str(error).replace(path, 'the upload')}") from error
    return np.asarray(label.as_tensor())


def scribble_values(label_info: Any) -> dict[int, str]:
    """Which values of a label are scribbles, from the names that 3D Slicer sends with it."""
    said = {}
    for info in label_info if isinstance(label_info, Sequence) and not isinstance(label_info, str) else []:
        if isinstance(info, Mapping) and info.get("name") in SCRIBBLES:
            value = info.get("id", info.get("idx"))
            if isinstance(value, int):
                said[value] = SCRIBBLES[info["name"]]
    return said


def read_points(value: Any, name: str) -> list[list[float]]:
    """Voxel coordinates as a viewer sends them: a list, or its JSON text; a fourth coordinate is ignored."""
    if value in (None, "", []):
        return []
    try:
        points = json.loads(value) if isinstance(value, str) else value
        if points and not isinstance(points[0], Sequence):
            points = [points]
        read = [[float(v) for v in point[:3]] for point in points]
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise RequestError(422, f"{name} '{str(value)[:80]}' cannot be read; expected a list of [x, y, z]") from error
    if any(len(point) != 3 for point in read) or not np.isfinite(read).all():
        raise RequestError(422, f"{name} '{str(value)[:80]}' cannot be read; expected a list of [x, y, z]")
    return read


def region_of_interest(roi: Any, shape: Sequence[int]) -> np.ndarray:
    """The box ``[x1, x2, y1, y2, z1, z2]`` in voxels that 3D Slicer sends, corners in any order; all without one."""
    if roi in (None, "", []):
        return np.ones(tuple(shape), dtype=bool)
    try:
        bounds = [float(v) for v in (json.loads(roi) if isinstance(roi, str) else roi)]
        pairs = [sorted(bounds[axis : axis + 2]) for axis in (0, 2, 4)]
        if len(bounds) != 6 or not np.isfinite(bounds).all():
            raise ValueError(bounds)
    except (TypeError, ValueError) as error:
        raise RequestError(422, f"roi '{str(roi)[:80]}' cannot be read; expected [x1, x2, y1, y2, z1, z2]") from error
    box = np.zeros(tuple(shape), dtype=bool)
    box[tuple(slice(max(int(np.floor(low)), 0), max(int(np.ceil(high)), 0) + 1) for low, high in pairs)] = True
    if not box.any():
        raise RequestError(422, f"roi {bounds} lies outside the scan; expected voxels below {list(shape)}")
    return box
