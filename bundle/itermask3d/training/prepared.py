"""Prepared scans in one small file each, and a data set that keeps them on the device where the network trains.

A prepared scan is what all random transforms of a training begin with: brain extraction, resampling, bias field and
normalisation are done, and the tools for them are not needed where it is read. It takes about a twentieth of the cache
that MONAI's data sets write, and lies whole in the memory of the device: then augmentation, synthetic anomalies, guide
and masks are computed there too, and training waits for no disk and no transfer.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.utils import convert_to_tensor

from itermask3d.files.scans import ScanError, split_scans
from itermask3d.files.writing import write_atomically

__all__ = ["PreparedDataset", "list_prepared", "load_prepared", "require_prepared", "save_prepared"]

STEPS = {"image": 1 / 64, "tissues": 1 / 64, "brain_mask": 1.0}
"""Values are kept as whole multiples of these: 64ths of a scan's robust SD and of a tissue's share."""

TYPES = {"image": np.int16, "tissues": np.uint16, "brain_mask": np.bool_}

SUFFIX = ".npz"


def save_prepared(
    sample: Mapping[Any, Any], path: str | Path, *, spacing_mm: float, bias_correction: str | None = None
) -> None:
    """Write the volumes of a prepared scan, or of prepared tissues; the file appears whole or not at all.

    Args:
        sample: ``brain_mask`` and ``image`` or ``tissues``, each ``(C, D, H, W)``, as
            :func:`itermask3d.preprocessing.pipeline.inference_transforms` and
            :func:`itermask3d.simulation.generator.label_maps.tissue_transforms` leave them.
        path: ends in ``.npz``.
        spacing_mm: edge of a voxel.
        bias_correction: how the sample was prepared; kept, so that another recipe can refuse the file.

    Raises:
        ValueError: if there is no volume to keep, or no brain mask.
    """
    volumes = {name: convert_to_tensor(sample[name], track_meta=False) for name in STEPS if name in sample}
    if "brain_mask" not in volumes or len(volumes) < 2:
        raise ValueError(f"a prepared scan needs brain_mask and image or tissues, got {', '.join(map(str, sample))}")
    arrays = {
        name: (volume / STEPS[name]).round().numpy(force=True).astype(TYPES[name]) for name, volume in volumes.items()
    }
    prepared = {} if bias_correction is None else {"bias_correction": np.str_(bias_correction)}
    content = io.BytesIO()
    np.savez_compressed(content, spacing_mm=np.float64(spacing_mm), **prepared, **arrays)
    write_atomically(content.getvalue(), Path(path))


def load_prepared(
    path: str | Path, *, spacing_mm: float | None = None, bias_correction: str | None = None
) -> dict[str, torch.Tensor]:
    """Read what :func:`save_prepared` wrote.

    Args:
        path: the file.
        spacing_mm: refuse a file of another voxel size.
        bias_correction: refuse a file that names another one.

    Returns:
        Float32 tensors by name; a scan's values differ from the prepared ones by at most half a step.

    Raises:
        ScanError: for a damaged file, one without a brain, or one of another voxel size or bias correction.
    """
    try:
        with np.load(path) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ScanError(f"'{path}' cannot be read ({error}); expected a file of scripts/prepare_scans.py") from error
    if "spacing_mm" not in found or "brain_mask" not in found:
        raise ScanError(f"'{path}' holds {', '.join(found) or 'nothing'}; expected a file of scripts/prepare_scans.py")
    spacing = float(found.pop("spacing_mm"))
    if spacing_mm is not None and abs(spacing - spacing_mm) > 1e-6:
        raise ScanError(f"'{path}' has voxels of {spacing:g} mm; expected {spacing_mm:g} mm")
    prepared = found.pop("bias_correction", None)
    if bias_correction is not None and prepared is not None and str(prepared) != bias_correction:
        raise ScanError(f"'{path}' was prepared with bias_correction {prepared}; expected {bias_correction}")
    if not found["brain_mask"].any():
        raise ScanError(f"'{path}' holds an empty brain mask; expected a brain")
    return {
        name: torch.from_numpy(found[name].astype(np.float32) * step) for name, step in STEPS.items() if name in found
    }


def list_prepared(folder: str | Path) -> list[dict[str, Any]]:
    """Items of the prepared scans below a folder: ``prepared``, the path, ``case``, its name, and ``site``, its
    folder's.

    Raises:
        ScanError: if there is none.
    """
    paths = sorted(Path(folder).rglob(f"*{SUFFIX}"))
    if not paths:
        raise ScanError(f"'{folder}' holds no prepared scan; expected files that scripts/prepare_scans.py wrote")
    return [{"prepared": str(path), "case": path.name.removesuffix(SUFFIX), "site": path.parent.name} for path in paths]


def require_prepared(
    folder: str | Path,
    split_file: str | Path | None = None,
    subsets: Sequence[str] = ("train", "validation"),
    extra: str | Path | None = None,
) -> None:
    """Stop a training that lacks its prepared scans, or names further ones that it would not use, with one sentence.

    Raises:
        SystemExit: with that sentence.
    """
    if extra:
        raise SystemExit(
            f"error: extra_label_map_dir = '{extra}' cannot be used with prepared label maps; expected null"
        )
    try:
        for subset in subsets:
            split_scans(list_prepared(folder), split_file, subset)
    except ScanError as error:
        raise SystemExit(f"error: {error}") from error


class PreparedDataset(Dataset):
    """Prepared scans, each read once and kept on a device; what is random is computed there, afresh for every sample.

    Scans are kept in half the precision that is computed with: 2 bytes a voxel, 1 for the brain mask. Use it without
    worker processes: they could not share what lies on a device.

    Args:
        data: items of :func:`list_prepared`.
        transform: from a prepared scan to a sample, see :func:`itermask3d.training.transforms.sample_transforms`;
            ``None`` gives prepared scans, of which :class:`itermask3d.training.batches.DeviceBatches` makes batches.
        device: where scans are kept and samples are made.
        volume: ``"image"`` or ``"tissues"``: refuse files that lack it.
        bias_correction: refuse scans that were prepared with another one.
        spacing_mm: refuse scans of another voxel size.
        spatial_size: refuse scans of another grid.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[..., Any] | None = None,
        *,
        device: torch.device | str = "cpu",
        volume: str | None = None,
        bias_correction: str | None = None,
        spacing_mm: float | None = None,
        spatial_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__(list(data), transform)
        self.device = torch.device(device)
        self.volume, self.bias_correction = volume, bias_correction
        self.spacing_mm = spacing_mm
        self.spatial_size = None if spatial_size is None else tuple(int(size) for size in spatial_size)
        self._kept: dict[int, dict[str, torch.Tensor]] = {}

    def prepared(self, index: int) -> dict[Hashable, Any]:
        """A scan as the random transforms begin with it; new float32 tensors on the device."""
        sample: dict[Hashable, Any] = {name: volume.float() for name, volume in self._volumes(index).items()}
        return {**sample, "case": self.data[index]["case"]}

    def _transform(self, index: int) -> Any:
        prepared = self.prepared(index)
        return prepared if self.transform is None else self.transform(prepared)

    def _volumes(self, index: int) -> dict[str, torch.Tensor]:
        if index not in self._kept:
            path = self.data[index]["prepared"]
            volumes = load_prepared(path, spacing_mm=self.spacing_mm, bias_correction=self.bias_correction)
            if self.volume and self.volume not in volumes:
                raise ScanError(f"'{path}' holds {', '.join(volumes)}; expected {self.volume}")
            grid = tuple(volumes["brain_mask"].shape[1:])
            if self.spatial_size is not None and grid != self.spatial_size:
                raise ScanError(f"'{path}' has a grid of {grid}; expected {self.spatial_size}")
            self._kept[index] = {
                name: volume.to(self.device, torch.bool if name == "brain_mask" else torch.float16)
                for name, volume in volumes.items()
            }
        return self._kept[index]
