"""The right series is found in a study, whatever its headers call it, and the choice is explained."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import requests
from itermask3d.files.dicom import MrProtocol, write_mr_series
from pydicom import dcmread
from pydicom.dataset import Dataset


@pytest.fixture(scope="module")
def lib() -> ModuleType:
    return importlib.import_module("lib.series")


def header(**changes: Any) -> Dataset:
    """A T1 MPRAGE's header; ``None`` removes an attribute."""
    data = Dataset()
    values = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR", "SeriesInstanceUID": "1.2.3",
        "StudyInstanceUID": "1.2", "SeriesNumber": 3, "SeriesDescription": "T1 MPRAGE", "BodyPartExamined": "BRAIN",
        "ImageType": ["ORIGINAL", "PRIMARY", "M"], "MRAcquisitionType": "3D", "Rows": 256, "Columns": 256,
        "ScanningSequence": ["GR", "IR"], "RepetitionTime": 2300, "EchoTime": 3, "InversionTime": 900,
        "PixelSpacing": [1, 1], "SliceThickness": 1, "ImagePositionPatient": [0, 0, 0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "FrameOfReferenceUID": "1.9",
    }  # fmt: skip
    for keyword, value in (values | changes).items():
        if value is not None:
            setattr(data, keyword, value)
    return data


def stack(positions: list[float], **changes: Any) -> list[Dataset]:
    return [header(ImagePositionPatient=[0, 0, z], **changes) for z in positions]


SILENT = {"SeriesDescription": "", "ScanningSequence": None, "InversionTime": None}

BY_WORDS = {
    "T1": [
        "T1 MPRAGE", "sag_mp-rage", "t1_mprage_sag_p2_iso_1.0", "t1_mpr_ns_sag_1mm", "AX 3D BRAVO", "SAG FSPGR BRAVO",
        "3D SPGR", "WIP sT1W_3D_TFE SENSE", "t1w", "T1_VIBE_tra", "tfl3d1_16ns", "T1 pre contrast", "T1 ohne KM",
        "T1 w/o contrast", "T1 no gad", "T1 posterior fossa", "SAG T1 FLAIR", "t1_tse_sag", "mp2rage_UNI_Images",
        "MEMPRAGE RMS", "IR-FSPGR", "t1_fl3d_tra", "NATIV T1", "Cor T1 Dixon w",
    ],
    "T1c": [
        "T1 post GAD", "t1_mprage_KM", "AX T1 +C", "MPRAGE+GD", "T1CE", "T1Gd", "t1_se_post", "MPRAGE GADO",
        "Ax T1 C+", "T1 SPACE +C", "T1 mprage sag 1mm ISO Gd", "T1 post contrast no fatsat", "BRAVO enhanced",
    ],
    "T2": ["t2_tse_tra", "T2 CUBE", "AX T2 FSE", "T2W_TFE", "CISS", "STIR"],
    "FLAIR": ["AX T2 FLAIR", "t2_space_dark-fluid_sag", "3D FLAIR post contrast", "t2_tirm_tra_dark-fluid"],
    "PD": ["PD TSE", "AX PDw", "proton density"],
    "DWI": ["ep2d_diff_3scan_trace_p2", "ADC", "DWI_b1000", "DTI 64 dir", "Ax eADC", "FA map"],
    "SWI": ["SWI_Images", "t2_fl2d_tra_hemo", "T2* GRE", "Ax SWAN", "T2 star"],
    "angiography": ["TOF_3D_multi-slab", "MRA COW", "CE-MRA"],
    "perfusion": ["ep2d_perf_p2", "pCASL", "DSC perfusion", "rCBV"],
    "functional": ["rfMRI_REST", "bold_task", "SBRef"],
    "localizer": ["localizer", "LOCALISER", "Scout", "3-plane loc", "AAHead_Scout", "Survey"],
    "derived": ["mIP_Images(SW)", "gre_field_mapping", "T1map", "MPR Range", "mp2rage_INV1", "T1 subtraction"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("description", "contrast"), [(words, contrast) for contrast, names in BY_WORDS.items() for words in names]
)
def test_words_name_the_contrast(lib: ModuleType, description: str, contrast: str) -> None:
    timing = {"RepetitionTime": None, "EchoTime": None}
    found = lib.describe([header(**SILENT | {"SeriesDescription": description} | timing)])
    assert found.contrast == contrast, found.reason


@pytest.mark.parametrize(
    ("timing", "contrast"),
    [
        ({"ScanningSequence": ["GR", "IR"], "RepetitionTime": 2300, "EchoTime": 2.98, "InversionTime": 900}, "T1"),
        ({"ScanningSequence": "GR", "RepetitionTime": 8.1, "EchoTime": 3.7, "FlipAngle": 8}, "T1"),
        ({"ScanningSequence": "GR", "RepetitionTime": 25, "EchoTime": 4.6, "FlipAngle": 30}, "T1"),
        ({"ScanningSequence": "GR", "RepetitionTime": 25, "EchoTime": 4.6, "FlipAngle": 3}, "unknown"),
        ({"ScanningSequence": "GR", "RepetitionTime": 28, "EchoTime": 20, "FlipAngle": 15}, "SWI"),
        ({"ScanningSequence": "SE", "RepetitionTime": 500, "EchoTime": 12}, "T1"),
        ({"ScanningSequence": "SE", "RepetitionTime": 4000, "EchoTime": 100}, "T2"),
        ({"ScanningSequence": "SE", "RepetitionTime": 3000, "EchoTime": 20}, "PD"),
        (
            {"ScanningSequence": ["SE", "IR"], "RepetitionTime": 9000, "EchoTime": 120, "InversionTime": 2500},
            "FLAIR",
        ),
        ({"ScanningSequence": ["SE", "IR"], "RepetitionTime": 2000, "EchoTime": 10, "InversionTime": 800}, "T1"),
        ({"ScanningSequence": "EP", "RepetitionTime": 2000, "EchoTime": 30}, "functional"),
        ({"ScanningSequence": "EP", "RepetitionTime": 5000, "EchoTime": 80, "DiffusionBValue": 1000}, "DWI"),
        ({"ScanningSequence": "GR", "RepetitionTime": 25, "EchoTime": 4, "AngioFlag": "Y"}, "angiography"),
        ({"RepetitionTime": 4000, "EchoTime": 100}, "T2"),
        ({"RepetitionTime": None, "EchoTime": None}, "unknown"),
        ({"RepetitionTime": 1500, "EchoTime": 50, "ScanningSequence": "SE"}, "unknown"),
    ],
)
def test_timing_decides_where_words_are_silent(lib: ModuleType, timing: dict[str, Any], contrast: str) -> None:
    found = lib.describe([header(**SILENT | timing)])
    assert found.contrast == contrast, found.reason
    assert found.reason


@pytest.mark.parametrize(
    ("image_type", "contrast"),
    [
        (["ORIGINAL", "PRIMARY", "M", "ND", "NORM"], "T1"),
        (["ORIGINAL", "PRIMARY", "OTHER"], "T1"),
        (["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"], "T1"),
        (["DERIVED", "PRIMARY", "M", "DIS3D"], "T1"),
        (["DERIVED", "SECONDARY", "MPR"], "derived"),
        (["DERIVED", "SECONDARY"], "derived"),
        (["ORIGINAL", "PRIMARY", "P", "ND"], "derived"),
        (["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"], "derived"),
        (["ORIGINAL", "PRIMARY", "LOCALIZER"], "localizer"),
        ("ORIGINAL", "T1"),
        (None, "T1"),
    ],
)
def test_image_type_overrules_words(lib: ModuleType, image_type: Any, contrast: str) -> None:
    assert lib.describe([header(ImageType=image_type)]).contrast == contrast


@pytest.mark.parametrize(
    ("agent", "contrast"),
    [("Gadovist", "T1c"), ("15 ml DOTAREM", "T1c"), ("NONE", "T1"), ("no", "T1"), ("", "T1"), (None, "T1")],
)
def test_contrast_agent_is_read_from_the_header(lib: ModuleType, agent: str | None, contrast: str) -> None:
    assert lib.describe([header(ContrastBolusAgent=agent)]).contrast == contrast


def test_words_on_missing_contrast_overrule_a_header_kept_from_the_protocol(lib: ModuleType) -> None:
    found = lib.describe([header(SeriesDescription="T1 pre", ContrastBolusAgent="Gadovist")])
    assert found.contrast == "T1"


def test_whole_t1_volume_suits(lib: ModuleType) -> None:
    found = lib.describe(stack([z * 1.2 for z in range(40)][::-1]))
    assert (found.slices, found.volumes, found.trouble) == (40, 1, "")
    assert found.spacing_mm == pytest.approx((1, 1, 1.2))
    suitable, reason = lib.suitability(found)
    assert suitable
    assert "says 't1'" in reason
    assert reason.count(".") == 1
    assert reason.endswith(".")


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        (stack(list(range(40)), Modality="CT"), "modality is CT"),
        (stack(list(range(40)), Modality=None), "modality is not given"),
        (stack(list(range(40)), SeriesDescription="T2 TSE"), "T2 and not T1"),
        (stack(list(range(40)), SeriesDescription="T1 +C"), "contrast agent"),
        (stack(list(range(19))), "19 slices are too few"),
        (stack([*range(40)] * 2), "2 images at one place"),
        (stack([*range(20), *range(21, 41)]), "not equally far apart"),
        (stack(list(range(40)), NumberOfTemporalPositions=3), "volumes in time"),
        (stack(list(range(40)), SamplesPerPixel=3), "colour"),
        (stack(list(range(40)), PhotometricInterpretation="MONOCHROME1"), "MONOCHROME1"),
        (stack(list(range(40)), FrameOfReferenceUID=None), "no frame of reference"),
        ([*stack(list(range(39))), header(ImagePositionPatient=[0, 0, 39], PixelSpacing=[1, 1.1])], "pixel spacing"),
        ([header(ImagePositionPatient=[0, 0.3 * z, z]) for z in range(40)], "at a slant"),
        (stack(list(range(2001))), "2001 slices are too many"),
        (stack(list(range(1025)), Rows=1024, Columns=1024), "1024×1024×1025 voxels are too many"),
        ([header(NumberOfFrames=176)], "enhanced MR"),
        ([header(SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1")], "enhanced MR"),
        ([header()] * 40, "40 images at one place"),
        ([header(ImagePositionPatient=None)] * 40, "no position"),
        ([*stack(list(range(39))), header(ImagePositionPatient=None)], "no position"),
        ([*stack(list(range(39))), header(ImageOrientationPatient=[0, 1, 0, 0, 0, 1])], "different planes"),
        ([*stack(list(range(39))), header(ImagePositionPatient=[0, 0, 39], Rows=128)], "differ in size"),
    ],
)
def test_unsuitable_series_is_refused_with_its_reason(lib: ModuleType, headers: list[Dataset], message: str) -> None:
    suitable, reason = lib.suitability(lib.describe(headers))
    assert not suitable
    assert message in reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SeriesDescription": "brain", "EchoTime": None}, "contrast is unknown"),
        ({"SliceThickness": 5, "SpacingBetweenSlices": 6}, "6.0 mm are coarse"),
        ({"BodyPartExamined": "KNEE"}, "KNEE"),
    ],
)
def test_doubt_is_told_and_does_not_refuse(lib: ModuleType, changes: dict[str, Any], message: str) -> None:
    suitable, reason = lib.suitability(lib.describe([header(**changes)], instances=40))
    assert suitable
    assert message in reason


def test_empty_header_is_described_and_refused(lib: ModuleType) -> None:
    found = lib.describe([Dataset()])
    assert (found.uid, found.number, found.instances, found.contrast) == ("", None, 1, "unknown")
    assert not lib.suitability(found).suitable


def test_empty_and_odd_values_count_as_missing(lib: ModuleType) -> None:
    odd = {"vr": "DS"}
    item = {
        "00080060": {"vr": "CS", "Value": ["MR"]}, "00180080": odd, "00180081": odd, "0008103E": {"vr": "LO"},
        "00200011": {"vr": "IS"}, "00280030": {"vr": "DS", "Value": [1.0]}, "00080008": {"vr": "CS"},
    }  # fmt: skip
    found = lib.describe([item], instances=30)
    assert (found.modality, found.number, found.spacing_mm, found.contrast) == ("MR", None, None, "unknown")


def test_series_without_a_header_is_an_error(lib: ModuleType) -> None:
    with pytest.raises(ValueError, match="one header"):
        lib.describe([])


def named(lib: ModuleType, uid: str, **changes: Any) -> Any:
    return lib.describe([header(SeriesInstanceUID=uid, **changes)], instances=changes.pop("count", 176))


@pytest.mark.parametrize(
    ("best", "other"),
    [
        ({}, {"SeriesDescription": "T2"}),
        ({}, {"SeriesDescription": "brain", "EchoTime": None}),
        ({}, {"SliceThickness": 0.5, "ImageType": ["DERIVED", "PRIMARY", "M"]}),
        ({}, {"MRAcquisitionType": "2D", "SliceThickness": 0.9}),
        ({"SliceThickness": 0.9}, {"SliceThickness": 1.2}),
        ({"SeriesNumber": 2}, {"SeriesNumber": 3}),
        ({"SeriesNumber": 2}, {"SeriesNumber": None}),
    ],
)
def test_better_series_comes_first(lib: ModuleType, best: dict[str, Any], other: dict[str, Any]) -> None:
    pair = [named(lib, "1.9", **other), named(lib, "1.1", **best)]
    choices = [lib.choose(order) for order in (pair, pair[::-1])]
    assert [choice.best.uid for choice in choices] == ["1.1", "1.1"]
    assert len(choices[0].ranking) == 2
    assert choices[0].reason.startswith("Chosen: series")


def test_more_slices_win_where_the_rest_is_equal(lib: ModuleType) -> None:
    few, many = (lib.describe([header(SeriesInstanceUID=uid)], instances=n) for uid, n in (("1.1", 30), ("1.2", 170)))
    assert lib.choose([few, many]).best.uid == "1.2"


def test_nothing_suitable_is_said_with_the_nearest(lib: ModuleType) -> None:
    choice = lib.choose([named(lib, "1.1", SeriesDescription="T2"), named(lib, "1.2", SeriesDescription="T1 +C")])
    assert choice.best is None
    assert "None of the 2 series" in choice.reason
    assert choice.ranking[0][0].uid == "1.2"
    assert lib.choose([]).reason == "The study holds no series."


class FakePacs:
    """What :func:`from_dicomweb` asks of a DICOMweb client, answered from headers; ``broken`` series fail."""

    def __init__(self, series: dict[str, list[Dataset]], *, broken: frozenset[str] = frozenset()) -> None:
        self.series, self.broken, self.whole = series, broken, []

    def search_for_series(self, study_instance_uid: str) -> list[dict[str, Any]]:
        found = []
        for uid, headers in self.series.items():
            item = Dataset()
            item.Modality, item.SeriesInstanceUID, item.StudyInstanceUID = headers[0].Modality, uid, study_instance_uid
            item.SeriesDescription = headers[0].SeriesDescription
            item.NumberOfSeriesRelatedInstances = len(headers)
            found.append(item.to_json_dict())
        return found

    def search_for_instances(self, study: str, uid: str, limit: int | None) -> list[dict[str, Any]]:
        if uid in self.broken:
            raise requests.HTTPError("500 Server Error")
        return [header.to_json_dict() for header in self.series[uid][:limit]]

    def retrieve_instance_metadata(self, study: str, uid: str, instance: str) -> dict[str, Any]:
        return next(h.to_json_dict() for h in self.series[uid] if h.SOPInstanceUID == instance)

    def retrieve_series_metadata(self, study: str, uid: str) -> list[dict[str, Any]]:
        self.whole.append(uid)
        return [header.to_json_dict() for header in self.series[uid]]


@pytest.fixture
def study(tmp_path: Path) -> dict[str, list[Dataset]]:
    """T1, T1 with contrast agent, T2 of one study, with real headers, and a report of it."""
    volume, found = np.zeros((8, 8, 24)), {}
    kinds = {"T2 TSE": MrProtocol(), "T1 MPRAGE": MrProtocol(), "T1 MPRAGE late": MrProtocol(contrast_agent="Gadovist")}
    for number, (description, protocol) in enumerate(kinds.items(), 1):
        written = write_mr_series(
            volume, np.eye(4), tmp_path / str(number), description=description, series_number=number, protocol=protocol
        )
        found[description] = [dcmread(path, stop_before_pixels=True) for path in written.files]
    report = Dataset()
    report.Modality, report.SeriesDescription, report.SOPInstanceUID = "SR", "T1 report", "1.5"
    found["report"] = [report]
    return {
        headers[0].SeriesInstanceUID if "SeriesInstanceUID" in headers[0] else "1.7": headers
        for headers in found.values()
    }


def test_study_is_described_over_dicomweb(lib: ModuleType, study: dict[str, list[Dataset]]) -> None:
    pacs = FakePacs(study)
    found = lib.from_dicomweb(pacs, "1.2.3")
    assert [series.contrast for series in found] == ["T2", "T1", "T1c", "T1"]
    choice = lib.choose(found)
    assert choice.best.description == "T1 MPRAGE"
    assert (choice.best.slices, choice.best.instances) == (24, 24)
    assert "only one that suits" in choice.reason
    structural = [series.uid for series in found if lib.suitability(series, lib.STRUCTURAL).suitable]
    assert pacs.whole == structural, "all headers are asked for only where a series may suit"
    assert choice.best.uid in structural
    assert len(structural) < len(found)


def test_series_that_the_server_cannot_show_does_not_hide_the_others(
    lib: ModuleType, study: dict[str, list[Dataset]]
) -> None:
    broken = frozenset(uid for uid, headers in study.items() if headers[0].SeriesDescription == "T2 TSE")
    found = lib.from_dicomweb(FakePacs(study, broken=broken), "1.2.3")
    assert len(found) == 4
    assert lib.choose(found).best.description == "T1 MPRAGE"


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("sub-01_acq-space_T2w", "T2"), ("sub-01_ses-1_FLAIR", "FLAIR"), ("sub-01_ce-gad_T1w", "T1c"),
        ("sub-01_T2starw", "SWI"), ("sub-flair_T1w", ""), ("with space", ""), ("swimming", ""), ("t2", ""),
        ("patient flair", ""), ("PD_study_7", ""), ("dwi-lab_anna", ""),
    ],
)  # fmt: skip
def test_a_files_name_tells_a_contrast_by_the_rules_of_bids_alone(lib: ModuleType, name: str, contrast: str) -> None:
    assert importlib.import_module("lib.contrast").contrast_of_name(name) == contrast


@pytest.mark.parametrize("description", ["spaceship", "swimming", "cubes", "vistas"])
def test_a_description_tells_a_contrast_by_whole_words(lib: ModuleType, description: str) -> None:
    told = importlib.import_module("lib.contrast")
    assert told.guess_contrast(told.Acquisition(words=description))[0] == "unknown"


@pytest.mark.parametrize(
    ("words", "t1_only", "structural"),
    [("t1_mprage", True, True), ("FLAIR tra", False, True), ("t2_tse", False, True), ("ep2d_diff DWI", False, False)],
)
def test_the_agnostic_model_reads_structural_series_alone(lib, words, t1_only, structural):
    series = lib.describe([header(SeriesDescription=words)], instances=40)
    found = [lib.suitability(series, contrasts).suitable for contrasts in (lib.T1_ONLY, lib.STRUCTURAL)]
    assert found == [t1_only, structural]
    assert structural or "not a structural scan" in lib.suitability(series, lib.STRUCTURAL).reason
