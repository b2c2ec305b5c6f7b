"""The loop: the reference's own figures, and reconstructors whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from itermask3d.method.detection import Outcome, find
from itermask3d.method.error import RefinementTask, brain_quantile
from itermask3d.method.refinement import Thresholding, find_thresholds, refine
from itermask3d.method.settings import RefinementSettings
from itermask3d.method.shrink import Constraints, Shrink
from itermask3d.method.sweep import Sweep, sweep_steps
from itermask3d.method.threshold import ThresholdStatus, estimate_threshold
from torch.nn.functional import conv3d

SHAPE = (1, 1, 16, 20, 18)


def blur(sigma: float = 2.0):
    """The fixed network of the golden files: G(image) + guide / 2."""
    taps = np.exp(-(np.arange(-4, 5) ** 2) / (2 * sigma**2))
    kernel = torch.tensor(taps / taps.sum(), dtype=torch.float32)

    def reconstruct(image: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
        for axis in range(3):
            view, padding = [1] * 5, [0] * 3
            view[axis + 2], padding[axis] = 9, 4
            image = conv3d(image, kernel.view(view), padding=padding)
        return image + 0.5 * guide

    return reconstruct


def scan(seed: int, batch: int = 1):
    generator = torch.Generator().manual_seed(seed)
    brain = torch.zeros(batch, *SHAPE[1:])
    brain[..., 2:-2, 3:-3, 2:-4] = 1
    return torch.randn(brain.shape, generator=generator) * brain, brain, torch.zeros_like(brain)


@pytest.mark.parametrize("name", ["clean", "bright_large"])
def test_golden_run_is_reproduced(shared_dir, name):
    golden = np.load(shared_dir / "golden" / f"refinement_{name}.npz")
    image, brain, guide = (
        torch.from_numpy(golden[key])[None, None].float() for key in ("image", "brain_mask", "high_frequency")
    )
    counts, masks = [], []

    class Watched(RefinementTask):
        def reconstruct(self, mask):
            counts.append(int(mask.sum()))
            return super().reconstruct(mask)

    task = Watched(image, brain, guide, blur(), seed=7)
    sweep = Sweep(task)
    while not sweep.done():
        sweep.update()
    np.testing.assert_allclose(sweep.curves()[0].numpy(), golden["curve"], rtol=1e-5)
    np.testing.assert_array_equal(counts, golden["sweep_counts"])

    estimate = estimate_threshold(sweep.curves()[0].numpy(), gamma=0.01)
    assert estimate.step == int(golden["stop"][0]) + 1
    assert estimate.threshold == pytest.approx(float(golden["tau"][0]), rel=1e-5)
    shrink = Shrink(task, [estimate.threshold])
    while not shrink.done():
        masks.append(shrink.mask[0, 0].numpy())
        shrink.update()
    n_shrink = int(golden["n_shrink"])
    expected = np.unpackbits(golden["shrink_masks"])[: n_shrink * brain.numel()].reshape(n_shrink, *brain.shape[2:])
    assert len(masks) == n_shrink
    assert sum(int((mask != truth).sum()) for mask, truth in zip(masks, expected > 0, strict=True)) <= 5
    assert int(shrink.mask.sum()) == pytest.approx(int(golden["final_mask_voxels"]), abs=5)


def test_perfect_reconstructor_finds_no_anomaly():
    image, brain, guide = scan(0)
    result = refine(image, brain, guide, lambda corrupted, guide: image)
    assert not result.mask.any()
    assert result.estimates[0].status is ThresholdStatus.NO_CROSSING
    assert find(result, brain)[0].outcome is Outcome.NO_ANOMALY


@pytest.mark.parametrize("size", [2, 5, 9])
@pytest.mark.parametrize("nested", [False, True])
def test_oracle_that_fails_only_in_the_lesion_gives_exactly_the_lesion(size, nested):
    image, brain, guide = scan(1)
    lesion = torch.zeros_like(brain, dtype=torch.bool)
    lesion[..., 4 : 4 + size, 5 : 5 + size, 3 : 3 + size] = True

    def oracle(corrupted, guide):
        return torch.where(lesion, image + 2.0, image)

    result = refine(image, brain, guide, oracle, settings=RefinementSettings(nested=nested))
    torch.testing.assert_close(result.mask, lesion)
    assert result.converged == (True,)
    assert find(result, brain)[0].outcome is Outcome.ANOMALY


def test_nan_from_the_network_is_an_outcome_not_a_crash():
    image, brain, guide = scan(2)
    result = refine(image, brain, guide, lambda corrupted, guide: torch.full_like(image, float("nan")))
    assert result.estimates[0].status is ThresholdStatus.UNUSABLE_CURVE
    assert not result.mask.any()
    assert find(result, brain)[0].outcome is Outcome.FIT_FAILED


def test_batch_of_three_equals_three_batches_of_one():
    parts = [scan(seed) for seed in (3, 4, 5)]
    parts[1][0][..., 5:9, 5:9, 5:9] += 4
    parts[2] = (parts[2][0] * 3, *parts[2][1:])
    settings = RefinementSettings(n_steps=20, gamma=0.05)
    together = refine(*(torch.cat(group) for group in zip(*parts, strict=True)), blur(1.0), settings=settings)
    for index, part in enumerate(parts):
        alone = refine(*part, blur(1.0), settings=settings)
        torch.testing.assert_close(together.curves[index], alone.curves[0], rtol=1e-5, atol=1e-7)
        assert together.iterations[index] == alone.iterations[0]
        assert together.estimates[index].step == alone.estimates[0].step
        assert int((together.mask[index] != alone.mask[0]).sum()) <= 2
        torch.testing.assert_close(together.anomaly_map[index], alone.anomaly_map[0], rtol=1e-4, atol=1e-5)


def test_two_runs_are_identical_and_the_global_random_state_is_untouched():
    image, brain, guide = scan(6)
    state = torch.get_rng_state()
    first = refine(image, brain, guide, blur(), settings=RefinementSettings(n_steps=10))
    second = refine(image, brain, guide, blur(), settings=RefinementSettings(n_steps=10))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.mask, second.mask)
    assert torch.equal(first.anomaly_map, second.anomaly_map)
    other = refine(image, brain, guide, blur(), settings=RefinementSettings(n_steps=10, seed=1))
    assert not torch.equal(other.curves, first.curves)


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_masked_voxels_are_shown_as_noise_of_the_set_strength(noise):
    image, brain, guide = scan(6)
    shown: list[torch.Tensor] = []

    def reconstruct(corrupted, guide):
        shown.append(corrupted)
        return torch.zeros_like(corrupted)

    refine(image, brain, guide, reconstruct, settings=RefinementSettings(n_steps=5, max_iterations=2, noise=noise))
    masked, inside = shown[0], brain > 0.5
    assert masked[inside].std().item() == pytest.approx(noise, rel=0.1)
    assert torch.equal(masked[~inside], image[~inside])
    drawn = RefinementTask(image, brain, guide, reconstruct).noise
    assert torch.equal(masked[inside], noise * drawn[inside])


@pytest.mark.parametrize("nested", [{}, {"nested": True, "error_window": 3}])
def test_nothing_outside_the_brain_is_ever_masked_or_mapped(nested):
    image, brain, guide = scan(7)
    result = refine(image, brain, guide, blur(), settings=RefinementSettings(n_steps=10, gamma=1e-6, **nested))
    assert not (result.mask & (brain < 0.5)).any()
    assert not result.anomaly_map[brain < 0.5].any()


def test_nested_masks_never_grow_back():
    image, brain, guide = scan(8)
    task = RefinementTask(image, brain, guide, blur(1.0))
    shrink = Shrink(task, [0.5], nested=True, stop_ratio=1e-6)
    before = shrink.mask
    while not shrink.done():
        shrink.update()
        assert not (shrink.mask & ~before).any()
        before = shrink.mask


def test_threshold_floor_only_raises_the_threshold():
    image, brain, guide = scan(9)
    settings = RefinementSettings(n_steps=20, gamma=0.01)
    free = refine(image, brain, guide, blur(), settings=settings)
    floored = refine(image, brain, guide, blur(), settings=replace(settings, threshold_floor=1e3))
    assert floored.thresholds == (1e3,)
    assert floored.estimates == free.estimates
    assert not floored.mask.any()


def test_iterations_are_bounded_and_the_bound_is_recorded():
    image, brain, guide = scan(10)
    calls = iter(range(10_000))

    def unsettled(corrupted, guide):
        return image + (1.0 + next(calls) % 2) * torch.linspace(0, 1, image.numel()).view_as(image)

    result = refine(image, brain, guide, unsettled, settings=RefinementSettings(n_steps=5, max_iterations=3))
    assert result.iterations[0] <= 3


@pytest.mark.parametrize("gamma", [0.005, 0.02, 1e9])
def test_fast_schedule_costs_every_scan_the_same(gamma):
    phases: list[tuple[str, int, int]] = []
    settings = RefinementSettings(gamma=gamma, schedule="fast", threshold_ceiling=6.0)
    refine(*scan(3), blur(), settings=settings, iter_callback=lambda *call: phases.append(call))
    assert [call for call in phases if call[0] == "sweep"] == [("sweep", n, 18) for n in range(1, 19)]


def half_masked():
    image = torch.zeros(1, 1, 16, 16, 16)
    brain = torch.zeros_like(image)
    brain[..., 4:12, 4:12, 4:12] = 1
    mask = brain > 0.5
    mask[..., :8] = False
    return image, brain, mask


def test_error_window_averages_over_masked_voxels_only():
    image, brain, mask = half_masked()
    task = RefinementTask(image, brain, image, lambda corrupted, guide: corrupted, error_window=3)
    torch.testing.assert_close(task.error(torch.full_like(image, 2.0), mask), 4.0 * mask)
    spot = torch.zeros_like(image)
    spot[..., 6, 6, 8] = 3.0  # in the first masked plane: its window holds 2 x 3 x 3 masked voxels
    error = task.error(spot, mask)
    assert error[..., 6, 6, 8].item() == pytest.approx(9 / 18)
    assert error[..., 6, 6, 9].item() == pytest.approx(9 / 27)
    assert not error[~mask].any()


def predicting(log_error: float):
    """A reconstructor that is wrong by 2 everywhere and expects ``log_error`` where it sees nothing, else 9."""

    def reconstruct(corrupted, guide):
        expected = torch.full_like(corrupted, 9.0 if reconstruct.calls else log_error)
        reconstruct.calls += 1
        return torch.cat((corrupted * 0 + 2.0, expected), dim=1)

    reconstruct.calls = 0
    return reconstruct


def test_relative_error_is_measured_against_what_the_first_reconstruction_expected():
    image, brain, mask = half_masked()
    task = RefinementTask(image, brain, image, predicting(np.log(8.0)), relative_error=True)
    for state in (task.brain, mask):
        torch.testing.assert_close(task.error(task.reconstruct(state), state), 0.5 * brain)


def test_the_floor_is_added_to_the_predicted_variance():
    image, brain, _ = half_masked()
    task = RefinementTask(
        image, brain, image, predicting(np.log(8.0)), relative_error=True, predicted_variance_floor=2.0
    )
    torch.testing.assert_close(task.error(task.reconstruct(task.brain), task.brain), 0.4 * brain)


@pytest.mark.parametrize("saturation", [0.5, 4.0, 1e6])
def test_an_even_error_keeps_its_size_however_it_saturates(saturation):
    image, brain, mask = half_masked()
    task = RefinementTask(image, brain, image, blur(), error_window=3, error_saturation=saturation)
    torch.testing.assert_close(task.error(torch.full_like(image, 2.0), mask), 4.0 * mask, rtol=1e-3, atol=0)


def test_a_strong_error_marks_less_of_its_surroundings_where_it_saturates():
    image, brain, _ = half_masked()
    spot = torch.zeros_like(image)
    spot[..., 6, 6, 8] = 10.0
    errors = {
        saturation: RefinementTask(image, brain, image, blur(), error_window=3, error_saturation=saturation)
        for saturation in (None, 1e6, 4.0)
    }
    beside = {name: task.error(spot, task.brain)[..., 6, 6, 9].item() for name, task in errors.items()}
    assert beside[None] == pytest.approx(100 / 27)
    assert beside[1e6] == pytest.approx(beside[None], rel=1e-3)
    share = (100 / (1 + 100 / 4)) / 27
    assert beside[4.0] == pytest.approx(share / (1 - share / 4), rel=1e-4)


def test_relative_error_needs_a_network_that_predicts_its_variance():
    image, brain, guide = scan(1)
    with pytest.raises(ValueError, match="relative_error needs a network that predicts its variance"):
        refine(image, brain, guide, blur(), settings=RefinementSettings(relative_error=True))


def test_a_second_output_channel_alone_changes_nothing():
    image, brain, guide = scan(2)
    plain = blur()
    both = lambda *inputs: torch.cat((plain(*inputs), torch.ones_like(inputs[0])), dim=1)  # noqa: E731
    settings = RefinementSettings(n_steps=10, gamma=0.02)
    one, two = (refine(image, brain, guide, network, settings=settings) for network in (plain, both))
    assert torch.equal(one.mask, two.mask)
    assert torch.equal(one.anomaly_map, two.anomaly_map)


@pytest.mark.parametrize("window", [1, 3])
def test_nested_mask_is_what_exceeds_the_threshold_in_the_map(window):
    image, brain, guide = scan(8)
    settings = RefinementSettings(n_steps=10, gamma=0.02, nested=True, error_window=window, interpolate=True)
    result = refine(image, brain, guide, blur(1.0), settings=settings)
    assert result.mask.any()
    assert torch.equal(result.mask, result.anomaly_map > result.thresholds[0])


def test_averaged_passes_give_each_voxel_the_mean_of_its_errors_while_masked():
    image, brain, guide = scan(8)
    task = RefinementTask(image, brain, guide, blur(1.0))
    shrink = Shrink(task, [0.5], nested=True, average_passes=True, stop_ratio=1e-6)
    inside = brain > 0.5
    errors, masked, expected = [], [], torch.zeros_like(image)
    while not shrink.done():
        masked.append(shrink.mask)
        errors.append(task.error(task.reconstruct(shrink.mask), shrink.mask))
        expected = torch.where(shrink.mask, torch.stack(errors).mean(0), expected)
        shrink.update()
    assert len(errors) > 2
    torch.testing.assert_close(shrink.anomaly_map[inside], expected[inside])
    assert torch.equal(shrink.mask, (expected > 0.5) & masked[-1])


def test_ceiling_gives_a_scan_without_a_crossing_a_threshold():
    image, brain, guide = scan(9)
    settings = RefinementSettings(n_steps=10, gamma=1e9, threshold_ceiling=0.3)
    result = refine(image, brain, guide, blur(), settings=settings)
    assert result.estimates[0].status is ThresholdStatus.NO_CROSSING
    assert result.thresholds == (0.3,)
    assert result.mask.any()


def test_an_unusable_curve_marks_nothing_whatever_the_ceiling():
    settings = RefinementSettings(threshold_floor=0.1, threshold_ceiling=0.3)
    assert settings.clamp(estimate_threshold([float("nan")] * 5, gamma=0.01)) == float("inf")


@pytest.mark.parametrize(
    "settings",
    [
        {"error_window": 3},
        {"average_passes": True},
        {"threshold_floor": 2.0, "threshold_ceiling": 1.0},
        {"threshold_ceiling": 0.0},
        {"noise": -1.0},
        {"predicted_variance_floor": -0.1},
        {"error_saturation": 0.0},
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings):
    with pytest.raises(ValueError, match="is outside its range, see RefinementSettings"):
        RefinementSettings(**settings)


def test_callback_sees_every_step():
    image, brain, guide = scan(11)
    seen = []
    refine(
        image,
        brain,
        guide,
        blur(),
        settings=RefinementSettings(n_steps=4),
        iter_callback=lambda *call: seen.append(call),
    )
    assert [call for call in seen if call[0] == "sweep"] == [("sweep", step, 4) for step in (1, 2, 3, 4)]
    assert any(call[0] == "shrink" for call in seen)


def test_inputs_are_not_mutated():
    image, brain, guide = scan(12)
    copies = [tensor.clone() for tensor in (image, brain, guide)]
    refine(image, brain, guide, blur(), settings=RefinementSettings(n_steps=3))
    assert all(torch.equal(a, b) for a, b in zip((image, brain, guide), copies, strict=True))


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.99, 1.0])
def test_quantile_leaves_the_stated_share_above(share):
    generator = torch.Generator().manual_seed(0)
    error = torch.rand((2, 1, 10, 10, 10), generator=generator)
    brain = torch.rand((2, 1, 10, 10, 10), generator=generator) > 0.3
    quantile = brain_quantile(error, brain, share=share)
    for index in range(2):
        voxels = error[index][brain[index]]
        assert int((voxels > quantile[index]).sum()) == voxels.numel() - int(share * voxels.numel() + 1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": 0},
        {"n_steps": 0},
        {"stop_ratio": 1.0},
        {"error_window": 2},
        {"threshold_floor": -1.0},
        {"schedule": "quick"},
    ],
    ids=str,
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RefinementSettings(**wrong)


@pytest.mark.parametrize("lesion", [0.0, 3.0])
@pytest.mark.parametrize("rule", [{}, {"interpolate": True, "nested": True, "min_r_squared": 0.0}])
def test_fast_schedule_gives_the_exact_answer_where_the_reconstruction_is_known(lesion, rule):
    image, brain, guide = scan(14)
    off = torch.zeros_like(image)
    off[..., 4:9, 5:10, 3:8] = lesion
    fine = 0.3 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))

    def oracle(corrupted, guide):
        return image + off + fine

    settings = RefinementSettings(gamma=0.02, **rule)
    exact = refine(image, brain, guide, oracle, settings=settings)
    fast = refine(image, brain, guide, oracle, settings=replace(settings, schedule="fast"))
    both = 2 * int((fast.mask & exact.mask).sum()) / max(1, int(fast.mask.sum() + exact.mask.sum()))
    assert both >= 0.98 or not (fast.mask | exact.mask).any()
    assert fast.estimates[0].status is exact.estimates[0].status
    assert fast.curves.shape == exact.curves.shape
    measured = list(sweep_steps(100, "fast"))
    torch.testing.assert_close(fast.curves[:, measured], exact.curves[:, measured])


class Sure:
    """Reconstructs the scan but for a constant error, and expects a fixed one."""

    def __init__(self, image, error, expected):
        self.answer = torch.cat((image + error, torch.full_like(image, expected).log()), dim=1)

    def __call__(self, corrupted, guide):
        return self.answer


@pytest.mark.parametrize(("error", "level"), [(0.5, 1.0), (1.0, 1.0), (2.0, 4.0), (3.0, 9.0)])
def test_a_scan_that_is_reconstructed_worse_than_usual_sets_its_own_measure(error, level):
    image, brain, guide = scan(17)
    task = RefinementTask(image, brain, guide, Sure(image, error, 1.0), relative_error=True, error_level=1.0)
    assert float(task.levels) == pytest.approx(level, rel=1e-5)
    inside = task.error(task.reconstruct(task.brain), task.brain)[brain > 0.5]
    torch.testing.assert_close(inside, torch.full_like(inside, error**2 / level))


def test_a_lesion_does_not_set_the_measure():
    image, brain, guide = scan(18)
    off = torch.full_like(image, 0.5)
    off[..., 4:9, 5:10, 3:8] = 5.0
    task = RefinementTask(image, brain, guide, Sure(image, off, 1.0), relative_error=True, error_level=0.25)
    assert float(task.levels) == pytest.approx(1.0, rel=1e-5)


def test_the_whole_brain_masked_is_reconstructed_once():
    image, brain, guide = scan(16)
    masked = []

    def watched(corrupted, guide):
        masked.append(bool((corrupted != image)[brain > 0.5].all()))
        return blur(1.0)(corrupted, guide)

    refine(image, brain, guide, watched, settings=RefinementSettings(n_steps=10))
    assert sum(masked) == 1


def test_wrong_shapes_and_empty_brains_are_refused():
    image, brain, guide = scan(13)
    with pytest.raises(ValueError, match="must all be"):
        refine(image[0], brain, guide, blur())
    with pytest.raises(ValueError, match="at least one voxel"):
        refine(image, torch.zeros_like(brain), guide, blur())


def box(low: int, high: int) -> torch.Tensor:
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[..., low:high, low:high, low:high] = True
    return mask


def oracle(image: torch.Tensor, lesion: torch.Tensor):
    """Reproduces everything but the lesion."""
    return lambda corrupted, guide: torch.where(lesion, image + 2, image)


def test_result_stays_inside_the_start_and_outside_never():
    image, brain, guide = scan(0)
    lesion = box(5, 9) | box(10, 13)
    found = refine(
        image,
        brain,
        guide,
        oracle(image, lesion),
        settings=RefinementSettings(gamma=0.02),
        constraints=Constraints(start=box(4, 10), never=box(7, 9)),
    )
    assert torch.equal(found.mask, box(5, 9) & ~box(7, 9))


def test_always_stays_masked_in_the_brain_even_without_a_threshold():
    image, brain, guide = scan(0)
    found = refine(image, brain, guide, lambda x, _: image, constraints=Constraints(always=box(0, 5)))
    assert found.estimates[0].status is ThresholdStatus.NO_CROSSING
    assert torch.equal(found.mask, box(0, 5) & (brain > 0.5))


def test_never_wins_over_always():
    image, brain, guide = scan(0)
    constraints = Constraints(always=box(6, 10), never=box(8, 10))
    found = refine(image, brain, guide, lambda x, _: image, constraints=constraints)
    assert torch.equal(found.mask, box(6, 10) & ~box(8, 10))


@pytest.mark.parametrize("nested", [False, True])
def test_empty_start_gives_an_empty_mask(nested):
    image, brain, guide = scan(0)
    constraints = Constraints(start=torch.zeros(SHAPE, dtype=torch.bool))
    settings = RefinementSettings(nested=nested)
    found = refine(image, brain, guide, oracle(image, box(5, 9)), settings=settings, constraints=constraints)
    assert not found.mask.any()
    assert found.converged == (True,)


def test_thresholding_of_an_earlier_run_saves_the_sweep_and_changes_nothing():
    image, brain, guide = scan(0)
    settings = RefinementSettings(gamma=0.02)
    whole = refine(image, brain, guide, oracle(image, box(5, 9)), settings=settings)
    phases = []
    again = refine(
        image,
        brain,
        guide,
        oracle(image, box(5, 9)),
        settings=settings,
        thresholding=Thresholding(whole.curves, whole.estimates, whole.thresholds),
        iter_callback=lambda phase, *_: phases.append(phase),
    )
    assert set(phases) == {"shrink"}
    assert torch.equal(again.mask, whole.mask)
    assert again.thresholds == whole.thresholds


def test_unconstrained_shrink_equals_constraints_that_say_nothing():
    image, brain, guide = scan(0)
    task = RefinementTask(image, brain, guide, blur())
    settings = RefinementSettings()
    thresholds = find_thresholds(task, settings).thresholds
    loops = [Shrink.from_settings(task, thresholds, settings, given) for given in (None, Constraints())]
    for loop in loops:
        while not loop.done():
            loop.update()
    assert torch.equal(loops[0].mask, loops[1].mask)


@pytest.mark.parametrize("window", [-1, 0, 2])
def test_a_window_without_a_centre_is_refused_nested_or_not(window):
    with pytest.raises(ValueError, match=f"error_window = {window} is outside its range"):
        RefinementSettings(error_window=window, nested=True)
