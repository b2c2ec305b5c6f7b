"""What a report says about one scan, as plain values: read back from a result folder, completed, ready for JSON."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from scipy import ndimage

from itermask3d.files.identity import require_recorded, series_source, source_files
from itermask3d.files.read import Source
from itermask3d.files.scans import ScanError, require_same_grid
from itermask3d.inference.domain import DomainCheck
from itermask3d.inference.overview import evidence_told, verdict
from itermask3d.inference.results import EVIDENCE_MAPS, RESEARCH_USE, VOLUMES, ScanResult
from itermask3d.method.detection import Findings
from itermask3d.preprocessing.anatomy import Alignment, align, describe, place_names
from itermask3d.preprocessing.load import load_volume

__all__ = ["SCHEMA_VERSION", "FinishedScan", "finished_now", "read_finished", "report_data"]

SCHEMA_VERSION = "2.0"
_SAMPLED_VOXELS = 3000

NEEDED = {
    "case", "scan", "outcome", "score", "flagged_share", "percentile_among_normals", "estimate", "curve", "threshold",
    "volumes_ml", "preprocessing", "settings", "inputs", "warnings",
}  # fmt: skip
"""What ``result.json`` must hold to be reported."""

DICOM_FACTS = (
    "Modality", "Manufacturer", "ManufacturerModelName", "MagneticFieldStrength", "SeriesDescription", "ProtocolName",
    "ScanningSequence", "SequenceVariant", "MRAcquisitionType", "RepetitionTime", "EchoTime", "InversionTime",
    "FlipAngle", "ReceiveCoilName", "ContrastBolusAgent", "PatientPosition", "SliceThickness", "SpacingBetweenSlices",
)  # fmt: skip
"""Header fields that a report shows: how the scan was made. Nothing here names the patient, the site or the date."""


@dataclass(frozen=True)
class FinishedScan:
    """A result with the folder that it was written to.

    Attributes:
        folder: where it lies.
        scan: the scan's file or folder as it was found.
        source: the same for a reader: of a series in a folder, its files.
        record: what ``result.json`` holds.
        result: the same with its volumes.
    """

    folder: Path
    scan: Path
    source: Source
    record: Mapping[str, Any]
    result: ScanResult

    @property
    def empty(self) -> bool:
        """Whether nothing is marked."""
        return not self.result.mask.any()


def read_finished(folder: str | Path, *, scan: str | Path | None = None) -> FinishedScan:
    """Read what :func:`itermask3d.inference.results.write_result` wrote, and the scan itself.

    Args:
        folder: of one scan's result.
        scan: where the scan lies now; default: the path in ``result.json``.

    Raises:
        ScanError: if the folder holds no complete result, or the scan is missing, on another grid or not the one that
            was segmented.
    """
    folder = Path(folder)
    record = _read_record(folder)
    path, source = _scan_of(record, folder, scan)
    image = load_volume(source)
    require_recorded(record["inputs"].get("image") or {}, image.meta["read"], source)
    affine = np.asarray(image.affine, dtype=float)
    maps = () if record.get("evidence") is None else EVIDENCE_MAPS
    volumes = {name: _read_volume(folder, record["case"], name) for name in (*VOLUMES, *maps)}
    for name, volume in volumes.items():
        require_same_grid(
            name.replace("_", " "), volume.shape, volume.affine, scan_shape=image.shape, scan_affine=affine
        )
    voxels = {name: np.asarray(volume.dataobj) for name, volume in volumes.items()}
    result = ScanResult(
        case=str(record["case"]),
        path=str(record["scan"]),
        findings=Findings.from_json(dict(record)),
        image=image.numpy(force=True),
        mask=voxels["mask"] > 0,
        anomaly_map=voxels["anomaly_map"].astype(np.float32),
        reconstruction=voxels["reconstruction"].astype(np.float32),
        brain_mask=voxels["brain_mask"] > 0,
        affine=affine,
        preprocessing=record["preprocessing"],
        settings=record["settings"],
        inputs=record["inputs"],
        warnings=tuple(record["warnings"]),
        p_value=record.get("p_value"),
        p_value_note=record.get("p_value_note"),
        domain=None if record.get("domain") is None else DomainCheck.from_json(record["domain"]),
        model=record.get("model"),
        evidence=record.get("evidence"),
        evidence_maps={name: voxels[name].astype(np.float32) for name in maps},
        placement=image.meta["placement"],
        known_sides=image.meta["known_sides"],
    )
    return FinishedScan(folder, path, source, record, result)


def finished_now(folder: Path, result: ScanResult) -> FinishedScan:
    """A result that this run has just written to ``folder``: nothing of it is read again, nor is the scan."""
    record = result.to_json()
    path, source = _scan_of(record, folder, None)
    return FinishedScan(folder, path, source, record, result)


def _scan_of(record: Mapping[str, Any], folder: Path, scan: str | Path | None) -> tuple[Path, Source]:
    """Where the scan of a result lies, and what a reader is given for it."""
    recorded = record["inputs"].get("image") or {}
    path = Path(scan if scan is not None else recorded.get("path", record["scan"]))
    if scan is None and not path.is_absolute():
        raise ScanError(f"the result '{folder}' names its scan by the relative path '{path}'; name where it lies now")
    if not path.exists():
        raise ScanError(f"the scan '{path}' of the result '{folder}' does not exist; name the file or folder it is now")
    return path.absolute(), series_source(path.absolute(), recorded.get("series"))


def report_data(finished: FinishedScan) -> dict[str, Any]:
    """Everything a report says, as plain values; ``schemas/report.schema.json`` of the package describes them."""
    record, result = finished.record, finished.result
    alignment = align(result.brain_mask, result.affine, image=result.image)
    estimate = record["estimate"]
    in_distribution = record.get("in_distribution")
    return {
        "schema_version": SCHEMA_VERSION,
        "note": RESEARCH_USE,
        "case": result.case,
        "scan": result.path,
        "verdict": verdict(result.findings, float(record["volumes_ml"]["anomaly"]), in_distribution=in_distribution),
        "outcome": record["outcome"],
        "score": record["score"],
        "percentile_among_normals": record["percentile_among_normals"],
        "p_value": result.p_value,
        "p_value_note": result.p_value_note,
        "in_distribution": in_distribution,
        "flagged_share": record["flagged_share"],
        "volumes_ml": dict(record["volumes_ml"]),
        "threshold": {
            "value": record["threshold"],
            "status": estimate["status"],
            "step": estimate["step"],
            "slope_source": estimate["slope_source"],
            "fit": dict(estimate["fit"]),
        },
        "evidence": None if result.evidence is None else {**result.evidence, "told": evidence_told(result.evidence)},
        "components": _places(result, alignment),
        "places": {
            "method": alignment.coarseness if alignment else "Places cannot be named without a brain mask.",
            "usual_extent": bool(alignment and alignment.usual),
        },
        "acquisition": _acquisition(result, finished.source),
        "warnings": [*result.warnings, *_own_warnings(result, alignment)],
        "provenance": _provenance(finished),
    }


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError) as error:
        raise ScanError(f"'{folder}' holds no result.json that can be read; expected a finished scan") from error
    missing = sorted(NEEDED - set(record)) if isinstance(record, dict) else sorted(NEEDED)
    if missing:
        raise ScanError(f"'{folder / 'result.json'}' lacks {', '.join(missing)}; expected a result of this software")
    return dict(record)


def _read_volume(folder: Path, case: str, name: str) -> nib.Nifti1Image:
    path = folder / f"{case}_{name}.nii.gz"
    if not path.is_file():
        raise ScanError(f"'{folder}' lacks '{path.name}'; expected a complete result")
    try:
        image = nib.Nifti1Image.from_filename(path)
        return nib.Nifti1Image(np.asarray(image.dataobj), image.affine)  # read now: a damaged file fails here
    except (OSError, EOFError, zlib.error, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise ScanError(f"'{path}' cannot be read ({error}); expected a complete result") from error


def _places(result: ScanResult, alignment: Alignment | None) -> list[dict[str, Any]]:
    """Regions of the mask with their places; measured as by :func:`itermask3d.inference.results.components`."""
    groups = _regions(result.mask)
    sampled = [group[:: -(-len(group) // _SAMPLED_VOXELS)] for group in groups]
    names: list[str] = []
    if alignment and sampled:
        points = nib.affines.apply_affine(result.affine, np.concatenate(sampled))
        names = place_names(alignment.to_template(points))
    described = []
    for index, (group, sample) in enumerate(zip(groups, sampled, strict=True), start=1):
        errors = result.anomaly_map[tuple(group.T)]
        here, names = names[: len(sample)], names[len(sample) :]
        described.append(
            {
                "index": index,
                "volume_ml": len(group) * result.voxel_ml,
                "centroid_mm": _to_mm(result.affine, group.mean(axis=0)),
                "peak_mm": _to_mm(result.affine, group[int(errors.argmax())]),
                "peak_error": float(errors.max()),
                "place": describe(here, known_sides=result.known_sides),
            }
        )
    return described


def _regions(mask: np.ndarray) -> list[np.ndarray]:
    """Voxels ``(N, 3)`` of each connected region (26 neighbours), largest first."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if not count:
        return []
    voxels = np.argwhere(labels > 0)
    owners = labels[tuple(voxels.T)]
    ends = np.cumsum(np.bincount(owners)[1:])[:-1]
    return sorted(np.split(voxels[np.argsort(owners, kind="stable")], ends), key=len, reverse=True)


def _to_mm(affine: np.ndarray, voxel: np.ndarray) -> list[float]:
    return [round(float(value), 2) for value in nib.affines.apply_affine(affine, voxel)]


def _acquisition(result: ScanResult, scan: Source) -> dict[str, Any]:
    linear = result.affine[:3, :3]
    spacing = np.linalg.norm(linear, axis=0)
    directions = np.abs(linear / spacing)
    tilt = float(np.rad2deg(np.arccos(np.clip(directions.max(axis=0), 0, 1))).max())
    shape = result.image.shape
    return {
        "spacing_mm": [round(float(value), 4) for value in spacing],
        "matrix": [int(value) for value in shape],
        "field_of_view_mm": [round(float(value), 2) for value in spacing * shape],
        "voxel_ml": result.voxel_ml,
        "orientation": "".join(nib.aff2axcodes(result.affine)),
        "oblique_degrees": round(tilt, 2),
        "dicom": _dicom_facts(scan),
    }


def _dicom_facts(scan: Source) -> dict[str, str] | None:
    for path in source_files(scan):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, OSError):
            continue
        values = {name: header.get(name) for name in DICOM_FACTS}
        return {name: _text(value) for name, value in values.items() if value not in (None, "")}
    return None


def _text(value: Any) -> str:
    several = not isinstance(value, str) and hasattr(value, "__iter__")
    return ", ".join(str(part) for part in value) if several else str(value)


def _own_warnings(result: ScanResult, alignment: Alignment | None) -> list[str]:
    found = []
    fit = result.findings.estimate.fit
    if result.findings.estimate.slope_source.value == "difference":
        quality = f"R² {fit.r_squared:.2f}" if np.isfinite(fit.r_squared) else "no fit"
        found.append(f"The error curve was fitted poorly ({quality}); its own smoothed slope chose the threshold.")
    if alignment is None:
        found.append("The brain mask is empty, so places cannot be named.")
    elif not alignment.usual:
        found.append(
            "The brain mask's extent is unusual for a whole adult brain: check it, and doubt the places named."
        )
    return found


def _provenance(finished: FinishedScan) -> dict[str, Any]:
    record = finished.record
    when = datetime.fromtimestamp((finished.folder / "result.json").stat().st_mtime, tz=UTC)
    try:
        own = version("itermask3d")
    except PackageNotFoundError:  # a bundle that was unzipped, not installed
        own = "unknown"
    return {
        "result_written": when.isoformat(timespec="seconds"),
        "report_written": datetime.now(UTC).isoformat(timespec="seconds"),
        "report_version": own,
        "model": record.get("model"),
        "weights_sha256": record["settings"].get("weights_sha256", "none"),
        "calibration_sha256": record["settings"].get("calibration_sha256", "none"),
        "versions": dict(record.get("versions", {})),
        "settings": dict(record["settings"]),
        "preprocessing": dict(record["preprocessing"]),
        "inputs": dict(record["inputs"]),
    }
