"""The training's losses: closed forms, and what keeps the likelihood finite."""

from __future__ import annotations

import math

import pytest
import torch
from itermask3d.method.network import split_prediction
from itermask3d.training.losses import PredictedVarianceLoss

SHAPE = (1, 1, 4, 4, 4)


def loss_of(log_variance: float, *, residual: float = 2.0) -> tuple[float, torch.Tensor]:
    """The loss of a constant prediction whose every voxel is masked brain, and the gradient of the log-variance."""
    predicted = torch.full(SHAPE, log_variance, requires_grad=True)
    prediction = torch.cat((torch.full(SHAPE, residual), predicted), dim=1)
    target = torch.cat((torch.zeros(SHAPE), torch.ones(SHAPE), torch.ones(SHAPE)), dim=1)
    loss = PredictedVarianceLoss(weight=0.5)(prediction, target)
    loss.backward()
    assert predicted.grad is not None
    return float(loss.detach()), predicted.grad


def test_the_likelihood_has_its_closed_form_and_is_least_at_the_squared_residual():
    loss, _ = loss_of(1.0)
    assert loss == pytest.approx(4 + 0.5 * (4 * math.exp(-1) + 1))
    _, gradient = loss_of(math.log(4.0))
    torch.testing.assert_close(gradient, torch.zeros(SHAPE), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("wild", "bound"), [(-1000.0, -7.0), (1000.0, 4.0)])
def test_a_wild_log_variance_counts_as_the_bound_and_moves_no_weight(wild, bound):
    loss, gradient = loss_of(wild)
    assert math.isfinite(loss)
    assert loss == pytest.approx(loss_of(bound)[0])
    assert not gradient.any()


def test_the_predicted_log_variance_is_clamped_and_the_reconstruction_is_not():
    prediction = torch.tensor([-100.0, 100.0]).reshape(1, 2, 1, 1, 1)
    reconstruction, log_variance = split_prediction(prediction)
    assert reconstruction.item() == -100.0
    assert log_variance is not None
    assert log_variance.item() == 4.0
    alone, nothing = split_prediction(prediction[:, :1])
    assert nothing is None
    assert alone.item() == -100.0
