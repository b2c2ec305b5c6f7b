"""The common intensities of a scan: the same whatever its unit and zero, and those of ordinary scans as they are."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from itermask3d.preprocessing.intensity import IntensityScale, common_scale
from itermask3d.preprocessing.load import LoadScand

SHAPE = (40, 38, 36)


def head(seed: int = 0, top: int = 900) -> np.ndarray:
    """Whole numbers: noise of the air around a ball of tissue."""
    rng = np.random.default_rng(seed)
    place = np.indices(SHAPE) - np.reshape(SHAPE, (3, 1, 1, 1)) / 2
    inside = (place**2).sum(0) < 14**2
    return np.where(inside, rng.integers(top // 3, top, SHAPE), np.abs(rng.normal(0, 3, SHAPE)).round())


def common(image: np.ndarray) -> tuple[np.ndarray, IntensityScale]:
    stored = image.astype(np.float32)
    scale = common_scale(*np.unique(stored, return_counts=True))
    return scale.inward(stored), scale


def test_ordinary_whole_numbers_stay_as_they_are():
    image, scale = common(head())
    np.testing.assert_array_equal(image, head())
    assert scale == IntensityScale(0.0, 1.0, whole=True)


def test_ordinary_fractions_stay_as_they_are():
    fractions = head() * np.random.default_rng(1).uniform(0.9, 1.1, SHAPE)
    image, scale = common(fractions)
    np.testing.assert_array_equal(image, fractions.astype(np.float32))
    assert scale == IntensityScale(0.0, 1.0, whole=False)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    unit=st.floats(-32, 32).map(lambda power: 10.0**power),
    zero=st.floats(-2000, 2000),
    top=st.integers(60, 4000),
)
def test_whole_steps_are_found_in_any_unit_and_with_any_zero(unit, zero, top):
    plain, _ = common(head(top=top))
    image, scale = common((head(top=top) + zero) * unit)
    np.testing.assert_array_equal(image, plain)
    assert scale.unit == pytest.approx(unit, rel=1e-3)
    assert scale.offset == pytest.approx(zero * unit, abs=abs(unit) * 1e-3)


@pytest.mark.parametrize("unit", [1e30, 1e-30])
def test_fractions_in_any_unit_differ_by_rounding_only(unit):
    fractions = head() * np.random.default_rng(1).uniform(0.9, 1.1, SHAPE)
    plain, _ = common(fractions)
    image, _ = common(fractions * unit)
    ratio = float(image.max()) / float(plain.max())
    np.testing.assert_allclose(image / ratio, plain, rtol=1e-6)
    assert 1 <= image.max() <= 2**20


def test_a_dead_voxel_is_no_zero():
    image = head()
    image[0, 0, 0] = -30000
    assert common(image)[1].offset == 0


def test_a_constant_background_is_zero_whatever_lies_below():
    image = np.where(head() > 100, head(), 0.0) - 7.0
    image.ravel()[::500] -= 40
    found, scale = common(image)
    assert scale.offset == -7
    assert (found[image == -7] == 0).all()


def test_median_and_scale_are_told_in_the_scans_own_intensities():
    scale = IntensityScale(-2000.0, 0.5, whole=True)
    assert scale.outward(median=100.0, scale=20.0) == {"median": -1950.0, "scale": 10.0}


def test_a_scan_is_loaded_in_common_intensities(tmp_path):
    nib.save(nib.Nifti1Image((head() * 1e30).astype(np.float32), np.diag([2, 2, 2, 1])), tmp_path / "scan.nii.gz")
    sample = LoadScand()({"image": str(tmp_path / "scan.nii.gz")})
    np.testing.assert_array_equal(sample["image"][0].numpy(), head())
    assert sample["intensity"].unit == pytest.approx(1e30)
