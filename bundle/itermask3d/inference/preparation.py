"""From a scan's files to the network's grid, with everything that is needed on the way back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample

from itermask3d.files.identity import input_files
from itermask3d.files.scans import bare_scan_errors
from itermask3d.files.volume import Placement
from itermask3d.preprocessing.brain_extraction import BrainMaskd
from itermask3d.preprocessing.load import LoadScand
from itermask3d.preprocessing.measure import ScanFeatures, measure_scan, on_own_grid
from itermask3d.preprocessing.pipeline import Preprocessing

__all__ = ["PreparedScan", "Progress", "Timings", "prepare", "silent", "to_network_grid"]

Progress = Callable[[str, int, int], None]
"""``(phase, done, total)``; phases are ``reading``, ``brain extraction``, ``sweep``, ``shrink``, ``writing``."""


@dataclass
class Timings:
    """Seconds spent on one scan, by step."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, step: str, since: float) -> float:
        """Charge the time since ``since`` to a step; return the time now."""
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - since
        return now


@dataclass(frozen=True)
class PreparedScan:
    """A scan on the network's grid, and on its own.

    Attributes:
        case: name of the scan.
        path: its file or folder as it was given.
        image: normalised, ``(1, *grid)``, with the way back to the scan's own grid.
        brain_mask: 0 or 1, same grid.
        native_image: the scan as it was read ``(D, H, W)``, native intensities.
        placement, known_sides: see :class:`itermask3d.inference.results.ScanResult`.
        native_brain: boolean, same grid: the brain mask, brought back.
        affine: of that grid, voxel to RAS millimetres ``(4, 4)``.
        features: what tells its kind.
        normalisation: ``median`` and ``scale`` of the brain, in native intensities.
        brain_extraction: how the brain was found.
        inputs: the files that were read, with their size, times of change and digest.
        warnings: what a reader should know about the files, in sentences.
        label: ground truth ``(1, D, H, W)`` on the scan's own grid, where it was asked for.
        timings: of the preparation.
    """

    case: str
    path: str
    image: MetaTensor
    brain_mask: MetaTensor
    native_image: np.ndarray
    placement: Placement | None
    known_sides: bool
    native_brain: np.ndarray
    affine: np.ndarray
    features: ScanFeatures
    normalisation: Mapping[str, float]
    brain_extraction: str
    inputs: Mapping[str, Any]
    warnings: tuple[str, ...]
    label: MetaTensor | None
    timings: Timings

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the scan's own grid."""
        return self.native_image.shape


def prepare(item: Mapping[str, Any], preprocessing: Preprocessing, progress: Progress | None = None) -> PreparedScan:
    """Read a scan and bring it to the network's grid.

    Args:
        item: ``image`` (path), ``case`` and, optionally, ``brain_mask`` and ``label`` (paths), as
            :func:`itermask3d.files.scans.list_scans` gives them.
        preprocessing: of the model.
        progress: told the phase.

    Raises:
        ScanError: if the scan cannot be used.
    """
    report, timings = progress or silent, Timings()
    inputs, sample, loaded = input_files(item), dict(item), {}
    report("reading", 0, 1)
    for transform in preprocessing.transforms:
        brain_extraction = isinstance(transform, BrainMaskd)
        if brain_extraction:
            report("brain extraction", 0, 1)
        start = time.perf_counter()
        with bare_scan_errors():
            sample = transform(sample)
        if isinstance(transform, LoadScand):
            loaded = dict(sample)
        timings.add("brain_extraction" if brain_extraction else "reading", start)
    start = time.perf_counter()
    scan = _prepared(sample, loaded, preprocessing, inputs, timings)
    timings.add("reading", start)
    return scan


def _prepared(
    sample: Mapping[str, Any],
    loaded: Mapping[str, Any],
    preprocessing: Preprocessing,
    inputs: Mapping[str, Any],
    timings: Timings,
) -> PreparedScan:
    native: MetaTensor = loaded["native"]
    affine = np.asarray(native.affine, dtype=float)
    back = on_own_grid(sample, preprocessing, brain_mask=sample["brain_mask"])["brain_mask"]
    brain = back[0].numpy(force=True) > 0.5
    return PreparedScan(
        case=str(sample["case"]),
        path=str(sample["path"]),
        image=sample["image"],
        brain_mask=sample["brain_mask"],
        native_image=native.numpy(force=True),
        placement=native.meta["placement"],
        known_sides=native.meta["known_sides"],
        native_brain=brain,
        affine=affine,
        features=measure_scan(sample, brain, affine),
        normalisation={key: float(value) for key, value in sample["normalisation"].items()},
        brain_extraction=str(sample["brain_extraction"]),
        inputs={key: {**told, **loaded["read"].get(key, {})} for key, told in inputs.items()},
        warnings=tuple(native.meta["warnings"]),
        label=sample.get("label"),
        timings=timings,
    )


def to_network_grid(mask: np.ndarray, scan: PreparedScan, device: torch.device | None = None) -> torch.Tensor:
    """Bring a mask from the scan's own grid to the network's.

    Args:
        mask: boolean ``(D, H, W)`` on the scan's grid.
        scan: whose grids these are.
        device: where the result is wanted.

    Returns:
        Boolean ``(1, 1, *grid)``.

    Raises:
        ValueError: if the mask has another shape than the scan.
    """
    if mask.shape != scan.shape:
        raise ValueError(f"a mask has shape {mask.shape}; expected the scan's {scan.shape}")
    volume = MetaTensor(torch.from_numpy(mask.astype(np.float32))[None], affine=torch.from_numpy(scan.affine))
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", align_corners=True)
    moved = resample(volume, dst_affine=scan.image.affine, spatial_size=scan.image.shape[1:])
    return (torch.as_tensor(moved)[None] >= 0.5).as_subclass(torch.Tensor).to(device)


def silent(phase: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
