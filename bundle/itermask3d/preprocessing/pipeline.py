"""Raw scan to network grid and back, as flat compositions of MONAI transforms.

Order: load and check → brain mask on the scan's own grid → axes of the scanner, isotropic spacing → bias
field → robust normalisation inside the brain, zero outside → fixed grid centred on the brain → high-frequency guide.
Every geometric step is MONAI's and invertible, so ``monai.transforms.Invertd`` brings results back exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.transforms import (
    AsDiscreted,
    Compose,
    CropForegroundd,
    EnsureTyped,
    MapTransform,
    ResizeWithPadOrCropd,
    SelectItemsd,
)

from itermask3d.preprocessing.bias import BiasFieldCorrectd
from itermask3d.preprocessing.brain_extraction import BrainMaskd
from itermask3d.preprocessing.grid import AntiAliasd, CheckBrainFitsd, ScannerGridd
from itermask3d.preprocessing.load import LoadScand
from itermask3d.preprocessing.measure import MeasureLeftOutd
from itermask3d.preprocessing.normalise import RobustNormalized

__all__ = ["Preprocessing", "inference_transforms"]

BIAS_CORRECTIONS = ("none", "n4")

FACTS = ("case", "path", "normalisation", "bias_field", "left_out", "brain_extraction")
"""What stays in a sample beside its volumes."""


class Preprocessing(Compose):
    """A raw scan's way to the network's grid, and the values that describe it.

    Attributes:
        described: ``spacing_mm``, ``spatial_size``, ``brain_extraction_method`` and ``bias_correction``; every result
            names them.
    """

    def __init__(self, transforms: Sequence[Callable[..., Any]], **described: Any) -> None:
        super().__init__(transforms)
        self.described = described


def inference_transforms(
    *,
    spacing_mm: float = 2.0,
    spatial_size: Sequence[int] = (80, 96, 80),
    brain_extraction: str = "auto",
    bias_correction: str = "none",
    clip: float = 5.0,
    with_label: bool = False,
    keep_label: bool = False,
    check_fit: bool = True,
) -> Preprocessing:
    """Compose a raw scan's way to the network's grid; the inferer adds the guide.

    Args:
        spacing_mm: isotropic spacing of the network's grid.
        spatial_size: its size in voxels; each a multiple of 16.
        brain_extraction: see :mod:`itermask3d.preprocessing.brain_extraction`.
        bias_correction: ``"n4"`` divides by the field of :mod:`itermask3d.preprocessing.bias`; ``"none"`` leaves it.
        clip: see :class:`RobustNormalized`.
        with_label: bring a ground-truth ``label`` to the network's grid as well.
        keep_label: load the ``label`` of items that have one and leave it on the scan's own grid, for evaluation.
        check_fit: refuse a brain larger than the grid rather than crop it.

    Returns:
        Transforms from an item with paths to ``image`` (normalised) and ``brain_mask``, both ``(1, *spatial_size)``.
    """
    masks = ["brain_mask", *(["label"] if with_label else [])]
    keys = ["image", *masks]
    labels = ("label",) if with_label or keep_label else ()
    return Preprocessing(
        [
            LoadScand(companion_keys=("brain_mask", *labels)),
            BrainMaskd(method=brain_extraction),
            AntiAliasd("image", spacing_mm=spacing_mm),
            ScannerGridd(keys, spacing_mm=spacing_mm),
            AsDiscreted(masks, threshold=0.5),
            MeasureLeftOutd("image", spacing_mm),
            *_bias_correction(bias_correction, spacing_mm),
            RobustNormalized("image", clip=clip),
            *([CheckBrainFitsd("brain_mask", spatial_size, spacing_mm)] if check_fit else []),
            CropForegroundd(keys, source_key="brain_mask", allow_smaller=True),
            ResizeWithPadOrCropd(keys, spatial_size=spatial_size),
            EnsureTyped(keys, dtype=torch.float32),
            SelectItemsd([*keys, *labels, *FACTS], allow_missing_keys=True),
        ],
        spacing_mm=spacing_mm,
        spatial_size=list(spatial_size),
        brain_extraction_method=brain_extraction,
        bias_correction=bias_correction,
    )


def _bias_correction(name: str, spacing_mm: float) -> list[MapTransform]:
    if name not in BIAS_CORRECTIONS:
        raise ValueError(f"bias_correction = '{name}'; expected one of {', '.join(BIAS_CORRECTIONS)}")
    return [BiasFieldCorrectd("image", spacing_mm)] if name == "n4" else []
