"""A result as a reader wants it: how strong, how large and roughly where its regions are, and what to doubt of it."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from itermask3d.inference.conclusion import OUTSIDE
from itermask3d.inference.results import ScanResult, bounding_box
from itermask3d.preprocessing.anatomy import Alignment, describe, place_names
from scipy import ndimage

__all__ = ["SEVERITIES", "deviations", "plain_warnings", "regions"]

SEVERITIES = ("", "mild", "moderate", "severe")
"""Names of the bands 1 to 3."""

SAMPLED_VOXELS = 2000
"""Of a region, at most, to name its place."""


def regions(result: ScanResult, bands: np.ndarray) -> list[dict[str, Any]]:
    """The connected regions of a mask, the most severe first and of equal ones the largest.

    Args:
        result: of a run.
        bands: uint8 on the scan's grid, 0 outside the mask, then 1 (mild) to 3 (severe); one value a region.

    Returns:
        What :class:`itermask3d.inference.results.Component` holds, and ``severity``, ``place`` ("right frontal lobe";
        empty where the brain is of no usual extent) and ``centre_mm``, the region's own voxel that lies nearest to its
        centroid: the centroid of a curved region lies outside it.
    """
    found = result.components
    if not found:
        return []
    whole = bounding_box(result.mask)
    corner = np.array([cut.start for cut in whole])
    labels, _ = ndimage.label(result.mask[whole], structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    boxes = ndimage.find_objects(labels)
    listed = []
    for component, place in zip(found, np.argsort(-sizes, kind="stable"), strict=True):
        box = boxes[place]
        voxels = np.argwhere(labels[box] == place + 1) + [cut.start for cut in box] + corner
        points = nib.affines.apply_affine(result.affine, voxels)
        nearest = points[np.argmin(((points - component.centroid_mm) ** 2).sum(axis=1))]
        listed.append(
            {
                **vars(component),
                "severity": SEVERITIES[int(bands[tuple(voxels[0])])],
                "place": _place(points, result.alignment, known_sides=result.known_sides),
                "centre_mm": [round(float(value), 2) for value in nearest],
            }
        )
    return sorted(listed, key=lambda region: -SEVERITIES.index(region["severity"]))


def plain_warnings(result: ScanResult) -> list[str]:
    """What to doubt of a result, the most important first; figures of the check are left to :func:`deviations`."""
    told = [*deviations(result), OUTSIDE]
    others = [warning for warning in result.warnings if warning not in told]
    if result.in_distribution is False and result.domain is not None:
        kinds = ", ".join(result.domain.groups)
        others.insert(0, f"Unlike the scans that the model knows ({kinds}): doubt the mask. The score ranks nowhere.")
    return others


def deviations(result: ScanResult) -> list[str]:
    """In what a scan differs from those of the training, with figures."""
    return [] if result.domain is None else [deviation.sentence for deviation in result.domain.deviations]


def _place(points: np.ndarray, alignment: Alignment | None, *, known_sides: bool) -> str:
    if alignment is None or not alignment.usual:
        return ""
    sampled = points[:: 1 + len(points) // SAMPLED_VOXELS]
    names = [name.split(", ")[0] for name in place_names(alignment.to_template(sampled))]
    return describe(names, mentioned_share=1, known_sides=known_sides)
