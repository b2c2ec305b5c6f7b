"""Simulated lesions: where they are, what they change, and what they leave alone."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from helpers import ball
from itermask3d.lesions import LesionLook, generated_shape, insert_lesion, placed_shape
from scipy import ndimage

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture(scope="module")
def brain() -> np.ndarray:
    return ball((40, 44, 40), radius=17)


def scan(brain: np.ndarray) -> np.ndarray:
    return np.where(brain, 100 + 10 * np.random.default_rng(0).standard_normal(brain.shape), 0)


@pytest.mark.parametrize("volume_ml", [0.5, 5.0, 60.0])
def test_generated_shape_is_one_region_of_the_volume_inside_the_brain(brain, volume_ml):
    region = generated_shape(brain, AFFINE, volume_ml=volume_ml, rng=np.random.default_rng(1))
    assert not (region & ~brain).any()
    assert ndimage.label(region)[1] == 1
    assert region.sum() * 0.008 == pytest.approx(volume_ml, rel=0.15, abs=0.01)


def test_same_seed_same_shape_other_seed_other_shape(brain):
    first, again, other = (
        generated_shape(brain, AFFINE, volume_ml=5, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("volume_ml", [0.0, -1.0])
def test_a_volume_must_be_positive(brain, volume_ml):
    with pytest.raises(ValueError, match="positive volume"):
        generated_shape(brain, AFFINE, volume_ml=volume_ml, rng=np.random.default_rng(0))


def test_a_lesion_without_contrast_leaves_the_scan_as_it_is(brain):
    image = scan(brain)
    region = generated_shape(brain, AFFINE, volume_ml=5, rng=np.random.default_rng(1))
    look = LesionLook(contrast=0, texture=0, keep=1)
    changed = insert_lesion(image, region, brain, AFFINE, look=look, rng=np.random.default_rng(0))
    np.testing.assert_allclose(changed, image, atol=1e-4)


@pytest.mark.parametrize("contrast", [-2.0, 2.0])
def test_contrast_is_in_units_of_the_robust_scale(brain, contrast):
    image = scan(brain)
    region = ball(brain.shape, radius=9)
    look = LesionLook(contrast=contrast, texture=0, keep=0)
    changed = insert_lesion(image, region, brain, AFFINE, look=look, rng=np.random.default_rng(0))
    low, high = np.percentile(image[brain], (25, 75))
    middle = ball(brain.shape, radius=5)
    assert changed[middle].mean() - image[region].mean() == pytest.approx(contrast * (high - low) / 1.349, rel=0.02)
    assert np.array_equal(changed[~brain], image[~brain].astype(np.float32))
    far = brain & ~ball(brain.shape, radius=13)
    np.testing.assert_allclose(changed[far], image[far], atol=1e-3)


def test_a_template_shape_lands_at_the_same_relative_place(brain):
    template = ball((60, 70, 60), radius=25)
    lesion = ball(template.shape, radius=5, centre=(40, 45, 35))
    corners = np.array([np.argwhere(template).min(0), np.argwhere(template).max(0)], dtype=float)
    placed = placed_shape(nib.Nifti1Image(lesion.astype(np.uint8), np.eye(4)), brain, AFFINE, template=corners)
    relative = (np.argwhere(lesion).mean(0) - corners[0]) / (corners[1] - corners[0])
    box = np.array([np.argwhere(brain).min(0), np.argwhere(brain).max(0)])
    np.testing.assert_allclose((np.argwhere(placed).mean(0) - box[0]) / (box[1] - box[0]), relative, atol=0.03)
