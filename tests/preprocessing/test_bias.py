"""The bias field is found, and nothing but the bias field."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from itermask3d.preprocessing.bias import BiasFieldCorrectd, estimate_bias_field
from itermask3d.preprocessing.pipeline import inference_transforms
from monai.data import MetaTensor

SHAPE = (48, 56, 48)


@pytest.fixture(scope="module")
def phantom() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two tissues, a brain, and a field that brightens one corner by half."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij"))
    radius = np.sqrt((grid**2).sum(0))
    brain = radius < 0.85
    tissue = np.where(radius < 0.55, 100.0, 70.0) + np.random.default_rng(0).normal(0, 2, SHAPE)
    field = np.exp(0.3 * grid[0] + 0.2 * grid[1] * grid[2])
    return (tissue * brain).astype(np.float32), brain, field / np.exp(np.log(field[brain]).mean())


def test_a_smooth_field_is_recovered(phantom):
    tissue, brain, field = phantom
    found = estimate_bias_field(tissue * field, brain, spacing_mm=4.0)
    assert np.corrcoef(np.log(found[brain]), np.log(field[brain]))[0, 1] > 0.97
    assert np.log(found[brain]).mean() == pytest.approx(0, abs=1e-5)
    corrected = tissue * field / found
    before = (tissue * field)[brain & (tissue > 85)].std()
    assert corrected[brain & (tissue > 85)].std() < 0.4 * before


def test_a_scan_without_a_field_keeps_its_contrast(phantom):
    tissue, brain, _ = phantom
    found = estimate_bias_field(tissue, brain, spacing_mm=4.0)
    assert np.log(found[brain]).std() < 0.05


def test_two_estimates_are_the_same_to_the_last_bit(phantom):
    tissue, brain, field = phantom
    first, second = (estimate_bias_field(tissue * field, brain, spacing_mm=4.0) for _ in range(2))
    assert np.array_equal(first, second)


def test_the_transform_keeps_the_affine_and_says_how_strong_the_field_was(phantom):
    tissue, brain, field = phantom
    affine = torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.from_numpy((tissue * field).astype(np.float32))[None], affine=affine)
    mask = MetaTensor(torch.from_numpy(brain.astype(np.float32))[None], affine=affine)
    out = BiasFieldCorrectd("image", spacing_mm=4.0)({"image": image, "brain_mask": mask})
    assert torch.equal(out["image"].affine, affine)
    assert out["image"].shape == image.shape
    assert out["bias_field"]["log_sd"] == pytest.approx(np.log(field[brain]).std(), rel=0.25)


def test_an_unknown_correction_is_refused():
    with pytest.raises(ValueError, match="bias_correction = 'n5'; expected one of none, n4"):
        inference_transforms(bias_correction="n5")
