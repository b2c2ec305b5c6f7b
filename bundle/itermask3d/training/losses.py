"""What training makes small, taken where it belongs."""

from __future__ import annotations

import torch
from torch import nn

from itermask3d.method.network import split_prediction

__all__ = ["BrainMSELoss", "PredictedVarianceLoss"]


class BrainMSELoss(nn.Module):
    r"""Mean squared error over the brain, averaged over the batch's brain voxels.

    .. math:: L = \sum_{v \in B} (x_v - \hat x_v)^2 \,/\, |B|

    With ``whole_volume`` the sum runs over every voxel, as published; then heads of different size weigh differently.
    """

    def __init__(self, whole_volume: bool = False) -> None:
        super().__init__()
        self.whole_volume = whole_volume

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """``prediction`` is ``(B, C, D, H, W)``, reconstruction first; ``target`` is as from PrepareReconstruction."""
        error = (prediction[:, :1] - target[:, :1]).square()
        if self.whole_volume:
            return error.mean()
        return _mean_within(error, target[:, 1:2])


class PredictedVarianceLoss(nn.Module):
    r"""Mean squared error over the brain, and the likelihood of the predicted variance where nothing was shown.

    .. math:: L = \frac{1}{|B|} \sum_B (x - \hat x)^2
              + \frac{w}{|M|} \sum_M \left[ (x - \hat x)_{\text{fixed}}^2 \, e^{-s} + s \right]

    The second output channel :math:`s` is the logarithm of the squared error to be expected at a masked voxel, fitted
    by the Gaussian likelihood. The residual is held fixed there: so the reconstruction is what it would be without.

    Args:
        weight: :math:`w`.

    Source: the likelihood of Kendall and Gal, Advances in Neural Information Processing Systems 30 (2017).
    """

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """``prediction`` is ``(B, 2, D, H, W)``, ``target`` as from ``PrepareReconstruction``."""
        reconstruction, log_error = split_prediction(prediction)
        if log_error is None:
            raise ValueError("the network has one output channel; expected two, the second the logarithm of the error")
        squared = (reconstruction - target[:, :1]).square()
        surprise = squared.detach() * torch.exp(-log_error) + log_error
        return _mean_within(squared, target[:, 1:2]) + self.weight * _mean_within(surprise, target[:, 2:3])


def _mean_within(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    return (values * where).sum() / where.sum().clamp(min=1)
