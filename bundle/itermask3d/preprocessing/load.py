"""Loading a scan and its masks, and refusing what is no scan of a head."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from itermask3d.files.identity import read_record, source_of
from itermask3d.files.read import Source, read_volume
from itermask3d.files.scans import ScanError, require_same_grid
from itermask3d.preprocessing.intensity import common_scale

__all__ = ["LoadScand", "check_scan", "load_volume"]

MIN_SIZE_VOXELS = 16
MIN_SLICES = 8
MIN_EXTENT_MM = 60.0
MAX_LABEL_VALUES = 20
MAX_EQUAL_NEIGHBOURS = 0.5
"""Scans measured here, 8-bit ones included, have at most 0.18 of neighbours equal; label maps at least 0.77."""


NOT_FINITE = "{count} voxels outside the brain are NaN or infinite and were taken for background"


def check_scan(image: torch.Tensor, affine: np.ndarray, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Refuse what cannot be a 3D MR scan of a head.

    Args:
        image: the voxels as loaded, without channel axis.
        affine: voxel to millimetres, ``(4, 4)``.
        name: how the message calls the scan.

    Returns:
        The different intensities, rising, and how many voxels have each.

    Raises:
        ScanError: for another number of axes than three, NaN or infinite voxels, a constant image, a label map, a
            singular or non-finite affine, fewer than 16 voxels on an axis (8 where voxels are thick) or a field of
            view below 60 mm.
    """
    shape = tuple(image.shape)
    if image.ndim != 3 or min(shape) < 2:
        raise ScanError(f"'{name}' has shape {shape}; expected one 3D volume")
    linear = np.asarray(affine, dtype=float)[:3, :3]
    if not np.isfinite(affine).all() or abs(np.linalg.det(linear)) < 1e-6:
        raise ScanError(f"'{name}' has no usable affine; expected finite voxel axes that span a volume")
    extent = np.linalg.norm(linear, axis=0) * shape
    if extent.min() < MIN_EXTENT_MM or min(shape) < MIN_SLICES or sorted(shape)[1] < MIN_SIZE_VOXELS:
        raise ScanError(
            f"'{name}' has {' x '.join(map(str, shape))} voxels over {' x '.join(f'{v:.0f}' for v in extent)} mm; "
            f"expected a whole head (at least {MIN_EXTENT_MM:.0f} mm and {MIN_SIZE_VOXELS} voxels)"
        )
    bad = int((~torch.isfinite(image)).sum())
    if bad:
        raise ScanError(f"'{name}' holds {bad} NaN or infinite voxels; expected finite intensities")
    return _check_values(image, name)


def _check_values(image: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    values, counts = torch.unique(image, return_counts=True)
    if len(values) == 1:
        raise ScanError(f"'{name}' is constant ({float(values[0]):g} everywhere); expected an MR scan")
    if len(values) <= MAX_LABEL_VALUES:
        raise ScanError(f"'{name}' holds only {len(values)} different values; expected an MR scan, not a label map")
    before, after = image[:-1], image[1:]
    inside = (before != values[counts.argmax()]) & (after != values[counts.argmax()])
    equal = float((before == after)[inside].float().mean())
    if equal > MAX_EQUAL_NEIGHBOURS:
        raise ScanError(f"'{name}' has {equal:.0%} of neighbouring voxels equal; expected an MR scan, not a label map")
    return values, counts


def load_volume(source: Source) -> MetaTensor:
    """Load one volume ``(D, H, W)`` with its affine, through :func:`itermask3d.files.read.read_volume`.

    Args:
        source: a file, a folder with one DICOM series, or the files of one.

    Returns:
        Float32 voxels, all finite: where the file holds NaN or infinity, the lowest finite value stands. In ``meta``,
        ``not_finite`` is boolean and marks such voxels, or ``None``; ``warnings`` holds what a reader of the result
        should know about the file, in sentences; ``read`` what was read, see
        :func:`itermask3d.files.identity.read_record`; ``placement`` and ``known_sides`` what
        :class:`itermask3d.files.volume.Volume` says.

    Raises:
        ScanError: if it is missing, damaged, of no known format, or does not tell where its voxels lie.
    """
    volume = read_volume(source)
    warnings, not_finite, voxels = volume.warnings, None, volume.voxels
    if volume.n_nan + volume.n_infinite:
        not_finite = ~np.isfinite(voxels)
        voxels = np.where(not_finite, voxels[~not_finite].min(), voxels)
        warnings = (*warnings, NOT_FINITE.format(count=int(not_finite.sum())))
    meta: dict[str, Any] = {"warnings": warnings, "not_finite": not_finite, "read": read_record(volume)}
    meta |= {"placement": volume.placement, "known_sides": volume.known_sides}
    return MetaTensor(torch.from_numpy(voxels), affine=torch.from_numpy(volume.affine.copy()), meta=meta)


class LoadScand(MapTransform):
    """Load and check the image, and its brain mask and label where the item names them.

    Each becomes a float32 :class:`monai.data.MetaTensor` ``(1, D, H, W)`` with its affine. Any format that MONAI's
    readers take: NIfTI, MGH, NRRD, MetaImage, a folder with one DICOM series. The image's intensities are common ones,
    see :mod:`itermask3d.preprocessing.intensity`; what leads back to the scan's own is stored under ``intensity``, and
    the volume as it was read under ``native``. What was read of each file is told under ``read``; ``not_finite`` marks
    voxels that hold no number.

    Args:
        keys: the scan; checked by :func:`check_scan`.
        companion_keys: masks to load when the item holds a path for them.

    Raises:
        ScanError: if a file is missing, truncated or of no known format, the scan fails a check, or a mask lies on
            another grid than the scan.
    """

    def __init__(self, keys: KeysCollection = "image", companion_keys: Sequence[str] = ("brain_mask", "label")) -> None:
        super().__init__(keys)
        self.companion_keys = tuple(companion_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        read: dict[str, Any] = {}
        for key in self.keys:
            source = source_of(sample, str(key))
            if source is None:
                raise ScanError(f"an item names no '{key}'; expected the path of a scan")
            image = load_volume(source)
            read[str(key)] = image.meta["read"]
            levels, counts = check_scan(image.as_tensor(), np.asarray(image.affine), str(sample[key]))
            scale = common_scale(levels.numpy(), counts.numpy())
            sample["path"], sample["intensity"], sample["native"] = str(sample[key]), scale, image
            sample["not_finite"] = image.meta["not_finite"]
            sample[key] = _channel_first(image, scale.inward(image.numpy()))
        for key in self.companion_keys:
            if sample.get(key) is not None:
                mask, image = load_volume(sample[key]), sample[self.keys[0]]
                require_same_grid(
                    key.replace("_", " "),
                    mask.shape,
                    np.asarray(mask.affine),
                    scan_shape=image.shape[1:],
                    scan_affine=np.asarray(image.affine),
                )
                sample[key], read[key] = _channel_first(mask), mask.meta["read"]
        sample["read"] = read
        return sample


def _channel_first(image: MetaTensor, voxels: np.ndarray | None = None) -> MetaTensor:
    # The affine is all that is kept of the header: scans of different formats must fit into one batch.
    kept = image.as_tensor() if voxels is None else torch.from_numpy(voxels)
    return MetaTensor(kept[None].float(), affine=image.affine)
