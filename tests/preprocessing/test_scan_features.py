"""Each feature answers to its artefact, and a lesion moves the contrast little."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import ball
from itermask3d.inference.domain import FEATURES
from itermask3d.preprocessing.scan_features import measure_acquisition, measure_left_out, measure_prepared
from scipy import ndimage

SHAPE = (72, 88, 72)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def brain() -> np.ndarray:
    x, y, z = (np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2).T
    return (x / 32) ** 2 + (y / 40) ** 2 + (z / 32) ** 2 <= 1


def t1(mask: np.ndarray, *, noise: float = 0.1) -> np.ndarray:
    """Grey rim, white below it, dark ventricles; texture and noise."""
    depth = ndimage.distance_transform_edt(mask, sampling=2.0)
    tissue = np.select([depth < 2, depth < 10, depth < 40], [-1.5, -0.6, 0.8], -2.5)
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(tissue + 0.1 * rng.standard_normal(SHAPE), 0.6)
    return np.where(mask, image + noise * rng.standard_normal(SHAPE), 0)


def measured(image: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    prepared = measure_prepared(image, mask, spacing_mm=2.0, bias_log_sd=0.1)
    left_out = measure_left_out(in_a_head(), np.pad(mask, 8), spacing_mm=2.0)
    ordered = {name: (prepared | left_out)[name] for name in FEATURES if name in prepared | left_out}
    return ordered | measure_acquisition(mask, AFFINE)


@pytest.fixture(scope="module")
def normal() -> dict[str, float]:
    return measured(t1(brain()), brain())


def test_every_figure_has_words_and_the_order_of_the_table(normal):
    assert normal.keys() == FEATURES.keys()
    assert all(np.isfinite(value) for value in normal.values())
    assert measured(t1(brain()), brain()) == normal


def test_known_features(normal):
    ellipsoid_ml = 4 / 3 * np.pi * 64 * 80 * 64 / 1000
    assert normal["brain_ml"] == pytest.approx(ellipsoid_ml, rel=0.01)
    assert (normal["width_mm"], normal["length_mm"], normal["height_mm"]) == pytest.approx((128, 160, 128), abs=4)
    assert normal["asymmetry_percent"] == 0
    assert normal["depth_contrast"] == pytest.approx(1.4, abs=0.15)
    assert (normal["voxel_mm"], normal["voxel_ratio"], normal["border_percent"]) == (2, 1, 0)


def slab(image: np.ndarray) -> np.ndarray:
    lost = image.copy()
    lost[:, :, 30:34] = image.min()
    return lost


IMAGE_ARTEFACTS = {
    "inverted": (lambda image: -image, "depth_contrast", -1.5),
    "inverted tails": (lambda image: -image, "bright_tail", 0.5),
    "dark fluid": (lambda image: np.where(image < -1.8, -5, image), "dark_tail", -1.0),
    "one-sided": (lambda image: np.exp(2 * image), "quartile_skewness", 0.1),
    "blurred": (lambda image: ndimage.gaussian_filter(image, 1.5), "sharpness", -0.05),
    "blurred less noise": (lambda image: ndimage.gaussian_filter(image, 1.5), "noise", -0.05),
    "thick slices": (lambda image: ndimage.uniform_filter1d(image, 4, axis=2), "sharpness_balance", -0.1),
    "noisy": (lambda image: image + 0.4 * np.random.default_rng(1).standard_normal(SHAPE), "noise", 0.2),
    "lost slab": (slab, "slice_jump", 0.5),
}


@pytest.mark.parametrize("artefact", IMAGE_ARTEFACTS)
def test_an_artefact_of_the_image_moves_its_figure(normal, artefact):
    change, name, least = IMAGE_ARTEFACTS[artefact]
    moved = measured(np.where(brain(), change(t1(brain())), 0), brain())[name] - normal[name]
    assert moved <= least if least < 0 else moved >= least


def without(*where: slice) -> np.ndarray:
    mask = brain()
    mask[where] = False
    return mask


EVERY, FIRST, LAST = slice(None), slice(0, 20), slice(52, None)
MASK_ARTEFACTS = {
    "top missing": (without(EVERY, EVERY, LAST), {"height_mm": -20, "flat_cut_percent": 10, "brain_ml": -50}),
    "front missing": (without(EVERY, LAST), {"length_mm": -20, "flat_cut_percent": 10}),
    "sides missing": (without(FIRST) & without(LAST), {"width_mm": -20}),
    "half a side missing": (without(FIRST, slice(0, 44)), {"asymmetry_percent": 3}),
    "ragged": (brain() & (np.random.default_rng(2).random(SHAPE) > 0.15), {"surface_ratio": 0.5}),
    "large head": (ndimage.binary_dilation(brain(), iterations=4), {"brain_ml": 200, "width_mm": 10}),
}


@pytest.mark.parametrize("artefact", MASK_ARTEFACTS)
def test_an_artefact_of_the_mask_moves_its_features(normal, artefact):
    mask, expected = MASK_ARTEFACTS[artefact]
    found = measured(t1(brain()) * mask, mask)
    for name, least in expected.items():
        moved = found[name] - normal[name]
        assert moved <= least if least < 0 else moved >= least, name


def test_bias_is_passed_on_and_left_out_where_it_was_not_corrected():
    assert measure_prepared(t1(brain()), brain(), spacing_mm=2.0, bias_log_sd=0.7)["bias_log_sd"] == 0.7
    assert "bias_log_sd" not in measure_prepared(t1(brain()), brain(), spacing_mm=2.0)


def test_a_brain_cut_by_the_field_of_view_meets_its_border():
    inside, cut = brain(), brain()[:, :, :50]
    assert measure_acquisition(inside, AFFINE)["border_percent"] == 0
    face_mm2, volume_mm3 = cut[:, :, -1].sum() * 4, cut.sum() * 8
    expected = 100 * face_mm2 / volume_mm3 ** (2 / 3)
    assert measure_acquisition(cut, AFFINE)["border_percent"] == pytest.approx(expected)


def test_voxels_are_measured_along_their_own_axes():
    oblique = np.eye(4)
    oblique[:3, :3] = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]]) * (0.5, 1.0, 5.0)
    features = measure_acquisition(brain(), oblique)
    assert (features["voxel_mm"], features["voxel_ratio"]) == pytest.approx((5, 10))


@pytest.mark.parametrize("contrast", [-1.5, 1.5])
def test_a_lesion_of_100_ml_leaves_the_depth_contrast(normal, contrast):
    lesion = ball(SHAPE, radius=14.4, centre=(48, 50, 36)) & brain()
    assert lesion.sum() * 8 / 1000 > 90
    found = measured(t1(brain()) + contrast * lesion, brain())
    assert found["depth_contrast"] == pytest.approx(normal["depth_contrast"], abs=0.2)


def test_padding_and_place_change_nothing():
    image, mask = t1(brain()), brain()
    moved = [np.pad(array, ((9, 1), (0, 6), (3, 8))) for array in (image, mask)]
    first, second = (measure_prepared(*arrays, spacing_mm=2.0) for arrays in ((image, mask), moved))
    assert first == pytest.approx(second)


@pytest.mark.parametrize("radius", [1, 3, 8])
def test_a_tiny_brain_has_fewer_figures_and_raises_nothing(radius):
    mask = ball((20, 20, 20), radius=radius)
    features = measure_prepared(
        np.where(mask, np.random.default_rng(0).standard_normal(mask.shape), 0), mask, spacing_mm=2
    )
    assert "depth_contrast" not in features or radius == 8
    assert all(np.isfinite(value) for value in features.values())


def test_no_brain_and_another_grid_are_refused():
    with pytest.raises(ValueError, match="expected one shape and a brain"):
        measure_prepared(np.ones(SHAPE), np.zeros(SHAPE, bool), spacing_mm=2)
    with pytest.raises(ValueError, match="expected one shape and a brain"):
        measure_prepared(np.ones((2, 3, 4)), brain(), spacing_mm=2)


def in_a_head() -> np.ndarray:
    """A brain with fluid around it, skull, and skin as bright as brain."""
    outside = ndimage.distance_transform_edt(~brain(), sampling=2.0)
    head = np.select([outside == 0, outside <= 4, outside <= 8, outside <= 12], [100 + 15 * t1(brain()), 30, 0, 105], 0)
    return np.pad(head, 8)


@pytest.mark.parametrize(("radius_mm", "least", "most"), [(1, 0, 4), (10, 6, 12), (16, 8, 18)])
def test_a_bite_out_of_the_mask_leaves_thick_tissue_beside_it(radius_mm, least, most):
    mask = np.pad(brain(), 8)
    corner = np.argwhere(mask)[np.argwhere(mask)[:, 0].argmin()]
    mask &= ~ball(mask.shape, radius=radius_mm / 2, centre=corner)
    found = measure_left_out(in_a_head(), mask, spacing_mm=2.0)["left_out_mm"]
    assert least <= found <= most


def test_without_a_head_nothing_is_said_of_what_a_mask_left_out():
    assert np.isnan(measure_left_out(t1(brain()), brain(), spacing_mm=2.0)["left_out_mm"])
    assert np.isnan(
        measure_left_out(in_a_head(), np.zeros_like(in_a_head(), dtype=bool), spacing_mm=2.0)["left_out_mm"]
    )
