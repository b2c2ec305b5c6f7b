"""Other scanners, heads and brain masks: strength 0 is the identity, and a seed gives the same voxels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from itermask3d.simulation.acquisition import Acquisition, AcquisitionRanges, acquire, draw_acquisition
from itermask3d.simulation.deformation import Deformation, DeformationRanges, displacement_mm, draw_deformation
from itermask3d.simulation.mask_change import MaskChange, MaskRanges, change_mask, draw_mask_change

SHAPE = (40, 48, 40)


@pytest.fixture(scope="module")
def brain() -> torch.Tensor:
    axes = torch.meshgrid(*(torch.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij")
    return sum(axis.square() for axis in axes) < 1


@pytest.fixture(scope="module")
def image(brain: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    detail = torch.randn(SHAPE, generator=generator)
    ramp = torch.linspace(-1.5, 1.5, SHAPE[0]).view(-1, 1, 1)
    return (ramp + 0.3 * detail).expand(SHAPE).contiguous() * brain


EFFECTS = {
    "log_gamma": 0.3,
    "curve": 0.5,
    "drift": 0.2,
    "bias": 0.2,
    "blur_mm": 2.0,
    "thickness_mm": 6.0,
    "sharpening": 1.0,
    "ringing": 0.4,
    "noise": 0.3,
    "denoising": 1.0,
}


def roughness(values: torch.Tensor) -> float:
    return float(values.diff(dim=1).std())


def test_an_acquisition_of_strength_0_is_the_identity(image: torch.Tensor, brain: torch.Tensor) -> None:
    assert torch.equal(acquire(image, brain, Acquisition(seed=5, axis=2), spacing_mm=2.0), image)


@pytest.mark.parametrize("effect", EFFECTS)
def test_every_effect_changes_the_brain_only_and_repeats(effect: str, image: torch.Tensor, brain: torch.Tensor) -> None:
    acquisition = Acquisition(seed=5, **{effect: EFFECTS[effect]})
    before = image.clone()
    state = torch.random.get_rng_state()
    once = acquire(image, brain, acquisition, spacing_mm=2.0)
    assert torch.equal(once, acquire(image, brain, acquisition, spacing_mm=2.0))
    assert torch.equal(image, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (once - image)[brain].abs().max() > 0.05
    assert not once[~brain].any()
    assert torch.isfinite(once).all()


@pytest.mark.parametrize("effect", ["blur_mm", "denoising"])
def test_smoothing_makes_a_scan_smoother(effect: str, image: torch.Tensor, brain: torch.Tensor) -> None:
    smooth = acquire(image, brain, Acquisition(**{effect: EFFECTS[effect]}), spacing_mm=2.0)
    assert roughness(smooth) < roughness(image)


@pytest.mark.parametrize("effect", ["sharpening", "noise"])
def test_sharpening_and_noise_make_it_rougher(effect: str, image: torch.Tensor, brain: torch.Tensor) -> None:
    rough = acquire(image, brain, Acquisition(seed=1, **{effect: EFFECTS[effect]}), spacing_mm=2.0)
    assert roughness(rough) > roughness(image)


def test_noise_has_the_strength_that_was_asked_for(brain: torch.Tensor) -> None:
    noisy = acquire(torch.zeros(SHAPE), brain, Acquisition(noise=0.2, seed=4), spacing_mm=2.0)
    assert float(noisy[brain].std()) == pytest.approx(0.2, rel=0.35)


def test_a_contrast_curve_keeps_the_order_of_intensities(brain: torch.Tensor) -> None:
    ramp = torch.linspace(-3, 3, SHAPE[0]).view(-1, 1, 1).expand(SHAPE) * brain
    curved = acquire(ramp, brain, Acquisition(log_gamma=0.4, curve=0.6, seed=2), spacing_mm=2.0)
    middle = curved[:, SHAPE[1] // 2, SHAPE[2] // 2][brain[:, SHAPE[1] // 2, SHAPE[2] // 2]]
    assert (middle.diff() > 0).all()


def test_thick_slices_blur_along_their_axis_alone(brain: torch.Tensor) -> None:
    stripes = torch.zeros(SHAPE)
    stripes[::2] = 1.0
    along = acquire(stripes * brain, brain, Acquisition(thickness_mm=6.0, axis=0), spacing_mm=2.0)
    across = acquire(stripes * brain, brain, Acquisition(thickness_mm=6.0, axis=1), spacing_mm=2.0)
    inside = (slice(10, 30), slice(18, 30), slice(15, 25))
    assert along[inside].std() < 0.2
    assert across[inside].std() == pytest.approx(float(stripes[inside].std()), rel=0.05)


@pytest.mark.parametrize(
    ("draw", "ranges", "nothing"),
    [
        (draw_acquisition, AcquisitionRanges(), Acquisition()),
        (draw_deformation, DeformationRanges(), Deformation()),
        (draw_mask_change, MaskRanges(), MaskChange()),
    ],
    ids=["acquisition", "deformation", "mask"],
)
def test_draws_follow_their_seed_and_probability(draw, ranges, nothing) -> None:  # type: ignore[no-untyped-def]
    def drawn(ranges, seed):  # type: ignore[no-untyped-def]
        return [draw(ranges, rng) for rng in [np.random.RandomState(seed)] for _ in range(40)]

    assert drawn(ranges, 7) == drawn(ranges, 7) != drawn(ranges, 8)
    assert all(one == nothing for one in drawn(replace(ranges, probability=0.0), 7))
    assert not any(one == nothing for one in drawn(replace(ranges, probability=1.0), 7))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: AcquisitionRanges(probability=1.5), "probability = 1.5"),
        (lambda: AcquisitionRanges(blur_mm=(2.0, 1.0)), r"blur_mm = \(2.0, 1.0\)"),
        (lambda: AcquisitionRanges(bias=(-0.1, 0.2)), r"bias = \(-0.1, 0.2\)"),
        (lambda: AcquisitionRanges(ringing=(0.0, 1.0)), "shares below 1"),
        (lambda: AcquisitionRanges(noise=(0.0, 1.0)), "must be positive"),
        (lambda: DeformationRanges(amplitude_mm=(-1.0, 1.0)), "amplitude_mm"),
        (lambda: MaskRanges(cut_mm=(3.0, 2.0)), "cut_mm"),
    ],
)
def test_wrong_ranges_are_refused_by_name(make, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=sentence):
        make()


def test_no_deformation_moves_nothing(brain: torch.Tensor) -> None:
    assert not displacement_mm(brain, Deformation(), spacing_mm=2.0).any()


def test_a_deformation_has_the_amplitude_that_was_asked_for(brain: torch.Tensor) -> None:
    moved = displacement_mm(brain, Deformation(amplitude_mm=2.5, seed=3), spacing_mm=2.0)
    assert float(moved.square().mean().sqrt()) == pytest.approx(2.5, rel=1e-4)


def test_widening_takes_tissue_from_nearer_to_the_ventricles(brain: torch.Tensor) -> None:
    moved = displacement_mm(brain, Deformation(widening_mm=4.0), spacing_mm=2.0)
    voxels = brain.nonzero().float()
    middle = (voxels.amin(0) + voxels.amax(0)) / 2
    above = (int(middle[0]) + 6, int(middle[1]), int(middle[2]) + 8)
    assert moved[2][above] < -1.0  # content comes from below, which is nearer to the middle of the ventricle


def test_no_change_of_the_mask_is_the_identity(image: torch.Tensor, brain: torch.Tensor) -> None:
    same, mask = change_mask(image, brain, MaskChange(seed=9, rim=-2.0), spacing_mm=2.0)
    assert torch.equal(same, image)
    assert torch.equal(mask, brain)


@pytest.mark.parametrize(("margin_mm", "grows"), [(4.0, True), (-4.0, False)])
def test_a_margin_widens_or_tightens_the_mask(
    margin_mm: float, grows: bool, image: torch.Tensor, brain: torch.Tensor
) -> None:
    changed, mask = change_mask(image, brain, MaskChange(margin_mm=margin_mm, rim=-3.0), spacing_mm=2.0)
    assert torch.equal(mask & brain, brain if grows else mask)
    assert (int(mask.sum()) > int(brain.sum())) == grows
    assert torch.equal(changed[brain], image[brain])
    if grows:
        assert float(changed[mask & ~brain].mean()) == pytest.approx(-3.0, abs=0.1)


def test_a_cut_takes_the_end_of_an_axis_off(image: torch.Tensor, brain: torch.Tensor) -> None:
    _, mask = change_mask(image, brain, MaskChange(cut_mm=8.0, axis=2, upper_end=True), spacing_mm=2.0)
    lost = (brain & ~mask).any(dim=0).any(dim=0).nonzero().flatten()
    assert len(lost) == 4
    assert int(lost[-1]) == int(brain.any(dim=0).any(dim=0).nonzero().max())


def test_a_mask_of_which_too_little_would_be_left_stays(image: torch.Tensor, brain: torch.Tensor) -> None:
    _, mask = change_mask(image, brain, MaskChange(margin_mm=-9.0), spacing_mm=2.0)
    assert torch.equal(mask, brain)
