r"""What is left of a scan's bias field, told by the reconstruction of its whole brain.

A reconstruction from the guide alone has the shading of the scanners of the training. On another scanner the scan
differs from it by a smooth field everywhere, which is no anomaly. The field is a polynomial of low order in space,
fitted to the residual :math:`x - \hat x` in units of the predicted standard deviation, robustly, so that a lesion does
not bend it.
"""

from __future__ import annotations

import torch

__all__ = ["residual_bias_field"]

_ITERATIONS = 8
"""Of the reweighting; the coefficients stand still by then."""

_TUNING = 2.5
"""Residuals beyond this many robust SDs have no weight (Tukey's biweight)."""

_RIDGE = 1e-6
"""Share of the diagonal that is added, so that a flat brain gives a field at all."""


def residual_bias_field(
    residual: torch.Tensor, predicted_variance: torch.Tensor | None, brain: torch.Tensor, *, order: int
) -> torch.Tensor:
    """Fit a smooth field to a residual, scan by scan.

    Args:
        residual: scan less reconstruction, ``(B, 1, D, H, W)``, in normalised intensity.
        predicted_variance: of the residual, same shape; ``None`` for the same everywhere.
        brain: boolean, same shape, not empty; what lies outside does not count.
        order: of the polynomial in the three axes together; 0 is a constant.

    Returns:
        The field, same shape, zero outside the brain.

    Source: robust regression by iteratively reweighted least squares (Holland and Welsch 1977,
    doi:10.1080/03610927708827533).
    """
    terms = _monomials(residual.shape[2:], order).to(residual.device)
    field = torch.zeros_like(residual)
    for index, inside in enumerate(brain[:, 0]):
        basis = terms[:, inside].T.double()
        values = residual[index, 0][inside].double()
        scale = torch.ones_like(values)
        if predicted_variance is not None:
            scale = predicted_variance[index, 0][inside].double().rsqrt()
        field[index, 0][inside] = (basis @ _coefficients(basis, values, scale)).to(field.dtype)
    return field


def _coefficients(basis: torch.Tensor, values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    coefficients = torch.zeros(basis.shape[1], dtype=basis.dtype, device=basis.device)
    for _ in range(_ITERATIONS):
        deviation = (values - basis @ coefficients) * scale
        limit = _TUNING * 1.4826 * deviation.abs().median().clamp(min=1e-12)
        weight = (1 - (deviation / limit).clamp(-1, 1) ** 2) ** 2 * scale**2
        weighted = basis * weight[:, None]
        normal = weighted.T @ basis
        normal += _RIDGE * normal.diagonal().mean().clamp(min=1e-12) * torch.eye(len(normal)).to(normal)
        coefficients = torch.linalg.solve(normal, weighted.T @ values)
    return coefficients


def _monomials(shape: torch.Size, order: int) -> torch.Tensor:
    """Products of powers of the three axes, each from -1 to 1, up to an order; ``(n, D, H, W)``."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in shape), indexing="ij")
    return torch.stack(
        [
            axes[0] ** first * axes[1] ** second * axes[2] ** third
            for first in range(order + 1)
            for second in range(order + 1 - first)
            for third in range(order + 1 - first - second)
        ]
    )
