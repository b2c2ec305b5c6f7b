"""Baselines: what they say in cases with a known answer, and a threshold that normal scans alone set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from itermask3d.evaluation.baselines import (
    Autoencoder,
    CalibrationMap,
    IntensityRule,
    NormalAtlas,
    Prediction,
    PrepareDenoising,
    Reconstruction,
    SinglePass,
    decide,
    threshold_for_share,
)
from itermask3d.method.inferer import IterMaskInferer
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[2]
CLEANING = {"min_volume_ml": 0.0, "spacing_mm": (2.0, 2.0, 2.0)}


def scan(seed: int = 0, *, shape: tuple[int, ...] = (16, 16, 16)) -> tuple[torch.Tensor, torch.Tensor]:
    brain = torch.zeros((1, 1, *shape))
    brain[:, :, 2:-2, 3:-3, 4:-4] = 1
    return torch.randn(brain.shape, generator=torch.Generator().manual_seed(seed)) * brain, brain


def test_the_intensity_rule_is_the_squared_score_of_its_side():
    image, brain = scan()
    both, bright, dark = (IntensityRule(side)(image, brain).anomaly_map for side in ("both", "bright", "dark"))
    torch.testing.assert_close(both, image.square())
    torch.testing.assert_close(bright + dark, both)
    assert (bright[image < 0] == 0).all()
    with pytest.raises(ValueError, match="expected one of both, bright, dark"):
        IntensityRule("left")


def test_single_pass_is_the_error_of_the_pass_that_sees_nothing():
    image, brain = scan(seed=1)  # the loop's noise is drawn from seed 0

    def network(inputs: torch.Tensor) -> torch.Tensor:
        assert not torch.isclose(inputs[:, :1], image)[brain > 0].any(), "the network must not see the brain"
        return torch.full_like(inputs[:, :1], 0.25)

    found = SinglePass(IterMaskInferer(accelerate=False), network)(image, brain)
    torch.testing.assert_close(found.anomaly_map, (image - 0.25).square() * brain)


def test_a_perfect_reconstruction_flags_nothing():
    image, brain = scan()
    prediction = Reconstruction(lambda inputs: inputs)(image, brain)
    found = decide(prediction, brain, threshold=0.0, **CLEANING)
    assert (found.score, found.flagged_share, found.mean_error) == (0, 0, 0)


def test_an_atlas_of_one_scan_finds_nothing_in_it_and_what_was_changed():
    image, brain = scan()
    box = [12, 10, 8]  # the brain's own, so that nothing is interpolated
    atlas = NormalAtlas([(image, brain)] * 3, box=box)
    assert atlas(image, brain).anomaly_map.max() < 1e-6
    moved = torch.roll(image, 1, dims=2), torch.roll(brain, 1, dims=2)
    assert atlas(*moved).anomaly_map.max() < 1e-6, "brains are aligned by the boxes around them"
    changed = image.clone()
    changed[0, 0, 8, 8, 8] += 2
    found = atlas(changed, brain).anomaly_map
    assert found[0, 0, 8, 8, 8] == pytest.approx((2 / 0.1) ** 2, rel=1e-3)
    assert (found > 1e-3).sum() == 1
    with pytest.raises(ValueError, match="got none"):
        NormalAtlas([])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5])
def test_every_baseline_flags_the_share_of_normal_brain_that_was_asked_for(share):
    maps = [CalibrationMap.of(scan(seed)[0].square(), scan(seed)[1]) for seed in range(4)]
    threshold = threshold_for_share(maps, share=share, **CLEANING)
    flagged = np.mean([one.flagged_share(threshold, **CLEANING) for one in maps])
    assert share - 2e-3 <= flagged <= share
    image, brain = scan(0)
    whole = decide(Prediction(image.square()), brain, threshold=threshold, **CLEANING)
    cropped = maps[0].decide(threshold, **CLEANING)
    assert cropped.flagged_share == whole.flagged_share
    assert cropped.score == pytest.approx(whole.score)


def test_the_share_is_that_after_small_components_are_dropped():
    maps = [CalibrationMap.of(scan(seed)[0].square(), scan(seed)[1]) for seed in range(2)]
    strict = {"min_volume_ml": 0.1, "spacing_mm": (2.0, 2.0, 2.0)}
    threshold = threshold_for_share(maps, share=0.05, **strict)
    assert threshold < threshold_for_share(maps, share=0.05, **CLEANING)
    with pytest.raises(ValueError, match="got 0 maps"):
        threshold_for_share([], share=0.1, **CLEANING)


def test_the_autoencoder_trains_by_its_overlay():
    parser = ConfigParser()
    parser.read_config([str(ROOT / "bundle/configs/train.json"), str(ROOT / "configs/baseline_autoencoder.json")])
    parser["device"] = torch.device("cpu")
    parser["network_def::channels"] = [4, 4, 8, 8, 8]
    network, loss = (parser.get_parsed_content(name) for name in ("network", "loss"))
    prepare = parser.get_parsed_content("train::prepare_batch")
    image, brain = scan(shape=(32, 32, 32))
    inputs, target = prepare({"image": image, "brain_mask": brain}, torch.device("cpu"))
    assert not torch.equal(inputs, image)
    assert isinstance(network, Autoencoder)
    assert parser.get_parsed_content("synthetic_anomalies").probability == 0  # what it sees is what it shall learn
    loss(network(inputs), target).backward()
    assert all(value.grad is not None for value in network.parameters())
    plain, _ = parser.get_parsed_content("validate::evaluator::prepare_batch")(
        {"image": image, "brain_mask": brain}, torch.device("cpu")
    )
    assert torch.equal(plain, image)


def test_baselines_have_the_grid_and_the_widths_of_the_bundle():
    def config(*overlays: str) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config(
            [str(ROOT / "bundle/configs/train.json"), *(str(ROOT / "configs" / name) for name in overlays)]
        )
        return parser

    bundle = config()
    autoencoder = config("baseline_autoencoder.json")
    reference = config("reference_recipe.yaml", "reference_recipe_2mm.yaml")
    for key in ("network_def::channels", "spatial_size", "spacing_mm"):
        assert bundle[key] == autoencoder[key] == reference[key]


def test_the_autoencoder_keeps_the_grid_and_refuses_what_it_cannot_halve():
    network = Autoencoder([4, 4, 8, 8, 8]).eval()
    assert network(torch.zeros(1, 1, 32, 48, 32)).shape == (1, 1, 32, 48, 32)
    with pytest.raises(ValueError, match="divide by 16"):
        network(torch.zeros(1, 1, 32, 40, 32))
    with pytest.raises(ValueError, match="sigma"):
        PrepareDenoising(sigma=-1)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/ablations").glob("*.json")), ids=lambda path: path.stem)
def test_an_ablation_changes_values_that_exist(path):
    inference = json.loads((ROOT / "bundle/configs/inference.json").read_text())
    for key, value in json.loads(path.read_text()).items():
        first, *inner = key.split("::")
        assert first in inference
        known = inference[first].get(inner[0]) if inner else inference[first]
        assert value != known, f"{key} is what the bundle does anyway"
