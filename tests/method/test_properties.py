"""What holds for every input: quantiles, thresholds and masks, on inputs that Hypothesis makes up."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from itermask3d.method.detection import percentile_among, remove_small_components
from itermask3d.method.error import brain_quantile
from itermask3d.method.masking import FieldMask, MaskMixture, corrupt
from itermask3d.method.settings import RefinementSettings
from itermask3d.method.threshold import ThresholdStatus, estimate_threshold

SHAPE = (4, 5, 6)
VALUES = st.floats(0, 1e3, width=32)
VOLUMES = arrays.arrays(np.float32, SHAPE, elements=VALUES)
MASKS = arrays.arrays(np.bool_, SHAPE)
CURVES = arrays.arrays(np.float64, 100, elements=st.floats(0, 1e4))
FEW = settings(max_examples=50, deadline=None, derandomize=True)


def batch(volume: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(volume)[None, None]


@FEW
@given(VOLUMES, MASKS, st.floats(0.01, 1))
def test_a_quantile_is_a_value_of_the_brain_that_the_share_does_not_exceed(error, brain, share):
    brain[0, 0, 0] = True
    quantile = float(brain_quantile(batch(error), batch(brain), share=share)[0])
    inside = error[brain]
    assert quantile in inside
    assert (inside <= quantile).sum() >= math.floor(share * inside.size)
    assert (inside > quantile).sum() <= math.ceil((1 - share) * inside.size)


@FEW
@given(VOLUMES, MASKS, st.floats(0.01, 1), st.floats(0.01, 1))
def test_quantiles_rise_with_the_share_and_know_nothing_outside_the_brain(error, brain, first, second):
    brain[0, 0, 0] = True
    low, high = (
        brain_quantile(batch(error), batch(brain), share=share) for share in (min(first, second), max(first, second))
    )
    assert low <= high
    changed = np.where(brain, error, error + 1)
    assert brain_quantile(batch(changed), batch(brain), share=first) == brain_quantile(
        batch(error), batch(brain), share=first
    )


@FEW
@given(CURVES, st.floats(1e-3, 1.0), st.booleans())
def test_any_curve_gives_a_threshold_of_its_own_range_or_says_that_there_is_none(curve, gamma, interpolate):
    found = estimate_threshold(curve, gamma=gamma, interpolate=interpolate)
    if found.status is ThresholdStatus.FOUND:
        assert curve.min() <= found.threshold <= curve.max() + 1e-9
    else:
        assert found.threshold == math.inf


@FEW
@given(CURVES, st.sampled_from([0.25, 0.5, 2.0, 4.0]))
def test_a_threshold_has_the_unit_of_the_curve(curve, unit):
    rule = {"min_r_squared": 2.0}  # the smoothed difference, which has no limit of its own in that unit
    found, scaled = (estimate_threshold(c, gamma=g, **rule) for c, g in ((curve, 0.1), (curve * unit, 0.1 * unit)))
    assert found.step == scaled.step
    np.testing.assert_allclose(scaled.threshold, found.threshold * unit, rtol=1e-9)


@FEW
@given(CURVES, st.floats(0, 10), st.floats(0, 10))
def test_a_usable_threshold_is_clamped_between_floor_and_ceiling(curve, floor, above):
    ceiling = floor + above + 1e-6
    chosen = RefinementSettings(threshold_floor=floor, threshold_ceiling=ceiling)
    estimate = estimate_threshold(curve, gamma=0.1)
    assert floor <= chosen.clamp(estimate) <= ceiling
    assert chosen.clamp(estimate_threshold([float("nan")], gamma=0.1)) == math.inf


@FEW
@given(MASKS, st.floats(0, 0.05))
def test_dropping_small_components_takes_away_and_is_done_once(mask, min_volume_ml):
    kept = remove_small_components(batch(mask), min_volume_ml=min_volume_ml, spacing_mm=(1, 1, 1))
    assert not (kept & ~batch(mask)).any()
    again = remove_small_components(kept, min_volume_ml=min_volume_ml, spacing_mm=(1, 1, 1))
    assert torch.equal(again, kept)
    stricter = remove_small_components(batch(mask), min_volume_ml=min_volume_ml + 0.01, spacing_mm=(1, 1, 1))
    assert not (stricter & ~kept).any()


@FEW
@given(MASKS, st.integers(0, 2**31), st.floats(0.005, 1.0))
def test_training_masks_lie_in_the_brain_and_cover_what_was_drawn(brain, seed, share):
    brain[0, 0, 0] = True
    inside = torch.from_numpy(brain)
    drawn = MaskMixture().sample(inside, spacing_mm=(1, 1, 1), rng=np.random.default_rng(seed))
    assert not (drawn & ~inside).any()
    exact = FieldMask(coverage=(share, share)).sample(inside, spacing_mm=(1, 1, 1), rng=np.random.default_rng(seed))
    assert int(exact.sum()) == round(share * int(inside.sum()))


@FEW
@given(VOLUMES, MASKS)
def test_corruption_changes_the_masked_voxels_and_no_other(image, mask):
    noise = -1 - torch.from_numpy(image)
    corrupted = corrupt(torch.from_numpy(image), torch.from_numpy(mask), noise)
    assert torch.equal(corrupted[torch.from_numpy(mask)], noise[torch.from_numpy(mask)])
    assert torch.equal(corrupted[torch.from_numpy(~mask)], torch.from_numpy(image[~mask]))


@FEW
@given(st.floats(-10, 10), st.lists(st.floats(-10, 10), min_size=1, max_size=20))
def test_a_percentile_and_that_of_the_mirrored_scores_make_a_hundred(score, normal):
    below, above = percentile_among(score, normal), percentile_among(-score, [-value for value in normal])
    assert below is not None
    assert above is not None
    assert abs(below + above - 100) < 1e-9
