"""The scans that something artificial is put into, and a stream of random numbers for each."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np

from itermask3d.files.scans import voxel_volume_ml
from itermask3d.preprocessing.brain_extraction import extract_brain, foreground, is_skull_stripped

__all__ = ["brain_of_head", "load_subject", "stream_of"]


def load_subject(item: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, boolean brain mask and affine of one item."""
    scan: Any = nib.load(item["image"])
    image, affine = scan.get_fdata(dtype=np.float32), scan.affine
    if "brain_mask" in item:
        mask: Any = nib.load(item["brain_mask"])
        return image, mask.get_fdata() > 0, affine
    return image, brain_of_head(image, affine), affine


def brain_of_head(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Boolean brain of a T1-weighted scan: what is not background where it is stripped, else by deepbet."""
    stripped = is_skull_stripped(image, voxel_ml=voxel_volume_ml(affine))
    return foreground(image) if stripped else extract_brain(image, affine, "deepbet")


def stream_of(seed: int, *words: str) -> np.random.Generator:
    """A stream of its own for every scan and artefact, whatever else is simulated."""
    return np.random.default_rng([seed, *(zlib.crc32(word.encode()) for word in words)])
