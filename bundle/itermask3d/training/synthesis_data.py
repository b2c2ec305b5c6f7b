"""Generated scans as training samples, alone and mixed with real ones."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.data import Dataset
from monai.data.utils import set_rnd
from monai.transforms import Compose, MapTransform, Randomizable

from itermask3d.method.frequency import PUBLISHED_RADIUS_CYCLES_PER_MM
from itermask3d.method.masking import MaskMixture
from itermask3d.preprocessing.normalise import RobustNormalized
from itermask3d.simulation.generator.label_maps import tissue_transforms
from itermask3d.simulation.generator.synthesis import Ingredients, SynthesizeBraind
from itermask3d.simulation.synthetic_anomalies import SyntheticAnomalies
from itermask3d.training.transforms import sample_transforms

__all__ = ["MixedDataset", "SeededSynthesisd", "generated_transforms", "synthesis_transforms"]


class SeededSynthesisd(MapTransform):
    """Make one scan of every item, the same in every call: what it shows depends on the seed and the item's case.

    No MONAI random transform, so that caches keep its result.

    Args:
        spacing_mm: edge of a voxel.
        ingredients: what from.
        seed: of all items.
    """

    def __init__(self, spacing_mm: float, ingredients: Ingredients, seed: int) -> None:
        super().__init__("tissues")
        self.spacing_mm, self.ingredients, self.seed = spacing_mm, ingredients, seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        digest = hashlib.sha256(f"{self.seed} {data['case']}".encode()).digest()
        synthesize = SynthesizeBraind(self.keys, self.spacing_mm, self.ingredients)
        synthesize.set_random_state(seed=int.from_bytes(digest[:4], "big"))
        return synthesize(data)


def synthesis_transforms(
    *,
    ingredients: Ingredients,
    spacing_mm: float = 2.0,
    spatial_size: Sequence[int] = (80, 96, 80),
    bias_correction: str = "n4",
    radius_cycles_per_mm: float = PUBLISHED_RADIUS_CYCLES_PER_MM,
    clip: float = 5.0,
    mixture: MaskMixture | None = None,
    synthetic_anomalies: SyntheticAnomalies | None = None,
    seed: int | None = None,
) -> Compose:
    """Compose a label map to a sample with the keys of :func:`itermask3d.training.transforms.training_transforms`.

    Everything before the first random transform can be cached: with a ``seed`` that includes the scan itself.

    Args:
        ingredients: what scans are made from.
        spacing_mm, spatial_size: see there.
        bias_correction: of the scans that refine label maps; generated ones need none.
        radius_cycles_per_mm, clip, mixture, synthetic_anomalies, seed: see :func:`generated_transforms`.
    """
    return Compose(
        [
            tissue_transforms(spacing_mm=spacing_mm, spatial_size=spatial_size, bias_correction=bias_correction),
            generated_transforms(
                ingredients=ingredients,
                spacing_mm=spacing_mm,
                radius_cycles_per_mm=radius_cycles_per_mm,
                clip=clip,
                mixture=mixture,
                synthetic_anomalies=synthetic_anomalies,
                seed=seed,
            ),
        ]
    ).flatten()


def generated_transforms(
    *,
    ingredients: Ingredients,
    spacing_mm: float = 2.0,
    radius_cycles_per_mm: float = PUBLISHED_RADIUS_CYCLES_PER_MM,
    clip: float = 5.0,
    mixture: MaskMixture | None = None,
    synthetic_anomalies: SyntheticAnomalies | None = None,
    seed: int | None = None,
) -> Compose:
    """Compose prepared tissues, ``tissues`` and ``brain_mask``, to a training sample, on the device they lie on.

    Args:
        ingredients: what scans are made from.
        spacing_mm, radius_cycles_per_mm, clip, mixture, synthetic_anomalies: see
            :func:`itermask3d.training.transforms.sample_transforms`.
        seed: give every label map one scan for ever (validation); ``None`` draws afresh (training).
    """
    random = SynthesizeBraind("tissues", spacing_mm, ingredients)
    return Compose(
        [
            random if seed is None else SeededSynthesisd(spacing_mm, ingredients, seed),
            RobustNormalized("image", clip=clip),
            sample_transforms(
                spacing_mm=spacing_mm,
                radius_cycles_per_mm=radius_cycles_per_mm,
                clip=clip,
                augment=False,
                mixture=mixture,
                synthetic_anomalies=synthetic_anomalies,
            ),
        ]
    ).flatten()


class MixedDataset(Dataset, Randomizable):
    """Real scans, each of which gives way to a generated one with a set probability.

    As long as the real data set, so that an epoch is as long as without the mix.

    Args:
        real, generated: data sets whose samples have the same keys.
        generated_share: probability of a generated scan, 0 to 1.
    """

    def __init__(self, real: Dataset, generated: Dataset, generated_share: float) -> None:
        if not 0 <= generated_share <= 1:
            raise ValueError(f"generated_share = {generated_share}; expected 0 to 1")
        Dataset.__init__(self, data=())
        self.real, self.generated, self.generated_share = real, generated, generated_share

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> MixedDataset:
        """Seed the choice, and every random transform of both data sets."""
        super().set_random_state(seed=seed, state=state)
        drawn = int(self.R.randint(2**31 - 1))
        set_rnd(self.generated, seed=set_rnd(self.real, seed=drawn))
        return self

    def __len__(self) -> int:
        return len(self.real)

    def _transform(self, index: int) -> Any:
        if self.R.rand() >= self.generated_share:
            return self.real[index]
        return self.generated[int(self.R.randint(len(self.generated)))]
