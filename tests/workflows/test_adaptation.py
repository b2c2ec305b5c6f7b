"""From a few normal scans of a site to a bundle of its own: all the way with a tiny network, stopped and resumed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from fast_bundle import BUNDLE, write_noisy_phantoms, write_tiny_bundle
from helpers import run_command
from itermask3d.files.scans import ScanError
from itermask3d.inference.domain import Domain
from itermask3d.inference.segmenter import Segmenter
from itermask3d.workflows.site import adaptation
from itermask3d.workflows.site.base_model import BaseModel
from itermask3d.workflows.site.crossfit import folds_of
from itermask3d.workflows.site.data_check import Level

N_SCANS = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    return write_noisy_phantoms(tmp_path_factory.mktemp("scans"), N_SCANS)


@pytest.fixture
def adapt(monkeypatch, capsys, base):
    """The verb in this process: its exit status and what it printed."""

    def run(scans: Path, output: Path, *options: str) -> tuple[int, str]:
        words = (scans, output, "--bundle", base, "--epochs", "2", "--folds", "2", *options)
        return run_command(monkeypatch, capsys, "adapt", *words)

    handler = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, handler)


def files_of(folder: Path) -> dict[str, bytes]:
    kept = (path for path in folder.rglob("*") if path.is_file() and path.suffix in (".pt", ".json", ".md", ".html"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def test_scans_become_a_bundle_that_scores_as_calibrated_and_a_stopped_run_ends_with_the_same_bytes(
    adapt, scans, base, tmp_path, monkeypatch
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    status, said = adapt(scans, whole, "--force")
    assert status == 0, said
    bundle = whole / "bundle"
    calibration = json.loads((bundle / "models" / "calibration.json").read_text())
    assert len(calibration["normal_scores"]) == N_SCANS
    assert calibration["cross_fitted"] is True
    first, new = (torch.load(root / "models" / "model.pt", weights_only=True) for root in (base, bundle))
    assert any(not torch.equal(first[name].float(), new[name]) for name in first)

    segmenter = Segmenter(bundle, {"device": "cpu"})
    result, _ = segmenter.segment(segmenter.prepare({"case": "a", "image": str(scans / "sub-3_T1w.nii.gz")}))
    assert result.in_distribution is True
    assert result.p_value is not None
    assert "approximately" in result.p_value_note
    told = json.loads((whole / "adaptation.json").read_text())
    assert (told["before"]["scans"], told["after"]["scans"]) == (N_SCANS, N_SCANS)
    assert "Before and after" in (whole / "report.html").read_text()

    original, calls = adaptation.fine_tune, []

    def stop_in_the_second(*args, drawn, **kwargs):
        calls.append(args)

        def until_the_second_epoch(samples: int) -> None:
            drawn(samples)
            steps.append(samples)
            if len(calls) == 2 and len(steps) > 2:
                raise KeyboardInterrupt

        steps: list[int] = []
        return original(*args, drawn=until_the_second_epoch, **kwargs)

    monkeypatch.setattr(adaptation, "fine_tune", stop_in_the_second)
    status, said = adapt(scans, stopped, "--force")
    assert (status, len(calls)) == (130, 2)
    assert "the same command goes on" in said
    monkeypatch.setattr(adaptation, "fine_tune", original)
    status, said = adapt(scans, stopped, "--force")
    assert status == 0, said
    expected = {name: content for name, content in files_of(whole / "bundle").items() if name != "docs/README.md"}
    found = files_of(stopped / "bundle")
    assert {name for name, content in expected.items() if found[name] != content} == set()

    status, said = adapt(scans, whole, "--force", "--seed", "7")
    assert status == 2
    assert "expected --restart or another OUT" in said


def test_a_prepared_scan_is_exactly_what_the_network_gets(base, scans, tmp_path):
    model = BaseModel(base, "t1")
    options = adaptation.AdaptationOptions(scans=str(scans), output=tmp_path, bundle=base)
    run = adaptation.Adaptation(options, lambda sentence: None)
    measured, _ = run.checks.check()
    segmenter = Segmenter(base, {"device": "cpu"})
    given = segmenter.prepare({"case": "a", "image": str(scans / "sub-3_T1w.nii.gz")})
    kept = run.checks.measurement.prepared("sub-3_T1w")
    assert len(measured) == N_SCANS
    assert kept["image"].shape == (1, *model.spatial_size)
    assert torch.equal(kept["image"], given.image.as_tensor())
    assert torch.equal(kept["brain_mask"], given.brain_mask.as_tensor())


@pytest.mark.parametrize(
    ("number", "level"),
    [(4, Level.UNUSABLE), (8, Level.SUSPECT), (15, Level.NOTE), (20, None), (60, Level.NOTE)],
)
def test_too_few_people_are_refused_and_few_are_told(number, level):
    assert [finding.level for finding in adaptation.check_number(number)] == ([] if level is None else [level])


def test_few_scans_stop_the_run_until_somebody_has_looked(adapt, scans, tmp_path):
    status, said = adapt(scans, tmp_path / "out")
    assert status == 3
    assert "6 people; expected 10 to 50" in said
    assert not (tmp_path / "out" / "bundle").exists()


def test_folds_part_people_not_scans_and_do_not_depend_on_the_order():
    groups = [[f"{person}-{scan}" for scan in range(1 + person % 2)] for person in range(7)]
    folds = folds_of(groups, 3, seed=5)
    assert folds == folds_of(groups[::-1], 3, seed=5)
    assert sorted(case for fold in folds for case in fold) == sorted(case for group in groups for case in group)
    for group in groups:
        assert sum(bool(set(group) & set(fold)) for fold in folds) == 1
    with pytest.raises(ScanError, match="8 folds of 7 people"):
        folds_of(groups, 8, seed=5)


def test_a_widened_domain_holds_the_site_and_all_that_it_held_before(tmp_path):
    shipped = Domain.read(BUNDLE / "models" / "domain.json")
    rng = np.random.default_rng(0)
    features = {
        str(case): {"noise": 0.9 + 0.05 * rng.random(), "sharpness": 0.2 + 0.02 * rng.random()} for case in range(12)
    }
    from itermask3d.workflows.site.adapted_bundle import widened_domain

    content = widened_domain(BaseModel(BUNDLE, "t1"), features, [["0", "1", "2"], ["3", "4", "5"]])
    (tmp_path / "domain.json").write_text(json.dumps(content))
    widened = Domain.read(tmp_path / "domain.json")
    assert all(widened.check(values).in_distribution for values in features.values())
    assert not all(shipped.check(values).in_distribution for values in features.values())
    for name, before in shipped.ranges.items():
        now = widened.ranges[name]
        assert now.low is None or now.low <= before.low
        assert now.high is None or now.high >= before.high
