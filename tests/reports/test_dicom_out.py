"""What goes back to a PACS lies on the scan's series, names its study, and passes readers that are not ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_helpers import read_by_dcmqi, require_same_scan
from helpers import Phantom
from itermask3d.files.dicom import write_mr_series
from itermask3d.files.scans import ScanError
from itermask3d.method.detection import Outcome
from itermask3d.reports.data import read_finished
from itermask3d.reports.dicom_out import DicomFiles, write_dicom
from itermask3d.reports.scan_report import write_scan_report
from report_helpers import dicom_phantom, finished_scan

pytest.importorskip("highdicom", reason="DICOM objects are written with highdicom (extra dicom)")


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Phantom, Path]:
    return dicom_phantom(tmp_path_factory.mktemp("scan"))


@pytest.fixture(scope="module")
def written(scan: tuple[Phantom, Path], tmp_path_factory: pytest.TempPathFactory) -> DicomFiles:
    folder = tmp_path_factory.mktemp("out")
    return write_dicom(finished_scan(scan[0], folder, scan=scan[1], percentile=93.75, p_value=0.0625))


def test_segmentation_is_the_mask(written: DicomFiles, scan: tuple[Phantom, Path], tmp_path: Path) -> None:
    require_same_scan(scan[0].label, scan[0].affine, *read_by_dcmqi(written.segmentation, tmp_path))


def test_all_belong_to_the_scans_study(written: DicomFiles, scan: tuple[Phantom, Path]) -> None:
    source = pydicom.dcmread(next(scan[1].glob("*.dcm")))
    found = [pydicom.dcmread(path) for path in written]
    for data in found:
        for name in ("StudyInstanceUID", "PatientID", "PatientName"):
            assert data[name].value == source[name].value
    assert len({data.SeriesInstanceUID for data in found} | {source.SeriesInstanceUID}) == 4
    assert [data.Modality for data in found] == ["SEG", "SR", "OT"]


def test_picture_is_in_colour_and_bounded(written: DicomFiles) -> None:
    data = pydicom.dcmread(written.overview)
    assert data.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert data.PhotometricInterpretation == "RGB"
    assert max(data.Rows, data.Columns) <= 2048
    assert data.pixel_array.shape == (data.Rows, data.Columns, 3)


def test_report_is_read_by_dcmqi(written: DicomFiles, scan: tuple[Phantom, Path], tmp_path: Path) -> None:
    tool = Path(sys.executable).with_name("tid1500reader")
    target = tmp_path / "report.json"
    subprocess.run(
        [tool, "--inputDICOM", written.report, "--outputMetadata", target], check=True, capture_output=True, timeout=120
    )
    whole, region = json.loads(target.read_text())["Measurements"]
    values = {item["quantity"]["CodeValue"]: float(item["value"]) for item in whole["measurementItems"]}
    assert values["SCORE"] == pytest.approx(0.2)
    assert values["PERCENTILE"] == pytest.approx(93.75)
    assert values["P_VALUE"] == pytest.approx(0.0625)
    assert whole["qualitativeEvaluations"][0]["conceptValue"]["CodeValue"] == "ANOMALY"
    flagged = float(region["measurementItems"][0]["value"])
    assert flagged == pytest.approx(scan[0].label.sum() * scan[0].voxel_ml, rel=1e-4)
    segmentation = pydicom.dcmread(written.segmentation)
    assert region["segmentationSOPInstanceUID"] == segmentation.SOPInstanceUID


@pytest.mark.parametrize("name", DicomFiles._fields)
def test_dciodvfy_finds_no_error(written: DicomFiles, name: str) -> None:
    tool = shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("this test needs dciodvfy (sudo apt install dicom3tools)")
    checked = subprocess.run([tool, getattr(written, name)], check=False, capture_output=True, text=True, timeout=120)
    assert not [line for line in checked.stderr.splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("outcome", [Outcome.NO_ANOMALY, Outcome.FIT_FAILED])
def test_empty_result_is_written_too(scan: tuple[Phantom, Path], outcome: Outcome, tmp_path: Path) -> None:
    files = write_dicom(finished_scan(scan[0], tmp_path, scan=scan[1], outcome=outcome))
    assert "no finding" in pydicom.dcmread(files.segmentation).SeriesDescription
    assert outcome.name in str(pydicom.dcmread(files.report))
    again = write_dicom(tmp_path / "phantom")
    assert again == files
    assert sorted(path.name for path in files.report.parent.iterdir()) == ["overview.dcm", "report.dcm",
                                                                           "segmentation.dcm"]  # fmt: skip
    assert not list((tmp_path / "phantom").glob(".*"))


def test_scan_that_is_no_series_is_refused(phantom: Phantom, tmp_path: Path) -> None:
    folder = finished_scan(phantom, tmp_path)
    with pytest.raises(ScanError, match="no folder with a DICOM series"):
        write_dicom(folder)
    assert not (folder / "dicom").exists()


def test_of_two_series_in_one_folder_the_segmented_one_is_shown(tmp_path: Path) -> None:
    phantom, series = dicom_phantom(tmp_path)
    folder = finished_scan(phantom, tmp_path / "out", scan=series)
    own = pydicom.dcmread(next(series.glob("*.dcm"))).SeriesInstanceUID
    other = write_mr_series(phantom.image[::-1].round(), phantom.affine, tmp_path / "t2", description="T2", name="t2")
    for file in other.files:
        file.rename(series / f"T2{file.name}")
    np.testing.assert_array_equal(read_finished(folder).result.image, phantom.image)
    data = json.loads(write_scan_report(folder).with_suffix(".json").read_text())
    assert data["acquisition"]["dicom"]["SeriesDescription"] == "T1"
    referenced = pydicom.dcmread(write_dicom(folder).segmentation).ReferencedSeriesSequence
    assert [item.SeriesInstanceUID for item in referenced] == [own]


def test_objects_of_a_series_that_was_overwritten_are_refused(tmp_path: Path) -> None:
    phantom, series = dicom_phantom(tmp_path)
    folder = finished_scan(phantom, tmp_path / "out", scan=series)
    file = sorted(series.glob("*.dcm"))[len(list(series.iterdir())) // 2]
    data = pydicom.dcmread(file)
    data.PixelData = bytes(len(data.PixelData))
    data.save_as(file)
    with pytest.raises(ScanError, match="is not the scan that was segmented"):
        write_dicom(folder)
    assert not (folder / "dicom").exists()
