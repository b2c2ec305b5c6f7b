"""The high-frequency guide: closed forms of its spectrum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import volume
from itermask3d.method.frequency import (
    PUBLISHED_RADIUS_CYCLES_PER_MM,
    HighFrequencyd,
    high_frequency,
    low_frequency_region,
)

AXES = (-3, -2, -1)
GRIDS = [((16, 16, 16), (2.0, 2.0, 2.0)), ((15, 20, 12), (1.0, 2.5, 3.0)), ((24, 9, 16), (0.7, 5.0, 0.9))]


def _random_image(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype)


def _spectrum(image: torch.Tensor) -> torch.Tensor:
    return torch.fft.fftn(image.double(), dim=AXES)


@pytest.mark.parametrize(("shape", "spacing_mm"), GRIDS)
def test_amplitude_is_one_inside_and_phase_is_kept(shape, spacing_mm):
    image = _random_image(*shape)
    inside = low_frequency_region(shape, spacing_mm=spacing_mm)
    before = _spectrum(image)[inside]
    after = _spectrum(high_frequency(image, spacing_mm=spacing_mm))[inside]
    torch.testing.assert_close(after, before / before.abs(), atol=2e-4, rtol=0)


@pytest.mark.parametrize(("shape", "spacing_mm"), GRIDS)
def test_spectrum_is_untouched_outside(shape, spacing_mm):
    image = _random_image(*shape)
    outside = ~low_frequency_region(shape, spacing_mm=spacing_mm)
    after = _spectrum(high_frequency(image, spacing_mm=spacing_mm))[outside]
    torch.testing.assert_close(after, _spectrum(image)[outside], atol=2e-4, rtol=0)


@pytest.mark.parametrize(("shape", "spacing_mm"), GRIDS)
def test_energy_is_one_per_bin_inside_and_the_image_s_outside(shape, spacing_mm):
    image = _random_image(*shape)
    inside = low_frequency_region(shape, spacing_mm=spacing_mm)
    guide = high_frequency(image, spacing_mm=spacing_mm).double()
    expected = (inside.sum() + _spectrum(image)[~inside].abs().square().sum()) / image.numel()
    assert guide.square().sum().item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("scale", [0.01, 50.0])
def test_low_frequencies_ignore_the_intensity_scale(scale):
    image = _random_image(16, 16, 16)
    inside = low_frequency_region(image.shape, spacing_mm=(2, 2, 2))
    scaled = _spectrum(high_frequency(image * scale, spacing_mm=(2, 2, 2)))[inside]
    plain = _spectrum(high_frequency(image, spacing_mm=(2, 2, 2)))[inside]
    torch.testing.assert_close(scaled, plain, atol=1e-4 * max(scale, 1), rtol=0)


@pytest.mark.parametrize(("size", "spacing_mm"), [(192, 1.0), (96, 2.0)])
def test_published_radius_is_fifteen_bins_in_192_mm_and_the_fifteenth_is_outside(size, spacing_mm):
    along = low_frequency_region((size, 4, 4), spacing_mm=(spacing_mm, 48.0, 48.0))[:, 0, 0]
    assert along.nonzero().flatten().tolist() == [*range(15), *range(size - 14, size)]


def test_published_radius_marks_the_same_bins_on_both_grids_of_192_mm():
    coarse = low_frequency_region((96,) * 3, spacing_mm=(2,) * 3)
    fine = low_frequency_region((192,) * 3, spacing_mm=(1,) * 3)
    bins = np.indices((29,) * 3) - 14
    ball = (bins**2).sum(axis=0) < 15**2
    assert coarse.sum() == fine.sum() == ball.sum()


def test_bins_at_exactly_the_radius_are_outside_on_the_diagonal_too():
    region = low_frequency_region((192,) * 3, spacing_mm=(1,) * 3)
    on_the_edge = [(9, 12, 0), (0, 9, 12), (10, 10, 5), (2, 5, 14), (2, 10, 11)]
    assert not any(region[edge] for edge in on_the_edge)
    assert all(region[a - 1, b, c] for a, b, c in on_the_edge if a)


def test_anisotropic_grid_has_an_ellipsoid_of_bins():
    region = low_frequency_region((64, 32, 20), spacing_mm=(1.0, 3.0, 4.8), radius_cycles_per_mm=0.1)
    reach = [int(region.any(dim=dims).sum()) for dims in ((1, 2), (0, 2), (0, 1))]
    assert reach == [2 * 6 + 1, 2 * 9 + 1, 2 * 9 + 1]


def test_region_is_symmetric_so_that_the_guide_is_real():
    region = low_frequency_region((15, 20, 12), spacing_mm=(1.0, 2.5, 3.0))
    mirrored = torch.roll(region.flip(0, 1, 2), (1, 1, 1), (0, 1, 2))
    assert torch.equal(region, mirrored)


@pytest.mark.parametrize("shape", [(16, 16, 16), (1, 16, 16, 16), (2, 1, 8, 12, 10)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_shape_and_dtype_are_kept(shape, dtype):
    guide = high_frequency(_random_image(*shape, dtype=dtype), spacing_mm=(2, 2, 2))
    assert guide.shape == shape
    assert guide.dtype == dtype
    assert not guide.is_complex()


def test_radius_zero_is_the_identity():
    image = _random_image(12, 16, 10)
    guide = high_frequency(image, spacing_mm=(2, 2, 2), radius_cycles_per_mm=0)
    torch.testing.assert_close(guide, image, atol=1e-5, rtol=0)


def test_infinite_radius_whitens_everything():
    guide = high_frequency(_random_image(12, 16, 10), spacing_mm=(2, 2, 2), radius_cycles_per_mm=float("inf"))
    torch.testing.assert_close(_spectrum(guide).abs(), torch.ones(12, 16, 10).double(), atol=1e-3, rtol=0)


def test_batch_items_do_not_see_each_other():
    batch = _random_image(3, 1, 8, 12, 10)
    guides = high_frequency(batch, spacing_mm=(2, 2, 2))
    for item, guide in zip(batch, guides, strict=True):
        torch.testing.assert_close(high_frequency(item, spacing_mm=(2, 2, 2)), guide, atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [0.0, 3.0, -1e6])
def test_constant_image_gives_a_finite_guide(value):
    assert torch.isfinite(high_frequency(torch.full((8, 8, 8), value), spacing_mm=(2, 2, 2))).all()


def test_input_is_not_mutated():
    image = _random_image(8, 8, 8)
    kept = image.clone()
    high_frequency(image, spacing_mm=(2, 2, 2))
    assert torch.equal(image, kept)


@pytest.mark.parametrize("name", ["refinement_clean", "refinement_bright_large"])
def test_guide_equals_the_reference_s(golden_dir: Path, name):
    golden = np.load(golden_dir / f"{name}.npz")
    guide = high_frequency(torch.from_numpy(golden["image"]).float(), spacing_mm=(2, 2, 2))
    np.testing.assert_allclose(guide.numpy(), golden["high_frequency"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("spacing_mm", [(), (2, 2), (2, 2, 2, 2), (2, 0, 2), (2, 2, -1), (float("nan"), 2, 2)])
def test_bad_spacing_is_named(spacing_mm):
    with pytest.raises(ValueError, match="spacing_mm must hold three positive numbers"):
        high_frequency(torch.zeros(8, 8, 8), spacing_mm=spacing_mm)


@pytest.mark.parametrize("radius", [-0.1, float("nan")])
def test_bad_radius_is_named_in_the_constructor(radius):
    with pytest.raises(ValueError, match=f"radius_cycles_per_mm must not be negative, got {radius}"):
        HighFrequencyd("image", spacing_mm=2, radius_cycles_per_mm=radius)


def test_transform_adds_the_guide_and_leaves_the_sample_alone():
    sample = {"image": volume(_random_image(8, 12, 10))}
    result = HighFrequencyd("image", spacing_mm=2)(sample)
    assert set(sample) == {"image"}
    expected = high_frequency(sample["image"].as_tensor(), spacing_mm=(2, 2, 2))
    assert torch.equal(torch.as_tensor(result["high_frequency"]), expected)


def test_transform_takes_a_plain_tensor():
    plain = _random_image(1, 8, 12, 10)
    guide = HighFrequencyd("image", spacing_mm=2)({"image": plain})["high_frequency"]
    assert torch.equal(guide, high_frequency(plain, spacing_mm=(2, 2, 2)))


def test_published_radius_is_the_default():
    image = _random_image(16, 16, 16)
    explicit = high_frequency(image, spacing_mm=(2, 2, 2), radius_cycles_per_mm=PUBLISHED_RADIUS_CYCLES_PER_MM)
    assert torch.equal(high_frequency(image, spacing_mm=(2, 2, 2)), explicit)
