"""A result as DICOM objects of the scan's own study: segmentation, structured report, picture."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from itermask3d.files.dicom_identity import keep_character_set
from itermask3d.files.scans import ScanError
from itermask3d.files.writing import replaced_folder
from itermask3d.inference.overview import save_overview
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.reports.data import FinishedScan, read_finished, report_data
from itermask3d.reports.dicom_seg import (
    BRAIN,
    LESION,
    SEGMENT_LABEL,
    Maker,
    derived_object,
    save_dataset,
    source_slices,
    write_segmentation,
)

__all__ = ["DICOM_FOLDER", "DicomFiles", "write_dicom"]

DICOM_FOLDER = "dicom"
SEGMENTATION_NUMBER, REPORT_NUMBER, OVERVIEW_NUMBER = 300, 301, 302
MAX_PICTURE_SIDE = 2048

OWN = "99ITERMASK3D"
"""Coding scheme of what no standard has a code for."""

DEVICE = ("121007", "DCM", "Device")
IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
MR_OF_BRAIN = Code("24590-2", "LN", "MR Brain")
MILLILITRE = Code("ml", "UCUM", "milliliter")
NO_UNIT = Code("1", "UCUM", "no units")
PERCENT = Code("%", "UCUM", "percent")
OUTCOME = Code("OUTCOME", OWN, "Outcome of the anomaly search")
OUTCOMES = {
    "anomaly": Code("ANOMALY", OWN, "A region unlike the normal scans of the training is marked"),
    "no_anomaly": Code("NO_ANOMALY", OWN, "Nothing is marked"),
    "fit_failed": Code("FIT_FAILED", OWN, "No statement: the error curve could not be used"),
}
MEASUREMENTS = {
    "score": (Code("SCORE", OWN, "Anomaly score"), NO_UNIT),
    "percentile_among_normals": (Code("PERCENTILE", OWN, "Percentile of the score among normal scans"), PERCENT),
    "p_value": (Code("P_VALUE", OWN, "Conformal p-value of the score"), NO_UNIT),
}
VOLUME = Code("118565006", "SCT", "Volume")


class DicomFiles(NamedTuple):
    """Files of one result."""

    segmentation: Path
    report: Path
    overview: Path


def write_dicom(folder: str | Path, *, scan: str | Path | None = None) -> DicomFiles:
    """Write a finished scan's result as DICOM objects into ``dicom/`` of its folder, all of them or none.

    ``segmentation.dcm`` (DICOM SEG on the scan's grid), ``report.dcm`` (Comprehensive SR of template TID 1500 with
    outcome, score, percentile, p-value and volumes) and ``overview.dcm`` (secondary capture, RGB). Patient and study
    are those of the scan; each object is a new series.

    Args:
        folder: as :func:`itermask3d.inference.results.write_result` wrote it.
        scan: where the DICOM series lies now; default: the path in ``result.json``.

    Raises:
        ScanError: if the scan is no folder with one DICOM series of single-slice images, or highdicom is not installed.
    """
    if find_spec("highdicom") is None:
        raise ScanError("DICOM objects need the package highdicom (pip install 'itermask3d[dicom]')")
    finished = read_finished(folder, scan=scan)
    if not finished.scan.is_dir():
        raise ScanError(f"the scan '{finished.scan}' is no folder with a DICOM series, so no DICOM can refer to it")
    data = report_data(finished)
    target = finished.folder / DICOM_FOLDER
    with replaced_folder(target) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*person name.*")  # kept as the scan has it
        _write_all(finished, data, partial)
    return DicomFiles(*(target / f"{name}.dcm" for name in DicomFiles._fields))


def _write_all(finished: FinishedScan, data: dict[str, Any], folder: Path) -> None:
    from_run = data["provenance"]
    version = str(from_run["versions"].get("itermask3d", from_run["report_version"]))
    maker = Maker(version, weights=str(from_run["weights_sha256"]))
    result = finished.result
    segmentation = write_segmentation(
        result.mask, result.affine, finished.source, folder / "segmentation.dcm", maker=maker
    )
    source, _ = source_slices(finished.source)
    objects = {
        "report": _report(data, source, dcmread(segmentation.path), maker),
        "overview": _picture(finished, source, maker, folder),
    }
    for name, derived in objects.items():
        keep_character_set(derived, source[0], own_texts=(data["verdict"],))
        save_dataset(derived, folder / f"{name}.dcm")


def _report(data: dict[str, Any], source: Sequence[Dataset], segmentation: Dataset, maker: Maker) -> Dataset:
    """Comprehensive SR: the outcome of the whole scan, then the marked region by reference to the segmentation."""
    import highdicom as hd

    algorithm = hd.sr.AlgorithmIdentification(
        name="IterMask3D", version=maker.version, parameters=[f"weights {maker.weights}", RESEARCH_USE]
    )
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=["itermask3d", maker.version]), name="IterMask3D", model_name="itermask3d"
    )
    context = hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(
            observer_type=hd.sr.CodedConcept(*DEVICE), observer_identifying_attributes=device
        )
    )
    groups: list[Any] = [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(uid=generate_uid(), identifier="Whole scan"),
            finding_type=BRAIN,
            algorithm_id=algorithm,
            finding_sites=[hd.sr.FindingSite(BRAIN)],
            measurements=_measurements(data),
            qualitative_evaluations=[hd.sr.QualitativeEvaluation(OUTCOME, OUTCOMES[data["outcome"]])],
        )
    ]
    if data["components"]:
        groups.append(_region(data, segmentation, algorithm))
    content = hd.sr.MeasurementReport(
        observation_context=context,
        procedure_reported=MR_OF_BRAIN,
        imaging_measurements=groups,
        title=IMAGING_MEASUREMENT_REPORT,
    )
    about = dict(derived_object(maker, f"IterMask3D report: {data['verdict']}"))
    about |= {"series_number": REPORT_NUMBER}
    document = hd.sr.ComprehensiveSR(
        evidence=[*source, segmentation],
        content=content,
        is_complete=True,
        is_final=False,
        is_verified=False,
        **about,
    )
    document.SeriesDescription = about["series_description"]
    return document


def _measurements(data: dict[str, Any]) -> list[Any]:
    import highdicom as hd

    volumes = [hd.sr.Measurement(name=VOLUME, value=_plain(data["volumes_ml"]["brain"]), unit=MILLILITRE)]
    found = [(name, unit, data[key]) for key, (name, unit) in MEASUREMENTS.items()]
    return volumes + [
        hd.sr.Measurement(name=name, value=_plain(value), unit=unit)
        for name, unit, value in found
        if value is not None and math.isfinite(value)
    ]


def _region(data: dict[str, Any], segmentation: Dataset, algorithm: Any) -> Any:
    import highdicom as hd

    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=segmentation.SegmentSequence[0].TrackingUID, identifier=SEGMENT_LABEL
        ),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=1,
            source_series=hd.sr.SourceSeriesForSegmentation(segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID),
        ),
        finding_type=LESION,
        algorithm_id=algorithm,
        finding_sites=[hd.sr.FindingSite(BRAIN)],
        measurements=[hd.sr.Measurement(name=VOLUME, value=_plain(data["volumes_ml"]["anomaly"]), unit=MILLILITRE)],
    )


def _plain(value: float) -> float:
    """Seven digits: what a decimal string of DICOM holds in any case."""
    return float(f"{float(value):.7g}")


def _picture(finished: FinishedScan, source: Sequence[Dataset], maker: Maker, folder: Path) -> Dataset:
    import highdicom as hd

    drawn = finished.folder / "overview.png"
    if not drawn.is_file():
        drawn = folder / "overview.png"
        save_overview(finished.result, drawn)
    with Image.open(drawn) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((MAX_PICTURE_SIDE, MAX_PICTURE_SIDE))
    (folder / "overview.png").unlink(missing_ok=True)
    about = dict(derived_object(maker, "IterMask3D overview"))
    kept = ("series_instance_uid", "sop_instance_uid", "instance_number", "manufacturer")
    capture = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=source[0],
        pixel_array=np.asarray(picture),
        photometric_interpretation=hd.PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        patient_orientation=("L", "F"),
        series_number=OVERVIEW_NUMBER,
        **{name: about[name] for name in kept},
    )
    capture.PatientOrientation = []  # planes of several directions stand in one picture
    capture.BodyPartExamined = "BRAIN"
    capture.SeriesDescription = about["series_description"]
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.BurnedInAnnotation = "YES"
    capture.ManufacturerModelName = "itermask3d"
    capture.SoftwareVersions = maker.version[:64]
    return capture
