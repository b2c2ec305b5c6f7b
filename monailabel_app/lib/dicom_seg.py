"""Masks as DICOM segmentations: the package's own writer, under the name that the app uses."""

from __future__ import annotations

from itermask3d.reports.dicom_seg import SEGMENT_LABEL, Maker, Segmentation, write_parametric_map, write_segmentation

__all__ = ["SEGMENT_LABEL", "Maker", "Segmentation", "write_parametric_map", "write_segmentation"]
