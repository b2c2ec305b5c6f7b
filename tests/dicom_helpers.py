"""Grids of all kinds, and readers of DICOM that are not ours, for the tests of DICOM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
from helpers import axes_of, rotation

SHAPE = (11, 8, 6)

"""Small, and different along every axis."""

ORIENTATIONS = {
    "axial": axes_of("LPS"),
    "axial reversed": axes_of("LPI"),
    "sagittal": axes_of("PIL"),
    "sagittal reversed": axes_of("PIR"),
    "coronal": axes_of("LIP"),
    "coronal reversed": axes_of("LIA"),
    "left-handed": axes_of("RAS"),
    "oblique": rotation(degrees=(11, -23, 31)) @ axes_of("PIR"),
    "oblique left-handed": rotation(degrees=(-8, 14, 40)) @ axes_of("RAS"),
}
"""Scanner directions of the voxel axes, for :func:`grid`."""


def grid(axes: np.ndarray, *, spacing_mm: tuple[float, ...] = (0.9, 1.1, 1.7)) -> np.ndarray:
    """An affine with the given axes, unequal spacing and an odd origin."""
    affine = np.eye(4)
    affine[:3, :3] = axes * np.asarray(spacing_mm)
    affine[:3, 3] = -81.237, 40.118, -12.703
    return affine


def read_by_simpleitk(folder: Path, nifti: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a series and pass it through NIfTI, as MONAI Label does."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    sitk.WriteImage(reader.Execute(), str(nifti))
    image = nib.load(nifti)
    return np.asarray(image.dataobj), image.affine


def require_same_scan(
    volume: np.ndarray, affine: np.ndarray, found: np.ndarray, found_affine: np.ndarray, *, tolerance: float = 0
) -> None:
    """Compare two scans through scanner coordinates: the order of their axes may differ, nothing else."""
    to_source = np.linalg.inv(affine) @ found_affine
    voxels = nib.affines.apply_affine(to_source, np.argwhere(np.ones(found.shape)))
    indices = np.round(voxels).astype(int)
    apart_mm = np.linalg.norm((voxels - indices) @ affine[:3, :3].T, axis=1).max()
    assert apart_mm < 1e-3
    assert sorted(found.shape) == sorted(volume.shape)
    apart = found.ravel().astype(np.float64) - volume[tuple(indices.T)].astype(np.float64)
    assert np.abs(apart).max() <= tolerance


def read_by_dcmqi(segmentation: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the first segment of a DICOM SEG with dcmqi's ``segimage2itkimage``, the reference of 3D Slicer.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tool = Path(sys.executable).with_name("segimage2itkimage")
    command = [tool, "--inputDICOM", segmentation, "--outputDirectory", folder, "--outputType", "nii", "--prefix", "s"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    image = nib.load(folder / "s-1.nii.gz")
    return np.asarray(image.dataobj) != 0, image.affine
