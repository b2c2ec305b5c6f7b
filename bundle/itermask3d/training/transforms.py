"""Prepared scan to training sample: augmentation, synthetic anomalies, guide and training mask."""

from __future__ import annotations

from collections.abc import Sequence

from monai.transforms import (
    Compose,
    MapTransform,
    SelectItemsd,
)

from itermask3d.method.frequency import PUBLISHED_RADIUS_CYCLES_PER_MM, HighFrequencyd
from itermask3d.method.masking import MaskMixture, RandMaskd
from itermask3d.preprocessing.normalise import RobustNormalized
from itermask3d.preprocessing.pipeline import inference_transforms
from itermask3d.simulation.synthetic_anomalies import RandSyntheticAnomalyd, SyntheticAnomalies
from itermask3d.training.augmentation import augmentation_transforms
from itermask3d.training.variation import Variation

__all__ = ["sample_transforms", "synthetic_anomaly_transforms", "training_transforms"]

SAMPLE_KEYS = ("image", "brain_mask")
"""What training keeps of a prepared scan."""


def training_transforms(
    *,
    spacing_mm: float = 2.0,
    spatial_size: Sequence[int] = (80, 96, 80),
    brain_extraction: str = "auto",
    bias_correction: str = "none",
    radius_cycles_per_mm: float = PUBLISHED_RADIUS_CYCLES_PER_MM,
    clip: float = 5.0,
    augment: bool = True,
    mixture: MaskMixture | None = None,
    synthetic_anomalies: SyntheticAnomalies | None = None,
    variation: Variation | None = None,
) -> Compose:
    """Compose raw scan to training sample: ``image``, ``brain_mask``, ``high_frequency``, ``mask``.

    Everything before the first random transform can be cached, and is what :mod:`itermask3d.training.prepared` keeps.

    Args:
        spacing_mm: see :func:`inference_transforms`.
        spatial_size: grid of a training sample; the little that a large brain has outside is cropped.
        brain_extraction, bias_correction: see :func:`inference_transforms`.
        radius_cycles_per_mm, clip, augment, mixture, synthetic_anomalies, variation: see :func:`sample_transforms`.
    """
    return Compose(
        [
            # Spread out: a sequence within a sequence counts as random, and nothing before it would be cached.
            *inference_transforms(
                spacing_mm=spacing_mm,
                spatial_size=spatial_size,
                brain_extraction=brain_extraction,
                bias_correction=bias_correction,
                clip=clip,
                check_fit=False,
            ).transforms,
            SelectItemsd(SAMPLE_KEYS),
            sample_transforms(
                spacing_mm=spacing_mm,
                radius_cycles_per_mm=radius_cycles_per_mm,
                clip=clip,
                augment=augment,
                mixture=mixture,
                synthetic_anomalies=synthetic_anomalies,
                variation=variation,
            ),
        ]
    ).flatten()


def sample_transforms(
    *,
    spacing_mm: float = 2.0,
    radius_cycles_per_mm: float = PUBLISHED_RADIUS_CYCLES_PER_MM,
    clip: float = 5.0,
    augment: bool = True,
    mixture: MaskMixture | None = None,
    synthetic_anomalies: SyntheticAnomalies | None = None,
    variation: Variation | None = None,
) -> Compose:
    """Compose a prepared scan, ``image`` and ``brain_mask``, to a training sample, on the device that it lies on.

    With ``augment``: left-right flips, small rotations and scalings, and monotone changes of contrast, after which the
    scan is normalised again as a real one would be.

    Args:
        spacing_mm: edge of a voxel.
        radius_cycles_per_mm: radius of the guide.
        clip: see :class:`RobustNormalized`.
        augment: off for validation.
        mixture: training masks; ``None`` masks the whole brain (the fixed task of validation).
        synthetic_anomalies: what the network shall not reproduce, see
            :mod:`itermask3d.simulation.synthetic_anomalies`; then the sample has ``target`` and ``altered`` as well.
            ``None`` alters nothing, as published.
        variation: of head, brain mask and acquisition, in place of the changes of contrast; ``None`` varies nothing.
    """
    keys = list(SAMPLE_KEYS)
    moved = augmentation_transforms(variation=variation, spacing_mm=spacing_mm)
    augmentation = [*moved, RobustNormalized("image", clip=clip)]
    altering = synthetic_anomalies is not None and synthetic_anomalies.probability > 0
    return Compose(
        [
            *(augmentation if augment else []),
            *(
                synthetic_anomaly_transforms(spacing_mm, synthetic_anomalies, clip)
                if synthetic_anomalies and altering
                else []
            ),
            HighFrequencyd("image", spacing_mm=spacing_mm, radius_cycles_per_mm=radius_cycles_per_mm),
            RandMaskd("brain_mask", spacing_mm=spacing_mm, mixture=mixture or MaskMixture(blob=0, field=0, full=1)),
            SelectItemsd([*keys, "high_frequency", "mask", *(("target", "altered") if altering else ())]),
        ]
    )


def synthetic_anomaly_transforms(
    spacing_mm: float, synthetic_anomalies: SyntheticAnomalies, clip: float = 5.0
) -> list[MapTransform]:
    """Alter a normalised scan, then normalise it again, and its target with it, as a scan with a lesion would be."""
    return [
        RandSyntheticAnomalyd("image", spacing_mm, synthetic_anomalies),
        RobustNormalized(("image", "target"), clip=clip),
    ]
