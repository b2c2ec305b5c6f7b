"""Ranking of voxels and of scans: second implementations, and methods that know nothing get what chance gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from itermask3d.evaluation.discrimination import (
    _draw_subjects,
    _metrics,
    _weighted_metrics,
    false_positive_rate_at,
    scan_discrimination,
    voxel_discrimination,
)
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

SHAPE = (16, 18, 20)


@pytest.fixture
def brain() -> torch.Tensor:
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[2:14, 3:15, 4:16] = True
    return mask


@pytest.fixture
def label() -> torch.Tensor:
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[4:9, 5:10, 6:11] = True
    return mask


def random_map(seed: int = 0, decimals: int | None = None) -> torch.Tensor:
    values = np.random.default_rng(seed).random(SHAPE)
    return torch.from_numpy(values if decimals is None else values.round(decimals))


@pytest.mark.parametrize("decimals", [None, 1])
def test_voxels_agree_with_scikit_learn_with_and_without_ties(brain, label, decimals):
    anomaly_map = random_map(decimals=decimals) + 0.3 * label
    metrics = voxel_discrimination(anomaly_map, label, brain_mask=brain)
    assert metrics["voxel_auroc"] == pytest.approx(roc_auc_score(label[brain], anomaly_map[brain]))
    assert metrics["voxel_ap"] == pytest.approx(average_precision_score(label[brain], anomaly_map[brain]))


def test_only_the_brain_counts(brain, label):
    anomaly_map = random_map() + 0.3 * label
    outside = torch.where(brain, anomaly_map, torch.full_like(anomaly_map, 99))
    plain = voxel_discrimination(anomaly_map, label, brain_mask=brain)
    assert voxel_discrimination(outside, label | ~brain, brain_mask=brain) == plain


def test_a_perfect_map_is_perfect(brain, label):
    assert voxel_discrimination(label.float(), label, brain_mask=brain) == {"voxel_auroc": 1.0, "voxel_ap": 1.0}


def test_a_constant_map_ranks_as_chance(brain, label):
    metrics = voxel_discrimination(torch.full(SHAPE, 0.7), label, brain_mask=brain)
    assert metrics["voxel_auroc"] == 0.5
    assert metrics["voxel_ap"] == pytest.approx(label[brain].float().mean().item())


def test_a_random_map_ranks_as_chance(brain, label):
    metrics = [voxel_discrimination(random_map(seed), label, brain_mask=brain) for seed in range(20)]
    prevalence = label[brain].float().mean().item()
    n_label, n_brain = int(label[brain].sum()), int(brain.sum())
    deviation = math.sqrt((n_brain + 1) / (12 * n_label * (n_brain - n_label)))
    assert np.mean([metric["voxel_auroc"] for metric in metrics]) == pytest.approx(0.5, abs=4 * deviation / 20**0.5)
    assert np.mean([metric["voxel_ap"] for metric in metrics]) == pytest.approx(prevalence, rel=0.1)


def test_nothing_to_rank_is_undefined(brain, label):
    for truth in (torch.zeros_like(label), ~brain, brain):
        assert all(math.isnan(value) for value in voxel_discrimination(random_map(), truth, brain_mask=brain).values())


def test_a_map_must_be_finite_and_on_the_grid(brain, label):
    with pytest.raises(ValueError, match="finite"):
        voxel_discrimination(torch.full(SHAPE, math.nan), label, brain_mask=brain)
    with pytest.raises(ValueError, match="one shape"):
        voxel_discrimination(random_map()[:3], label, brain_mask=brain)


def scores(seed: int = 0, shift: float = 1.0, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(n), rng.standard_normal(n // 2) + shift


def test_scans_agree_with_scikit_learn():
    normal, abnormal = scores()
    classes = np.repeat([0, 1], [len(normal), len(abnormal)])
    values = np.concatenate([normal, abnormal])
    metrics = scan_discrimination(normal, abnormal, n_resamples=5)
    assert metrics["auroc"].value == pytest.approx(roc_auc_score(classes, values))
    assert metrics["ap"].value == pytest.approx(average_precision_score(classes, values))
    false_rates, true_rates, _ = roc_curve(classes, values, drop_intermediate=False)
    for percent in (80, 90, 95):
        expected = false_rates[true_rates >= percent / 100 - 1e-12].min()
        assert metrics[f"fpr_at_tpr_{percent}"].value == pytest.approx(expected)


def test_a_resample_has_the_metrics_of_its_scans_written_out():
    rng = np.random.default_rng(0)
    values, abnormal = rng.standard_normal(30).round(1), np.arange(30) >= 18  # with ties
    weights = _draw_subjects([str(i % 9) for i in range(30)], abnormal, 20, rng)
    found = _weighted_metrics(values, abnormal, weights)
    for index, weight in enumerate(weights):
        normals, others = (np.repeat(values[kind], weight[kind]) for kind in (~abnormal, abnormal))
        for name, value in _metrics(normals, others).items():
            assert found[name][index] == pytest.approx(value), name


def test_subjects_are_drawn_with_all_their_scans_and_every_draw_has_both_kinds():
    subjects, abnormal = ["a", "b", "c", "a", "d", "d"], np.array([0, 0, 0, 1, 1, 1], dtype=bool)
    drawn = _draw_subjects(subjects, abnormal, 200, np.random.default_rng(0))
    assert np.array_equal(drawn[:, 0], drawn[:, 3])
    assert np.array_equal(drawn[:, 4], drawn[:, 5])
    assert (drawn[:, abnormal].sum(axis=1) > 0).all()
    assert (drawn[:, ~abnormal].sum(axis=1) > 0).all()
    assert set(drawn[:, 1]) == {0, 1, 2}, "b and c, with normal scans alone, are drawn from each other"


def test_pairs_of_one_person_narrow_the_interval():
    normal = 10 * np.random.default_rng(0).standard_normal(40)
    names = [str(index) for index in range(40)]
    alone = scan_discrimination(normal, normal + 0.1)["auroc"]
    paired = scan_discrimination(normal, normal + 0.1, normal_subjects=names, abnormal_subjects=names)["auroc"]
    assert paired.value == alone.value
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)
    with pytest.raises(ValueError, match="normal_subjects must name one subject a score, got 1 for 40"):
        scan_discrimination(normal, normal, normal_subjects=["a"])


def test_a_score_that_knows_nothing_has_chance_in_its_interval():
    normal, abnormal = scores(seed=3, shift=0.0, n=100)
    auroc = scan_discrimination(normal, abnormal, n_resamples=300)["auroc"]
    assert auroc.low < 0.5 < auroc.high


def test_a_constant_score_gets_chance_and_flags_every_normal_scan():
    metrics = scan_discrimination([1.0] * 30, [1.0] * 10, n_resamples=20)
    assert metrics["auroc"].value == 0.5
    assert metrics["ap"].value == pytest.approx(10 / 40)
    assert metrics["fpr_at_tpr_95"].value == 1


def test_groups_apart_are_told_apart():
    metrics = scan_discrimination([1.0, 2.0, 3.0], [4.0, 5.0], n_resamples=20)
    assert (metrics["auroc"].value, metrics["auroc"].low, metrics["ap"].value) == (1, 1, 1)
    assert metrics["fpr_at_tpr_95"].value == 0


def test_the_interval_holds_the_value_is_seeded_and_leaves_the_global_state():
    normal, abnormal = scores()
    state = np.random.get_state()[1].copy()
    first, again, other = (scan_discrimination(normal, abnormal, n_resamples=100, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert np.array_equal(np.random.get_state()[1], state)
    for metric in first.values():
        assert metric.low <= metric.value <= metric.high


def test_the_bootstrap_has_about_the_width_of_the_known_standard_error():
    normal, abnormal = scores(shift=0.8, n=200)
    auroc = scan_discrimination(normal, abnormal, n_resamples=400)["auroc"]
    # Hanley and McNeil 1982, DOI 10.1148/radiology.143.1.7063747
    a, m, n = auroc.value, len(abnormal), len(normal)
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = math.sqrt((a * (1 - a) + (m - 1) * (q1 - a * a) + (n - 1) * (q2 - a * a)) / (m * n))
    assert auroc.high - auroc.low == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_a_set_without_one_kind_of_scan_has_no_metrics():
    assert scan_discrimination([], [1.0]) == {}
    assert scan_discrimination([1.0], []) == {}


@pytest.mark.parametrize("rate", [0.8, 0.9, 0.95, 1.0])
def test_the_asked_share_of_abnormal_scans_is_reached(rate):
    normal, abnormal = scores()
    fpr = false_positive_rate_at(normal, abnormal, true_positive_rate=rate)
    thresholds = [value for value in abnormal if np.mean(abnormal >= value) >= rate]
    assert fpr == np.mean(normal >= max(thresholds))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"normal_scores": [math.nan]}, "finite"),
        ({"abnormal_scores": [math.inf]}, "finite"),
        ({"confidence": 1.0}, "confidence .* got 1.0"),
        ({"n_resamples": 0}, "n_resamples .* 0"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(arguments, words):
    arguments = {"normal_scores": [1.0], "abnormal_scores": [2.0]} | arguments
    with pytest.raises(ValueError, match=words):
        scan_discrimination(**arguments)
    with pytest.raises(ValueError, match=r"true_positive_rate .* got 0"):
        false_positive_rate_at([1.0], [2.0], true_positive_rate=0)
