"""The smooth field by which a scan differs from its first reconstruction: found, robust against lesions, taken out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from itermask3d.method.refinement import refine
from itermask3d.method.residual_bias import residual_bias_field
from itermask3d.method.settings import RefinementSettings

SHAPE = (1, 1, 20, 24, 16)


def _ball() -> torch.Tensor:
    axes = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in SHAPE[2:]), indexing="ij")
    return (sum(axis**2 for axis in axes) < 0.9)[None, None]


def _shading() -> torch.Tensor:
    first, second, third = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in SHAPE[2:]), indexing="ij")
    return (0.3 + 0.5 * first - 0.4 * second * third + 0.2 * third**2)[None, None]


def _noise(scale: float) -> torch.Tensor:
    return scale * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


BRAIN = _ball()


def test_a_field_of_that_order_is_found_and_nothing_lies_outside():
    found = residual_bias_field(_shading() * BRAIN, None, BRAIN, order=2)
    torch.testing.assert_close(found, _shading() * BRAIN, rtol=0, atol=1e-3)


def test_a_lesion_does_not_bend_the_field():
    residual = _shading() + _noise(0.1)
    residual[..., 4:10, 5:12, 4:9] -= 3
    found = residual_bias_field(residual, None, BRAIN, order=2)
    assert float((found - _shading())[BRAIN].abs().max()) < 0.1


def test_voxels_of_large_predicted_variance_hardly_count():
    residual, variance = _shading() + _noise(0.1), torch.full(SHAPE, 0.01)
    residual[:, :, :8] += 1.0
    variance[:, :, :8] = 100.0
    found = residual_bias_field(residual, variance, BRAIN, order=0)
    evenly = residual_bias_field(residual, None, BRAIN, order=0)
    certain = _shading()[BRAIN & (variance < 1)].mean()
    assert abs(found[BRAIN][0] - certain) < 0.1 < abs(evenly[BRAIN][0] - certain)


def test_order_zero_is_one_number_and_each_scan_has_its_own():
    residual = torch.cat((torch.full(SHAPE, 0.7), torch.full(SHAPE, -0.2)))
    found = residual_bias_field(residual, None, BRAIN.expand(2, -1, -1, -1, -1), order=0)
    assert found[0][BRAIN[0]].numpy() == pytest.approx(0.7, abs=1e-4)
    assert found[1][BRAIN[0]].numpy() == pytest.approx(-0.2, abs=1e-4)


def _refined(image: torch.Tensor, order: int | None):
    settings = RefinementSettings(threshold_floor=0.5, threshold_ceiling=0.5, noise=0.0, residual_bias_order=order)
    expected = torch.zeros(SHAPE)
    return refine(image, BRAIN, expected, lambda corrupted, guide: expected.clone(), settings=settings)


def test_shading_is_no_anomaly_and_a_lesion_in_it_is():
    lesion = torch.zeros(SHAPE, dtype=torch.bool)
    lesion[..., 8:11, 10:14, 6:9] = True
    image = (3 * _shading() + _noise(0.05) - 2.0 * lesion) * BRAIN
    assert int((_refined(image, None).mask & ~lesion).sum()) > 100
    assert torch.equal(_refined(image, 2).mask, lesion)


def test_the_reconstruction_has_the_shading_of_the_scan():
    image = (_shading() + _noise(0.01)) * BRAIN
    torch.testing.assert_close(_refined(image, 2).reconstruction, _shading() * BRAIN, rtol=0, atol=0.02)
    assert not _refined(image, None).reconstruction.any()


@pytest.mark.parametrize("order", [-1, 5])
def test_an_order_out_of_range_is_refused(order):
    with pytest.raises(ValueError, match=f"residual_bias_order = {order} is outside its range"):
        replace(RefinementSettings(), residual_bias_order=order)


def test_a_brain_of_one_voxel_gives_a_finite_field():
    one = torch.zeros(SHAPE, dtype=torch.bool)
    one[..., 5, 5, 5] = True
    assert np.isfinite(residual_bias_field(_noise(1.0), None, one, order=2).numpy()).all()
