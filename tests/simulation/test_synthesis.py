"""Generated scans: repeatable, shaped as real ones, and without a trace of what is switched off."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from itermask3d.simulation.generator.synthesis import Ingredients, SynthesizeBraind, draw_recipe, render
from itermask3d.simulation.generator.tissues import Tissue, tissues_of
from monai.data import MetaTensor
from monai.data.utils import set_rnd
from monai.transforms import Compose
from synthesis_helpers import label_phantom, mixture_of

SPACING_MM = 4.0
PLAIN = {
    "flip_probability": 0.0,
    "warp_probability": 0.0,
    "texture": (0.0, 0.0),
    "variation": (0.0, 0.0),
    "vessel_probability": 0.0,
    "bias_log_sd": (0.0, 0.0),
    "blur_mm": (0.0, 0.0),
    "slice_probability": 0.0,
    "noise": (0.0, 0.0),
    "mask_shift_mm": (0.0, 0.0),
}
EVERYTHING = {"flip_probability": 1.0, "warp_probability": 1.0, "vessel_probability": 1.0, "slice_probability": 1.0}
CONTRASTS = {"t1": 1.0, "t2": 1.0, "flair": 1.0, "t1c": 1.0, "random": 1.0}


@pytest.fixture(scope="module")
def maps() -> tuple[torch.Tensor, torch.Tensor]:
    return mixture_of(label_phantom(spacing_mm=SPACING_MM)[0])


def recipe(seed: int = 0, contrasts=CONTRASTS, **changes):
    return draw_recipe(Ingredients(contrasts, **changes), np.random.RandomState(seed))


@pytest.mark.parametrize("seed", range(4))
def test_one_recipe_gives_one_scan(maps, seed):
    drawn = recipe(seed, **EVERYTHING)
    first, second = (render(*maps, drawn, spacing_mm=SPACING_MM) for _ in range(2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.brain_mask, second.brain_mask)
    other = render(*maps, replace(drawn, seed=drawn.seed + 1), spacing_mm=SPACING_MM)
    assert not torch.equal(first.image, other.image)


@pytest.mark.parametrize("seed", range(6))
def test_a_scan_has_the_maps_grid_and_is_zero_outside_its_brain(maps, seed):
    kept = [part.clone() for part in maps]
    scan = render(*maps, recipe(seed), spacing_mm=SPACING_MM)
    assert scan.image.shape == scan.brain_mask.shape == maps[1].shape
    assert scan.image.dtype == scan.brain_mask.dtype == torch.float32
    assert set(scan.brain_mask.unique().tolist()) == {0.0, 1.0}
    assert not scan.image[scan.brain_mask == 0].any()
    assert torch.isfinite(scan.image).all()
    assert (scan.image >= 0).all()
    assert 0.6 < scan.brain_mask.sum() / maps[1].sum() < 1.6
    assert all(torch.equal(part, before) for part, before in zip(maps, kept, strict=True))


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_without_ingredients_a_scan_shows_the_signals_alone(maps, contrast):
    drawn = recipe(contrasts={contrast: 1.0}, **PLAIN)
    scan = render(*maps, drawn, spacing_mm=SPACING_MM)
    expected = torch.tensor(drawn.contrast.signals)[maps[0][0].long()] * maps[1][0]
    assert torch.allclose(scan.image[0], expected, atol=1e-6)
    assert torch.equal(scan.brain_mask, maps[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("texture", (0.2, 0.2)),
        ("variation", (0.2, 0.2)),
        ("vessel_probability", 1.0),
        ("bias_log_sd", (0.1, 0.1)),
        ("blur_mm", (4.0, 4.0)),
        ("slice_probability", 1.0),
        ("noise", (0.1, 0.1)),
        ("warp_probability", 1.0),
        ("mask_shift_mm", (3.0, 3.0)),
    ],
)
def test_each_ingredient_changes_the_scan(maps, name, value):
    plain = render(*maps, recipe(contrasts={"t2": 1.0}, **PLAIN), spacing_mm=SPACING_MM)
    changes = {**PLAIN, name: value} | ({"slice_mm": (12.0, 12.0)} if name == "slice_probability" else {})
    changed = render(*maps, recipe(contrasts={"t2": 1.0}, **changes), spacing_mm=SPACING_MM)
    assert not torch.allclose(changed.image, plain.image, atol=1e-3)


def test_partial_volume_is_the_mean_of_both_signals(maps):
    mixture, brain = maps[0].clone(), maps[1]
    mixture[0], mixture[1], mixture[2] = Tissue.CORTEX, Tissue.OUTER_FLUID, 0.7
    drawn = recipe(contrasts={"t2": 1.0}, **PLAIN)
    scan = render(mixture, brain, drawn, spacing_mm=SPACING_MM)
    grey, fluid = (drawn.contrast.signals[tissue] for tissue in (Tissue.CORTEX, Tissue.OUTER_FLUID))
    assert scan.image[brain > 0].unique().numpy() == pytest.approx(0.7 * grey + 0.3 * fluid, rel=1e-5)


def test_a_flip_mirrors_image_mask_and_tissues_alike():
    labels, _ = label_phantom(spacing_mm=SPACING_MM)
    labels[5:9, 18:22, 18:22] = 47  # a structure of one side
    mixture, brain = mixture_of(labels)
    straight = recipe(contrasts={"t1": 1.0}, **PLAIN)
    there = render(mixture, brain, straight, spacing_mm=SPACING_MM)
    back = render(mixture, brain, replace(straight, flip=True), spacing_mm=SPACING_MM)
    assert torch.equal(back.image, there.image.flip(1))
    assert not torch.equal(back.image, there.image)
    signals = torch.tensor(straight.contrast.signals)
    mirrored = torch.from_numpy(tissues_of(labels[::-1], "dlmuse").astype(np.int64))
    assert torch.allclose(back.image[0], signals[mirrored] * back.brain_mask[0])


def test_an_identity_deformation_moves_nothing(maps):
    drawn = replace(recipe(**PLAIN), warp=True, rotation_rad=(0.0,) * 3, scaling=(1.0,) * 3, elastic_mm=0.0)
    moved = render(*maps, drawn, spacing_mm=SPACING_MM)
    still = render(*maps, replace(drawn, warp=False), spacing_mm=SPACING_MM)
    assert torch.allclose(moved.image, still.image, atol=1e-4)


@pytest.mark.parametrize("axis", range(3))
def test_scaling_stretches_the_axis_that_it_names(maps, axis):
    scaling = tuple(0.9 if one == axis else 1.0 for one in range(3))
    drawn = replace(recipe(**PLAIN), warp=True, rotation_rad=(0.0,) * 3, scaling=scaling, elastic_mm=0.0)
    scan = render(*maps, drawn, spacing_mm=SPACING_MM)

    def spans(mask):
        return [int(mask[0].any(dim=tuple({0, 1, 2} - {one})).sum()) for one in range(3)]

    for one, (after, before) in enumerate(zip(spans(scan.brain_mask > 0.5), spans(maps[1] > 0.5), strict=True)):
        assert after == (pytest.approx(before / 0.9, abs=1.5) if one == axis else before)


@pytest.mark.parametrize(("shift", "sign"), [(2.0, 1), (-2.0, -1)])
def test_masks_are_drawn_tighter_or_wider(maps, shift, sign):
    drawn = replace(recipe(**PLAIN), mask_shift_mm=shift)
    scan = render(*maps, drawn, spacing_mm=SPACING_MM)
    assert sign * (scan.brain_mask.sum() - maps[1].sum()) > 0.02 * maps[1].sum()


def test_noise_has_the_level_of_the_recipe(maps):
    drawn = replace(recipe(contrasts={"t1": 1.0}, **PLAIN), noise=0.05)
    clean = render(*maps, replace(drawn, noise=0.0), spacing_mm=SPACING_MM).image
    noisy = render(*maps, drawn, spacing_mm=SPACING_MM).image
    inside = maps[1] > 0
    low, high = np.percentile(clean[inside].numpy(), (25, 75))
    bright = inside & (clean > float(np.median(clean[inside].numpy())))
    assert (noisy - clean)[bright].std() == pytest.approx(0.05 * (high - low) / 1.349, rel=0.1)


def test_the_transform_draws_from_monais_state_and_drops_the_map(maps):
    affine = torch.diag(torch.tensor([SPACING_MM] * 3 + [1.0], dtype=torch.float64))
    item = {"tissues": MetaTensor(maps[0], affine=affine), "brain_mask": MetaTensor(maps[1], affine=affine)}
    synthesize = SynthesizeBraind("tissues", SPACING_MM, Ingredients(CONTRASTS), track_recipe=True)
    chain = Compose([synthesize])
    seen = []
    for seed in (5, 5, 6):
        set_rnd(chain, seed)
        seen.append(chain(item))
    assert set(seen[0]) == {"image", "brain_mask", "contrast", "recipe"}
    assert torch.equal(seen[0]["image"], seen[1]["image"])
    assert not torch.equal(seen[0]["image"], seen[2]["image"])
    assert torch.equal(seen[0]["image"].affine, affine)
    assert json.loads(json.dumps(seen[0]["recipe"])) == json.loads(json.dumps(seen[1]["recipe"]))
    assert "tissues" in item
    torch_state = torch.get_rng_state()
    chain(item)
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"contrasts": {"swi": 1.0}}, "contrasts = .*swi"),
        ({"contrasts": {"t1": 0.0}}, "not all 0"),
        ({"contrasts": {}}, "not all 0"),
        ({"contrasts": {"t1": 1.0}, "flip_probability": 1.5}, "flip_probability = 1.5"),
        ({"contrasts": {"t1": 1.0}, "noise": (0.3, 0.1)}, "noise = "),
    ],
)
def test_wrong_ingredients_are_refused_by_name(changes, told):
    with pytest.raises(ValueError, match=told):
        Ingredients(**changes)


def test_a_voxel_has_a_size():
    with pytest.raises(ValueError, match="spacing_mm must be positive, got 0"):
        SynthesizeBraind("tissues", 0, Ingredients(CONTRASTS))
