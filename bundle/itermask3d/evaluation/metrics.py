"""Metrics of one mask or reconstruction against its truth: MONAI's metrics under their right names.

Volumes are boolean (or real, where said) tensors of one shape ``(D, H, W)``; distances are in millimetres. What has no
value is NaN, and every docstring says when: a mean over cases must not hide it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_confusion_matrix_metric,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
    get_confusion_matrix,
)
from monai.metrics.regression import PSNRMetric, compute_ssim_and_cs
from scipy import ndimage

__all__ = ["LesionCounts", "count_lesions", "masked_psnr", "masked_ssim", "overlap", "surface_distances", "volumes"]

SURFACE_TOLERANCE_MM = 2.0
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5

_CONNECTIVITY = np.ones((3, 3, 3))


def overlap(mask: torch.Tensor, label: torch.Tensor) -> dict[str, float]:
    """Voxels in common.

    Returns:
        ``dice`` and ``iou``: 1 where both are empty, 0 where one is. ``sensitivity``: NaN for an empty label.
        ``precision``: NaN for an empty mask.

    Raises:
        ValueError: if the shapes differ or are not 3D.
    """
    predicted, truth = _pair(mask, label)
    counts = get_confusion_matrix(predicted, truth, include_background=True)
    return {
        "dice": float(compute_dice(predicted, truth, ignore_empty=False)),
        "iou": float(compute_iou(predicted, truth, ignore_empty=False)),
        "sensitivity": float(compute_confusion_matrix_metric("sensitivity", counts)),
        "precision": float(compute_confusion_matrix_metric("precision", counts)),
    }


def surface_distances(
    mask: torch.Tensor,
    label: torch.Tensor,
    *,
    spacing_mm: Sequence[float],
    tolerance_mm: float = SURFACE_TOLERANCE_MM,
) -> dict[str, float]:
    """Agreement of the two surfaces; a surface is the voxels of a mask that a cross-shaped erosion takes off.

    Args:
        mask, label: boolean ``(D, H, W)``.
        spacing_mm: voxel size.
        tolerance_mm: distance that surface Dice forgives.

    Returns:
        ``surface_dice``: share of both surfaces' voxels within the tolerance of the other (normalised surface Dice,
        Nikolov et al. 2021, DOI 10.2196/26151); 1 where both are empty, 0 where one is. ``assd_mm``: average symmetric
        surface distance, the mean over the voxels of both surfaces. ``hd95_mm``: the larger of the two directed 95th
        percentiles. Both are NaN where both masks are empty and infinite where one is: a median over cases then counts
        a missed lesion as the worst, which a mean over the finite ones would not.

    Raises:
        ValueError: if the shapes differ or are not 3D, a spacing is not positive or the tolerance negative.
    """
    if len(spacing_mm) != 3 or not min(spacing_mm) > 0:
        raise ValueError(f"spacing_mm must be three positive numbers, got {tuple(spacing_mm)}")
    if not tolerance_mm >= 0:
        raise ValueError(f"tolerance_mm must not be negative, got {tolerance_mm}")
    predicted, truth = _pair(mask, label)
    if not predicted.any() or not truth.any():
        both = not predicted.any() and not truth.any()
        distance = float("nan") if both else float("inf")
        return {"surface_dice": float(both), "assd_mm": distance, "hd95_mm": distance}
    how = {"include_background": True, "spacing": [float(value) for value in spacing_mm]}
    with warnings.catch_warnings():  # MONAI 1.6 warns of an argument that it passes to itself
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        dice = compute_surface_dice(predicted, truth, [float(tolerance_mm)], **how)  # type: ignore[arg-type]
        mean = compute_average_surface_distance(predicted, truth, symmetric=True, **how)  # type: ignore[arg-type]
        far = compute_hausdorff_distance(predicted, truth, percentile=95, **how)  # type: ignore[arg-type]
    return {"surface_dice": float(dice), "assd_mm": float(mean), "hd95_mm": float(far)}


@dataclass(frozen=True)
class LesionCounts:
    """How many lesions there are and how many of them were found.

    Attributes:
        lesions: connected regions of the label.
        found: those of them that the mask touches.
        regions: connected regions of the mask.
        true_regions: those of them that touch the label.
    """

    lesions: int
    found: int
    regions: int
    true_regions: int

    @property
    def sensitivity(self) -> float:
        """Share of the lesions that were found; NaN without a lesion."""
        return self.found / self.lesions if self.lesions else float("nan")

    @property
    def precision(self) -> float:
        """Share of the mask's regions that touch a lesion; NaN for an empty mask."""
        return self.true_regions / self.regions if self.regions else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 where there is a lesion or a region but no hit, NaN where there is neither."""
        if not self.lesions and not self.regions:
            return float("nan")
        if not self.found:
            return 0.0
        return 2 * self.sensitivity * self.precision / (self.sensitivity + self.precision)


def count_lesions(mask: torch.Tensor, label: torch.Tensor) -> LesionCounts:
    """Count lesions by the rule of the WMH segmentation challenge (Kuijf et al. 2019, DOI 10.1109/TMI.2019.2905770).

    A lesion is a connected region with 26 neighbours. One voxel in common is a hit. The rule is generous to a mask that
    covers everything in one piece: read it beside Dice or precision, never alone.

    Raises:
        ValueError: if the shapes differ or are not 3D.
    """
    predicted, truth = (volume[0, 0].numpy(force=True) > 0 for volume in _pair(mask, label))
    both = predicted & truth
    lesions, n_lesions = ndimage.label(truth, structure=_CONNECTIVITY)
    regions, n_regions = ndimage.label(predicted, structure=_CONNECTIVITY)
    return LesionCounts(n_lesions, len(np.unique(lesions[both])), n_regions, len(np.unique(regions[both])))


def volumes(mask: torch.Tensor, label: torch.Tensor, *, voxel_ml: float) -> dict[str, float]:
    """Volumes, and the difference of the mask's from the label's.

    Returns:
        ``flagged_ml``, ``label_ml``, ``volume_difference_ml`` (positive: too much is flagged) and
        ``volume_difference_share`` of the label's volume (NaN for an empty label).
    """
    predicted, truth = _pair(mask, label)
    flagged, true = float(predicted.sum()) * voxel_ml, float(truth.sum()) * voxel_ml
    share = (flagged - true) / true if true else float("nan")
    return {
        "flagged_ml": flagged,
        "label_ml": true,
        "volume_difference_ml": flagged - true,
        "volume_difference_share": share,
    }


def masked_psnr(reconstruction: torch.Tensor, image: torch.Tensor, *, normal: torch.Tensor, data_range: float) -> float:
    """Peak signal-to-noise ratio in decibel over the voxels of ``normal`` alone, infinite where they are equal.

    MONAI's metric takes no mask: it is given the chosen voxels as one row, which is the same mean squared error.

    Args:
        reconstruction, image: real ``(D, H, W)``, same unit.
        normal: boolean: the brain without label and mask.
        data_range: the peak. Give one number for all scans (10 for images clipped to ±5), not each scan's own maximum.

    Raises:
        ValueError: if shapes differ, ``normal`` is empty or the range is not positive.
    """
    inside = _checked_region(reconstruction, image, normal, data_range)
    ratio = PSNRMetric(max_val=data_range)(reconstruction[inside][None, None], image[inside][None, None])
    return float(torch.as_tensor(ratio))


def masked_ssim(reconstruction: torch.Tensor, image: torch.Tensor, *, normal: torch.Tensor, data_range: float) -> float:
    """Structural similarity (Gaussian window of 11 voxels, sigma 1.5), averaged over the voxels of ``normal``.

    MONAI's map of local values is averaged where ``normal`` is and the window fits into the grid; NaN where it fits
    nowhere. A window at the rim of ``normal`` sees the voxels next to it, which in both volumes are what they are.

    Args:
        reconstruction, image, normal, data_range: see :func:`masked_psnr`.

    Raises:
        ValueError: as for :func:`masked_psnr`.
    """
    inside = _checked_region(reconstruction, image, normal, data_range)
    if min(inside.shape) < SSIM_WINDOW:
        return float("nan")
    local, _ = compute_ssim_and_cs(
        reconstruction[None, None].float(),
        image[None, None].float(),
        spatial_dims=3,
        data_range=data_range,
        kernel_size=(SSIM_WINDOW,) * 3,
        kernel_sigma=(SSIM_SIGMA,) * 3,
    )
    margin = SSIM_WINDOW // 2
    return float(local[0, 0][inside[margin:-margin, margin:-margin, margin:-margin]].mean())


def _pair(mask: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as MONAI wants them: float, with an axis for the batch and one for the class."""
    if mask.shape != label.shape or mask.ndim != 3:
        raise ValueError(f"mask and label must have one 3D shape, got {tuple(mask.shape)} and {tuple(label.shape)}")
    return (mask > 0.5)[None, None].float(), (label > 0.5)[None, None].float()


def _checked_region(
    reconstruction: torch.Tensor, image: torch.Tensor, normal: torch.Tensor, data_range: float
) -> torch.Tensor:
    if not reconstruction.shape == image.shape == normal.shape:
        shapes = ", ".join(str(tuple(volume.shape)) for volume in (reconstruction, image, normal))
        raise ValueError(f"reconstruction, image and normal must have one shape, got {shapes}")
    if not data_range > 0:
        raise ValueError(f"data_range must be positive, got {data_range}")
    inside = normal > 0.5
    if not inside.any():
        raise ValueError("normal must hold a voxel, got an empty mask")
    return inside
