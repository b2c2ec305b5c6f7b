"""Matched thresholds: they flag what they promise on the calibration scans, whatever the method."""

from __future__ import annotations

import math

import numpy as np
import pytest
from itermask3d.evaluation.matched import critical_value, false_alarms, flagged_mask, matched_threshold

SIZE = (12, 12, 12)
BRAIN = np.ones(SIZE, dtype=bool)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SIZE)


@pytest.mark.parametrize("min_voxels", [1, 2, 5, 40])
def test_a_scan_is_flagged_below_its_critical_value_and_not_from_it_on(min_voxels):
    for seed in range(5):
        value = critical_value(noise(seed), BRAIN, min_voxels=min_voxels)
        below = np.nextafter(value, -np.inf)
        assert flagged_mask(noise(seed), BRAIN, threshold=below, min_voxels=min_voxels).any()
        assert not flagged_mask(noise(seed), BRAIN, threshold=value, min_voxels=min_voxels).any()


def test_any_voxel_is_the_maximum_in_the_brain():
    brain = BRAIN.copy()
    brain[0] = False
    anomaly_map = noise(0)
    anomaly_map[0, 0, 0] = 99
    assert critical_value(anomaly_map, brain) == anomaly_map[brain].max()


def test_a_region_of_some_size_needs_voxels_that_touch():
    anomaly_map = np.zeros(SIZE)
    anomaly_map[2, 2, 2] = anomaly_map[8, 8, 8] = 5
    anomaly_map[3:5, 3:5, 3:5] = 2
    assert critical_value(anomaly_map, BRAIN, min_voxels=2) == 2
    anomaly_map[9, 9, 9] = 3  # by a corner
    assert critical_value(anomaly_map, BRAIN, min_voxels=2) == 3


def test_a_brain_smaller_than_the_smallest_region_is_never_flagged():
    brain = np.zeros(SIZE, dtype=bool)
    brain[:2, :2, :2] = True
    assert critical_value(noise(0), brain, min_voxels=9) == -math.inf
    assert critical_value(noise(0), 0 * BRAIN, min_voxels=1) == -math.inf


@pytest.mark.parametrize(("n", "level", "allowed"), [(15, 0.05, 0), (20, 0.05, 1), (40, 0.05, 2), (100, 0.1, 10)])
def test_at_most_the_level_is_flagged_and_not_fewer_than_allowed(n, level, allowed):
    values = np.random.default_rng(0).random(n)
    matched = matched_threshold(values, level=level)
    assert (values > matched.threshold).sum() == matched.flagged == allowed
    assert matched.expected == (allowed + 1) / (n + 1)


def test_ties_flag_fewer_rather_than_more():
    assert matched_threshold([1.0] * 20).flagged == 0


def test_the_threshold_means_the_same_for_any_monotone_rescaling_of_a_map():
    maps = [noise(seed) for seed in range(20)]
    plain, stretched = (
        matched_threshold([critical_value(f(one), BRAIN, min_voxels=4) for one in maps]).threshold
        for f in (lambda x: x, lambda x: np.exp(3 * x))
    )
    assert np.exp(3 * plain) == pytest.approx(stretched)


def test_false_alarms_are_counted_by_site_and_pooled():
    found = false_alarms({"a": [1.0, 3.0], "b": [1.0, 1.0], "empty": []}, 2.0)
    assert {site: (one.flagged, one.total) for site, one in found.items()} == {
        "a": (1, 2),
        "b": (0, 2),
        "empty": (0, 0),
        "pooled": (1, 4),
    }
    assert found["empty"].rate is None
    assert found["b"].rate.low == pytest.approx(0, abs=1e-12)
    assert found["b"].rate.high > 0.5


def test_a_method_that_shouts_on_another_site_is_heard():
    quiet = [critical_value(noise(seed), BRAIN) for seed in range(20)]
    loud = [critical_value(3 * noise(seed), BRAIN) for seed in range(20, 40)]
    found = false_alarms({"home": quiet, "away": loud}, matched_threshold(quiet).threshold)
    assert found["home"].rate.value <= 0.05
    assert found["away"].rate.value > 0.9


@pytest.mark.parametrize(("values", "level"), [([], 0.05), ([1.0, math.nan], 0.05), ([1.0], 1.0), ([1.0], -0.1)])
def test_a_threshold_of_nothing_is_refused(values, level):
    with pytest.raises(ValueError, match="matched threshold"):
        matched_threshold(values, level=level)


def test_a_map_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        critical_value(np.full(SIZE, np.nan), BRAIN)
