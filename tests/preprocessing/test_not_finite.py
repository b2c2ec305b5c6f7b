"""Voxels without a number: background outside the brain, a refusal inside."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from helpers import Phantom
from itermask3d.files.scans import ScanError, bare_scan_errors
from itermask3d.preprocessing.load import load_volume
from itermask3d.preprocessing.pipeline import inference_transforms


def saved(image: np.ndarray, phantom: Phantom, path) -> dict[str, str]:
    nib.save(nib.Nifti1Image(image.astype(np.float32), phantom.affine), path)
    return {"image": str(path)}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_background_without_numbers_changes_nothing(phantom, value, tmp_path):
    prepare = inference_transforms(brain_extraction="none")
    lowest = float(phantom.image[phantom.brain_mask].min())
    plain = np.where(phantom.brain_mask, phantom.image, lowest)
    holed = np.where(phantom.brain_mask, phantom.image, value)
    expected = prepare(saved(plain, phantom, tmp_path / "plain.nii.gz"))
    found = prepare(saved(holed, phantom, tmp_path / "holed.nii.gz"))
    np.testing.assert_array_equal(found["image"].numpy(), expected["image"].numpy())
    np.testing.assert_array_equal(found["brain_mask"].numpy(), expected["brain_mask"].numpy())
    image = load_volume(tmp_path / "holed.nii.gz")
    assert np.isfinite(image.numpy()).all()
    count = int((~phantom.brain_mask).sum())
    assert image.meta["warnings"] == (
        f"{count} voxels outside the brain are NaN or infinite and were taken for background",
    )


def test_one_voxel_inside_the_brain_is_refused(phantom, tmp_path):
    holed = phantom.image.copy()
    holed[tuple(np.argwhere(phantom.brain_mask).mean(0).astype(int))] = np.nan
    item = saved(holed, phantom, tmp_path / "holed.nii.gz")
    with pytest.raises(ScanError, match="holds 1 NaN or infinite voxels inside the brain"), bare_scan_errors():
        inference_transforms(brain_extraction="none")(item)
