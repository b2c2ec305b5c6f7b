"""What a person says about a scan, and how it becomes masks on the scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from itermask3d.inference.results import ScanResult
from itermask3d.method.detection import Findings, Outcome

__all__ = ["Prompts", "apply_prompts", "balls", "grown"]


@dataclass(frozen=True)
class Prompts:
    """What a person says about a scan, on the scan's own grid ``(D, H, W)``.

    Attributes:
        roi: boolean, where an anomaly may be; ``None`` for the whole brain.
        include: boolean, voxels that are anomalous whatever the network says.
        exclude: boolean, voxels that are not; they win over ``include``.
        keep: boolean, part of an earlier mask that stays as it is, because the person did not ask about it.
        threshold: error above which a voxel is anomalous; ``None`` for the scan's own.
    """

    roi: np.ndarray | None = None
    include: np.ndarray | None = None
    exclude: np.ndarray | None = None
    keep: np.ndarray | None = None
    threshold: float | None = None


def apply_prompts(result: ScanResult, prompts: Prompts) -> ScanResult:
    """Make what a person says hold to the voxel on the scan's own grid.

    The network's grid may be coarser. A percentile among normal scans, which nobody prompted, no longer applies. The
    outcome and the share that is flagged are those of the mask as it is then: what a person kept is flagged also where
    the network found nothing.
    """
    mask = result.mask
    if prompts.roi is not None:
        mask = mask & prompts.roi
    if prompts.include is not None:
        mask = mask | (prompts.include & result.brain_mask)
    if prompts.keep is not None:
        mask = mask | prompts.keep
    if prompts.exclude is not None:
        mask = mask & ~prompts.exclude
    return replace(
        result,
        mask=mask,
        findings=_findings(result, mask),
        p_value=None,
        p_value_note=None,
        warnings=(*result.warnings, "A person prompted this result; its score has no percentile among normal scans."),
    )


def _findings(result: ScanResult, mask: np.ndarray) -> Findings:
    findings = result.findings
    usable = findings.outcome is not Outcome.FIT_FAILED
    none = Outcome.NO_ANOMALY if usable else Outcome.FIT_FAILED
    return replace(
        findings,
        outcome=Outcome.ANOMALY if mask.any() else none,
        flagged_share=float(mask.sum() / max(int(result.brain_mask.sum()), 1)),
        percentile_among_normals=None,
    )


def grown(mask: np.ndarray, affine: np.ndarray, *, by_mm: float) -> np.ndarray:
    """A mask and all voxels within a distance of it.

    Args:
        mask: boolean ``(D, H, W)``.
        affine: voxel to millimetres ``(4, 4)``.
        by_mm: distance between voxel centres; at 0 or below the mask stays as it is.
    """
    if by_mm <= 0 or not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=_spacing(affine)) <= by_mm)


def balls(
    points: Sequence[Sequence[float]], shape: Sequence[int], affine: np.ndarray, *, radius_mm: float
) -> np.ndarray:
    """Voxels within a radius of any of some points.

    Args:
        points: voxel coordinates; rounded to the nearest voxel.
        shape, affine: of the grid.
        radius_mm: the voxel of a point always belongs to its ball.

    Raises:
        ValueError: if a point lies outside the grid.
    """
    mask = np.zeros(tuple(shape), dtype=bool)
    reach = np.floor(radius_mm / _spacing(affine)).astype(int)
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    near = offsets[np.linalg.norm(offsets @ np.asarray(affine, dtype=float)[:3, :3].T, axis=1) <= radius_mm]
    for point in points:
        centre = np.round(np.asarray(point, dtype=float)).astype(int)
        if centre.shape != (3,) or (centre < 0).any() or (centre >= shape).any():
            raise ValueError(f"point {list(point)} lies outside the scan; expected voxels below {list(shape)}")
        voxels = np.vstack([near, np.zeros((1, 3), dtype=int)]) + centre
        inside = ((voxels >= 0) & (voxels < shape)).all(axis=1)
        mask[tuple(voxels[inside].T)] = True
    return mask


def _spacing(affine: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0))
