"""A cohort as its own reference: adapted to its lowest scores, each scan judged by a bundle that did not see it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from fast_bundle import write_noisy_phantoms, write_tiny_bundle
from helpers import run_command
from itermask3d.files.scans import ScanError
from itermask3d.inference.calibration import Calibration, cohort_guarantee, conformal_p_value
from itermask3d.workflows.screening import own_reference
from itermask3d.workflows.site import cohort_reference
from itermask3d.workflows.site.cohort_reference import lowest
from itermask3d.workflows.site.normal_scans import ScanScore

N_SCANS = 8


@pytest.fixture
def screen(monkeypatch, capsys, tmp_path):
    """The verb in this process with a tiny network, two folds and one epoch: its exit status and what it printed."""
    base = write_tiny_bundle(tmp_path / "base")
    whole = own_reference.screen_by_itself
    monkeypatch.setattr(
        own_reference, "screen_by_itself", lambda *args, **kwargs: whole(*args, **kwargs, epochs=1, folds=2)
    )

    def run(scans: Path, output: Path, *options: str) -> tuple[int, str]:
        words = (scans, output, "--bundle", base, "--reference", "cohort", "--no-overview", *options)
        return run_command(monkeypatch, capsys, "screen", *words)

    handler = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, handler)


def scores_of(*values: float) -> dict[str, ScanScore]:
    return {f"s{number}": ScanScore(value, 0.0, 0.0, usable=True) for number, value in enumerate(values)}


def test_a_cohort_is_screened_by_bundles_that_did_not_see_the_scan(screen, tmp_path, monkeypatch):
    monkeypatch.setattr(cohort_reference, "LEAST_SCANS", N_SCANS)
    monkeypatch.setattr(cohort_reference, "ROUNDS", 1)
    (tmp_path / "scans").mkdir()
    scans, output = write_noisy_phantoms(tmp_path / "scans", N_SCANS), tmp_path / "out"
    (scans / "broken_T1w.nii.gz").write_bytes(b"no scan")
    status, said = screen(scans, output)
    assert status == 1, said
    assert "failed: broken_T1w" in said
    results = [json.loads(path.read_text()) for path in output.glob("*/result.json")]
    assert len(results) == N_SCANS
    assert (output / "index.html").is_file()
    bundles = sorted((output / "reference").glob("bundle-*"))
    told = json.loads((output / "reference" / "reference.json").read_text())
    assert len(told["reference"]) == round(0.75 * N_SCANS)
    for bundle in bundles:
        calibration = json.loads((bundle / "models" / "calibration.json").read_text())
        weights = calibration["settings"]["weights_sha256"]
        judged = {result["case"] for result in results if result["settings"]["weights_sha256"] == weights}
        assert judged
        assert judged.isdisjoint(calibration["cases"])
        assert judged | set(calibration["cases"]) == {result["case"] for result in results}
    known = {case: score["score"] for case, score in told["scores"].items()}
    for result in results:
        assert result["score"] == pytest.approx(known[result["case"]], rel=1e-4)
        if result["in_distribution"]:
            assert "other scans of the cohort" in result["p_value_note"]
            assert result["p_value"] >= 1 / (N_SCANS / 2 + 1)


def test_few_scans_are_refused_and_so_is_another_setting(screen, tmp_path):
    (tmp_path / "scans").mkdir()
    scans = write_noisy_phantoms(tmp_path / "scans", 5)
    status, said = screen(scans, tmp_path / "out")
    assert status == 2
    assert "5 usable scans; expected 20 or more" in said
    status, said = screen(scans, tmp_path / "out", "--gamma", "0.2")
    assert status == 2
    assert "--reference and --gamma exclude each other" in said
    for option, value in (("--suffix", "bold"), ("--model", "t2")):
        status, said = screen(scans, tmp_path / "out", option, value)
        assert status == 2
        assert "expected one of" in said


@pytest.mark.parametrize(
    ("options", "model"),
    [((), "t1"), (("--suffix", "FLAIR"), "agnostic"), (("--suffix", "T2w", "--model", "auto"), "agnostic"),
     (("--suffix", "FLAIR", "--model", "t1"), "t1")],
)  # fmt: skip
def test_the_model_to_adapt_is_that_of_the_contrast_unless_it_is_named(screen, tmp_path, monkeypatch, options, model):
    (tmp_path / "scans").mkdir()
    asked = []

    def reference(options, say):
        asked.append(options.model)
        raise ScanError("stopped here")

    monkeypatch.setattr(own_reference, "CohortReference", reference)
    status, said = screen(write_noisy_phantoms(tmp_path / "scans", 1), tmp_path / "out", *options)
    assert (status, asked) == (2, [model])
    assert "stopped here" in said


def test_the_reference_are_the_lowest_usable_scores():
    scores = scores_of(3.0, 1.0, 2.0, 0.5)
    scores["s3"] = ScanScore(0.5, 0.0, 0.0, usable=False)
    assert lowest(scores, 0.5) == ("s1", "s2")


def test_abnormal_scans_that_score_higher_only_raise_the_p_values_of_normal_ones(tmp_path):
    normal = [float(value) for value in range(30)]
    for score in (5.0, 28.5):
        alone = conformal_p_value(score, normal)
        assert conformal_p_value(score, normal + [100.0] * 10) >= alone
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps({"normal_scores": normal, "settings": {}, "cohort": True}))
    assert Calibration.read(file).guarantee == cohort_guarantee(30)
    assert "1.33 a" in cohort_guarantee(30)
