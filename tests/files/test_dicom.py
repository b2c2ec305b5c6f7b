"""A volume written as an MR series comes back from independent readers voxel by voxel, wherever its axes point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_helpers import ORIENTATIONS, SHAPE, grid, read_by_simpleitk, require_same_scan
from helpers import rotation
from itermask3d.files.dicom import MrProtocol, write_mr_series
from itermask3d.files.scans import ScanError
from monai.transforms import LoadImage


@pytest.fixture(params=ORIENTATIONS, ids=lambda name: name.replace(" ", "-"))
def affine(request: pytest.FixtureRequest) -> np.ndarray:
    return grid(ORIENTATIONS[request.param])


@pytest.fixture
def volume() -> np.ndarray:
    """Every voxel has its own value, so that no flip goes unseen."""
    return np.random.default_rng(0).permutation(np.prod(SHAPE)).reshape(SHAPE).astype(np.float32)


def test_simpleitk_reads_the_same_scan(volume: np.ndarray, affine: np.ndarray, tmp_path: Path) -> None:
    write_mr_series(volume, affine, tmp_path / "series", description="T1")
    require_same_scan(volume, affine, *read_by_simpleitk(tmp_path / "series", tmp_path / "x.nii.gz"))


@pytest.mark.parametrize("reader", ["itkreader", "pydicomreader"])
def test_monai_reads_the_same_scan(volume: np.ndarray, affine: np.ndarray, tmp_path: Path, reader: str) -> None:
    write_mr_series(volume, affine, tmp_path / "series", description="T1")
    found = LoadImage(reader=reader, image_only=True)(str(tmp_path / "series"))
    require_same_scan(volume, affine, found.numpy(), found.affine.numpy())


def test_right_handed_dicom_grid_keeps_its_voxel_order(volume: np.ndarray, tmp_path: Path) -> None:
    affine = grid(ORIENTATIONS["oblique"] * [1, 1, np.sign(np.linalg.det(ORIENTATIONS["oblique"]))])
    write_mr_series(volume, affine, tmp_path / "series", description="T1")
    found, found_affine = read_by_simpleitk(tmp_path / "series", tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(found, volume)
    np.testing.assert_allclose(found_affine, affine, atol=1e-3)


@pytest.mark.parametrize(
    ("low", "high", "whole"),
    [(0, 255, True), (0, 65535, True), (-1000, 3000, True), (3, 3, True), (0, 1, False), (-3.5, 9000.25, False)],
)
def test_values_survive_within_the_rounding_they_need(low: float, high: float, whole: bool, tmp_path: Path) -> None:
    volume = np.linspace(low, high, int(np.prod(SHAPE))).reshape(SHAPE)
    volume = np.round(volume) if whole else volume
    affine = grid(ORIENTATIONS["axial"])
    write_mr_series(volume, affine, tmp_path / "series", description="T1")
    found, found_affine = read_by_simpleitk(tmp_path / "series", tmp_path / "x.nii.gz")
    tolerance = 0 if whole else 0.51 * (high - low) / 65535
    require_same_scan(volume, affine, found, found_affine, tolerance=tolerance)


def test_no_decimal_string_is_too_long(volume: np.ndarray, tmp_path: Path) -> None:
    affine = grid(rotation(degrees=(1e-7, 33.3333333, -71.77777)), spacing_mm=(1 / 3, 0.123456789, 1e-3))
    for path in write_mr_series(volume / 7, affine, tmp_path / "series", description="T1").files:
        for element in pydicom.dcmread(path).iterall():
            if element.VR == "DS":
                values = element.value if element.VM > 1 else [element.value]
                assert all(len(str(value)) <= 16 for value in values), element


def test_headers_hold_what_a_viewer_and_the_choice_of_series_need(volume: np.ndarray, tmp_path: Path) -> None:
    series = write_mr_series(volume, np.eye(4), tmp_path / "series", description="T1 MPRAGE", series_number=4)
    headers = [pydicom.dcmread(path) for path in series.files]
    assert [header.InstanceNumber for header in headers] == list(range(1, SHAPE[2] + 1))
    assert len({header.SOPInstanceUID for header in headers}) == SHAPE[2]
    assert {header.SeriesInstanceUID for header in headers} == {series.series_uid}
    first = headers[0]
    assert (first.Modality, first.SeriesNumber, first.SeriesDescription) == ("MR", 4, "T1 MPRAGE")
    assert len(first.ImageType) == 3
    assert (first.RepetitionTime, first.EchoTime, first.InversionTime) == (2300, 2.98, 900)
    assert str(first.PatientName) == "ITERMASK3D^DEMO"
    assert (first.Rows, first.Columns) == (SHAPE[1], SHAPE[0])


def test_same_name_gives_same_uids_and_another_name_others(volume: np.ndarray, tmp_path: Path) -> None:
    a, b, c = (
        write_mr_series(volume, np.eye(4), tmp_path / folder, description="T1", name=name)
        for folder, name in (("a", "demo"), ("b", "demo"), ("c", "other"))
    )
    assert (a.study_uid, a.series_uid) == (b.study_uid, b.series_uid)
    assert {a.study_uid, a.series_uid}.isdisjoint({c.study_uid, c.series_uid})
    assert [p.read_bytes() for p in a.files] == [p.read_bytes() for p in b.files]


def test_series_of_one_study_share_the_frame_of_reference(volume: np.ndarray, tmp_path: Path) -> None:
    a = write_mr_series(volume, np.eye(4), tmp_path / "a", description="T1")
    b = write_mr_series(volume, np.eye(4), tmp_path / "b", description="T1", study_uid=a.study_uid, series_number=2)
    first, second = (pydicom.dcmread(series.files[0]) for series in (a, b))
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID


def test_contrast_agent_and_missing_inversion_are_written(volume: np.ndarray, tmp_path: Path) -> None:
    protocol = MrProtocol(inversion_ms=None, contrast_agent="gadolinium")
    series = write_mr_series(volume, np.eye(4), tmp_path / "series", description="T1 +C", protocol=protocol)
    header = pydicom.dcmread(series.files[0])
    assert header.ContrastBolusAgent == "gadolinium"
    assert "InversionTime" not in header


def sheared() -> np.ndarray:
    affine = np.eye(4)
    affine[0, 1] = 0.2
    return affine


@pytest.mark.parametrize(
    ("volume", "affine", "description", "message"),
    [
        (np.ones((4, 4)), np.eye(4), "T1", "one 3D volume"),
        (np.ones((4, 4, 0)), np.eye(4), "T1", "one 3D volume"),
        (np.full((4, 4, 4), np.nan), np.eye(4), "T1", "not finite"),
        (np.ones((4, 4, 4)), np.zeros((4, 4)), "T1", "invertible"),
        (np.ones((4, 4, 4)), sheared(), "T1", "right angles"),
        (np.ones((4, 4, 4)), np.eye(4), "x" * 65, "64 characters"),
    ],
)
def test_unusable_input_is_named(
    volume: np.ndarray, affine: np.ndarray, description: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ScanError, match=message):
        write_mr_series(volume, affine, tmp_path / "series", description=description)


def test_files_of_another_series_are_not_mixed_in(volume: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "old.dcm").write_bytes(b"")
    with pytest.raises(ScanError, match="not empty"):
        write_mr_series(volume, np.eye(4), tmp_path, description="T1")
