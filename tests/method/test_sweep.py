"""Which steps a sweep takes, and what is made of the curve between them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from itermask3d.method.sweep import fill_curve, sweep_steps


@pytest.mark.parametrize("n_steps", [1, 2, 7, 40, 100, 250])
def test_an_exact_sweep_takes_every_step(n_steps):
    assert sweep_steps(n_steps, "exact") == tuple(range(n_steps))


@pytest.mark.parametrize("n_steps", [1, 2, 7, 40, 100, 250])
def test_a_fine_sweep_begins_and_ends_like_the_exact_one_with_gaps_that_never_grow_after_the_first(n_steps):
    steps = sweep_steps(n_steps, "fine")
    assert (steps[0], steps[-1]) == (0, n_steps - 1)
    gaps = [b - a for a, b in pairwise(steps)]
    assert all(gap >= 1 for gap in gaps)
    assert all(later <= earlier for earlier, later in pairwise(gaps[1:]))


def test_a_fine_sweep_takes_a_ninth_of_the_published_steps_and_more_where_the_curve_bends():
    steps = sweep_steps(100, "fine")
    assert len(steps) == 11
    gaps = np.diff(steps)
    assert (np.diff(gaps[1:]) <= 0).all()
    assert gaps[steps.index(82) :].max() <= 6


@pytest.mark.parametrize("n_steps", [1, 2, 7, 40, 100, 250])
def test_a_coarse_sweep_takes_six_steps_at_most_from_the_first_to_the_last(n_steps):
    steps = sweep_steps(n_steps, "coarse")
    assert (steps[0], steps[-1]) == (0, n_steps - 1)
    assert min(4, n_steps) <= len(steps) <= 6
    assert list(steps) == sorted(set(steps))


def test_unknown_sweep_is_named():
    with pytest.raises(ValueError, match="sweep must be one of coarse, fine, exact, got 'quick'"):
        sweep_steps(100, "quick")


def test_filled_curve_keeps_what_was_measured_and_stays_monotone_between():
    steps = sweep_steps(100, "fine")
    values = 0.1 * np.tan(0.0152 * (np.asarray(steps) + 1))[None]
    curve = fill_curve(steps, values, 100)
    assert curve.shape == (1, 100)
    np.testing.assert_allclose(curve[:, list(steps)], values, rtol=1e-12)
    assert (np.diff(curve) >= 0).all()


def test_filled_tangent_is_close_to_the_tangent():
    steps, percent = sweep_steps(100, "fine"), np.arange(1, 101)
    curve = fill_curve(steps, 0.1 * np.tan(0.0152 * (np.asarray(steps) + 1))[None], 100)
    np.testing.assert_allclose(curve[0], 0.1 * np.tan(0.0152 * percent), rtol=0.02, atol=2e-4)


def test_a_curve_of_every_step_comes_back_untouched():
    values = np.random.default_rng(0).random((2, 10))
    assert np.array_equal(fill_curve(range(10), values, 10), values)


def test_a_curve_with_nan_stays_unusable_and_leaves_the_others_alone():
    steps = sweep_steps(100, "fine")
    values = np.ones((2, len(steps)))
    values[0, 3] = np.nan
    curve = fill_curve(steps, values, 100)
    assert np.isnan(curve[0]).all()
    np.testing.assert_allclose(curve[1], 1.0)
