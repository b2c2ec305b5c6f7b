"""The script that measures an adaptation: which scans it takes, and that its two kinds of files stay apart."""

from __future__ import annotations

from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import load_script
from itermask3d.files.scans import ScanError
from itermask3d.training.prepared import PreparedDataset

SHAPE = (1, 8, 8, 8)


@pytest.fixture
def script():
    return load_script("measure_adaptation")


@pytest.fixture
def site(script, tmp_path, monkeypatch):
    """A site whose scans are noise; the one that is called large is refused."""
    (tmp_path / "scan.nii.gz").write_bytes(b"any")
    values = {"spacing_mm": 2.0, "preprocessing": None, "min_volume_ml": 1.0}
    found = script.Site("oasis1", SimpleNamespace(value=values.get), Namespace(output=str(tmp_path)))

    def prepare(item):
        if item["case"] == "large":
            raise ScanError("'large' is too large")
        image = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)
        return {"image": image, "brain_mask": np.ones(SHAPE, dtype=bool)}

    monkeypatch.setattr(found, "_prepare", prepare)
    return found


def items(tmp_path, *cases: str) -> list[dict[str, str]]:
    return [{"case": case, "image": str(tmp_path / "scan.nii.gz")} for case in cases]


def test_a_scan_that_cannot_be_prepared_is_told_and_left_out(site, tmp_path, capsys):
    usable = list(site.usable(items(tmp_path, "a", "large", "b")))
    assert [item["case"] for item in usable] == ["a", "b"]
    assert "oasis1: left out: large: 'large' is too large" in capsys.readouterr().out


def test_a_scan_that_was_scored_first_can_be_trained_with_and_scored_again(site, tmp_path):
    (item,) = items(tmp_path, "a")
    scored = site.prepared(item)
    kept = site.kept(item)
    again = site.prepared(item)
    assert torch.equal(scored["image"], again["image"])
    dataset = PreparedDataset([kept], volume="image", spacing_mm=2.0, spatial_size=SHAPE[1:])
    assert torch.allclose(dataset[0]["image"], scored["image"], atol=0.01), "it is kept in steps of 1/64"


def test_values_return_to_the_brains_voxels_and_dice_counts_them_twice(script):
    brain = torch.zeros(SHAPE)
    brain[0, 2:4, 2:4, 2:4] = 1
    volume = script.filled(np.arange(1, 9), {"brain_mask": brain})
    assert volume[2:4, 2:4, 2:4].ravel().tolist() == list(range(1, 9))
    assert volume.sum() == 36
    assert script.dice(volume > 4, brain[0].numpy() > 0.5) == pytest.approx(2 * 4 / 12, abs=1e-4)
