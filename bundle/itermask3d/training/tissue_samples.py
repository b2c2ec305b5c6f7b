"""What the tissue network learns from: generated scans, altered in places, and the tissues that they were made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import log_softmax

from itermask3d.method.tissue_network import CLASSES
from itermask3d.preprocessing.normalise import robust_normalised
from itermask3d.simulation.generator.synthesis import Ingredients, draw_recipe, moved_with, render
from itermask3d.simulation.generator.tissues import Tissue
from itermask3d.simulation.synthetic_anomalies import SyntheticAnomalies, alter, draw_synthetic_anomaly

__all__ = ["CLASS_OF", "TissueLoss", "TissueSample", "TissueSamples", "class_shares"]

CLASS_OF: Mapping[Tissue, str] = {
    Tissue.BACKGROUND: "other",
    Tissue.WHITE: "white",
    Tissue.CORTEX: "cortex",
    Tissue.LIMBIC: "limbic",
    Tissue.THALAMUS: "deep_grey",
    Tissue.STRIATUM: "deep_grey",
    Tissue.PALLIDUM: "deep_grey",
    Tissue.VENTRICLE: "fluid",
    Tissue.OUTER_FLUID: "fluid",
    Tissue.CEREBELLAR_GREY: "cerebellar_grey",
    Tissue.CEREBELLAR_WHITE: "cerebellar_white",
    Tissue.BRAINSTEM: "brainstem",
    Tissue.VESSEL: "other",
    Tissue.LIMBIC_CORTEX: "limbic",
}
"""The network's class of each tissue of the generator."""


class TissueSample(NamedTuple):
    """One scan and its tissues, on the device of the tissue map.

    Attributes:
        image: normalised, ``(1, D, H, W)``, zero outside the brain.
        brain_mask: boolean, same shape.
        shares: of each class, ``(len(CLASSES), D, H, W)``, of the normal tissue wherever the image was altered.
    """

    image: torch.Tensor
    brain_mask: torch.Tensor
    shares: torch.Tensor


@dataclass(frozen=True)
class TissueSamples:
    """Draws a sample from a tissue map.

    Attributes:
        ingredients: what scans are made from.
        synthetic_anomalies: what alters them; their labels stay those of the normal tissue.
        inverted_probability: of a scan whose bright and dark change places, so that no order of tissues is learned.
        spacing_mm: edge of a voxel.
    """

    ingredients: Ingredients
    synthetic_anomalies: SyntheticAnomalies
    inverted_probability: float = 0.0
    spacing_mm: float = 2.0

    def draw(self, prepared: Mapping[Any, torch.Tensor], rng: np.random.RandomState) -> TissueSample:
        """One sample.

        Args:
            prepared: ``tissues`` ``(3, D, H, W)`` and ``brain_mask`` ``(1, D, H, W)``, see
                :mod:`itermask3d.training.prepared`.
            rng: its state advances; nothing else is touched.
        """
        recipe = draw_recipe(self.ingredients, rng)
        scan = render(prepared["tissues"], prepared["brain_mask"], recipe, spacing_mm=self.spacing_mm)
        shares = moved_with(class_shares(prepared["tissues"]), recipe, spacing_mm=self.spacing_mm)
        brain = scan.brain_mask > 0.5
        image = _normalised(scan.image if rng.rand() >= self.inverted_probability else -scan.image, brain)
        return TissueSample(self._altered(image, brain, rng), brain, shares)

    def _altered(self, image: torch.Tensor, brain: torch.Tensor, rng: np.random.RandomState) -> torch.Tensor:
        if rng.rand() >= self.synthetic_anomalies.probability:
            return image
        changed = image[0]
        for _ in range(rng.randint(1, self.synthetic_anomalies.max_regions + 1)):
            anomaly = draw_synthetic_anomaly(self.synthetic_anomalies, rng)
            changed = alter(changed, brain[0], anomaly, spacing_mm=self.spacing_mm).image
        return _normalised(changed[None], brain)


def class_shares(mixture: torch.Tensor) -> torch.Tensor:
    """Share of every class in each voxel of a mixture of tissues.

    Args:
        mixture: ``(3, D, H, W)``, see :func:`itermask3d.simulation.generator.tissues.two_tissues`.

    Returns:
        ``(len(CLASSES), D, H, W)``; the sum over the classes is 1.
    """
    table = torch.tensor([CLASSES.index(CLASS_OF[tissue]) for tissue in Tissue], device=mixture.device)
    first, second = (table[part.long()] for part in mixture[:2])
    shares = torch.zeros((len(CLASSES), *mixture.shape[1:]), device=mixture.device)
    shares.scatter_add_(0, first[None], mixture[2:3])
    return shares.scatter_add_(0, second[None], 1 - mixture[2:3])


class TissueLoss(nn.Module):
    r"""Cross-entropy and Dice loss of shares, over the brain.

    .. math:: L = -\frac{1}{|B|} \sum_B \sum_k t_k \log p_k
              + 1 - \frac{1}{K} \sum_k \frac{2 \sum_B t_k p_k + 1}{\sum_B (t_k^2 + p_k^2) + 1}
    """

    def forward(self, logits: torch.Tensor, shares: torch.Tensor, brain_mask: torch.Tensor) -> torch.Tensor:
        """``logits`` and ``shares`` are ``(B, K, D, H, W)``, ``brain_mask`` ``(B, 1, D, H, W)``."""
        logs, inside = log_softmax(logits, dim=1), brain_mask.to(logits)
        entropy = -(logs * shares * inside).sum() / inside.sum().clamp(min=1)
        found, wanted = logs.exp() * inside, shares * inside
        both, total = (part.sum(dim=(0, 2, 3, 4)) for part in (found * wanted, found.square() + wanted.square()))
        return entropy + 1 - ((2 * both + 1) / (total + 1)).mean()


def _normalised(image: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
    return robust_normalised(image[None], brain[None])[0][0]
