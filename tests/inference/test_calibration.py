"""Conformal p-values and exact intervals: closed forms, and their guarantees by simulation."""

from __future__ import annotations

import doctest
import json
import math

import numpy as np
import pytest
from helpers import run_command
from itermask3d.files.plain import as_json_values
from itermask3d.inference import calibration
from itermask3d.inference.calibration import (
    Calibration,
    attainable_level,
    conformal_p_value,
    false_alarm_interval,
    false_alarm_range,
    flag_at_level,
    flag_threshold,
)
from itermask3d.inference.model import load_model
from scipy import stats

FIRST_VERSION = {"note": "…", "normal_scores": [0.1, 0.3], "flagged_shares": [0, 0.1], "cases": ["a", "b"]}


def run_result(case: str, score: float, **facts) -> dict:
    return {"case": case, "score": score, "outcome": "anomaly", "flagged_share": 0.1, "settings": {"gamma": 1}} | facts


def test_the_file_of_the_script_and_that_of_its_first_version_are_read(tmp_path, monkeypatch, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(FIRST_VERSION | {"settings": {"gamma": 1}}))
    for name, score in (("b", 0.3), ("a", 0.1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(run_result(name, score)))
    assert run_command(monkeypatch, capsys, "calibrate", tmp_path, "--output", new)[0] == 0
    assert Calibration.read(old) == Calibration.read(new) == Calibration((0.1, 0.3), {"gamma": 1})
    assert Calibration.read(new).guarantee == json.loads(new.read_text())["guarantee"]


def test_a_calibration_takes_no_score_that_would_get_no_p_value(tmp_path, monkeypatch, capsys):
    kinds = {
        "good": {"in_distribution": True},
        "failed": {"outcome": "fit_failed"},
        "other": {"in_distribution": False},
    }
    for name, facts in kinds.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(run_result(name, 0.2, **facts)))
    told = run_command(monkeypatch, capsys, "calibrate", tmp_path, "--output", tmp_path / "out.json")[1]
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["cases"] == ["good"]
    assert set(written["left_out"]) == {"failed", "other"}
    assert "left out: other: out-of-distribution" in told


def test_a_calibration_goes_to_the_model_that_made_the_results_and_takes_no_mixture(tmp_path, monkeypatch, capsys):
    """Scans choose their model, so results tell which one it was; one model's scores never replace another's."""
    bundle, runs = tmp_path / "bundle", tmp_path / "runs"
    (bundle / "models").mkdir(parents=True)
    for case, model in (("a", "agnostic"), ("b", "agnostic"), ("c", "t1")):
        (runs / case).mkdir(parents=True)
        (runs / case / "result.json").write_text(json.dumps(run_result(case, 0.2, model={"name": model})))
    status, told = run_command(monkeypatch, capsys, "calibrate", runs, "--bundle", bundle)
    assert (status, "several models: agnostic (2), t1 (1)" in told) == (2, True)
    (runs / "c" / "result.json").unlink()
    assert run_command(monkeypatch, capsys, "calibrate", runs, "--bundle", bundle)[0] == 0
    assert [path.name for path in (bundle / "models").iterdir()] == ["calibration_agnostic.json"]


def test_an_older_calibration_holds_where_evidence_has_got_settings_that_it_does_not_use(tmp_path):
    """Only what is used changes scores: a new setting that is off leaves the calibration of before valid."""
    model = load_model(overrides={"progress": False}, lazy=True)
    settings = as_json_values(model.variant("t1").settings)
    for kind in settings["evidence"]["kinds"].values():
        del kind["growth"], kind["estimator"]
    del settings["evidence"]["tissues"]["estimator"]
    file = tmp_path / "calibration.json"
    for changed, holds in (({}, True), ({"trust": 1.0}, False)):
        settings["evidence"]["tissues"] |= changed
        file.write_text(json.dumps(FIRST_VERSION | {"settings": settings}))
        used = load_model(overrides={"progress": False, "calibration": str(file)}, lazy=True).variant("t1")
        assert (used.applying_calibration() is not None) is holds


def test_what_is_no_calibration_is_named(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(FIRST_VERSION))
    with pytest.raises(ValueError, match=r"c\.json holds no 'normal_scores' and 'settings'"):
        Calibration.read(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("score", "expected"), [(9.0, 1 / 5), (4.0, 2 / 5), (3.5, 2 / 5), (2.0, 4 / 5), (1.0, 1.0), (-5.0, 1.0)]
)
def test_p_value_counts_the_scores_at_least_as_high(score, expected):
    assert conformal_p_value(score, [1.0, 2.0, 3.0, 4.0]) == expected


def test_ties_count_against_the_scan():
    assert conformal_p_value(2.0, [2.0] * 9) == 1
    assert conformal_p_value(np.nextafter(2.0, 3), [2.0] * 9) == 0.1


def test_without_calibration_nothing_can_be_flagged():
    assert conformal_p_value(1e9, []) == 1
    assert flag_threshold([], level=0.05) == math.inf
    assert not flag_at_level(1e9, [], level=0.99)


def test_an_infinite_score_is_flagged_and_nan_is_refused():
    assert conformal_p_value(math.inf, [1.0] * 19) == 0.05
    with pytest.raises(ValueError, match="got NaN"):
        conformal_p_value(math.nan, [1.0])
    with pytest.raises(ValueError, match="1 NaN of 2"):
        conformal_p_value(1.0, [1.0, math.nan])


@pytest.mark.parametrize(("n_normal", "level"), [(19, 0.05), (99, 0.01), (9, 0.1)])
def test_the_attainable_level_is_reached_by_the_highest_score_and_by_no_fewer_scans(n_normal, level):
    assert attainable_level(n_normal) == pytest.approx(level)
    assert flag_at_level(n_normal + 1.0, list(range(n_normal)), level=level)
    assert not flag_at_level(n_normal + 1.0, list(range(n_normal - 1)), level=level)


@pytest.mark.parametrize("level", [0.01, 0.05, 0.1, 0.25, 0.5, 0.99])
@pytest.mark.parametrize("n_normal", [0, 1, 7, 19, 20, 100])
def test_the_threshold_is_the_flag(level, n_normal):
    rng = np.random.default_rng(n_normal)
    normal = rng.integers(0, 12, n_normal).astype(float)  # with ties
    threshold = flag_threshold(normal, level=level)
    for score in np.arange(-1, 14, 0.5):
        assert flag_at_level(score, normal, level=level) == (score > threshold)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("level", [0.05, 0.1, 0.3])
def test_normal_scans_are_flagged_at_no_more_than_the_level(level, ties):
    rng = np.random.default_rng(0)
    n_normal, n_trials = 29, 20000
    draws = rng.exponential(size=(n_trials, n_normal + 1))
    draws = np.floor(4 * draws) if ties else draws
    flags = (1 + (draws[:, 1:] >= draws[:, :1]).sum(axis=1)) / (n_normal + 1) <= level + 1e-12
    for row, flag in zip(draws[:200], flags[:200], strict=True):
        assert flag_at_level(row[0], row[1:], level=level) == flag
    error = math.sqrt(level * (1 - level) / n_trials)
    assert flags.mean() <= level + 4 * error
    if not ties:  # without ties the rate is known exactly
        assert flags.mean() == pytest.approx(math.floor(level * (n_normal + 1) + 1e-9) / (n_normal + 1), abs=4 * error)


def test_the_rate_of_one_calibration_spreads_as_stated():
    rng = np.random.default_rng(1)
    n_normal, level = 39, 0.1
    rates = [1 - flag_threshold(rng.random(n_normal), level=level) for _ in range(5000)]  # of uniform scores
    low, high = false_alarm_range(n_normal, level=level)
    assert np.mean((np.array(rates) >= low) & (np.array(rates) <= high)) == pytest.approx(0.95, abs=0.012)
    assert np.mean(rates) == pytest.approx(math.floor(level * 40) / 40, abs=0.003)


def test_the_rate_of_a_level_that_cannot_be_reached_is_zero():
    assert false_alarm_range(10, level=0.05) == (0, 0)
    assert false_alarm_range(0, level=0.5) == (0, 0)


@pytest.mark.parametrize("total", [1, 10, 50])
def test_the_interval_of_no_false_alarm_has_its_closed_form(total):
    low, high = false_alarm_interval(0, total)
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / total))
    assert false_alarm_interval(total, total) == pytest.approx((1 - high, 1))


@pytest.mark.parametrize(("flagged", "total"), [(1, 10), (3, 25), (24, 25)])
def test_the_interval_is_clopper_and_pearsons(flagged, total):
    low, high = false_alarm_interval(flagged, total, confidence=0.9)
    assert low == pytest.approx(stats.beta.ppf(0.05, flagged, total - flagged + 1))
    assert high == pytest.approx(stats.beta.ppf(0.95, flagged + 1, total - flagged))


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_the_interval_covers_the_rate_at_least_as_often_as_it_says(rate):
    total = 40
    covered = [low <= rate <= high for low, high in (false_alarm_interval(k, total) for k in range(total + 1))]
    assert stats.binom.pmf(np.arange(total + 1), total, rate)[covered].sum() >= 0.95


@pytest.mark.parametrize(("flagged", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_counts_must_be_counts(flagged, total):
    with pytest.raises(ValueError, match=f"got {flagged} of {total}"):
        false_alarm_interval(flagged, total)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, math.nan])
def test_a_level_lies_between_zero_and_one(level):
    for call in (
        lambda: flag_at_level(1.0, [1.0], level=level),
        lambda: flag_threshold([1.0], level=level),
        lambda: false_alarm_range(5, level=level),
    ):
        with pytest.raises(ValueError, match="level must lie"):
            call()
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        attainable_level(-1)


def test_the_examples_in_the_documentation_hold():
    assert doctest.testmod(calibration).failed == 0
