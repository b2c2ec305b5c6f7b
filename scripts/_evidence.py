"""What the scripts that compare and choose evidence share."""

from __future__ import annotations

from typing import Any

from itermask3d.files.scans import bare_scan_errors
from itermask3d.inference.model import Model
from itermask3d.preprocessing.pipeline import inference_transforms

SPACING_MM, VOXEL_ML = 2.0, 0.008
"""Of the network's grid."""


def prepared(model: Model, item: dict[str, Any]) -> dict[str, Any]:
    """A scan, its brain mask and, where it has one, its lesion on the network's grid, prepared as the model asks.

    Raises:
        ScanError: if it cannot be used.
    """
    described = model.preprocessing.described
    keys = ("spacing_mm", "spatial_size", "bias_correction")
    prepare = inference_transforms(**{key: described[key] for key in keys}, with_label="label" in item)
    with bare_scan_errors():
        return dict(prepare(item))
