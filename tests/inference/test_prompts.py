"""What a person says holds on the scan's own grid, to the voxel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import rotation
from itermask3d.inference.prompts import Prompts, apply_prompts, balls, grown
from itermask3d.inference.results import ScanResult
from itermask3d.method.detection import Findings, Outcome
from itermask3d.method.threshold import CurveFit, SlopeSource, ThresholdEstimate, ThresholdStatus

SHAPE = (20, 24, 16)


def result(mask: np.ndarray) -> ScanResult:
    nan = float("nan")
    estimate = ThresholdEstimate(ThresholdStatus.FOUND, 1.0, 1, SlopeSource.FIT, (1.0,), CurveFit(nan, nan, nan, 0))
    findings = Findings(Outcome.ANOMALY, 0.1, 0.1, 0.1, 0.1, 1.0, estimate, (1.0,), 1, True, 93.0)
    brain = np.ones(SHAPE, dtype=bool)
    brain[0] = False
    zeros = np.zeros(SHAPE)
    return ScanResult("a", "a.nii", findings, zeros, mask, zeros, zeros, brain, np.eye(4), {}, {})


def box(start: int, stop: int) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[start:stop, 4:12, 4:12] = True
    return mask


def test_region_suspicious_keep_and_normal_are_applied_in_this_order():
    prompts = Prompts(roi=box(0, 8), include=box(0, 2), exclude=box(1, 2), keep=box(12, 14))
    prompted = apply_prompts(result(box(4, 10)), prompts)
    assert np.array_equal(prompted.mask, box(4, 8) | box(12, 14))
    assert prompted.findings.percentile_among_normals is None
    assert "person" in prompted.warnings[-1]


@pytest.mark.parametrize(
    ("outcome", "prompts", "after"),
    [
        (Outcome.NO_ANOMALY, Prompts(keep=box(12, 14)), Outcome.ANOMALY),
        (Outcome.ANOMALY, Prompts(exclude=box(0, 20)), Outcome.NO_ANOMALY),
        (Outcome.FIT_FAILED, Prompts(exclude=box(0, 20)), Outcome.FIT_FAILED),
    ],
)
def test_what_is_said_of_a_scan_is_said_of_the_mask_as_the_person_left_it(outcome, prompts, after):
    scan = result(box(4, 10))
    prompted = apply_prompts(replace(scan, findings=replace(scan.findings, outcome=outcome)), prompts)
    assert prompted.findings.outcome is after
    assert prompted.findings.flagged_share == pytest.approx(prompted.mask.sum() / scan.brain_mask.sum())


def test_prompts_that_say_nothing_changes_no_voxel():
    assert np.array_equal(apply_prompts(result(box(4, 10)), Prompts()).mask, box(4, 10))


def test_inputs_are_not_mutated():
    before = result(box(4, 10))
    apply_prompts(before, Prompts(exclude=box(4, 6)))
    assert np.array_equal(before.mask, box(4, 10))
    assert replace(before, case="b").mask is before.mask


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (2.0, 1.0, 3.0)])
@pytest.mark.parametrize("radius_mm", [0.0, 1.0, 4.0, 7.5])
def test_ball_equals_its_definition(spacing_mm, radius_mm):
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees=(10, 20, 30)) * np.asarray(spacing_mm)
    centre = np.array([9, 3, 8])
    distance = np.linalg.norm((np.argwhere(np.ones(SHAPE)) - centre) @ affine[:3, :3].T, axis=1).reshape(SHAPE)
    assert np.array_equal(balls([centre], SHAPE, affine, radius_mm=radius_mm), distance <= radius_mm)


def test_ball_at_the_border_is_cut_and_no_point_gives_no_voxel():
    assert balls([], SHAPE, np.eye(4), radius_mm=5).sum() == 0
    corner = balls([[0, 0, 0]], SHAPE, np.eye(4), radius_mm=1)
    assert corner.sum() == 4


@pytest.mark.parametrize("point", [[-1, 0, 0], [0, 24, 0], [1, 2], [1e9, 0, 0]])
def test_point_outside_the_scan_is_named(point):
    with pytest.raises(ValueError, match="lies outside the scan"):
        balls([point], SHAPE, np.eye(4), radius_mm=3)


@pytest.mark.parametrize("by_mm", [0.0, 1.0, 3.0])
def test_grown_mask_is_all_within_the_distance(by_mm):
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    seed = np.zeros(SHAPE, dtype=bool)
    seed[10, 12, 8] = True
    assert np.array_equal(grown(seed, affine, by_mm=by_mm), balls([[10, 12, 8]], SHAPE, affine, radius_mm=by_mm))


def test_nothing_grows_from_nothing():
    assert not grown(np.zeros(SHAPE, dtype=bool), np.eye(4), by_mm=5).any()
