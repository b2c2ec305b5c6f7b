"""A PACS as it is in real life: several sequences in a study, a single slice, empty masks, names that nobody knows."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from dicom_helpers import read_by_dcmqi
from fast_bundle import write_fast_bundle
from helpers import Phantom
from itermask3d.files.dicom import MrProtocol, MrSeries, write_mr_series
from monailabel.client import MONAILabelClient

pytestmark = pytest.mark.e2e

FLAIR = MrProtocol(repetition_ms=9000, echo_ms=125, inversion_ms=2500, flip_degrees=150, scanning_sequence=("SE", "IR"))


@pytest.fixture(scope="module")
def study(
    services: ModuleType, orthanc: Any, phantom: Phantom, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, MrSeries]:
    """T1, FLAIR and a localizer of one study, and another study with one slice of T1."""
    folder, image = tmp_path_factory.mktemp("study"), np.round(phantom.image)
    made = {
        "flair": write_mr_series(
            image, phantom.affine, folder / "flair", description="t2_flair", series_number=1, protocol=FLAIR
        ),
        "t1": write_mr_series(image, phantom.affine, folder / "t1", description="t1_mprage_sag", series_number=2),
        "localizer": write_mr_series(
            image[:, :, 30:33], phantom.affine, folder / "scout", description="localizer", series_number=3
        ),
        "slice": write_mr_series(
            image[:, :, 30:31], phantom.affine, folder / "slice", description="t1_se", name="slice"
        ),
    }
    for series in made.values():
        services.store(orthanc, series.files)
    return made


@pytest.fixture(scope="module")
def server(study: dict[str, MrSeries], start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return start(bundle=str(write_fast_bundle(tmp_path_factory.mktemp("bundle"))))


def ask(server: Any, image: str, output: str = "json", **params: Any) -> requests.Response:
    return requests.post(
        f"{server.url}/infer/itermask3d",
        params={"image": image, "output": output},
        data={"params": json.dumps(params)},
        timeout=300,
    )


def test_only_the_suitable_series_is_offered(server: Any, study: dict[str, MrSeries]) -> None:
    client = MONAILabelClient(server.url)
    assert client.info()["datastore"]["total"] == 1
    sample = client.next_sample("random", {})
    assert sample["id"] == study["t1"].series_uid
    assert Path(sample["path"]).name == f"{study['t1'].series_uid}.nii.gz"  # the cache's, also at the first reading


def test_a_study_with_several_sequences_says_which_one_and_why(server: Any, study: dict[str, MrSeries]) -> None:
    answer = requests.get(f"{server.url}/itermask3d/series", params={"study": study["t1"].study_uid}, timeout=60).json()
    assert answer["chosen"]["uid"] == study["t1"].series_uid
    assert "t1_mprage_sag" in answer["reason"]
    assert {series["description"]: series["suitable"] for series in answer["series"]} == {
        "t1_mprage_sag": True,
        "t2_flair": False,
        "localizer": False,
    }


@pytest.mark.parametrize(
    ("series", "words"),
    [("flair", "FLAIR and not T1"), ("localizer", "localizer"), ("slice", "slice")],
)
def test_a_series_that_does_not_suit_is_refused_with_the_reason(
    server: Any, study: dict[str, MrSeries], series: str, words: str
) -> None:
    answer = ask(server, study[series].series_uid)
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]
    if series != "slice":
        assert "Use series 2 (t1_mprage_sag) of the same study." in answer.json()["detail"]


def test_the_answer_names_its_series(server: Any, study: dict[str, MrSeries]) -> None:
    series = ask(server, study["t1"].series_uid).json()["series"]
    assert (series["uid"], series["description"], series["contrast"]) == (
        study["t1"].series_uid,
        "t1_mprage_sag",
        "T1",
    )


def test_the_refusal_can_be_overridden_knowingly(server: Any, study: dict[str, MrSeries]) -> None:
    assert ask(server, study["flair"].series_uid, contrast_check=False).status_code == 200


@pytest.mark.parametrize("uid", ["1.2.3.4", "../../secret", "t1_mprage_sag"])
def test_a_series_that_nobody_knows_is_not_found(server: Any, uid: str) -> None:
    assert ask(server, uid).status_code == 404


@pytest.mark.parametrize("output", ["json", "image", "all", "dicom_seg"])
def test_an_empty_mask_has_every_output(server: Any, study: dict[str, MrSeries], output: str, tmp_path: Path) -> None:
    answer = ask(server, study["t1"].series_uid, output, gamma="10", min_volume_ml="100")
    assert answer.status_code == 200, answer.text
    if output == "dicom_seg":
        path = tmp_path / "seg.dcm"
        path.write_bytes(answer.content)
        assert not read_by_dcmqi(path, tmp_path / "read")[0].any()
        assert "no finding" in pydicom.dcmread(path).SeriesDescription


def test_an_empty_correction_is_a_seg_without_a_finding_and_the_scan_is_reviewed(
    server: Any, study: dict[str, MrSeries], orthanc: Any, phantom: Phantom
) -> None:
    client = MONAILabelClient(server.url)
    nothing = np.zeros(phantom.image.shape, np.uint8).tobytes()
    saved = requests.post(
        f"{server.url}/itermask3d/save",
        params={"image": study["t1"].series_uid, "user": "reader 2"},
        files={"label": ("label.bin", nothing)},
        timeout=120,
    )
    assert saved.status_code == 200, saved.text
    assert saved.json()["empty"]
    found = requests.post(
        f"{orthanc.url}/tools/find",
        json={"Level": "Series", "Query": {"SeriesInstanceUID": saved.json()["seg_series_uid"]}, "Expand": True},
        timeout=60,
    ).json()
    assert "no finding" in found[0]["MainDicomTags"]["SeriesDescription"]
    assert client.info()["datastore"]["completed"] == 1
    assert client.next_sample("random", {}) == {}


def test_scoring_reads_labels_of_a_pacs_and_a_scan_is_computed_once(server: Any, study: dict[str, MrSeries]) -> None:
    uid = study["t1"].series_uid
    first = ask(server, uid, save_label=True, fresh=True).json()
    assert ask(server, uid).json()["from_earlier_run"]
    assert "from_earlier_run" not in first
    dice = requests.post(f"{server.url}/scoring/dice", params={"run_sync": "true"}, timeout=120)
    assert dice.status_code == 200, dice.text
    assert dice.json() == {uid: 0.0}  # found something where a person saved nothing


def test_a_drawing_of_the_wrong_size_is_refused(server: Any, study: dict[str, MrSeries]) -> None:
    answer = requests.post(
        f"{server.url}/itermask3d/save",
        params={"image": study["t1"].series_uid},
        files={"label": ("label.bin", b"\x01" * 1000)},
        timeout=120,
    )
    assert answer.status_code == 422
    assert requests.get(f"{server.url}/info/", timeout=60).status_code == 200


def broken(folder: Path, made: MrSeries, **changes: Any) -> tuple[Path, ...]:
    """The files of a series with other attributes; ``None`` removes one."""
    folder.mkdir()
    for path in made.files:
        data = pydicom.dcmread(path)
        for keyword, value in changes.items():
            setattr(data, keyword, value) if value is not None else delattr(data, keyword)
        data.save_as(folder / path.name)
    return tuple(sorted(folder.iterdir()))


def test_invalid_attributes_do_not_stop_saving_and_the_name_survives(
    server: Any, services: ModuleType, orthanc: Any, phantom: Phantom, tmp_path: Path
) -> None:
    made = write_mr_series(np.round(phantom.image), phantom.affine, tmp_path / "t1", description="t1", name="Mueller")
    changes = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^J", "PatientSex": "m"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        services.store(orthanc, broken(tmp_path / "broken", made, PatientBirthDate="1970-01-01", **changes))
    saved = requests.post(
        f"{server.url}/itermask3d/save",
        params={"image": made.series_uid},
        files={"label": ("label.bin", np.ones(phantom.image.shape, np.uint8).tobytes())},
        timeout=120,
    )
    assert saved.status_code == 200, saved.text
    assert ["PatientSex" in one or "PatientBirthDate" in one for one in saved.json()["warnings"]] == [True, True]
    query = {"Level": "Instance", "Query": {"SeriesInstanceUID": saved.json()["seg_series_uid"]}}
    found = requests.post(f"{orthanc.url}/tools/find", json=query, timeout=60).json()
    path = tmp_path / "seg.dcm"
    path.write_bytes(requests.get(f"{orthanc.url}/instances/{found[0]}/file", timeout=60).content)
    data = pydicom.dcmread(path)
    assert (str(data.PatientName), data.PatientSex, data.PatientBirthDate) == ("Müller^J", "M", "19700101")
    assert read_by_dcmqi(path, tmp_path / "read")[0].all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"FrameOfReferenceUID": None}, "frame of reference"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
    ],
)
def test_a_series_whose_mask_could_not_be_saved_is_refused_before_the_run(
    server: Any,
    services: ModuleType,
    orthanc: Any,
    phantom: Phantom,
    changes: dict[str, Any],
    words: str,
    tmp_path: Path,
) -> None:
    made = write_mr_series(np.round(phantom.image), phantom.affine, tmp_path / "t1", description="t1", name=words)
    services.store(orthanc, broken(tmp_path / "broken", made, **changes))
    answer = ask(server, made.series_uid)
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]
