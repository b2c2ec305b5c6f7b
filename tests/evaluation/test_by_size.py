"""Metrics by size: closed forms, pathologies, and masks that try to flatter themselves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from itermask3d.evaluation.by_size import (
    SIZE_CLASSES,
    ScanRecord,
    by_size,
    false_positives,
    measure_scan,
    metrics_of,
    size_class,
    wilson,
)

SIZE = (24, 24, 24)
VOXEL_ML = 0.008


def block(*corner: int, edge: int = 4) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[tuple(slice(start, start + edge) for start in corner)] = True
    return mask


def measured(mask: np.ndarray, truth: np.ndarray, *, subject: str = "a", voxel_ml: float = VOXEL_ML) -> ScanRecord:
    kind = "dark" if truth.any() else "normal"
    names = {"case": f"{subject}-{kind}", "subject": subject, "site": "s", "method": "m", "kind": kind}
    return measure_scan(mask, truth, voxel_ml=voxel_ml, **names)


def test_the_perfect_mask_is_perfect():
    truth = block(2, 2, 2) | block(15, 15, 15)
    metrics = metrics_of([measured(truth, truth)])
    assert (metrics.dice.value, metrics.recall.value, metrics.precision.value, metrics.f1.value) == (1, 1, 1, 1)
    assert (metrics.scans, metrics.lesions, metrics.found, metrics.false_regions) == (1, 2, 2, 0)


def test_a_known_shift_has_the_known_overlap():
    record = measured(block(2, 2, 4), block(2, 2, 2))  # half of each block in common
    assert record.dice == pytest.approx(0.5)
    assert record.lesions[0].iou == pytest.approx(1 / 3)
    assert record.lesions[0].volume_ml == pytest.approx(64 * VOXEL_ML)


def test_one_of_two_lesions_and_a_false_region_give_a_half_each():
    record = measured(block(2, 2, 2) | block(2, 15, 2), block(2, 2, 2) | block(15, 15, 15))
    metrics = metrics_of([record])
    assert (metrics.recall.value, metrics.precision.value, metrics.f1.value) == (0.5, 0.5, 0.5)
    assert record.false_regions_ml == (pytest.approx(64 * VOXEL_ML),)


def test_a_mask_of_everything_finds_nothing():
    record = measured(np.ones(SIZE, dtype=bool), block(2, 2, 2) | block(15, 15, 15))
    metrics = metrics_of([record])
    assert (metrics.found, metrics.recall.value, metrics.precision.value) == (0, 0, 0)
    assert len(record.false_regions_ml) == 1


def test_one_voxel_in_a_lesion_does_not_find_it_and_is_a_false_region():
    record = measured(block(3, 3, 3, edge=1), block(2, 2, 2))
    assert not record.lesions[0].found
    assert len(record.false_regions_ml) == 1


def test_one_region_over_two_neighbours_finds_both():
    truth = block(2, 2, 2) | block(2, 2, 7)
    bridge = truth.copy()
    bridge[3, 3, 2:11] = True
    metrics = metrics_of([measured(bridge, truth)])
    assert (metrics.lesions, metrics.found, metrics.false_regions) == (2, 2, 0)


def test_an_empty_mask_has_no_precision_and_an_empty_truth_no_dice():
    nothing = np.zeros(SIZE, dtype=bool)
    missed = metrics_of([measured(nothing, block(2, 2, 2))])
    assert (missed.dice.value, missed.recall.value, missed.precision, missed.f1.value) == (0, 0, None, 0)
    normal = measured(block(2, 2, 2), nothing)
    assert math.isnan(normal.dice)
    assert normal.lesions == ()


def test_normal_scans_alone_have_only_false_positives():
    normals = [measured(block(2, 2, 2), np.zeros(SIZE, dtype=bool)), measured(*np.zeros((2, *SIZE), bool), subject="b")]
    for metrics in by_size(normals).values():
        assert (metrics.scans, metrics.lesions) == (0, 0)
        assert metrics.dice is metrics.recall is metrics.precision is metrics.f1 is None
    assert false_positives(normals).value == pytest.approx(32 * VOXEL_ML)
    assert false_positives([measured(block(2, 2, 2), block(2, 2, 2))]) is None


def test_every_lesion_and_false_region_counts_in_the_class_of_its_own_volume():
    small, large = block(2, 2, 2, edge=2), block(10, 10, 10, edge=10)  # 0.064 and 8 ml
    found = by_size([measured(large | block(2, 15, 2), small | large)])
    assert (found["< 1 ml"].lesions, found["< 1 ml"].found, found["< 1 ml"].false_regions) == (1, 0, 1)
    assert (found["5–10 ml"].lesions, found["5–10 ml"].found, found["5–10 ml"].false_regions) == (1, 1, 0)
    assert found["5–10 ml"].scans == 1
    assert found["< 1 ml"].dice is None


@pytest.mark.parametrize(
    ("volume_ml", "expected"),
    [(0.008, 0), (0.99, 0), (1.0, 1), (4.99, 1), (5.0, 2), (10.0, 3), (49.9, 3), (50.0, 4), (900.0, 4)],
)
def test_a_bound_belongs_to_the_larger_class(volume_ml, expected):
    assert size_class(volume_ml) == SIZE_CLASSES[expected]


@pytest.mark.parametrize("volume_ml", [0.0, -1.0, math.nan])
def test_a_volume_that_is_none_is_refused(volume_ml):
    with pytest.raises(ValueError, match="volume_ml"):
        size_class(volume_ml)


def test_wilson_agrees_with_its_formula():
    metric = wilson(3, 20)
    z, p, n = 1.959963985, 0.15, 20
    middle, half = (p + z * z / 2 / n), z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    assert metric.low == pytest.approx((middle - half) / (1 + z * z / n))
    assert metric.high == pytest.approx((middle + half) / (1 + z * z / n))
    assert wilson(0, 0) is None
    with pytest.raises(ValueError, match="5 of 4"):
        wilson(5, 4)


def test_intervals_hold_the_value_repeat_and_leave_the_global_state_alone():
    records = [
        replace(measured(block(2, 2, 2 + shift), block(2, 2, 2)), subject=str(shift)) for shift in (0, 1, 2, 3, 4, 0)
    ]
    before = np.random.get_state()[1].copy()
    one, two = metrics_of(records), metrics_of(records)
    assert one == two
    assert one.dice.low < one.dice.value < one.dice.high
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_subjects_are_drawn_with_all_their_scans():
    hit, miss = (measured(block(*corner), block(2, 2, 2)) for corner in ((2, 2, 2), (9, 9, 9)))
    together, apart = metrics_of([hit, miss]).dice, metrics_of([hit, replace(miss, subject="b")]).dice
    assert (together.low, together.value, together.high) == (0.5, 0.5, 0.5)
    assert (apart.low, apart.value, apart.high) == (0, 0.5, 1)


def test_masks_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        measured(np.zeros((2, 2, 2), bool), np.zeros(SIZE, bool))
