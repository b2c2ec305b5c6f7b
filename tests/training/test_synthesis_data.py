"""Generated scans as training samples, the mix with real ones, and a training that uses them."""

from __future__ import annotations

import json
from pathlib import Path

import itermask3d
import numpy as np
import pytest
import torch
from itermask3d.method.masking import MaskMixture
from itermask3d.method.network import ReconstructionUNet
from itermask3d.simulation.generator.synthesis import Ingredients
from itermask3d.training.synthesis_data import MixedDataset, synthesis_transforms
from itermask3d.training.transforms import training_transforms
from monai.bundle import ConfigWorkflow
from monai.data import DataLoader, Dataset, PersistentDataset
from monai.data.utils import set_rnd
from monai.transforms import Compose, RandShiftIntensity
from synthesis_helpers import label_phantom, save_volume, t1_phantom

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = Path(itermask3d.BUNDLE_ROOT)
INGREDIENTS = Ingredients({"t2": 1.0, "random": 1.0})
GRID = {"spacing_mm": 8.0, "spatial_size": (32, 32, 32)}
CHANNELS = [2, 4, 4, 4, 4]


pytestmark = pytest.mark.usefixtures("kept_global_state")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("maps")
    labels, affine = label_phantom()
    for case in ("one", "two", "three"):
        save_volume(labels, affine, root / "labels" / f"{case}.nii.gz")
        save_volume(t1_phantom(labels), affine, root / "t1" / f"{case}.nii.gz")
    (root / "split.json").write_text(json.dumps({"train": ["one", "two"], "validation": ["three"]}))
    return root


def item(folder: Path, case: str = "one") -> dict[str, str]:
    return {"case": case, "labels": str(folder / "labels" / f"{case}.nii.gz")}


def test_a_generated_sample_is_of_the_kind_of_a_real_one(folder):
    mixture = MaskMixture(blob=0, field=1, full=0)
    made = synthesis_transforms(ingredients=INGREDIENTS, mixture=mixture, **GRID)(item(folder))
    real = training_transforms(mixture=mixture, **GRID)({"image": str(folder / "t1/one.nii.gz")})
    assert set(made) == set(real) == {"image", "brain_mask", "high_frequency", "mask"}
    for key, value in real.items():
        assert made[key].shape == value.shape
        assert made[key].dtype == value.dtype
    inside = made["brain_mask"] > 0.5
    assert not made["image"][~inside].any()
    assert not made["mask"][~inside].any()
    low, middle, high = np.percentile(made["image"][inside].numpy(), (25, 50, 75))
    assert middle == pytest.approx(0, abs=1e-4)
    assert (high - low) / 1.349 == pytest.approx(1, abs=1e-3)
    assert made["image"].abs().max() <= 5


def test_real_and_generated_samples_fit_into_one_batch(folder):
    real = Dataset([{"image": str(folder / "t1/one.nii.gz")}] * 2, training_transforms(**GRID))
    made = Dataset([item(folder)], synthesis_transforms(ingredients=INGREDIENTS, **GRID))
    mixed = MixedDataset(real, made, 0.5).set_random_state(seed=4)
    batch = next(iter(DataLoader(mixed, batch_size=2)))
    assert batch["image"].shape == (2, 1, 32, 32, 32)


def test_seeded_scans_are_the_same_for_ever_and_differ_from_case_to_case(folder, tmp_path):
    prepare = synthesis_transforms(ingredients=INGREDIENTS, seed=7, **GRID)
    items = [item(folder, case) for case in ("one", "two")]
    data = PersistentDataset(items, prepare, cache_dir=tmp_path)
    first, second = data[0]["image"], data[1]["image"]
    set_rnd(data, 99)
    assert torch.equal(data[0]["image"], first)
    assert not torch.equal(first, second)
    other = synthesis_transforms(ingredients=INGREDIENTS, seed=8, **GRID)(items[0])
    assert not torch.equal(other["image"], first)


def test_the_cached_part_is_the_tissue_map_and_draws_stay_fresh(folder, tmp_path):
    prepare = synthesis_transforms(ingredients=INGREDIENTS, **GRID)
    data = PersistentDataset([item(folder)], prepare, cache_dir=tmp_path)
    assert not torch.equal(data[0]["image"], data[0]["image"])
    (kept,) = tmp_path.glob("*.pt")
    assert set(torch.load(kept, weights_only=False)) >= {"tissues", "brain_mask"}


class _Numbers(Dataset):
    """Gives its sign and a random number."""

    def __init__(self, sign: int, length: int) -> None:
        super().__init__([torch.zeros(1)] * length, Compose([RandShiftIntensity((0.1, 1.0), prob=1.0)]))
        self.sign = sign

    def _transform(self, index: int) -> float:
        return self.sign * (abs(float(super()._transform(index))) + 1)


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.6, 100, 140), (1.0, 200, 200)])
def test_the_share_of_generated_scans_is_what_was_asked_for(share, least, most):
    mixed = MixedDataset(_Numbers(1, 200), _Numbers(-1, 3), share).set_random_state(seed=0)
    assert len(mixed) == 200
    assert least <= sum(mixed[index] < 0 for index in range(200)) <= most


def test_one_seed_gives_one_mix_and_reaches_the_transforms_beneath():
    mixed = MixedDataset(_Numbers(1, 20), _Numbers(-1, 3), 0.5)
    seen = []
    for seed in (1, 1, 2):
        set_rnd(mixed, seed)
        seen.append([mixed[index] for index in range(20)])
    assert seen[0] == seen[1]
    assert seen[0] != seen[2]
    assert len(set(seen[0])) == 20


def test_a_share_above_one_is_refused():
    with pytest.raises(ValueError, match=r"generated_share = 1.5; expected 0 to 1"):
        MixedDataset(_Numbers(1, 2), _Numbers(-1, 2), 1.5)


def overlay(folder: Path, out: Path, **changes) -> ConfigWorkflow:
    options = {
        "dataset_dir": str(folder / "t1"),
        "label_map_dir": str(folder / "labels"),
        "split_file": str(folder / "split.json"),
        "output_dir": str(out),
        "network_def::channels": CHANNELS,
        "spacing_mm": 8.0,
        "spatial_size": [32, 32, 32],
        "batch_size": 1,
        "epochs": 1,
        "val_interval": 1,
        "initial_weights": None,
        "device": torch.device("cpu"),
        **changes,
    }
    files = [str(BUNDLE / "configs/train.json"), str(ROOT / "configs/agnostic.json")]
    return ConfigWorkflow(files, workflow_type="train", logging_file=False, **options)


def test_training_mixes_real_and_generated_scans_and_starts_from_weights(folder, tmp_path):
    start = tmp_path / "start.pt"
    torch.save(ReconstructionUNet(channels=CHANNELS, out_channels=2).state_dict(), start)
    training = overlay(folder, tmp_path / "out", initial_weights=str(start))
    training.initialize()
    mixed = training.parser.get_parsed_content("generated::mixed")
    assert training.parser.get_parsed_content("train::dataloader").dataset is mixed
    assert training.parser.get_parsed_content("train::handlers")[0].dataset is mixed
    assert (len(mixed.real), len(mixed.generated)) == (2, 2)
    assert mixed.generated_share == 0.6
    assert len(training.parser.get_parsed_content("validate::dataloader").dataset) == 2
    training.run()
    training.finalize()
    state = torch.load(tmp_path / "out/last.pt", weights_only=True)
    assert state["epoch"] == 1
    assert (tmp_path / "out/best.pt").exists()
    assert {key: value.shape for key, value in state["network"].items()} == {
        key: value.shape for key, value in torch.load(start, weights_only=True).items()
    }


def test_a_training_without_its_label_maps_ends_with_one_sentence(folder, tmp_path):
    training = overlay(folder, tmp_path / "out", label_map_dir=str(tmp_path / "nowhere"))
    training.initialize()
    with pytest.raises(SystemExit, match=r"error: '.*nowhere' does not exist"):
        training.run()
