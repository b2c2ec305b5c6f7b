"""The samples that the tissue network learns from, and a training that stops and goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from itermask3d.method.tissue_network import CLASSES
from itermask3d.simulation.generator.synthesis import Ingredients
from itermask3d.simulation.generator.tissues import Tissue
from itermask3d.simulation.synthetic_anomalies import SyntheticAnomalies
from itermask3d.training.prepared import PreparedDataset, list_prepared, save_prepared
from itermask3d.training.tissue_samples import CLASS_OF, TissueLoss, TissueSamples, class_shares
from itermask3d.training.tissue_training import TissueTraining, TissueTrainingSettings, mean_shares
from monai.transforms import ResizeWithPadOrCrop
from synthesis_helpers import label_phantom, mixture_of

GRID = (48, 64, 48)
CHANNELS = (4, 4, 4, 4)
STILL = Ingredients({"t1": 1.0}, warp_probability=0, flip_probability=0, mask_shift_mm=(0, 0))
NOTHING = SyntheticAnomalies(probability=0)


@pytest.fixture(scope="module")
def maps(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    mixture, brain = (ResizeWithPadOrCrop(GRID)(part) for part in mixture_of(label_phantom()[0]))
    for case in ("one", "two", "three"):
        save_prepared({"tissues": mixture, "brain_mask": brain}, folder / f"{case}.npz", spacing_mm=4.0)
    return folder


def prepared(maps: Path) -> dict:
    return PreparedDataset(list_prepared(maps)).prepared(0)


def training(maps: Path, steps: int = 4) -> TissueTraining:
    samples = TissueSamples(STILL, SyntheticAnomalies(probability=1), spacing_mm=4.0)
    settings = TissueTrainingSettings(steps=steps, seed=3)
    return TissueTraining(PreparedDataset(list_prepared(maps)), samples, settings, channels=CHANNELS)


def test_every_tissue_has_a_class_and_every_class_a_tissue():
    assert set(CLASS_OF) == set(Tissue)
    assert set(CLASS_OF.values()) == set(CLASSES)


def test_shares_of_a_mixture_are_those_of_its_two_tissues():
    mixture = torch.tensor([Tissue.CORTEX, Tissue.OUTER_FLUID, 0.75]).reshape(3, 1, 1, 1)
    shares = class_shares(mixture).flatten()
    assert shares[CLASSES.index("cortex")] == 0.75
    assert shares[CLASSES.index("fluid")] == 0.25
    assert shares.sum() == 1


def test_a_voxel_of_two_tissues_of_a_class_is_all_that_class():
    mixture = torch.tensor([Tissue.THALAMUS, Tissue.STRIATUM, 0.6]).reshape(3, 1, 1, 1)
    assert class_shares(mixture)[CLASSES.index("deep_grey")].item() == pytest.approx(1)


def test_labels_under_an_anomaly_stay_those_of_the_normal_tissue(maps):
    anomalies = SyntheticAnomalies(probability=1, contrast=(3, 3), keep=(0, 0))
    plain, altered = (
        TissueSamples(STILL, kind, spacing_mm=4.0).draw(prepared(maps), np.random.RandomState(0))
        for kind in (NOTHING, anomalies)
    )
    assert (plain.image - altered.image).abs().max() > 1
    assert torch.equal(plain.shares, altered.shares)
    assert torch.equal(plain.shares, class_shares(prepared(maps)["tissues"]))


def test_shares_move_with_the_scan(maps):
    ingredients = Ingredients({"t1": 1.0}, flip_probability=1, warp_probability=1, elastic_mm=(4, 4), noise=(0, 0))
    sample = TissueSamples(ingredients, NOTHING, spacing_mm=4.0).draw(prepared(maps), np.random.RandomState(1))
    white, fluid = (sample.shares[CLASSES.index(name)] > 0.9 for name in ("white", "fluid"))
    brain = sample.brain_mask[0]
    assert sample.image[0][white & brain].min() > sample.image[0][fluid & brain].max()


def test_the_loss_is_least_for_the_right_shares():
    shares = torch.zeros((1, len(CLASSES), 4, 4, 4))
    shares[:, 1] = 1
    brain = torch.ones((1, 1, 4, 4, 4))
    right, wrong = shares * 20, shares.roll(1, dims=1) * 20
    assert TissueLoss()(right, shares, brain) < 0.01
    assert TissueLoss()(wrong, shares, brain) > 10


def test_the_prior_is_symmetric_and_sums_to_one(maps):
    mean = mean_shares(PreparedDataset(list_prepared(maps)))
    assert torch.allclose(mean.sum(dim=0), torch.ones(mean.shape[1:]), atol=1e-4)
    assert torch.equal(mean, mean.flip(1))
    assert torch.equal(training(maps).network.prior, mean)


def test_a_training_that_was_stopped_ends_like_one_that_was_not(maps, tmp_path):
    whole = training(maps)
    whole.run()
    half = training(maps)
    half.update(), half.update()
    half.save(tmp_path / "checkpoint.pt")
    rest = training(maps)
    rest.resume(tmp_path / "checkpoint.pt")
    rest.run(tmp_path / "checkpoint.pt")
    assert rest.step == whole.step == 4
    for name, value in whole.averaged.state_dict().items():
        assert torch.allclose(rest.averaged.state_dict()[name], value, atol=1e-6), name


def test_a_training_leaves_the_global_random_state_alone(maps):
    before = torch.random.get_rng_state()
    training(maps).update()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("values", [{"steps": 0}, {"steps": 1, "average": 1.0}, {"steps": 1, "learning_rate": 0.0}])
def test_settings_outside_their_range_are_refused(values):
    with pytest.raises(ValueError, match="outside its range"):
        TissueTrainingSettings(**values)
