r"""Two kinds of evidence in one map: what cannot be reconstructed, and what is unlike the scan's own tissues.

With the suspicious part :math:`s` of the deviation from the tissues (:mod:`itermask3d.method.tissue_deviation`) and the
relative error :math:`e` of the loop, the map is

.. math:: s^{2a} \, e^{1 - a}

with the share :math:`a` of the tissues. It has the unit of the relative error, and is high only where both are: neither
the bright cortex nor a fold that is badly reconstructed is enough. How much the tissues count, which side is
suspicious, and what is marked depends on the kind of contrast, which is told from the scan itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from itermask3d.method.detection import Growth
from itermask3d.method.tissue_deviation import (
    ContrastKind,
    Estimator,
    Side,
    TissueDeviation,
    TissueSettings,
    contrast_kind,
    side_of,
    suspicion,
    tissue_deviation,
)
from itermask3d.method.tissue_network import CLASSES, TissueUNet, tissue_shares

__all__ = ["AUTO_SIDE", "Evidence", "KindSettings", "TissueEvidence", "fused", "fused_map"]

AUTO_SIDE = "auto"
"""The side that the kind of contrast has, see :data:`itermask3d.method.tissue_deviation.SIDES`."""

SMALLEST_THRESHOLD = 1e-6
"""Of a map; a person may ask for 0."""

SIGNS = {Side.BRIGHT: 1.0, Side.DARK: -1.0}
"""Of the differences that count, see :class:`itermask3d.method.error.RefinementTask`."""


@dataclass(frozen=True)
class KindSettings:
    """What is marked in scans of one kind of contrast.

    Attributes:
        tissue_share: share of the tissues in the map, 0 to 1; 0 is the error alone, 1 the tissues alone.
        threshold: of the map; what exceeds it is outlined.
        peak_threshold: a region counts only if enough of it exceeds this.
        min_volume_ml: how much is enough; ``None`` for the smallest region of the inferer. Where the peak is high, it
            can be far less than the region itself, so that small lesions are kept.
        growth: how large regions reach into their rim; ``None`` for the outline at ``threshold``.
        estimator: of the tissues' intensities, see :class:`itermask3d.method.tissue_deviation.Estimator`; ``None`` for
            that of :class:`itermask3d.method.tissue_deviation.TissueSettings`, by which the kind is told in any case.

    Raises:
        ValueError: for a value outside its range.
    """

    tissue_share: float
    threshold: float
    peak_threshold: float
    min_volume_ml: float | None = None
    growth: Growth | None = None
    estimator: str | None = None

    def __post_init__(self) -> None:
        if self.estimator is not None:
            Estimator(self.estimator)
        if self.growth is not None and self.growth.threshold >= self.threshold:
            raise ValueError(f"growth to {self.growth.threshold} needs a threshold below {self.threshold}")
        ordered = 0 <= self.tissue_share <= 1 and 0 < self.threshold <= self.peak_threshold
        if not (ordered and (self.min_volume_ml is None or self.min_volume_ml >= 0)):
            raise ValueError(
                f"{self} is outside its range; expected a tissue_share of 0 to 1, 0 < threshold <= peak_threshold and "
                "a min_volume_ml of 0 or more"
            )


@dataclass(frozen=True)
class Evidence:
    """What the tissues of one scan say.

    Attributes:
        kind: of contrast.
        side: of the deviations that are suspicious.
        deviation: from the tissues.
        used: what is marked in scans of this kind.
    """

    kind: ContrastKind
    side: Side
    deviation: TissueDeviation
    used: KindSettings

    @property
    def sign(self) -> float:
        """Of the differences that count: 1, -1, or 0 for both."""
        return SIGNS.get(self.side, 0.0)

    def at(self, threshold: float) -> Evidence:
        """The same with another threshold of the map, and its other thresholds in proportion.

        Args:
            threshold: such as a person asks for; infinite for nothing to be marked.
        """
        share = max(threshold, SMALLEST_THRESHOLD) / self.used.threshold
        if share == 1:
            return self
        growth = self.used.growth if math.isfinite(share) else None
        scaled = replace(
            self.used,
            threshold=share * self.used.threshold,
            peak_threshold=share * self.used.peak_threshold,
            growth=None if growth is None else replace(growth, threshold=share * growth.threshold),
        )
        return replace(self, used=scaled)

    def to_json(self) -> dict[str, Any]:
        """Plain values: kind, side, the settings of the kind, and the intensity of each tissue in robust SD."""
        intensities = dict(zip(CLASSES, self.deviation.means.tolist(), strict=True))
        known = {name: round(value, 4) for name, value in intensities.items() if value == value}
        return {"contrast": str(self.kind), "side": str(self.side), **asdict(self.used), "tissue_intensities": known}


@dataclass
class TissueEvidence:
    """Reads the tissues of scans and fuses what they say with the error of the loop.

    Attributes:
        weights: state dict of a :class:`itermask3d.method.tissue_network.TissueUNet`, read when first needed.
        kinds: settings by kind of contrast; ``other`` serves for kinds that are not named.
        side: ``auto``, or one side for all scans; ``none`` switches the prior off.
        auto_side: what ``auto`` means here; ``None`` leaves it to the kind of contrast.
        tissues: how intensities are fitted.

    Raises:
        ValueError: for an unknown kind or side, or without settings for ``other``.
    """

    weights: str | Path
    kinds: Mapping[str, KindSettings]
    side: str = AUTO_SIDE
    auto_side: str | None = None
    tissues: TissueSettings = field(default_factory=lambda: TissueSettings(trust=2.0, smooth_mm=1.0))

    def __post_init__(self) -> None:
        known = {str(kind) for kind in ContrastKind}
        if not known.issuperset(self.kinds) or str(ContrastKind.OTHER) not in self.kinds:
            raise ValueError(f"kinds has {sorted(self.kinds)}; expected 'other' and any of {', '.join(sorted(known))}")
        if self.side not in (AUTO_SIDE, *map(str, Side)):
            raise ValueError(f"side is '{self.side}'; expected one of {', '.join((AUTO_SIDE, *map(str, Side)))}")
        if self.auto_side is not None:
            Side(self.auto_side)
        self._network: TissueUNet | None = None

    @property
    def _side(self) -> str:
        return (self.auto_side or AUTO_SIDE) if self.side == AUTO_SIDE else self.side

    def described(self) -> dict[str, Any]:
        """Settings as plain values."""
        kinds = {name: asdict(settings) for name, settings in self.kinds.items()}
        return {"side": self._side, "kinds": kinds, "tissues": asdict(self.tissues)}

    def with_one_volume(self) -> TissueEvidence:
        """The same, but the smallest region is the inferer's for every kind: a person's wish goes over the kind's."""
        changed = copy.copy(self)
        changed.kinds = {name: replace(settings, min_volume_ml=None) for name, settings in self.kinds.items()}
        return changed

    def network(self, device: torch.device) -> TissueUNet:
        """The tissue network with its weights.

        Raises:
            FileNotFoundError: if there is no such file.
            RuntimeError: if it holds the weights of another network.
        """
        if self._network is None:
            state = torch.load(self.weights, map_location="cpu", weights_only=True)
            network = TissueUNet()
            network.load_state_dict(state)
            self._network = network.eval()
        return self._network.to(device)

    @torch.no_grad()
    def read(self, image: torch.Tensor, brain_mask: torch.Tensor, *, spacing_mm: float) -> list[Evidence]:
        """What the tissues of each scan of a batch say.

        Args:
            image: normalised ``(B, 1, D, H, W)``, in the grid of the network.
            brain_mask: same shape.
            spacing_mm: edge of a voxel.
        """
        brain = (brain_mask > 0.5).to(image)
        shares = tissue_shares(self.network(image.device), image, brain)
        return [self._read_one(*parts, spacing_mm) for parts in zip(image, brain, shares, strict=True)]

    def _read_one(self, image: torch.Tensor, brain: torch.Tensor, shares: torch.Tensor, spacing_mm: float) -> Evidence:
        deviation = tissue_deviation(image, brain, shares, self.tissues, spacing_mm=spacing_mm)
        kind = contrast_kind(deviation.means)
        used = self.kinds.get(str(kind), self.kinds[str(ContrastKind.OTHER)])
        if used.estimator not in (None, self.tissues.estimator):
            again = replace(self.tissues, estimator=used.estimator)
            deviation = tissue_deviation(image, brain, shares, again, spacing_mm=spacing_mm)
        side = side_of(kind) if self._side == AUTO_SIDE else Side(self._side)
        return Evidence(kind, side, deviation, used)


def fused(suspicious: torch.Tensor, relative_error: torch.Tensor, tissue_share: float = 0.5) -> torch.Tensor:
    """Both kinds of evidence in one map, in the unit of the relative error.

    Args:
        suspicious: of :func:`itermask3d.method.tissue_deviation.suspicion`, any shape, in robust SD.
        relative_error: squared error relative to the predicted variance, same shape.
        tissue_share: of the tissues, 0 to 1.

    >>> fused(torch.tensor([4.0, 4.0, 0.0]), torch.tensor([16.0, 0.0, 16.0])).tolist()
    [16.0, 0.0, 0.0]
    """
    return suspicious.clamp(min=0).pow(2 * tissue_share) * relative_error.clamp(min=0).pow(1 - tissue_share)


def fused_map(evidence: Evidence, relative_error: torch.Tensor) -> torch.Tensor:
    """The map of one scan ``(1, D, H, W)`` from the error of its loop."""
    return fused(suspicion(evidence.deviation.z, evidence.side), relative_error, evidence.used.tissue_share)
