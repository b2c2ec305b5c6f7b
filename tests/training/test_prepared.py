"""Prepared scans and the batches drawn from them on a device."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from bundle_helpers import CHANNELS, REPOSITORY, command
from helpers import ball, load_script
from itermask3d import BUNDLE_ROOT
from itermask3d.files.scans import ScanError
from itermask3d.method.frequency import high_frequency
from itermask3d.method.masking import MaskMixture
from itermask3d.preprocessing.normalise import (
    RobustNormalized,
    brain_quartiles,
    quartiles_by_sorting,
    robust_normalised,
)
from itermask3d.simulation.generator.synthesis import Ingredients
from itermask3d.simulation.synthetic_anomalies import SyntheticAnomalies
from itermask3d.training.augmentation import Augmentation, AugmentationRanges
from itermask3d.training.batches import DeviceBatches
from itermask3d.training.prepared import PreparedDataset, list_prepared, load_prepared, save_prepared
from itermask3d.training.transforms import sample_transforms
from monai.bundle import ConfigWorkflow

SHAPE = (32, 48, 32)
BRAIN = torch.from_numpy(ball(SHAPE, radius=14.5))


def prepared(seed: int) -> dict[str, torch.Tensor]:
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    side = torch.linspace(-1, 1, SHAPE[0]).view(-1, 1, 1)
    image, brain = torch.where(BRAIN, noise + side, 0)[None], BRAIN[None].float()
    return RobustNormalized("image")({"image": image, "brain_mask": brain})


def tissues(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.where(BRAIN, torch.randint(1, 4, SHAPE, generator=generator).float(), 0)
    share = torch.where(BRAIN, 0.5 + 0.5 * torch.rand(SHAPE, generator=generator), 1)
    return {"tissues": torch.stack((first, first.roll(1, 0) * BRAIN, share)), "brain_mask": BRAIN[None].float()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five prepared scans and three prepared label maps, at 6 mm."""
    out = tmp_path_factory.mktemp("prepared")
    for kind, make, count in (("scans", prepared, 5), ("maps", tissues, 3)):
        (out / kind).mkdir()
        for seed in range(count):
            save_prepared(make(seed), out / kind / f"case{seed}.npz", spacing_mm=6.0)
    return out


def batches(folder, **options) -> DeviceBatches:
    scans = PreparedDataset(list_prepared(folder / "scans"))
    options = {"spacing_mm": 6.0, "mixture": MaskMixture(0, 1, 0), **options}
    return DeviceBatches(scans, 2, **options).set_random_state(7)


# Files


def test_prepared_scan_comes_back_within_half_a_step(folder):
    found, sent = load_prepared(folder / "scans" / "case0.npz"), prepared(0)
    assert (found["image"] - sent["image"]).abs().max() <= 0.5 / 64 + 1e-6
    assert torch.equal(found["brain_mask"], sent["brain_mask"])
    assert found["image"].dtype == torch.float32


def test_prepared_tissues_keep_their_classes_and_nearly_their_shares(folder):
    found, sent = load_prepared(folder / "maps" / "case1.npz")["tissues"], tissues(1)["tissues"]
    assert torch.equal(found[:2], sent[:2])
    assert (found[2] - sent[2]).abs().max() <= 0.5 / 64 + 1e-6


def test_file_is_small(folder):
    assert (folder / "scans" / "case0.npz").stat().st_size < 2 * BRAIN.sum()


def damaged(whole: bytes) -> bytes:
    """The same file with bytes changed in the middle of what is compressed."""
    middle = len(whole) // 2
    return whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 20]) + whole[middle + 20 :]


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 torn", b"no archive at all", None, "array"],
    ids=["empty", "torn", "text", "damaged", "array"],
)
def test_damaged_file_is_one_sentence(folder, content, tmp_path):
    if content == "array":
        np.save(tmp_path / "array.npy", np.zeros(3))
        content = (tmp_path / "array.npy").read_bytes()
    elif content is None:
        content = damaged((folder / "scans" / "case0.npz").read_bytes())
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(ScanError, match=r"bad\.npz' cannot be read .*expected a file of scripts/prepare_scans\.py"):
        load_prepared(tmp_path / "bad.npz")


def test_foreign_archive_another_voxel_size_and_another_grid_are_refused(folder, tmp_path):
    np.savez(tmp_path / "foreign.npz", something=np.zeros(3))
    with pytest.raises(ScanError, match=r"foreign\.npz' holds something; expected a file of scripts/prepare_scans"):
        load_prepared(tmp_path / "foreign.npz")
    with pytest.raises(ScanError, match="voxels of 6 mm; expected 2 mm"):
        load_prepared(folder / "scans" / "case0.npz", spacing_mm=2.0)
    with pytest.raises(ScanError, match=r"grid of \(32, 48, 32\); expected \(80, 96, 80\)"):
        PreparedDataset(list_prepared(folder / "scans"), spatial_size=(80, 96, 80))[0]
    with pytest.raises(ScanError, match=r"case0\.npz' holds tissues, brain_mask; expected image"):
        PreparedDataset(list_prepared(folder / "maps"), volume="image")[0]
    save_prepared(prepared(0), tmp_path / "n4.npz", spacing_mm=6.0, bias_correction="n4")
    with pytest.raises(ScanError, match=r"n4\.npz' was prepared with bias_correction n4; expected none"):
        load_prepared(tmp_path / "n4.npz", bias_correction="none")
    assert load_prepared(tmp_path / "n4.npz", bias_correction="n4").keys() == {"image", "brain_mask"}
    save_prepared({**prepared(0), "brain_mask": torch.zeros(1, *SHAPE)}, tmp_path / "empty.npz", spacing_mm=6.0)
    with pytest.raises(ScanError, match=r"empty\.npz' holds an empty brain mask"):
        load_prepared(tmp_path / "empty.npz")


def test_empty_folder_and_a_sample_without_a_volume_are_refused(tmp_path):
    with pytest.raises(ScanError, match="holds no prepared scan"):
        list_prepared(tmp_path)
    with pytest.raises(ValueError, match="needs brain_mask and image or tissues"):
        save_prepared({"brain_mask": BRAIN[None].float()}, tmp_path / "a.npz", spacing_mm=2.0)
    with pytest.raises(ValueError, match="needs brain_mask and image or tissues"):
        save_prepared(dict.fromkeys(("image", "tissues"), BRAIN[None].float()), tmp_path / "a.npz", spacing_mm=2.0)
    assert not list(tmp_path.iterdir())


def test_data_set_gives_samples_through_its_transform(folder):
    transform = sample_transforms(spacing_mm=6.0, augment=False)
    dataset = PreparedDataset(list_prepared(folder / "scans"), transform, spacing_mm=6.0, spatial_size=SHAPE)
    sample = dataset[1]
    assert set(sample) == {"image", "brain_mask", "high_frequency", "mask"}
    assert torch.equal(sample["mask"], BRAIN[None])
    again = dataset[1]["image"]
    assert torch.equal(torch.as_tensor(sample["image"]), torch.as_tensor(again))


# Batches


def test_an_epoch_shows_every_scan_once_and_a_seed_brings_it_back(folder):
    drawn = batches(folder, repeats=2)
    assert len(drawn) == 5
    first = [batch["image"].clone() for batch in drawn]
    second = [batch["image"].clone() for batch in drawn]
    again = [batch["image"] for batch in drawn.set_random_state(7)]
    assert len(first) == 5
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_batch_is_what_a_data_loader_would_make(folder):
    batch = next(iter(batches(folder, synthetic_anomalies=SyntheticAnomalies(probability=1.0))))
    assert set(batch) == {"image", "brain_mask", "high_frequency", "mask", "target", "altered"}
    assert {tuple(volume.shape) for volume in batch.values()} == {(2, 1, *SHAPE)}
    guide = high_frequency(batch["image"], spacing_mm=(6.0,) * 3)
    torch.testing.assert_close(batch["high_frequency"], guide)
    brain = batch["brain_mask"] > 0.5
    assert not (batch["mask"] & ~brain).any()
    assert not batch["image"][~brain].any()
    assert not batch["target"][~brain].any()
    assert batch["altered"].any()


def test_drawing_changes_neither_the_scans_nor_the_global_random_state(folder):
    drawn = batches(folder, synthetic_anomalies=SyntheticAnomalies())
    before = [drawn.scans.prepared(index)["image"] for index in range(5)]
    states = (np.random.get_state()[1].copy(), torch.get_rng_state())
    list(drawn)
    assert all(torch.equal(before[index], drawn.scans.prepared(index)["image"]) for index in range(5))
    assert np.array_equal(np.random.get_state()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])


def test_normalisation_of_a_batch_is_that_of_each_scan():
    samples = [prepared(seed) for seed in range(3)]
    image = torch.stack([3 * sample["image"] + 5 + seed for seed, sample in enumerate(samples)])
    brain = torch.stack([sample["brain_mask"] for sample in samples]) > 0.5
    together, other = robust_normalised(image, brain, image + 1)
    for seed, sample in enumerate(samples):
        alone = RobustNormalized("image")({"image": image[seed], "brain_mask": sample["brain_mask"]})["image"]
        torch.testing.assert_close(together[seed], alone, rtol=0, atol=1e-5)
    assert (other - together)[brain].min() > 0


STILL = AugmentationRanges(flip_probability=0, affine_probability=0, gamma_probability=0, histogram_probability=0)


def test_augmentation_of_probability_zero_leaves_the_scan_as_it_is():
    image, brain = prepared(0)["image"][None], BRAIN[None, None]
    moved, kept = Augmentation(STILL)(image, brain, np.random.RandomState(0))
    torch.testing.assert_close(moved, image, rtol=0, atol=1e-4)
    assert torch.equal(kept, brain)


def test_flip_mirrors_left_and_right():
    flip = Augmentation(replace(STILL, flip_probability=1.0))
    image, brain = prepared(0)["image"][None], BRAIN[None, None]
    moved, _ = flip(image, brain, np.random.RandomState(0))
    torch.testing.assert_close(moved, image.flip(2), rtol=0, atol=1e-4)


def test_rotation_and_scaling_are_in_voxels_not_in_shares_of_the_grid():
    turn = Augmentation(replace(STILL, affine_probability=1.0, rotation_rad=0.4, scaling=0.0))
    ball_mask = BRAIN[None, None]
    _, turned = turn(ball_mask.float(), ball_mask, np.random.RandomState(3))
    overlap = 2 * (turned & ball_mask).sum() / (turned.sum() + ball_mask.sum())
    assert overlap > 0.97  # a ball turned about its centre is the same ball, also on a grid with unequal axes


def test_changes_of_contrast_keep_the_order_of_intensities():
    curve = Augmentation(replace(STILL, gamma_probability=1.0, histogram_probability=1.0))
    image, brain = prepared(0)["image"][None], BRAIN[None, None]
    changed, _ = curve(image, brain, np.random.RandomState(1))
    order = image.flatten().argsort()
    assert (changed.flatten()[order].diff() >= -1e-4).all()
    assert (changed - image).abs().max() > 0.05


def test_without_augmentation_batches_hold_the_scans_as_they_are(folder):
    drawn = batches(folder, augment=False, synthetic_anomalies=None)
    torch.testing.assert_close(drawn.draw([3])["image"][0], drawn.scans.prepared(3)["image"], rtol=0, atol=0.02)


def test_generated_scans_take_their_share(folder):
    maps = PreparedDataset(list_prepared(folder / "maps"))
    ingredients = Ingredients(contrasts={"t2": 1.0})
    drawn = batches(folder, generated=maps, ingredients=ingredients, generated_share=1.0)
    alone = batches(folder)
    made = next(iter(drawn))
    assert made["image"].shape == (2, 1, *SHAPE)
    assert made["image"][made["brain_mask"] < 0.5].abs().max() == 0
    assert not torch.equal(made["image"], next(iter(alone))["image"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generated_share": 0.5}, "needs label maps and ingredients"),
        ({"repeats": 0}, "batch_size = 2; expected 1 to 0"),
    ],
)
def test_wrong_arguments_are_named(folder, options, message):
    with pytest.raises(ValueError, match=message):
        batches(folder, **options)


# The overlays


@pytest.fixture
def split_file(folder, tmp_path):
    path = tmp_path / "split.json"
    names = {kind: [f"case{seed}" for seed in seeds] for kind, seeds in (("train", (0, 1, 2)), ("validation", (2,)))}
    path.write_text(json.dumps(names))
    return path


def fixed_options(folder, split_file, out) -> dict[str, Any]:
    options = {"network_def::channels": CHANNELS, "spacing_mm": 6.0, "spatial_size": list(SHAPE), "batch_size": 2}
    return options | {"dataset_dir": str(folder / "scans"), "split_file": str(split_file), "output_dir": str(out)}


def training(folder, split_file, out, overlays=("prepared",), **options) -> ConfigWorkflow:
    files = [f"{BUNDLE_ROOT}/configs/train.json", *(f"{REPOSITORY}/configs/{name}.json" for name in overlays)]
    fixed = fixed_options(folder, split_file, out)
    built = ConfigWorkflow(files, workflow_type="train", logging_file=False, **{**fixed, "val_interval": 1, **options})
    built.initialize()
    built.run()
    return built


@pytest.mark.usefixtures("kept_global_state")
def test_training_on_prepared_scans_resumes_to_the_same_weights(folder, split_file, tmp_path):
    whole = {"epochs": 3, "repeats": 2, "device": "cpu", "lr_scheduler::T_max": 3, "frozen_norm_after": 1.0}
    training(folder, split_file, tmp_path / "whole", **whole)
    training(folder, split_file, tmp_path / "parts", **{**whole, "epochs": 2})
    training(folder, split_file, tmp_path / "parts", **whole)
    first, second = (torch.load(tmp_path / name / "last.pt")["network"] for name in ("whole", "parts"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("kept_global_state")
def test_training_on_prepared_label_maps_runs_from_nothing_to_a_checkpoint(folder, split_file, tmp_path):
    overlays = ("prepared", "agnostic", "prepared_agnostic")
    options = {"label_map_dir": str(folder / "maps"), "epochs": 1, "device": "cpu", "initial_weights": None}
    (tmp_path / "maps.json").write_text(json.dumps({"train": ["case0", "case1"], "validation": ["case2"]}))
    training(folder, tmp_path / "maps.json", tmp_path / "out", overlays, **options)
    assert (tmp_path / "out" / "best.pt").is_file()


def test_two_processes_train_on_prepared_scans_together(folder, split_file, tmp_path):
    done = command(
        f"{BUNDLE_ROOT}/configs/train.json",
        f"{BUNDLE_ROOT}/configs/multi_gpu_train.json",
        f"{REPOSITORY}/configs/prepared.json",
        f"{REPOSITORY}/configs/gpu.yaml",
        cwd=tmp_path,
        launcher=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        **fixed_options(folder, split_file, tmp_path / "out"),
        epochs=2,
        repeats=1,
        val_interval=1,
    )
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "out" / "last.pt", weights_only=True)
    assert state["epoch"] == 2
    assert done.stdout.count("Epoch[2] Metrics") == 1


@pytest.mark.usefixtures("kept_global_state")
def test_further_label_maps_cannot_be_used_prepared_and_are_refused(folder, split_file, tmp_path):
    overlays = ("prepared", "agnostic", "prepared_agnostic")
    options = {"label_map_dir": str(folder / "maps"), "extra_label_map_dir": "further", "epochs": 1, "device": "cpu"}
    with pytest.raises(SystemExit, match="extra_label_map_dir = 'further' cannot be used with prepared label maps"):
        training(folder, split_file, tmp_path / "out", overlays, **options)


@pytest.mark.usefixtures("kept_global_state")
def test_the_published_recipe_is_neither_augmented_nor_trained_on_scans_of_another_bias_correction(
    folder, split_file, tmp_path
):
    (tmp_path / "n4").mkdir()
    for seed in range(3):
        save_prepared(prepared(seed), tmp_path / "n4" / f"case{seed}.npz", spacing_mm=6.0, bias_correction="n4")
    names = ("reference_recipe.yaml", "prepared.json")
    files = [f"{BUNDLE_ROOT}/configs/train.json", *(f"{REPOSITORY}/configs/{name}" for name in names)]
    options = fixed_options(folder, split_file, tmp_path) | {"dataset_dir": str(tmp_path / "n4")}
    parser = ConfigWorkflow(files, workflow_type="train", logging_file=False, **options).parser
    assert parser.get_parsed_content("train::dataloader").augmentation is None
    with pytest.raises(ScanError, match="prepared with bias_correction n4; expected none"):
        parser.get_parsed_content("train::dataset").prepared(0)


def test_folder_without_prepared_scans_stops_the_training_in_one_sentence(split_file, tmp_path, kept_global_state):
    (tmp_path / "scans").mkdir()
    with pytest.raises(SystemExit, match="holds no prepared scan"):
        training(tmp_path, split_file, tmp_path / "out", epochs=1, device="cpu")


def test_script_prepares_scans_and_keeps_what_is_there(phantom, tmp_path, monkeypatch, capsys):
    scans = tmp_path / "scans"
    scans.mkdir()
    phantom.save(scans, name="one", keys=("image",))
    (scans / "two.nii.gz").write_bytes(b"torn")
    script = load_script("prepare_scans")
    for _ in range(2):
        options = ["--spacing-mm", "6", "--size", "32", "32", "32"]
        monkeypatch.setattr(sys, "argv", ["prepare_scans.py", str(scans), str(tmp_path / "out"), *options])
        with pytest.raises(SystemExit) as stop:
            script.main()
        assert stop.value.code == 1
        assert "failed: two" in "".join(capsys.readouterr())
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["one_image.npz"]
    volumes = load_prepared(tmp_path / "out" / "one_image.npz", spacing_mm=6.0)
    assert volumes["image"].shape == (1, 32, 32, 32)
    assert 1000 < float(volumes["brain_mask"].sum()) * 0.216 < 1600


def test_quartiles_are_the_same_by_selection_and_by_sorting():
    image = torch.stack([prepared(seed)["image"] for seed in range(2)])
    brain = torch.stack([BRAIN[None], (BRAIN & (torch.arange(SHAPE[0]) > 9).view(-1, 1, 1))[None]])
    torch.testing.assert_close(quartiles_by_sorting(image, brain), brain_quartiles(image, brain), rtol=0, atol=1e-9)
