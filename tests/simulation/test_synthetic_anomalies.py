"""Synthetic anomalies: drawn once, applied purely, and the unaltered scan kept as the target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import ball
from itermask3d.simulation.synthetic_anomalies import (
    BASES,
    RandSyntheticAnomalyd,
    SyntheticAnomalies,
    SyntheticAnomaly,
    alter,
    draw_synthetic_anomaly,
)
from itermask3d.training.prepare import PrepareReconstruction

BRAIN = torch.from_numpy(ball((40, 48, 40), radius=17.5))
NOTHING = SyntheticAnomaly(
    base="mean", radius_mm=(20.0, 30.0, 15.0), roughness=0.3, border_mm=3.0, contrast=0.0, texture=0.0,
    texture_cell_mm=6.0, keep=1.0, seed=4,
)  # fmt: skip


def scan(seed: int = 0) -> torch.Tensor:
    return torch.randn(BRAIN.shape, generator=torch.Generator().manual_seed(seed)) * BRAIN


def drawn(seed: int, **ranges) -> SyntheticAnomaly:
    return draw_synthetic_anomaly(SyntheticAnomalies(**ranges), np.random.RandomState(seed))


@pytest.mark.parametrize("base", BASES)
def test_strength_zero_leaves_the_scan_as_it_is(base):
    changed, weight = alter(scan(), BRAIN, replace(NOTHING, base=base), spacing_mm=4.0)
    torch.testing.assert_close(changed, scan(), rtol=0, atol=1e-5)
    assert weight.max() > 0.9


@pytest.mark.parametrize("seed", range(8))
def test_only_the_brain_changes_and_only_where_the_weight_says(seed):
    image = scan(seed)
    changed, weight = alter(image, BRAIN, drawn(seed), spacing_mm=4.0)
    assert torch.equal(changed[~BRAIN], image[~BRAIN])
    assert torch.equal(changed[weight == 0], image[weight == 0])
    assert changed.isfinite().all()
    assert weight.min() >= 0
    assert weight.max() <= 1
    assert (weight > 0.3).any()


def test_contrast_is_the_shift_of_the_mean_inside():
    flat = torch.where(BRAIN, 0.5, 0.0)
    changed, weight = alter(flat, BRAIN, replace(NOTHING, contrast=-2.0, keep=0.5), spacing_mm=4.0)
    inside = weight > 0.999
    assert inside.any()
    torch.testing.assert_close(changed[inside], torch.full_like(changed[inside], -1.5), rtol=0, atol=0.01)


def test_radius_is_in_millimetres_whatever_the_grid():
    sizes = []
    for factor in (1, 2):
        brain = torch.ones((40 * factor,) * 3, dtype=torch.bool)
        sphere = replace(NOTHING, radius_mm=(16.0, 16.0, 16.0), roughness=0.0, border_mm=1.0, seed=11)
        weight = alter(torch.zeros(brain.shape), brain, sphere, spacing_mm=4.0 / factor).weight
        sizes.append(float(weight.sum()) * (4.0 / factor) ** 3)
    whole = 4 / 3 * np.pi * 16**3
    assert all(0.2 * whole < size < 1.1 * whole for size in sizes)  # the centre may lie at a face


def test_the_same_record_gives_the_same_voxels_and_nothing_else_is_touched():
    image, brain = scan(), BRAIN.clone()
    before = (np.random.get_state()[1].copy(), torch.get_rng_state())
    first, second = (alter(image, brain, drawn(3), spacing_mm=4.0) for _ in range(2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(image, scan())
    assert torch.equal(brain, BRAIN)
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


def test_draws_stay_within_their_ranges():
    ranges = SyntheticAnomalies(radius_mm=(5, 20), contrast=(1, 2), keep=(0.1, 0.2))
    rng = np.random.RandomState(0)
    many = [draw_synthetic_anomaly(ranges, rng) for _ in range(60)]
    assert {one.base for one in many} == set(BASES)
    assert all(1 <= abs(one.contrast) <= 2 for one in many)
    assert {one.contrast > 0 for one in many} == {True, False}
    assert all(0.1 <= one.keep <= 0.2 for one in many)
    assert all(5 / 1.51 <= radius <= 20 * 1.51 for one in many for radius in one.radius_mm)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_sample_keeps_its_unaltered_image_as_target(probability):
    transform = RandSyntheticAnomalyd("image", 4.0, SyntheticAnomalies(probability=probability)).set_random_state(1)
    sample = {"image": scan()[None], "brain_mask": BRAIN[None].float()}
    result = transform(sample)
    assert torch.equal(result["target"], scan()[None])
    assert bool(result["altered"].any()) == bool((result["image"] != scan()[None]).any()) == bool(probability)
    assert set(sample) == {"image", "brain_mask"}


def test_share_of_altered_samples_is_the_probability():
    transform = RandSyntheticAnomalyd(
        "image", 4.0, SyntheticAnomalies(probability=0.4, max_regions=1)
    ).set_random_state(2)
    sample = {"image": scan()[None], "brain_mask": BRAIN[None].float()}
    share = np.mean([bool(transform(sample)["altered"].any()) for _ in range(80)])
    assert 0.25 < share < 0.55


def test_network_is_shown_the_synthetic_anomaly_learns_the_scan_and_predicts_no_variance_there():
    altered = torch.zeros(1, 1, *BRAIN.shape)
    altered[..., :20] = 1
    image, target = scan(1)[None, None], scan(2)[None, None]
    brain = BRAIN[None, None].float()
    batch = {"image": image, "target": target, "altered": altered, "brain_mask": brain}
    batch |= {"high_frequency": scan(3)[None, None], "mask": torch.zeros_like(brain, dtype=torch.bool)}
    batch["mask"][..., 10:] = True
    inputs, wanted = PrepareReconstruction(noise=0.0)(batch, torch.device("cpu"))
    assert torch.equal(inputs[:, :1], torch.where(batch["mask"], 0, image))
    assert torch.equal(wanted[:, :1], target)
    assert torch.equal(wanted[:, 2:], batch["mask"] * brain * (1 - altered))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"probability": 1.2}, "probability = 1.2; expected 0 to 1"),
        ({"max_regions": 0}, "max_regions = 0; expected at least 1"),
        ({"contrast": (2.0, 1.0)}, "contrast = .*does not fall"),
        ({"keep": (-0.1, 1.0)}, "keep = .*not negative"),
        ({"radius_mm": (0.0, 1.0)}, "must be positive"),
    ],
)
def test_wrong_ranges_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        SyntheticAnomalies(**wrong)
