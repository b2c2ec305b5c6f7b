"""A refinement that stays local: what a person changed, how far from it the answer may change, and what it changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from itermask3d.files.scans import voxel_volume_ml
from itermask3d.inference.prompts import grown
from itermask3d.inference.results import ScanResult

__all__ = ["LOCAL_MM", "NO_EDIT", "Edit", "with_maps_of"]

LOCAL_MM = 15.0
"""Distance from the edit beyond which a refinement changes nothing."""

NO_EDIT = "Nothing was drawn or erased since the last answer, so nothing was changed."


@dataclass(frozen=True)
class Edit:
    """What a person made of an earlier mask, all boolean on the scan's own grid.

    Attributes:
        previous: the mask of the last answer.
        drawn: the mask as the person left it.
        suspicious, normal: what scribbles say.
    """

    previous: np.ndarray
    drawn: np.ndarray
    suspicious: np.ndarray
    normal: np.ndarray

    @property
    def voxels(self) -> np.ndarray:
        """Where the person drew, erased or scribbled."""
        return (self.drawn ^ self.previous) | self.suspicious | self.normal

    def zone(self, affine: np.ndarray, *, reach_mm: float = LOCAL_MM) -> np.ndarray:
        """Where the answer may differ from the drawing; nowhere without an edit.

        Args:
            affine: voxel to millimetres ``(4, 4)``.
            reach_mm: distance from the edit.
        """
        return grown(self.voxels, affine, by_mm=reach_mm)

    def change_ml(self, answer: np.ndarray, affine: np.ndarray) -> dict[str, float]:
        """What an answer made of the mask before, in millilitres.

        Returns:
            ``added_ml`` and ``removed_ml`` against the last answer, ``drawn_ml`` of new strokes, and ``kept_ml`` of
            these.
        """
        strokes = (self.drawn & ~self.previous) | self.suspicious
        parts = {
            "added_ml": answer & ~self.previous,
            "removed_ml": self.previous & ~answer,
            "drawn_ml": strokes,
            "kept_ml": strokes & answer,
        }
        voxel_ml = voxel_volume_ml(affine)
        return {name: round(float(part.sum()) * voxel_ml, 3) for name, part in parts.items()}


def with_maps_of(result: ScanResult, earlier: Mapping[str, np.ndarray | None], zone: np.ndarray) -> ScanResult:
    """A result whose maps are the earlier ones outside a zone, so that regions there keep their severity.

    Args:
        result: of the run that saw the zone alone.
        earlier: ``anomaly_map``, and each kind of evidence apart, as far as there were any.
        zone: boolean.
    """

    def mixed(name: str, volume: np.ndarray) -> np.ndarray:
        before = earlier.get(name)
        known = before is not None and before.shape == volume.shape
        return np.where(zone, volume, before).astype(volume.dtype) if known else volume

    evidence = {name: mixed(name, volume) for name, volume in result.evidence_maps.items()}
    return replace(result, anomaly_map=mixed("anomaly_map", result.anomaly_map), evidence_maps=evidence)
