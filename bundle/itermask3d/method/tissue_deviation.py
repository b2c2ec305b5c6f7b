r"""How far each voxel lies from the intensity of its normal tissue, signed, in that tissue's own robust SD.

Which tissue is where comes from :mod:`itermask3d.method.tissue_network`; how bright each one is comes from the scan
itself. So nothing has to be known about the contrast. With the shares :math:`p_k` of the tissues and their robust
means and SD :math:`\mu_k, \sigma_k`

.. math:: m = \sum_k p_k \mu_k, \quad
          s^2 = \sum_k p_k \left(\sigma_k^2 + (\mu_k - m)^2\right), \quad
          z = (x - b - m) / s

where :math:`b` is a smooth field that is left of the coil's. The second term of :math:`s^2` is there because a voxel
whose tissue is not sure may have the intensity of either.

A tissue's mean and SD are the middle and the width of the shortest interval that holds half of it, or its median and
median absolute deviation. The shortest half stays with the normal part of a tissue of which a good share is lesion, all
on one side, where the median and above all the deviation from it follow the lesion.

Sources: Van Leemput et al., IEEE Transactions on Medical Imaging 20, 677 (2001), doi:10.1109/42.938237 (lesions as
outliers of a tissue model that is fitted to the scan). Rousseeuw and Leroy, Statistica Neerlandica 42, 103 (1988),
doi:10.1111/j.1467-9574.1988.tb01224.x (the shortest half as an estimate of scale).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import torch
from monai.networks.layers import GaussianFilter

from itermask3d.method.tissue_network import CLASSES

__all__ = [
    "ContrastKind",
    "Estimator",
    "Side",
    "TissueDeviation",
    "TissueSettings",
    "contrast_kind",
    "side_of",
    "suspicion",
    "tissue_deviation",
]

MAD_TO_SD = 1.4826
T1_CONTRAST = 0.2
"""Contrast of white matter to cortex, in that of cortex to fluid, above which a scan with dark fluid is T1."""

HALF_WIDTH_TO_SD = 1 / 1.349
"""SD of a normal distribution by the width of the shortest interval that holds half of it, which is its middle one."""

_STARTS, _SHORTEST = 201, 5
"""Intervals of half the weight that are looked at, and how many of the shortest are averaged."""

_LEAST_WEIGHT = 20.0
"""Voxels that a tissue must fill to have an intensity of its own."""


class ContrastKind(StrEnum):
    """Of a scan, by the order of its tissues' intensities."""

    T1 = "t1"
    T2 = "t2"
    FLAIR = "flair"
    OTHER = "other"


class Side(StrEnum):
    """Deviations that are suspicious; ``none`` is the same as ``both`` and says that no prior was wanted."""

    NONE = "none"
    BOTH = "both"
    BRIGHT = "bright"
    DARK = "dark"


class Estimator(StrEnum):
    """Of a tissue's mean and SD."""

    MEDIAN = "median"
    """Median, and median absolute deviation."""
    SHORTEST_HALF = "shortest_half"
    """Middle and width of the shortest interval that holds half of the tissue."""


SIDES = {
    ContrastKind.FLAIR: Side.BRIGHT,
    ContrastKind.T2: Side.BRIGHT,
    ContrastKind.T1: Side.BOTH,
    ContrastKind.OTHER: Side.BOTH,
}
"""The declared prior: most lesions are bright on T2 and FLAIR; on T1 they are dark, bright with contrast or blood."""


@dataclass(frozen=True)
class TissueSettings:
    """How the tissues of a scan are fitted.

    Attributes:
        iterations: of the fit of intensities and shares; 0 takes the shares as they are.
        trust: power of the given shares against what the intensity says, 1 or more.
        outlier: density, in robust SD of the brain, of intensities that no tissue explains: where it wins, the given
            shares stand.
        least_sd: of a tissue, in robust SD of the brain.
        field_order: of the polynomial that is left of the coil's field; 0 for none.
        smooth_mm: standard deviation of the Gaussian over the deviation; 0 for none.
        estimator: see :class:`Estimator`.

    Raises:
        ValueError: for a value outside its range.
    """

    iterations: int = 4
    trust: float = 1.0
    outlier: float = 0.02
    least_sd: float = 0.1
    field_order: int = 2
    smooth_mm: float = 0.0
    estimator: str = Estimator.MEDIAN.value

    def __post_init__(self) -> None:
        Estimator(self.estimator)
        inside = self.iterations >= 0 and self.trust >= 1 and self.outlier > 0 and self.least_sd > 0
        if not (inside and self.field_order in (0, 1, 2) and self.smooth_mm >= 0):
            raise ValueError(f"{self} is outside its range, see TissueSettings")


class TissueDeviation(NamedTuple):
    """Of one scan.

    Attributes:
        z: signed ``(1, D, H, W)``, zero outside the brain.
        expected: intensity of the normal tissue there, same shape and unit as the image.
        means, sds: of each class of :data:`itermask3d.method.tissue_network.CLASSES`; NaN where it fills too little.
        shares: of the classes ``(K, D, H, W)`` after the fit.
    """

    z: torch.Tensor
    expected: torch.Tensor
    means: torch.Tensor
    sds: torch.Tensor
    shares: torch.Tensor


def tissue_deviation(
    image: torch.Tensor,
    brain_mask: torch.Tensor,
    shares: torch.Tensor,
    settings: TissueSettings | None = None,
    *,
    spacing_mm: float = 2.0,
) -> TissueDeviation:
    """Compare one scan with its own tissues.

    Args:
        image: normalised ``(1, D, H, W)``.
        brain_mask: same shape, above 0.5 in the brain.
        shares: of :func:`itermask3d.method.tissue_network.tissue_shares` ``(K, D, H, W)``.
        settings: see :class:`TissueSettings`.
        spacing_mm: edge of a voxel.

    Raises:
        ValueError: if the shapes differ or the brain is empty.
    """
    settings = settings or TissueSettings()
    brain = brain_mask[0] > 0.5
    if image.ndim != 4 or image.shape != brain_mask.shape or shares.shape[1:] != image.shape[1:] or not brain.any():
        raise ValueError(
            f"image {tuple(image.shape)}, brain_mask {tuple(brain_mask.shape)} and shares {tuple(shares.shape)}; "
            "expected one grid, and a brain"
        )
    values, given = image[0][brain], shares[:, brain].clamp(min=1e-4)
    given = given / given.sum(dim=0)
    basis = _basis(brain, settings.field_order)
    field, now = torch.zeros_like(values), given
    means, sds = _intensities(values, now, settings)
    for _ in range(settings.iterations):
        now = _explained(values - field, given, means, sds, settings)
        means, sds = _intensities(values - field, now, settings)
        if basis is not None:
            centre, spread = _mixture(now, means, sds)
            field = _robust_fit(values - centre, spread, basis)
    centre, spread = _mixture(now, means, sds)
    z = _volume((values - field - centre) / spread, brain)
    if settings.smooth_mm > 0:
        z = _smoothed(z, brain, settings.smooth_mm / spacing_mm)
    return TissueDeviation(
        z[None], _volume(centre + field, brain)[None], means, sds, torch.stack([_volume(part, brain) for part in now])
    )


def contrast_kind(means: torch.Tensor) -> ContrastKind:
    """Tell the kind of a scan from its tissues' intensities.

    Where fluid is darkest it is T1 or FLAIR. On T1 white matter stands out from the cortex by a good part of what the
    cortex stands out from fluid; on FLAIR the two are close, or the cortex is brighter. Where fluid is brightest it is
    T2. Fluid between the two, or a tissue that is not there, makes it another kind.

    Args:
        means: of :class:`TissueDeviation`.
    """
    fluid, white, cortex = (float(means[CLASSES.index(name)]) for name in ("fluid", "white", "cortex"))
    if fluid < min(white, cortex):
        return ContrastKind.T1 if (white - cortex) / (cortex - fluid) > T1_CONTRAST else ContrastKind.FLAIR
    return ContrastKind.T2 if fluid > max(white, cortex) else ContrastKind.OTHER


def side_of(kind: ContrastKind) -> Side:
    """Which deviations are suspicious in such a scan, see :data:`SIDES`."""
    return SIDES[kind]


def suspicion(z: torch.Tensor, side: Side) -> torch.Tensor:
    """The part of a signed deviation that is suspicious, 0 or more, any shape.

    >>> suspicion(torch.tensor([-2.0, 3.0]), Side.BRIGHT).tolist()
    [0.0, 3.0]
    """
    if side is Side.BRIGHT:
        return z.clamp(min=0)
    return (-z).clamp(min=0) if side is Side.DARK else z.abs()


def _intensities(
    values: torch.Tensor, shares: torch.Tensor, settings: TissueSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Robust mean and SD of each class; NaN where it fills too little."""
    order = values.argsort()
    ordered, weights = values[order], shares[:, order]
    by_half = settings.estimator == Estimator.SHORTEST_HALF
    means, sds = _shortest_halves(ordered, weights) if by_half else _medians_and_deviations(ordered, weights)
    filled = weights.double().sum(dim=1) >= _LEAST_WEIGHT
    means, sds = (torch.where(filled, found, torch.nan) for found in (means, sds))
    return means, torch.where(torch.isnan(sds), sds, sds.clamp(min=settings.least_sd))


def _medians_and_deviations(ordered: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted median and robust SD of each class, of values in rising order."""
    means = _medians(ordered, weights)
    sds = torch.empty_like(means)
    for index, mean in enumerate(means):
        away = (ordered - mean).abs()
        near = away.argsort()
        sds[index] = MAD_TO_SD * _medians(away[near], weights[index : index + 1, near])[0]
    return means, sds


def _shortest_halves(ordered: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Middle of the shortest intervals that hold half of each class, and the SD that their width stands for.

    A single shortest interval jumps from place to place where a distribution is flat, so several are averaged.
    """
    below = weights.double().cumsum(dim=1)
    starts = torch.linspace(0, 0.5, _STARTS, dtype=below.dtype, device=below.device) * below[:, -1:]
    low, high = (
        ordered[torch.searchsorted(below, edge).clamp(max=len(ordered) - 1)]
        for edge in (starts, starts + below[:, -1:] / 2)
    )
    shortest = (high - low).argsort(dim=1, stable=True)[:, :_SHORTEST]
    middle = ((high + low) / 2).gather(1, shortest).mean(dim=1)
    return middle, HALF_WIDTH_TO_SD * (high - low).gather(1, shortest).mean(dim=1)


def _medians(ordered: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted medians of values in rising order."""
    below = weights.double().cumsum(dim=1)
    return ordered[torch.searchsorted(below, below[:, -1:] / 2).clamp(max=len(ordered) - 1)[:, 0]]


def _explained(
    values: torch.Tensor, given: torch.Tensor, means: torch.Tensor, sds: torch.Tensor, settings: TissueSettings
) -> torch.Tensor:
    """Shares by place and intensity; the given ones where no tissue explains the intensity."""
    there = torch.isfinite(means)
    power = given.pow(settings.trust) * there[:, None]
    power = power / power.sum(dim=0).clamp(min=1e-12)
    known_means, known_sds = torch.nan_to_num(means), torch.nan_to_num(sds, nan=1.0)
    away = (values - known_means[:, None]) / known_sds[:, None]
    joint = power * torch.exp(-0.5 * away.square()) / (known_sds[:, None] * (2 * torch.pi) ** 0.5)
    total = joint.sum(dim=0)
    shares: torch.Tensor = (joint + settings.outlier * power) / (total + settings.outlier)
    return shares


def _mixture(shares: torch.Tensor, means: torch.Tensor, sds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and SD of each voxel's intensity."""
    known = torch.isfinite(means)
    weights = shares[known] / shares[known].sum(dim=0).clamp(min=1e-6)
    centres, spreads = means[known], sds[known]
    middle = centres @ weights
    variance = (spreads.square()[:, None] + (centres[:, None] - middle).square()) * weights
    return middle, variance.sum(dim=0).sqrt()


def _basis(brain: torch.Tensor, order: int) -> torch.Tensor | None:
    """Products of coordinates up to an order at each voxel of the brain, ``(N, M)``."""
    if order == 0:
        return None
    voxels = brain.nonzero().float()
    unit = (voxels - voxels.mean(dim=0)) / voxels.std(dim=0).clamp(min=1)
    terms = [torch.ones_like(unit[:, 0]), *unit.T]
    if order == 2:
        terms += [unit[:, a] * unit[:, b] for a in range(3) for b in range(a, 3)]
    return torch.stack(terms, dim=1)


def _robust_fit(residual: torch.Tensor, spread: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """The field of a residual, in which what lies beyond three SD has no say (Tukey's biweight)."""
    fitted = torch.zeros_like(residual)
    for _ in range(3):
        away = (residual - fitted) / (3 * spread)
        weights = (1 - away.square()).clamp(min=0).square() / spread.square()
        weighted = basis * weights[:, None]
        ridge = 1e-3 * weights.sum() * torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)
        fitted = basis @ torch.linalg.solve(weighted.T @ basis + ridge, weighted.T @ residual)
    return fitted


def _volume(values: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
    volume = torch.zeros(brain.shape, dtype=values.dtype, device=values.device)
    volume[brain] = values
    return volume


def _smoothed(volume: torch.Tensor, brain: torch.Tensor, sigma_voxels: float) -> torch.Tensor:
    """Gaussian mean of the brain's voxels alone."""
    blur = GaussianFilter(3, sigma_voxels, truncated=3.0).to(volume.device)
    with torch.no_grad():
        both = blur(torch.stack((volume, brain.to(volume)))[:, None])[:, 0]
    return torch.where(brain, both[0] / both[1].clamp(min=1e-3), torch.zeros_like(volume))
