"""The threshold search: golden curves, closed forms, and curves that must not make it raise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from itermask3d.method.threshold import (
    SlopeSource,
    ThresholdStatus,
    estimate_threshold,
    fit_curve,
)

STEPS = np.arange(1, 101, dtype=float)


def tangent(a: float, b: float) -> np.ndarray:
    return a * np.tan(b * STEPS)


@pytest.mark.parametrize(("name", "source"), [("clean", SlopeSource.FIT), ("bright_large", SlopeSource.DIFFERENCE)])
def test_golden_curves_give_the_reference_threshold(shared_dir, name, source):
    golden = np.load(shared_dir / "golden" / f"refinement_{name}.npz")
    found = estimate_threshold(golden["curve"], gamma=0.01)
    assert found.status is ThresholdStatus.FOUND
    assert found.slope_source is source
    assert found.step == int(golden["stop"][0]) + 1
    assert found.threshold == pytest.approx(float(golden["tau"][0]), rel=1e-6)
    assert found.fit.n_points == int(golden["n_points"])
    assert found.fit.r_squared == pytest.approx(float(golden["r_squared"]), abs=1e-6)
    np.testing.assert_allclose(found.slope, golden["derivative"], rtol=1e-5, atol=1e-6)


def test_a_tangent_is_fitted_exactly_and_its_slope_is_analytic():
    found = estimate_threshold(tangent(0.2, 0.015), gamma=0.01)
    assert found.slope_source is SlopeSource.FIT
    assert (found.fit.a, found.fit.b) == (pytest.approx(0.2, rel=1e-4), pytest.approx(0.015, rel=1e-4))
    crossing = math.acos(math.sqrt(0.2 * 0.015 / 0.01)) / 0.015
    assert found.step == math.ceil(crossing)
    assert found.threshold == pytest.approx(0.2 * math.tan(0.015 * math.ceil(crossing)))


def test_the_threshold_grows_with_gamma():
    curve = tangent(0.2, 0.015)
    thresholds = [estimate_threshold(curve, gamma=gamma).threshold for gamma in (0.005, 0.01, 0.02, 0.05, 0.1)]
    assert thresholds == sorted(thresholds)


def test_a_slope_that_never_exceeds_gamma_gives_no_threshold():
    found = estimate_threshold(np.linspace(0, 0.1, 100), gamma=0.01)
    assert found.status is ThresholdStatus.NO_CROSSING
    assert found.threshold == math.inf
    assert found.step is None


def test_a_step_in_the_curve_is_found_before_it_and_not_on_top():
    curve = np.where(STEPS > 90, 4.0, 0.0)
    found = estimate_threshold(curve, gamma=0.01)
    assert found.slope_source is SlopeSource.DIFFERENCE
    assert found.step == 89
    assert found.threshold == 0.0


def test_the_first_backward_difference_is_the_curve_itself():
    found = estimate_threshold(np.full(100, 3.0), gamma=0.01)
    assert found.slope[0] == pytest.approx(3.0 / 3)
    assert found.slope[3:] == pytest.approx([0.0] * 97)


def test_the_smoothing_window_is_shorter_at_the_ends():
    curve = np.cumsum(np.ones(100))
    found = estimate_threshold(curve, gamma=0.01, min_r_squared=2.0)
    assert found.slope == pytest.approx([1.0] * 100)


@pytest.mark.parametrize(
    "curve",
    [
        [],
        [1.0],
        [0.0, 1.0],
        [1.0, 2.0, 3.0],
        np.zeros(100),
        np.ones(100),
        np.full(100, 1e30),
        np.full(100, np.inf),
        np.full(100, np.nan),
        np.r_[np.zeros(50), np.nan, np.ones(49)],
        np.r_[np.zeros(99), 1e6],
        np.r_[np.full(99, 20.0), 30.0],
        np.arange(100) * 1e6,
        np.exp(STEPS / 4),
        np.tan(np.linspace(0, 1.5707963, 100)),
        -STEPS,
        np.random.default_rng(0).random(100),
        np.r_[np.zeros(3), np.full(97, 11.0)],
    ],
    ids=lambda curve: f"{len(curve)}_values",
)
def test_no_curve_makes_the_search_raise(curve):
    found = estimate_threshold(curve, gamma=0.01)
    assert (found.status is ThresholdStatus.FOUND) == (found.step is not None) == math.isfinite(found.threshold)
    if found.status is ThresholdStatus.FOUND:
        assert 1 <= found.step <= len(curve)


@pytest.mark.parametrize("curve", [[], [math.nan] * 100, [0.0, math.nan]])
def test_an_unusable_curve_is_named_so(curve):
    found = estimate_threshold(curve, gamma=0.01)
    assert found.status is ThresholdStatus.UNUSABLE_CURVE
    assert found.slope_source is SlopeSource.NONE


def test_only_steps_before_the_limit_are_fitted():
    assert fit_curve(np.r_[np.linspace(0, 9, 60), np.full(40, 11.0)]).n_points == 60


@pytest.mark.parametrize("gamma", [0, -1.0, math.nan])
def test_gamma_must_be_positive(gamma):
    with pytest.raises(ValueError, match="gamma"):
        estimate_threshold([0.0, 1.0], gamma=gamma)


def test_half_the_steps_give_the_same_slope_and_nearly_the_same_threshold():
    fine = estimate_threshold(tangent(0.2, 0.015), gamma=0.01)
    coarse = estimate_threshold(tangent(0.2, 0.015)[1::2], gamma=0.01)
    np.testing.assert_allclose(coarse.slope, fine.slope[1::2], rtol=1e-3)
    assert coarse.step == math.ceil(fine.step / 2)


def test_interpolated_threshold_moves_continuously_with_gamma():
    curve = 2 * np.tan(0.012 * np.arange(1, 101))
    gammas = np.linspace(0.03, 0.12, 400)
    found = np.array([estimate_threshold(curve, gamma=gamma, interpolate=True).threshold for gamma in gammas])
    stepped = np.array([estimate_threshold(curve, gamma=gamma).threshold for gamma in gammas])
    assert np.abs(np.diff(found)).max() < 0.2 * np.abs(np.diff(stepped)).max()
    assert (np.diff(found) >= 0).all()
    assert (found <= stepped + 1e-12).all()


def test_interpolated_threshold_of_a_tangent_is_where_its_slope_is_gamma():
    a, b, gamma = 2.0, 0.012, 0.05
    percent = np.arccos(np.sqrt(a * b / gamma)) / b
    found = estimate_threshold(a * np.tan(b * np.arange(1, 101)), gamma=gamma, interpolate=True)
    assert found.threshold == pytest.approx(a * np.tan(b * percent), rel=1e-3)
