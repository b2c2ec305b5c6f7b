"""A brain of nested ellipsoids, labelled as DLMUSE labels one, and a T1-weighted scan of it."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from helpers import BRAIN_RADII_MM, CENTRE_MM, world_coordinates
from itermask3d.simulation.generator.tissues import Tissue, tissues_of, two_tissues

SIDES = {"cortex": (105, 104), "white": (82, 81), "thalamus": (60, 59), "ventricle": (52, 51)}
"""Left and right label."""


def label_phantom(*, spacing_mm: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels ``(D, H, W)``, right, front and up, and their affine; left and right differ in the label alone."""
    shape = [2 * round((radius + 14) / spacing_mm) for radius in BRAIN_RADII_MM]
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = np.asarray(CENTRE_MM) - spacing_mm * (np.asarray(shape) - 1) / 2
    x, y, z = world_coordinates(shape, affine) - np.asarray(CENTRE_MM, dtype=np.float32).reshape(3, 1, 1, 1)
    labels = np.zeros(shape, dtype=np.int16)
    right = (x > 0).astype(int)
    for share, name in ((1.0, None), (0.94, "cortex"), (0.78, "white"), (0.35, "thalamus"), (0.2, "ventricle")):
        inside = sum((c / (r * share)) ** 2 for c, r in zip((x, y, z), BRAIN_RADII_MM, strict=True)) <= 1
        code = np.take(SIDES[name], right) if name else np.ones(shape, dtype=int)
        labels[inside] = code[inside]
    return labels, affine


def t1_phantom(labels: np.ndarray) -> np.ndarray:
    """Fluid 10, cortex 60, thalamus 80, white matter 100, with a little noise."""
    levels = {1: 10, 51: 10, 52: 10, 104: 60, 105: 60, 59: 80, 60: 80, 81: 100, 82: 100}
    image = np.zeros(labels.shape)
    for code, level in levels.items():
        image[labels == code] = level
    noise = np.random.default_rng(0).normal(0, 1, labels.shape)
    return np.where(labels > 0, image + noise, 0).astype(np.float32)


def save_volume(voxels: np.ndarray, affine: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def mixture_of(labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Tissue map and brain mask of the phantom, for :func:`itermask3d.simulation.generator.synthesis.render`."""
    tissues = tissues_of(labels, "dlmuse")
    shares = torch.stack([torch.from_numpy(tissues == tissue).float() for tissue in Tissue])
    shares[Tissue.BACKGROUND] = 0
    return two_tissues(shares), torch.from_numpy(labels > 0).float()[None]
