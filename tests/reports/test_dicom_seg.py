"""A mask saved as DICOM SEG lies on its series, voxel by voxel, for readers that are not ours."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_helpers import ORIENTATIONS, SHAPE, grid, read_by_dcmqi, read_by_simpleitk, require_same_scan
from itermask3d.files.dicom import write_mr_series
from itermask3d.files.scans import ScanError
from itermask3d.reports.dicom_seg import Maker, require_derivable, write_parametric_map, write_segmentation

pydicom_seg = pytest.importorskip("pydicom_seg", reason="the second reader comes with monailabel")


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).permutation(np.prod(SHAPE)).reshape(SHAPE)


@pytest.fixture
def series(volume: np.ndarray, tmp_path: Path) -> Path:
    """An axial series."""
    return write_mr_series(volume, grid(ORIENTATIONS["axial"]), tmp_path / "series", description="T1").folder


@pytest.fixture
def scan(series: Path, tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The array and the affine that MONAI Label makes of :func:`series`."""
    return read_by_simpleitk(series, tmp_path / "scan.nii.gz")


def read_by_pydicom_seg(segmentation: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read with what MONAI Label reads labels with."""
    found = pydicom_seg.SegmentReader().read(pydicom.dcmread(segmentation))
    sitk.WriteImage(found.segment_image(1), str(folder / "pydicom_seg.nii.gz"))
    image = nib.load(folder / "pydicom_seg.nii.gz")
    return np.asarray(image.dataobj) != 0, image.affine


def edit(series: Path, **changes: Any) -> None:
    """Set attributes in all files of a series; ``None`` removes one."""
    for path in series.glob("*.dcm"):
        data = pydicom.dcmread(path)
        for keyword, value in changes.items():
            setattr(data, keyword, value) if value is not None else delattr(data, keyword)
        data.save_as(path)


@pytest.mark.parametrize("share", [0.1, 0.0, 1.0], ids=["some", "empty", "all"])
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda name: name.replace(" ", "-"))
def test_mask_lies_on_its_series(volume: np.ndarray, orientation: str, share: float, tmp_path: Path) -> None:
    written = write_mr_series(volume, grid(ORIENTATIONS[orientation]), tmp_path / "series", description="T1")
    scan, affine = read_by_simpleitk(written.folder, tmp_path / "scan.nii.gz")
    mask = np.random.default_rng(1).random(scan.shape) < share
    found = write_segmentation(mask, affine, written.folder, tmp_path / "seg.dcm", maker=Maker("1.0"))
    assert found.empty == (share == 0)
    for read in (read_by_dcmqi, read_by_pydicom_seg):
        require_same_scan(mask, affine, *read(found.path, tmp_path))


@pytest.mark.parametrize("flips", [(2,), (0,), (0, 1, 2)])
def test_voxels_find_their_slices_whatever_their_order(
    series: Path, scan: tuple[np.ndarray, np.ndarray], flips: tuple[int, ...], tmp_path: Path
) -> None:
    mask, affine = scan[0] % 5 == 0, scan[1]
    turned = nib.Nifti1Image(mask.astype(np.uint8), affine)
    orientation = [[2, 1], [0, 1], [1, 1]]
    for axis in flips:
        orientation[axis][1] = -1
    turned = turned.as_reoriented(np.array(orientation))
    found = write_segmentation(turned.get_fdata(), turned.affine, series, tmp_path / "seg.dcm", maker=Maker("1.0"))
    require_same_scan(mask, affine, *read_by_dcmqi(found.path, tmp_path))


def test_every_frame_names_its_source_image(series: Path, scan: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    found = write_segmentation(scan[0] % 5 == 0, scan[1], series, tmp_path / "seg.dcm", maker=Maker("1.0"))
    data = pydicom.dcmread(found.path)
    sources = {str(h.SOPInstanceUID): h for h in map(pydicom.dcmread, series.glob("*.dcm"))}
    assert data.NumberOfFrames == len(sources) == SHAPE[2]
    for frame in data.PerFrameFunctionalGroupsSequence:
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert [float(v) for v in position] == [float(v) for v in sources[reference].ImagePositionPatient]
    assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == next(iter(sources.values())).SeriesInstanceUID
    assert data.FrameOfReferenceUID == next(iter(sources.values())).FrameOfReferenceUID


@pytest.mark.parametrize(
    ("corrected", "empty", "kind", "description"),
    [
        (True, False, "SEMIAUTOMATIC", "IterMask3D anomaly (reviewed)"),
        (False, False, "AUTOMATIC", "IterMask3D anomaly (automatic)"),
        (True, True, "SEMIAUTOMATIC", "IterMask3D no finding (reviewed)"),
    ],
)
def test_header_says_what_was_found_and_by_whom(
    series: Path,
    scan: tuple[np.ndarray, np.ndarray],
    corrected: bool,
    empty: bool,
    kind: str,
    description: str,
    tmp_path: Path,
) -> None:
    maker = Maker("1.0", weights="abc123", corrected=corrected, user="reader one")
    mask = np.zeros(SHAPE) if empty else scan[0] % 5 == 0
    found = write_segmentation(mask, scan[1], series, tmp_path / "seg.dcm", maker=maker)
    data = pydicom.dcmread(found.path)
    segment = data.SegmentSequence[0]
    assert len(data.SegmentSequence) == 1
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("Anomaly (IterMask3D)", kind)
    assert data.SeriesDescription == description
    assert data.ContentCreatorName == "reader one"
    assert ("No finding" in data.ContentDescription) == empty
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "52988006"
    assert segment.AnatomicRegionSequence[0].CodeValue == "12738006"
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("IterMask3D", "1.0")
    assert "abc123" in algorithm.AlgorithmParameters
    assert (data.SeriesInstanceUID, data.SOPInstanceUID) == (found.series_uid, found.instance_uid)
    assert data.PatientName == "ITERMASK3D^DEMO"


def test_two_saves_are_two_series(series: Path, scan: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    first, second = (
        write_segmentation(scan[0] > 9, scan[1], series, tmp_path / name, maker=Maker("1.0"))
        for name in ("a.dcm", "b.dcm")
    )
    assert first.series_uid != second.series_uid


@pytest.mark.parametrize("user", ["", "a^b=c\\d", "x" * 200, "Ünal\n", "^"])
def test_any_login_can_be_the_creator(
    series: Path, scan: tuple[np.ndarray, np.ndarray], user: str, tmp_path: Path
) -> None:
    found = write_segmentation(
        scan[0] > 9, scan[1], series, tmp_path / "seg.dcm", maker=Maker("", corrected=True, user=user)
    )
    name = str(pydicom.dcmread(found.path).ContentCreatorName or "")
    assert len(name) <= 64
    assert not set(name) & set("^=\\\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"SliceThickness": None},
        {"SpacingBetweenSlices": None},
        {"SliceThickness": 5, "SpacingBetweenSlices": 5},
        {"PatientBirthDate": None, "PatientSex": None, "StudyID": None, "AccessionNumber": None, "StudyDate": None},
        {"PatientName": "Ä^Ö", "SpecificCharacterSet": "ISO_IR 100"},
    ],
)
def test_sloppy_headers_do_not_move_the_mask(
    series: Path, scan: tuple[np.ndarray, np.ndarray], changes: dict[str, Any], tmp_path: Path
) -> None:
    edit(series, **changes)
    mask = scan[0] % 5 == 0
    found = write_segmentation(mask, scan[1], series, tmp_path / "seg.dcm", maker=Maker("1.0"))
    for read in (read_by_dcmqi, read_by_pydicom_seg):
        require_same_scan(mask, scan[1], *read(found.path, tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"FrameOfReferenceUID": None}, "lacks FrameOfReferenceUID"),
        ({"ImagePositionPatient": None, "PixelSpacing": None}, "lacks ImagePositionPatient and PixelSpacing"),
        ({"ImagePositionPatient": [0, 0, 0]}, "at one place"),
        ({"NumberOfFrames": 2}, "several frames"),
    ],
)
def test_unusable_series_is_named(
    series: Path,
    scan: tuple[np.ndarray, np.ndarray],
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
) -> None:
    edit(series, **changes)
    with pytest.raises(ScanError, match=message):
        write_segmentation(scan[0] > 9, scan[1], series, tmp_path / "seg.dcm", maker=Maker("1.0"))
    assert not list(tmp_path.glob("*seg.dcm*"))


def shifted(affine: np.ndarray, voxels: tuple[float, float, float]) -> np.ndarray:
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ voxels
    return moved


@pytest.mark.parametrize(
    ("voxels", "message"),
    [((0.5, 0, 0), "beside the series"), ((1, 0, 0), "beside"), ((0, 0, -1), "ends before"), ((0, 0.3, 0), "beside")],
)
def test_mask_of_another_grid_is_refused(
    series: Path,
    scan: tuple[np.ndarray, np.ndarray],
    voxels: tuple[float, float, float],
    message: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(ScanError, match=message):
        write_segmentation(scan[0] > 9, shifted(scan[1], voxels), series, tmp_path / "seg.dcm", maker=Maker("1.0"))


def test_mask_of_another_shape_is_refused(series: Path, scan: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=r"shape \(11, 8, 5\)"):
        write_segmentation(scan[0][..., :-1], scan[1], series, tmp_path / "s.dcm", maker=Maker("1.0"))


def test_empty_folder_and_two_series_are_refused(
    series: Path, scan: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "readme.txt").write_text("nothing here")
    other = write_mr_series(scan[0], scan[1], tmp_path / "other", description="T2", series_number=2)
    shutil.copy(other.files[0], series)
    for folder, message in ((tmp_path / "none", "no DICOM image"), (series, "several series")):
        with pytest.raises(ScanError, match=message):
            write_segmentation(scan[0] > 9, scan[1], folder, tmp_path / "seg.dcm", maker=Maker("1.0"))


def test_mask_is_not_changed(series: Path, scan: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    mask = (scan[0] % 4).astype(np.uint8)
    before = mask.copy()
    write_segmentation(mask, scan[1], series, tmp_path / "seg.dcm", maker=Maker("1.0"))
    np.testing.assert_array_equal(mask, before)


def test_parametric_map_keeps_every_value(series: Path, scan: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    errors = np.random.default_rng(2).random(scan[0].shape).astype(np.float32)
    uid = write_parametric_map(errors, scan[1], series, tmp_path / "map.dcm", maker=Maker("1.0"))
    data = pydicom.dcmread(tmp_path / "map.dcm")
    assert data.SeriesInstanceUID == uid
    stored = np.frombuffer(data.FloatPixelData, np.float32).reshape(data.NumberOfFrames, data.Rows, data.Columns)
    positions = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in data.PerFrameFunctionalGroupsSequence]
    to_voxel = np.linalg.inv(scan[1])
    for frame, position in zip(stored, positions, strict=True):
        index = round(float((to_voxel @ [-position[0], -position[1], position[2], 1])[2]))
        np.testing.assert_array_equal(frame, errors[:, :, index].T)


NAMES = {
    "Müller^Jürgen": "ISO_IR 100",
    "Yamada^Tarou=山田^太郎=やまだ^たろう": ["", "ISO 2022 IR 87"],
    "Люкceмбypг^Иван": "ISO_IR 144",
    "Διονυσιος^Νίκος": "ISO_IR 126",
    "Wang^XiaoDong=王^小东": "GB18030",
    "Buc^Jérôme": "ISO_IR 192",
    "قباني^لنزار": "ISO_IR 127",
}
IDENTITY = {
    "PatientID": "0815",
    "IssuerOfPatientID": "Ward 7",
    "OtherPatientNames": "Alias^A",
    "PatientComments": "seen twice",
    "AccessionNumber": "A-1",
    "StudyDescription": "Head",
    "ReferringPhysicianName": "Doe^Jane",
    "StudyDate": "20200229",
    "StudyTime": "235959.5",
    "PatientBirthDate": "19700101",
    "PatientSex": "F",
    "PatientAge": "050Y",
}


@pytest.mark.parametrize(("name", "charset"), NAMES.items(), ids=[str(value) for value in NAMES.values()])
def test_identity_is_that_of_the_source_byte_by_byte(
    series: Path, scan: tuple[np.ndarray, np.ndarray], name: str, charset: Any, tmp_path: Path
) -> None:
    edit(series, SpecificCharacterSet=charset, PatientName=name, **IDENTITY)
    found = write_segmentation(scan[0] % 5 == 0, scan[1], series, tmp_path / "seg.dcm", maker=Maker("1.0", user="Ann"))
    source, saved = (pydicom.dcmread(path) for path in (next(series.glob("*.dcm")), found.path))
    assert saved.SpecificCharacterSet == source.SpecificCharacterSet
    assert str(saved.PatientName) == name
    raw = [pydicom.dcmread(path).get_item("PatientName").value for path in (next(series.glob("*.dcm")), found.path)]
    assert raw[0] == raw[1]
    assert {key: saved.get(key) for key in IDENTITY} == IDENTITY
    assert not found.remarks


@pytest.mark.parametrize("charset", ["ISO_IR 100", ["", "ISO 2022 IR 87"]], ids=str)
def test_a_readers_name_that_the_source_cannot_hold_turns_the_object_to_unicode(
    series: Path, scan: tuple[np.ndarray, np.ndarray], charset: Any, tmp_path: Path
) -> None:
    name = "Müller^J" if charset == "ISO_IR 100" else "Yamada=山田"
    edit(series, SpecificCharacterSet=charset, PatientName=name)
    found = write_segmentation(scan[0] > 9, scan[1], series, tmp_path / "seg.dcm", maker=Maker("1", user="Łukasz Ж"))
    saved = pydicom.dcmread(found.path)
    assert (saved.SpecificCharacterSet, str(saved.PatientName)) == ("ISO_IR 192", name)
    assert str(saved.ContentCreatorName) == "Łukasz Ж"


@pytest.mark.parametrize(
    ("keyword", "value", "kept"),
    [
        ("PatientSex", "m", "M"),
        ("PatientSex", "0000", ""),
        ("PatientSex", "female", "F"),
        ("PatientBirthDate", "1970-01-01", "19700101"),
        ("PatientBirthDate", "1970.01.01", "19700101"),
        ("PatientBirthDate", "19701301", ""),
        ("PatientBirthDate", "01/02/1970", ""),
        ("StudyTime", "12:30:05", "123005"),
        ("StudyTime", "noon", ""),
        ("StudyDate", "2020-02-30", ""),
        ("PatientAge", "45Y", "045Y"),
        ("PatientAge", "45", ""),
        ("PatientAge", "old", ""),
    ],
)
def test_an_invalid_attribute_is_mended_or_left_out_and_told(
    series: Path, scan: tuple[np.ndarray, np.ndarray], keyword: str, value: str, kept: str, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's own, on writing what no scanner should
        edit(series, **{keyword: value})
    mask = scan[0] % 5 == 0
    found = write_segmentation(mask, scan[1], series, tmp_path / "seg.dcm", maker=Maker("1.0"))
    assert str(pydicom.dcmread(found.path).get(keyword) or "") == kept
    assert len(found.remarks) == 1
    assert keyword in found.remarks[0]
    assert repr(value) in found.remarks[0]
    require_same_scan(mask, scan[1], *read_by_dcmqi(found.path, tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"FrameOfReferenceUID": None}, "FrameOfReferenceUID"), ({"SOPClassUID": "1.2.3"}, "no DICOM object"), ({}, None)],
    ids=["no frame of reference", "unknown class", "usable"],
)
def test_whether_a_segmentation_can_be_made_is_known_before(
    series: Path, scan: tuple[np.ndarray, np.ndarray], changes: dict[str, Any], message: str | None
) -> None:
    edit(series, **changes)
    if message is None:
        require_derivable(scan[0].shape, scan[1], series)
        return
    with pytest.raises(ScanError, match=message):
        require_derivable(scan[0].shape, scan[1], series)
