"""What is said about a scan: score, outcome, components, percentile."""

from __future__ import annotations

import json

import pytest
import torch
from itermask3d.method.detection import (
    Findings,
    find,
    percentile_among,
    remove_small_components,
    remove_weak_components,
)
from itermask3d.method.inferer import IterMaskInferer
from itermask3d.method.refinement import refine
from itermask3d.method.settings import RefinementSettings
from torch.nn.functional import pad


def run(margin: int = 0):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((1, 1, 14, 14, 14), generator=generator)
    brain = torch.zeros_like(image)
    brain[..., 2:12, 2:12, 2:12] = 1
    image, brain = (pad(tensor * brain, [margin] * 6) for tensor in (image, brain))
    expected = image * 0.8
    result = refine(
        image, brain, brain * 0, lambda corrupted, guide: expected, settings=RefinementSettings(gamma=0.001)
    )
    return find(result, brain)[0]


def test_score_does_not_change_when_the_field_of_view_is_padded():
    plain, padded = run(), run(margin=5)
    assert plain.score > 0
    assert padded.score == pytest.approx(plain.score, rel=1e-6)
    assert padded.flagged_share == pytest.approx(plain.flagged_share)
    assert padded.mean_error == pytest.approx(plain.mean_error, rel=1e-6)
    assert padded.error_p99 == pytest.approx(plain.error_p99, rel=1e-6)


def test_score_is_the_masked_error_per_brain_voxel():
    found = run()
    assert 0 < found.score <= found.mean_error


def test_findings_survive_a_round_trip_through_json():
    found = run()
    again = Findings.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert again.to_json() == found.to_json()
    assert again.outcome is found.outcome
    assert again.estimate.status is found.estimate.status


@pytest.mark.parametrize(("score", "expected"), [(0.5, 0.0), (1.0, 12.5), (2.5, 50.0), (9.0, 100.0)])
def test_percentile_counts_lower_scores_and_half_the_ties(score, expected):
    assert percentile_among(score, [1.0, 2.0, 3.0, 4.0]) == expected


def test_percentile_is_absent_without_calibration():
    assert percentile_among(1.0, []) is None


def test_a_quantile_score_is_the_error_that_a_share_of_the_brain_exceeds():
    image = torch.zeros((1, 1, 10, 10, 10))
    image.view(-1)[:30] = torch.arange(1.0, 31.0)
    brain = torch.ones_like(image)
    result = refine(
        image, brain, brain * 0, lambda corrupted, guide: image * 0, settings=RefinementSettings(threshold_floor=1e6)
    )
    found = find(result, brain, score_quantile=0.99)[0]
    assert not result.mask.any()
    assert found.score == 20.0**2
    assert find(result, brain)[0].score == 0


def test_a_region_is_kept_whole_if_enough_of_it_exceeds_the_peak_threshold_and_dropped_if_not():
    mask = torch.zeros((1, 1, 20, 20, 20), dtype=torch.bool)
    mask[..., 2:8, 2:8, 2:8] = True
    mask[..., 12:18, 12:18, 12:18] = True
    anomaly_map = mask * 2.0
    anomaly_map[..., 2:4, 2:8, 2:8] = 5.0
    kept = remove_weak_components(mask, anomaly_map, peak_threshold=4.0, min_volume_ml=0.5, spacing_mm=(2, 2, 2))
    assert int(kept.sum()) == 6**3
    assert kept[..., 7, 7, 7].all()
    too_small = remove_weak_components(mask, anomaly_map, peak_threshold=4.0, min_volume_ml=0.6, spacing_mm=(2, 2, 2))
    assert not too_small.any()


@pytest.mark.parametrize(("peak", "volume_ml"), [(None, 8**3 * 0.008), (3.0, 8**3 * 0.008), (5.0, 0.0)])
def test_the_inferer_outlines_at_the_threshold_what_reaches_the_peak(peak, volume_ml):
    image = torch.zeros((1, 1, 24, 24, 24))
    image[..., 8:16, 8:16, 8:16] = 1.5
    image[..., 10:14, 10:14, 10:14] = 2.0
    settings = RefinementSettings(threshold_floor=2.0, threshold_ceiling=2.0, peak_threshold=peak)
    inferer = IterMaskInferer(settings, min_volume_ml=0.5)
    found = inferer(image, lambda pair: pair[:, :1] * 0, torch.ones_like(image))
    assert float(found["mask"].sum()) * 0.008 == pytest.approx(volume_ml)


def test_small_components_go_and_large_ones_stay():
    mask = torch.zeros((1, 1, 20, 20, 20), dtype=torch.bool)
    mask[..., 2:8, 2:8, 2:8] = True
    mask[..., 15, 15, 15] = True
    cleaned = remove_small_components(mask, min_volume_ml=0.1, spacing_mm=(2, 2, 2))
    assert int(cleaned.sum()) == 216
    assert torch.equal(remove_small_components(mask, min_volume_ml=0.0, spacing_mm=(2, 2, 2)), mask)


def test_a_component_of_exactly_the_smallest_volume_stays():
    mask = torch.zeros((1, 1, 8, 8, 8), dtype=torch.bool)
    mask[..., 1:6, 2, 2] = True
    assert int(remove_small_components(mask, min_volume_ml=0.04, spacing_mm=(2, 2, 2)).sum()) == 5
    assert not remove_small_components(mask, min_volume_ml=0.048, spacing_mm=(2, 2, 2)).any()
