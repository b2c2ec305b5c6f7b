"""Simulated lesions: where they are, what they change, and what they leave alone."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from helpers import ball
from itermask3d.simulation.lesions import (
    KINDS,
    LesionLook,
    draw_look,
    generated_shape,
    insert_lesion,
    placed_shape,
    push_aside,
)
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


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_contrast_has_its_range_and_its_group(kind):
    looks = [draw_look(np.random.default_rng(seed), [kind]) for seed in range(40)]
    contrasts = np.array([look.contrast for look in looks])
    if kind == "iso":
        assert np.abs(contrasts).max() <= 0.2
        assert min(look.texture for look in looks) >= 0.6
        assert {look.group for look in looks} == {"iso-intense lesion"}
    else:
        assert (np.sign(contrasts) == (-1 if kind == "hypo" else 1)).all()
        assert np.abs(contrasts).min() >= 0.8
        assert np.abs(contrasts).max() <= 2.5
        groups = {look.group: abs(look.contrast) >= 1.5 for look in looks}
        assert groups == {"strong lesion": True, "weak lesion": False}


def test_kinds_are_drawn_by_their_weights_and_unknown_ones_refused():
    rng = np.random.default_rng(0)
    darker = np.mean([draw_look(rng).contrast < 0 for _ in range(600)])
    assert darker == pytest.approx(0.7, abs=0.06)
    for wrong in ([], ["hypo", "pink"]):
        with pytest.raises(ValueError, match="kinds must be some of hypo, iso, hyper"):
            draw_look(rng, wrong)


def test_an_iso_intense_lesion_changes_texture_and_not_the_mean(brain):
    image = scan(brain)
    region = ball(brain.shape, radius=9)
    look = LesionLook(contrast=0.0, texture=1.0, keep=0.2)
    changed = insert_lesion(image, region, brain, AFFINE, look=look, rng=np.random.default_rng(0))
    middle = ball(brain.shape, radius=7)
    assert changed[middle].mean() == pytest.approx(image[middle].mean(), abs=2.0)

    def roughness(volume: np.ndarray) -> float:
        return float(np.diff(volume, axis=0)[middle[1:]].std() / volume[middle].std())

    assert roughness(changed) < 0.8 * roughness(image), "the new texture is coarser than the noise"


def test_a_border_is_soft_and_as_wide_as_stated(brain):
    image = np.where(brain, 100.0, 0.0) + np.where(brain, np.random.default_rng(0).standard_normal(brain.shape), 0)
    region = ball(brain.shape, radius=9)
    look = LesionLook(contrast=-5, texture=0, keep=1, border_mm=6)
    changed = insert_lesion(image, region, brain, AFFINE, look=look, rng=np.random.default_rng(0))
    line = (image - changed)[20, 22, :]
    steps = np.abs(np.diff(line))
    assert steps.max() < 0.5 * line.max()


def test_a_mass_effect_pushes_tissue_outwards_and_spares_lesion_surface_and_outside(brain):
    along = np.indices(brain.shape)[0].astype(float)
    image = np.where(brain, 10 * along, 0)
    region = ball(brain.shape, radius=5)
    pushed = push_aside(image, region, brain, AFFINE, mass_effect_mm=4)
    assert np.array_equal(push_aside(image, region, brain, AFFINE, mass_effect_mm=0), image.astype(np.float32))
    unchanged = ~brain | region
    assert np.array_equal(pushed[unchanged], image[unchanged].astype(np.float32))
    right, left = pushed[27, 22, 20] - image[27, 22, 20], pushed[12, 22, 20] - image[12, 22, 20]
    assert right < -5, "a voxel beside the lesion shows what lay nearer to it"
    assert left > 5
    profile = pushed[brain[:, 22, 20].argmax() + 1 : 39 - brain[::-1, 22, 20].argmax(), 22, 20]
    assert (np.diff(profile) >= -1e-3).all(), "nothing is folded"
    rim = brain & ~ndimage.binary_erosion(brain)
    assert np.abs(pushed - image)[rim].max() < 10 * 4 / 2 * 0.3
    for wrong in (-1, 15):
        with pytest.raises(ValueError, match=f"mass_effect_mm .* got {wrong}"):
            push_aside(image, region, brain, AFFINE, mass_effect_mm=wrong)
