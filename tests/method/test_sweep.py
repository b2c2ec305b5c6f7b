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
def test_a_fast_sweep_begins_and_ends_like_the_exact_one_with_gaps_that_never_grow_after_the_first(n_steps):
    steps = sweep_steps(n_steps, "fast")
    assert (steps[0], steps[-1]) == (0, n_steps - 1)
    gaps = [b - a for a, b in pairwise(steps)]
    assert all(gap >= 1 for gap in gaps)
    assert all(later <= earlier for earlier, later in pairwise(gaps[1:]))


def test_a_fast_sweep_takes_a_sixth_of_the_published_steps_and_all_of_the_last():
    steps = sweep_steps(100, "fast")
    assert len(steps) == 18
    assert steps[-7:] == (93, 94, 95, 96, 97, 98, 99)


def test_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="schedule must be one of exact, fast, got 'quick'"):
        sweep_steps(100, "quick")


def test_filled_curve_keeps_what_was_measured_and_stays_monotone_between():
    steps = sweep_steps(100, "fast")
    values = 0.1 * np.tan(0.0152 * (np.asarray(steps) + 1))[None]
    curve = fill_curve(steps, values, 100)
    assert curve.shape == (1, 100)
    np.testing.assert_allclose(curve[:, list(steps)], values, rtol=1e-12)
    assert (np.diff(curve) >= 0).all()


def test_filled_tangent_is_close_to_the_tangent():
    steps, percent = sweep_steps(100, "fast"), np.arange(1, 101)
    curve = fill_curve(steps, 0.1 * np.tan(0.0152 * (np.asarray(steps) + 1))[None], 100)
    np.testing.assert_allclose(curve[0], 0.1 * np.tan(0.0152 * percent), rtol=0.02, atol=2e-4)


def test_a_curve_of_every_step_comes_back_untouched():
    values = np.random.default_rng(0).random((2, 10))
    assert np.array_equal(fill_curve(range(10), values, 10), values)


def test_a_curve_with_nan_stays_unusable_and_leaves_the_others_alone():
    steps = sweep_steps(100, "fast")
    values = np.ones((2, len(steps)))
    values[0, 3] = np.nan
    curve = fill_curve(steps, values, 100)
    assert np.isnan(curve[0]).all()
    np.testing.assert_allclose(curve[1], 1.0)
