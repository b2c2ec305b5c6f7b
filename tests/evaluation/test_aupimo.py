"""Metrics without a threshold: perfect, random and broken maps, and what a reconstruction repeats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from itermask3d.evaluation.aupimo import FPR_BOUNDS, aupimo, reconstructed_share, shared_rate, voxel_average_precision
from itermask3d.evaluation.discrimination import voxel_discrimination

WIDE = (0.01, 0.1)


def normals(n: int = 5, size: int = 20000) -> list[np.ndarray]:
    return [np.random.default_rng(seed).random(size) for seed in range(n)]


def test_a_perfect_map_has_one_and_a_map_below_all_normals_zero():
    shared = shared_rate(normals())
    assert aupimo(np.full(50, 2.0), shared) == 1
    assert aupimo(np.full(50, -1.0), shared) == 0


def test_half_a_lesion_above_all_normals_is_a_half():
    assert aupimo(np.array([2.0, 2.0, -1.0, -1.0]), shared_rate(normals())) == pytest.approx(0.5)


def test_a_random_map_has_the_mean_rate():
    shared = shared_rate(normals(10), bounds=WIDE)
    lesion = np.random.default_rng(99).random(200_000)
    expected = (WIDE[1] - WIDE[0]) / math.log(WIDE[1] / WIDE[0])
    assert aupimo(lesion, shared) == pytest.approx(expected, rel=0.05)


def test_a_step_between_the_bounds_divides_the_logarithm():
    shared = shared_rate([np.arange(1000.0)], bounds=WIDE)  # above 999 - k lies a share of k / 1000
    lesion = np.full(7, 968.5)  # flagged from the threshold 968 on, whose rate is 31 / 1000
    assert aupimo(lesion, shared) == pytest.approx(math.log(0.1 / 0.031) / math.log(10), rel=1e-6)


def test_the_rate_is_the_mean_over_scans_whatever_their_size():
    small, large = np.zeros(100), np.zeros(10_000)
    small[:10] = 1.0  # a tenth of the small scan, nothing of the large one
    shared = shared_rate([small, large], bounds=(0.01, 0.2))
    np.testing.assert_allclose(shared.rates, [0, 0.05])
    np.testing.assert_array_equal(shared.thresholds, [1, 0])


def test_the_rate_equals_a_count_over_all_voxels():
    scans = [np.random.default_rng(seed).standard_normal(size) for seed, size in enumerate((5000, 8000, 3000))]
    shared = shared_rate(scans, bounds=(0.001, 0.01))
    for threshold, rate in list(zip(shared.thresholds, shared.rates, strict=True))[::7]:
        assert rate == pytest.approx(np.mean([(scan > threshold).mean() for scan in scans]))
    assert shared.rates.max() == pytest.approx(0.01, rel=0.05)


def test_a_constant_map_gets_nothing_from_its_ties():
    constant = shared_rate([np.ones(1000)] * 3)
    assert aupimo(np.ones(10), constant) == 0


def test_what_is_flagged_in_normal_scans_costs_and_what_is_flagged_beside_the_lesion_does_not():
    lesion = np.full(10, 0.5)
    clean, noisy = ([np.zeros(10_000)], [np.r_[np.ones(100), np.zeros(9_900)]])
    assert aupimo(lesion, shared_rate(clean)) == 1
    assert aupimo(lesion, shared_rate(noisy)) == 0


def test_an_empty_truth_has_no_area():
    assert math.isnan(aupimo(np.array([]), shared_rate(normals())))


@pytest.mark.parametrize("bounds", [(0.0, 0.1), (0.1, 0.01), (0.1, 1.1)])
def test_bounds_that_do_not_rise_are_refused(bounds):
    with pytest.raises(ValueError, match="bounds"):
        shared_rate(normals(), bounds=bounds)


@pytest.mark.parametrize("maps", [[], [np.array([])], [np.array([1.0, np.nan])]])
def test_normals_without_a_usable_map_are_refused(maps):
    with pytest.raises(ValueError, match="normal scan"):
        shared_rate(maps)


def test_the_published_bounds_are_the_default():
    assert shared_rate(normals()).bounds == FPR_BOUNDS == (1e-5, 1e-4)


def test_average_precision_equals_the_slower_one_with_ties():
    rng = np.random.default_rng(0)
    values, truth = rng.integers(0, 20, (6, 7, 8)).astype(float), rng.random((6, 7, 8)) < 0.2
    slow = voxel_discrimination(
        torch.from_numpy(values), torch.from_numpy(truth), brain_mask=torch.ones(6, 7, 8, dtype=torch.bool)
    )
    assert voxel_average_precision(values, truth) == pytest.approx(slow["voxel_ap"], abs=1e-6)


def test_average_precision_of_perfect_constant_and_reversed_rankings():
    truth = np.arange(100) < 10
    assert voxel_average_precision(truth.astype(float), truth) == 1
    assert voxel_average_precision(np.ones(100), truth) == pytest.approx(0.1)
    assert voxel_average_precision(-1.0 * truth, truth) < 0.11
    assert math.isnan(voxel_average_precision(np.ones(100), np.zeros(100, bool)))
    assert math.isnan(voxel_average_precision(np.ones(100), np.ones(100, bool)))


def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    healthy, truth = rng.standard_normal((8, 8, 8)), rng.random((8, 8, 8)) < 0.3
    return healthy, healthy + truth * (2 + rng.standard_normal((8, 8, 8))), truth


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, -0.5])
def test_reconstructed_share_is_the_share_that_was_repeated(share):
    healthy, lesioned, truth = pair()
    assert reconstructed_share(healthy + share * (lesioned - healthy), lesioned, healthy, truth) == pytest.approx(share)


def test_reconstructed_share_ignores_what_happens_beside_the_lesion_and_has_no_value_without_a_change():
    healthy, lesioned, truth = pair()
    assert reconstructed_share(np.where(truth, healthy, 99), lesioned, healthy, truth) == 0
    assert math.isnan(reconstructed_share(healthy, healthy, healthy, truth))
    assert math.isnan(reconstructed_share(healthy, lesioned, healthy, np.zeros_like(truth)))
    with pytest.raises(ValueError, match="one shape"):
        reconstructed_share(healthy[1:], lesioned, healthy, truth)
