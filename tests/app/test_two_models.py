"""Two models in the app: offered where there are two, chosen for a scan, named in the answer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch


@pytest.fixture
def two_models(blur_bundle, tmp_path) -> Path:
    """The fast bundle with a second model, and a domain that holds no scan's contrast."""
    root = Path(shutil.copytree(blur_bundle, tmp_path / "bundle"))
    state = torch.load(root / "models" / "model.pt", weights_only=True)
    torch.save({name: value / 2 for name, value in state.items()}, root / "models" / "model_agnostic.pt")
    nowhere = '{"depth_contrast": {"low": 98, "high": 99}}, "settings": {"spacing_mm": 4.0, "bias_correction": "n4"}'
    (root / "models" / "domain.json").write_text(f'{{"features": {nowhere}}}')
    return root


@pytest.fixture
def make(tmp_path):
    from lib.monitor import Monitor
    from lib.results import Results
    from lib.workbench import Workbench

    def workbench(root: Path) -> Workbench:
        return Workbench(root, Results(tmp_path / "results"), Monitor(), weights={"shipped": None})

    return workbench


def test_choice_is_offered_only_where_there_is_one(blur_bundle, two_models, make):
    from lib.tasks import automatic_options

    assert "model_choice" not in automatic_options(make(blur_bundle))
    assert not make(blur_bundle).reads_other_contrasts("agnostic")
    workbench = make(two_models)
    assert automatic_options(workbench)["model_choice"].declared() == ["auto", "t1", "agnostic"]
    asked = (None, ["auto", "t1", "agnostic"], "t1", "auto", "agnostic")
    assert [workbench.reads_other_contrasts(value) for value in asked] == [True, True, False, True, True]


def test_named_weights_and_a_bundle_without_a_domain_read_what_the_first_model_reads(two_models, make, tmp_path):
    workbench = make(two_models)
    workbench.weights = {**workbench.weights, "trained here": tmp_path / "trained.pt"}
    assert workbench.reads_other_contrasts("auto", "shipped")
    assert not workbench.reads_other_contrasts("auto", "trained here")
    (two_models / "models" / "domain.json").unlink()
    workbench = make(two_models)
    assert not workbench.reads_other_contrasts(None)
    assert workbench.reads_other_contrasts("agnostic")


def test_answer_is_that_of_the_chosen_model_and_names_it(two_models, make, phantom, tmp_path):
    from lib.options import read
    from lib.tasks import automatic_options

    workbench = make(two_models)
    path = phantom.save(tmp_path, keys=("image",))["image"]
    options = automatic_options(workbench)
    answers = {}
    for asked in ("t1", "auto", "agnostic"):
        values, remarks = read(options, {"model_choice": asked, "brain_extraction": "none"})
        assert not remarks
        with workbench.monitor.claim("itermask3d", "scan", True) as run:
            answers[asked] = workbench.automatic("scan", path, values, run)
    assert {asked: answer["chosen_model"]["name"] for asked, answer in answers.items()} == {
        "t1": "t1", "auto": "agnostic", "agnostic": "agnostic",
    }  # fmt: skip
    assert "from_earlier_run" not in answers["auto"]
    assert answers["agnostic"]["from_earlier_run"]
    assert answers["t1"]["settings"]["weights_sha256"] != answers["auto"]["settings"]["weights_sha256"]
