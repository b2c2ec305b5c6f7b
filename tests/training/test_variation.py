"""Training scans of other heads, scanners and brain masks, one by one and in batches; sites drawn evenly."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from helpers import ball
from itermask3d.preprocessing.normalise import RobustNormalized
from itermask3d.simulation.acquisition import AcquisitionRanges
from itermask3d.simulation.deformation import DeformationRanges
from itermask3d.simulation.mask_change import MaskRanges
from itermask3d.training.batches import DeviceBatches
from itermask3d.training.prepared import PreparedDataset, list_prepared, save_prepared
from itermask3d.training.transforms import sample_transforms
from itermask3d.training.variation import RandVaryd, Variation

SHAPE = (32, 48, 32)
BRAIN = torch.from_numpy(ball(SHAPE, radius=13.5))
ALWAYS = Variation(DeformationRanges(probability=1), MaskRanges(probability=1), AcquisitionRanges(probability=1))
NEVER = Variation(DeformationRanges(probability=0), MaskRanges(probability=0), AcquisitionRanges(probability=0))


def scan(seed: int) -> dict[str, torch.Tensor]:
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    image = torch.where(BRAIN, noise + torch.linspace(-1, 1, SHAPE[0]).view(-1, 1, 1), 0)
    return RobustNormalized("image")({"image": image[None], "brain_mask": BRAIN[None].float()})


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Four scans of one site, one of another."""
    folder = tmp_path_factory.mktemp("sites")
    for index, site in enumerate("aaaab"):
        (folder / site).mkdir(exist_ok=True)
        save_prepared(scan(index), folder / site / f"case{index}.npz", spacing_mm=6.0)
    return PreparedDataset(list_prepared(folder))


def test_nothing_drawn_leaves_a_sample_as_it_is() -> None:
    sample = scan(1)
    varied = RandVaryd("image", 6.0, NEVER)(sample)
    assert torch.allclose(varied["image"], sample["image"], atol=1e-4)
    assert torch.equal(varied["brain_mask"], sample["brain_mask"])


def test_a_varied_sample_is_another_and_follows_its_seed() -> None:
    sample = scan(1)
    once, again, other = (RandVaryd("image", 6.0, ALWAYS).set_random_state(seed)(sample) for seed in (3, 3, 4))
    assert torch.equal(once["image"], again["image"])
    assert not torch.equal(once["image"], other["image"])
    assert not once["image"][once["brain_mask"] < 0.5].any()


def test_samples_of_varied_scans_are_normalised() -> None:
    sample = sample_transforms(spacing_mm=6.0, variation=ALWAYS).set_random_state(5)(scan(2))
    inside = sample["image"][sample["brain_mask"] > 0.5]
    assert float(inside.median()) == pytest.approx(0, abs=1e-4)
    assert float(inside.quantile(0.75) - inside.quantile(0.25)) == pytest.approx(1.349, abs=1e-2)


def test_varied_batches_are_finite_and_follow_their_seed(scans: PreparedDataset) -> None:
    drawn = [
        list(DeviceBatches(scans, 2, spacing_mm=6.0, variation=ALWAYS).set_random_state(seed)) for seed in (7, 7, 8)
    ]
    for once, again, other in zip(*drawn, strict=True):
        assert all(torch.isfinite(volume.float()).all() for volume in once.values())
        assert torch.equal(once["image"], again["image"])
        assert not torch.equal(once["image"], other["image"])


def test_sites_are_drawn_as_often_as_each_other(scans: PreparedDataset) -> None:
    batches = DeviceBatches(scans, 1, repeats=40, evenly_by_site=True).set_random_state(1)
    drawn = Counter(scans.data[index]["site"] for index in batches._order()[: len(batches)])
    assert drawn.total() == 200
    assert abs(drawn["a"] - drawn["b"]) < 10
    every = Counter(np.concatenate([batches._order() for _ in range(3)]).tolist())
    assert set(every) == set(range(5))
