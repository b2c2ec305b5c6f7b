"""A real server and whatever may be asked of it: as viewers send it, as nobody should, and several at once."""

from __future__ import annotations

import gzip
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests

pytest.importorskip("monailabel")
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException
from serving import running_server

IMAGE = "sub-03_T1w"
OPTIONS = ("bands", "gamma", "min_volume_ml", "brain_extraction", "weights", "seed", "fresh", "wait")


def ask(server: Any, model: str = "itermask3d", output: str = "json", files: Any = None, **params: Any) -> Any:
    return requests.post(
        f"{server.url}/infer/{model}",
        params={"image": params.pop("image", IMAGE), "output": output},
        data={"params": json.dumps(params)},
        files=files,
        timeout=300,
    )


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("value", ["", None, [], {}, "nonsense", ["auto", "none"], True, -1e30, [[1], 2], "0,5"])
def test_no_option_value_is_refused_or_breaks_anything(server, name, value):
    answer = ask(server, **{name: value})
    assert answer.status_code == 200, answer.text
    assert answer.json()["outcome"] == "anomaly"


def test_what_ohif_sends_first_is_what_nobody_chose(server):
    config = requests.get(f"{server.url}/info/", timeout=60).json()["models"]["itermask3d"]["config"]
    plain, whole = ask(server).json(), ask(server, **config).json()
    for answer in (plain, whole):
        answer.pop("from_earlier_run", None)
    assert plain == whole


def test_weights_that_were_never_trained_are_named(server):
    answer = ask(server, weights="trained here")
    assert answer.status_code == 503
    assert "trained" in answer.json()["detail"]


@pytest.mark.parametrize("params", ["", "{", "[]", "3", "null", '{"gamma": NaN}'])
def test_params_that_are_no_object_are_answered(server, params):
    answer = requests.post(
        f"{server.url}/infer/itermask3d", params={"image": IMAGE}, data={"params": params}, timeout=300
    )
    assert answer.status_code in (200, 422)
    assert answer.status_code == 200 or answer.json()["detail"]


@pytest.mark.parametrize("output", ["json", "image", "all", "none", ""])
@pytest.mark.parametrize("empty", [True, False])
def test_every_output_is_there_for_an_empty_mask_too(server, output, empty):
    answer = ask(server, output=output, gamma="10" if empty else "", min_volume_ml="100" if empty else "")
    assert answer.status_code == 200, answer.text
    if output == "json":
        assert answer.json()["outcome"] == ("no_anomaly" if empty else "anomaly")
    if output == "image":
        mask = np.asarray(nib.Nifti1Image.from_bytes(_plain(answer.content)).dataobj)
        assert mask.any() != empty


def test_dicom_seg_of_a_folder_is_refused_with_a_reason(server):
    answer = ask(server, output="dicom_seg")
    assert answer.status_code == 422
    assert "DICOM" in answer.json()["detail"]


def test_unknown_output_is_refused_with_the_known_ones(server):
    answer = ask(server, output="hologram")
    assert answer.status_code == 422
    assert "dicom_seg" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"no volume", "truncated"), (gzip.compress(b"no volume", mtime=0), "truncated")],
    ids=["empty", "text", "gzip"],
)
def test_an_upload_that_is_no_scan_is_refused(server, content, words):
    answer = requests.post(
        f"{server.url}/infer/itermask3d",
        data={"params": "{}"},
        files={"file": ("scan.nii.gz", io.BytesIO(content))},
        timeout=300,
    )
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]


def test_an_uploaded_scan_is_answered_and_not_kept(server, phantom, tmp_path):
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), path)
    answer = requests.post(
        f"{server.url}/infer/itermask3d",
        params={"output": "json"},
        data={"params": "{}"},
        files={"file": ("scan.nii.gz", path.open("rb"))},
        timeout=300,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["outcome"] == "anomaly"
    assert requests.get(f"{server.url}/info/", timeout=60).json()["datastore"]["total"] == 4
    kept = {path.name.split(".")[0] for path in (server.studies / ".itermask3d").rglob("*") if path.is_file()}
    assert not any("itermask3d_" in name for name in kept)


def test_a_session_is_answered_until_it_is_removed(server, phantom, tmp_path):
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), path)
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path))
    session = client.create_session(str(path))["session_id"]
    label, params = client.infer("itermask3d", "", {"result_extension": ".nii.gz"}, session_id=session)
    assert params["outcome"] == "anomaly"
    assert np.asarray(nib.load(label).dataobj).shape == phantom.image.shape
    assert list((server.studies / ".itermask3d" / "automatic").glob("*sessions*"))
    client.remove_session(session)
    with pytest.raises(MONAILabelClientException, match="404"):
        client.infer("itermask3d", "", {}, session_id=session)


@pytest.mark.parametrize("values", [np.zeros((64, 64)), np.zeros((40, 40, 40, 3)), np.full((60, 60, 60), np.nan)])
def test_an_upload_that_cannot_be_a_head_is_refused(server, values, tmp_path):
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    answer = requests.post(
        f"{server.url}/infer/itermask3d",
        data={"params": "{}"},
        files={"file": ("scan.nii.gz", path.open("rb"))},
        timeout=300,
    )
    assert answer.status_code == 422, answer.text
    assert "expected" in answer.json()["detail"]


def test_several_requests_at_once_are_all_answered_alike(server):
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(server, fresh=True), range(4)))
        status = pool.submit(requests.get, f"{server.url}/itermask3d/status", timeout=60).result()
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["score"] for answer in answers}) == 1
    assert status.json()["running"] is None


def test_the_answer_to_the_page_equals_the_answer_to_the_viewer(server):
    mask = np.asarray(nib.Nifti1Image.from_bytes(_plain(ask(server, output="image").content)).dataobj)
    raw = requests.get(f"{server.url}/itermask3d/mask", params={"image": IMAGE}, timeout=60)
    assert np.array_equal(np.frombuffer(raw.content, np.uint8).reshape(mask.shape, order="F"), mask)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/activelearning/nothing", 404),
        ("POST", "/train/nothing?run_sync=true", 404),
        ("POST", "/scoring/nothing?run_sync=true", 404),
        ("GET", "/itermask3d/report?image=../../secret", 404),
        ("GET", "/itermask3d/series?study=1.2.3", 404),
        ("GET", "/datastore/image?image=sub-77", 404),
    ],
)
def test_unknown_names_are_not_found_rather_than_failures(server, method, path, status):
    answer = requests.request(method, f"{server.url}{path}", json={} if method == "POST" else None, timeout=120)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]


def test_a_scan_that_was_not_run_yet_has_no_result_and_that_is_no_error(server):
    answer = requests.get(f"{server.url}/itermask3d/result", params={"image": "sub-77"}, timeout=60)
    assert (answer.status_code, answer.content) == (204, b"")


def test_without_weights_no_model_is_offered_and_the_reason_is_told(blur_bundle, phantom, tmp_path):
    studies = tmp_path / "studies"
    studies.mkdir()
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), studies / "sub-01_T1w.nii.gz")
    conf = {"bundle": str(blur_bundle), "weights": str(tmp_path / "lost.pt")}
    with running_server(tmp_path, studies, conf) as server:
        assert requests.get(f"{server.url}/info/", timeout=60).json()["models"] == {}
        answer = ask(server, image="sub-01_T1w")
        assert answer.status_code == 503
        assert "lost.pt' do not exist" in answer.json()["detail"]
        assert requests.get(f"{server.url}/info/", timeout=60).status_code == 200


def _plain(content: bytes) -> bytes:
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
