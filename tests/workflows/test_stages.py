"""Stages of a long run: done once, done again when their origin changes, not done when interrupted."""

from __future__ import annotations

import pytest
from itermask3d.files.scans import ScanError
from itermask3d.workflows.site.stages import Stages


@pytest.fixture
def stages(tmp_path) -> Stages:
    return Stages(tmp_path / "stages.json")


def test_a_stage_is_done_once_and_again_when_what_it_is_made_from_changes(stages):
    done = []
    for seed in (1, 1, 2):
        Stages(stages.path).run("train", {"seed": seed, "size": (1, 2)}, lambda seed=seed: done.append(seed))
    assert done == [1, 2]


def test_a_stage_whose_file_is_gone_is_done_again(stages, tmp_path):
    product = tmp_path / "model.pt"
    assert stages.run("train", {}, lambda: product.write_text(""), [product])
    assert not stages.run("train", {}, product.unlink, [product])
    product.unlink()
    assert stages.run("train", {}, lambda: product.write_text(""), [product])


def test_an_interrupted_stage_is_not_done(stages):
    def interrupted():
        raise KeyboardInterrupt

    stages.enter("train", {"seed": 1})
    with pytest.raises(KeyboardInterrupt):
        stages.run("train", {"seed": 2}, interrupted)
    again = Stages(stages.path)
    assert not again.is_done("train", {"seed": 2})
    assert not again.is_done("train", {"seed": 1})


def test_what_changed_is_told(stages):
    assert stages.changed("train", {"seed": 1}) == {}
    stages.enter("train", {"seed": 1, "epochs": 3})
    assert stages.changed("train", {"seed": 2, "epochs": 3}) == {"seed": (1, 2)}
    stages.forget("train", "unknown")
    assert stages.changed("train", {"seed": 2}) == {}


def test_a_damaged_file_is_one_clear_sentence(tmp_path):
    (tmp_path / "stages.json").write_text("{")
    with pytest.raises(ScanError, match="is damaged"):
        Stages(tmp_path / "stages.json")
