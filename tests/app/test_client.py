"""The official client against a real server: infer, save, score, active learning, batch, train."""

from __future__ import annotations

import json
import subprocess

import nibabel as nib
import numpy as np
import pytest
import requests
import SimpleITK
import torch
from itermask3d.files.identity import file_digest

pytest.importorskip("monailabel")
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException

IMAGE = "sub-02_T1w"


@pytest.fixture(scope="module")
def client(server, tmp_path_factory) -> MONAILabelClient:
    return MONAILabelClient(server.url, tmpdir=str(tmp_path_factory.mktemp("answers")))


@pytest.fixture(scope="module")
def answer(client):
    """The automatic answer for the scan with the strongest lesion: label file and params."""
    return client.infer("itermask3d", IMAGE, {"result_extension": ".nii.gz"})


def read_log_until(log, words: str) -> None:
    """Block until a line of a growing file holds some words."""
    with subprocess.Popen(["tail", "-n", "+1", "-f", str(log)], stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        found = any(words in line for line in tail.stdout)
        tail.kill()
    assert found


def untouched(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_info_offers_three_models_and_only_suitable_scans(client):
    info = client.info()
    assert list(info["models"]) == ["itermask3d", "itermask3d_refine", "itermask3d_points"]
    assert info["models"]["itermask3d"]["type"] == "segmentation"
    assert info["datastore"]["total"] == 4
    assert "research use only" in info["description"]


def test_answer_lies_on_the_scans_grid_and_says_what_was_found(server, answer, phantom):
    label, params = answer
    volume = nib.load(label)
    assert volume.shape == phantom.image.shape
    assert np.allclose(volume.affine, phantom.affine, atol=1e-4)
    mask = np.asarray(volume.dataobj)
    assert set(np.unique(mask)) <= {0, 1, 2, 3}
    assert (mask[phantom.label] > 0).mean() > 0.3
    assert params["outcome"] == "anomaly"
    assert params["score"] > 0
    assert params["percentile_among_normals"] is None
    assert len(params["curve"]) == 20
    assert params["volumes_ml"]["anomaly"] == pytest.approx((mask > 0).sum() * phantom.voxel_ml)
    assert sum(part["volume_ml"] for part in params["components"]) == pytest.approx(params["volumes_ml"]["anomaly"])
    bands = sum(params["volumes_ml"][band] for band in ("mild", "moderate", "severe"))
    assert bands == pytest.approx(params["volumes_ml"]["anomaly"])
    assert set(params["latencies"]) == {"reading", "brain_extraction", "network", "resampling", "total"}


def test_the_same_question_is_answered_from_the_earlier_run(client, answer):
    label, params = client.infer("itermask3d", IMAGE, {"result_extension": ".nii.gz"})
    assert params["from_earlier_run"]
    assert np.array_equal(np.asarray(nib.load(label).dataobj), np.asarray(nib.load(answer[0]).dataobj))


def test_points_force_suspicion_and_normality_to_the_voxel(client, answer, phantom):
    centre = np.argwhere(phantom.brain_mask & ~phantom.label)[1000].tolist()
    label, params = client.infer("itermask3d_points", IMAGE, {"foreground": [centre], "background": []})
    mask = nib.load(label).get_fdata()
    assert mask[tuple(centre)] == 1
    assert params["percentile_among_normals"] is None
    label, _ = client.infer("itermask3d_points", IMAGE, {"foreground": [], "background": [centre]})
    assert nib.load(label).get_fdata()[tuple(centre)] == 0


def test_deepgrow_as_slicer_sends_it(client, answer, phantom):
    centre = np.argwhere(phantom.brain_mask & ~phantom.label)[2000].tolist()
    params = {
        "label": "anomaly 1 mild",
        "foreground": [centre],
        "background": [],
        "radius_mm": "4",
        "strictness": ["as found", "stricter", "looser"],
        "bands": False,
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
    }
    label, said = client.infer("itermask3d_points", IMAGE, params)
    image = SimpleITK.ReadImage(label)
    mask = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
    assert mask[tuple(centre)] == 1
    assert set(np.unique(mask)) <= {0, 1}
    assert said["label_names"] == {"anomaly": 1}
    expected = phantom.affine @ [*centre, 1]
    place = image.TransformIndexToPhysicalPoint(centre)
    assert np.allclose([-place[0], -place[1], place[2]], expected[:3], atol=1e-3)


def test_scribbles_as_slicer_sends_them(server, client, answer, phantom, tmp_path):
    drawn = np.zeros(phantom.image.shape, dtype=np.uint8)
    inside, outside = np.argwhere(phantom.label)[200], np.argwhere(phantom.brain_mask & ~phantom.label)[500]
    drawn[tuple(inside)], drawn[tuple(outside)] = 3, 2
    file = tmp_path / "scribbles.nii.gz"
    nib.save(nib.Nifti1Image(drawn, phantom.affine), file)
    names = ["anomaly 1 mild", "background_scribbles", "foreground_scribbles"]
    params = {
        "roi": [phantom.image.shape[0], 0, 0, phantom.image.shape[1], 0, phantom.image.shape[2]],
        "label_info": [{"name": name, "id": number} for number, name in enumerate(names, start=1)],
        "selected_label_name": "anomaly 1 mild",
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
    }
    label, _ = client.infer("itermask3d_refine", IMAGE, params, label_in=str(file))
    mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(label)).transpose(2, 1, 0)
    assert mask[tuple(inside)] == 1
    assert mask[tuple(outside)] == 0


def test_erased_voxels_stay_erased_and_the_drawing_outside_the_roi_stays(client, phantom, tmp_path):
    label, _ = client.infer("itermask3d", IMAGE, {"result_extension": ".nii.gz"})
    automatic = np.asarray(nib.load(label).dataobj) > 0
    drawn = automatic.copy()
    drawn[: drawn.shape[0] // 2] = False
    corner = np.zeros_like(drawn)
    corner[-4:, -4:, -4:] = True
    file = tmp_path / "drawn.nii.gz"
    nib.save(nib.Nifti1Image((drawn | corner).astype(np.uint8), phantom.affine), file)
    roi = [0, drawn.shape[0] - 5, 0, drawn.shape[1] - 5, 0, drawn.shape[2] - 5]
    label, _ = client.infer("itermask3d_refine", IMAGE, {"roi": roi, "grow_mm": "0"}, label_in=str(file))
    refined = np.asarray(nib.load(label).dataobj) > 0
    assert not (refined & automatic & ~drawn & ~corner).any()
    assert refined[corner].all()
    assert not (refined & ~drawn & ~corner).any()


@pytest.mark.parametrize(
    ("model", "image", "params", "status", "words"),
    [
        ("nothing", IMAGE, {}, 404, "there is no model 'nothing'"),
        ("itermask3d", "sub-99", {}, 404, "there is no image 'sub-99'"),
        ("itermask3d", "sub-05_FLAIR", {}, 422, "FLAIR"),
        ("itermask3d", "../../etc/passwd", {}, 404, "is not the name of an image"),
        ("itermask3d_points", IMAGE, {"foreground": "here"}, 422, "expected a list of [x, y, z]"),
        ("itermask3d_points", IMAGE, {"foreground": [[0, 0, 0]]}, 422, "lies in the brain"),
        ("itermask3d_points", IMAGE, {"foreground": [[1, 2, 3000]]}, 422, "outside the scan"),
        ("itermask3d_refine", IMAGE, {"roi": [1, 2]}, 422, "expected [x1, x2, y1, y2, z1, z2]"),
        ("itermask3d_refine", IMAGE, {"roi": [900, 901, 900, 901, 900, 901]}, 422, "outside the scan"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(server, client, model, image, params, status, words):
    response = requests.post(
        f"{server.url}/infer/{model}", params={"image": image}, data={"params": json.dumps(params)}, timeout=300
    )
    assert (response.status_code, words in response.json()["detail"]) == (status, True), response.text
    assert requests.get(f"{server.url}/info/", timeout=60).status_code == 200


def test_the_contrast_check_can_be_switched_off_knowingly(client):
    _, params = client.infer("itermask3d", "sub-05_FLAIR", {"contrast_check": False})
    assert params["outcome"] in ("anomaly", "no_anomaly")


def test_saving_keeps_label_person_version_and_anomaly_map(server, client, answer):
    as_slicer = {"label_info": [{"name": "anomaly 2 moderate", "idx": 2}], "model": "itermask3d"}
    saved = client.save_label(IMAGE, answer[0], params={"user": "reader 1", **as_slicer})
    assert saved["image"] == IMAGE
    final = server.studies / "labels" / "final" / f"{IMAGE}.nii.gz"
    assert set(np.unique(np.asarray(nib.load(final).dataobj))) == {0, 1}
    info = requests.get(
        f"{server.url}/datastore/label/info", params={"label": IMAGE, "tag": "final"}, timeout=60
    ).json()
    assert info["user"] == "reader 1"
    assert info["versions"]["itermask3d"]
    assert info["time"].endswith("+00:00")
    assert not info["empty"]
    assert info["automatic"]["outcome"] == "anomaly"
    errors = nib.load(server.studies / "labels" / "anomaly_map" / f"{IMAGE}.nii.gz")
    assert errors.shape == nib.load(final).shape


def test_a_label_of_another_grid_is_refused_and_nothing_is_saved(server, client, tmp_path):
    file = tmp_path / "small.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5), dtype=np.uint8), np.eye(4)), file)
    with pytest.raises(MONAILabelClientException, match=r"Status: 422.*expected the same grid"):
        client.save_label("sub-01_T1w", str(file))
    assert not (server.studies / "labels" / "final" / "sub-01_T1w.nii.gz").exists()


def test_batch_then_the_most_suspicious_unreviewed_scan_comes_first(server, client, answer):
    response = requests.post(
        f"{server.url}/batch/infer/itermask3d", params={"images": "unlabeled", "run_sync": "true"}, json={}, timeout=600
    )
    assert response.status_code == 200, response.text
    scores = requests.post(f"{server.url}/scoring/suspicion", params={"run_sync": "true"}, timeout=300).json()
    assert scores["not_run"] == []
    unreviewed = {image: score["score"] for image, score in scores["scores"].items() if image != IMAGE}
    expected = sorted(unreviewed, key=lambda image: -unreviewed[image])
    assert expected[0] == "sub-03_T1w"
    offered = [client.next_sample("random", {})["id"] for _ in expected]
    assert offered == expected
    assert (server.studies / "labels" / "original" / "sub-03_T1w.nii.gz").exists()


def test_dice_against_the_review_counts_voxels_not_bands(server, client, answer):
    client.save_label(IMAGE, answer[0])
    client.infer("itermask3d", IMAGE, {"save_label": True})
    dice = requests.post(f"{server.url}/scoring/dice", params={"run_sync": "true"}, timeout=300).json()
    assert dice == {IMAGE: pytest.approx(1.0)}


def test_training_needs_normal_scans_then_trains_on_them_and_offers_the_weights(server, client, phantom, tmp_path):
    refused = requests.post(
        f"{server.url}/train/itermask3d", params={"run_sync": "true"}, json={"epochs": "1"}, timeout=300
    )
    assert refused.status_code == 422
    assert "save empty masks for normal scans" in refused.json()["detail"]
    before = untouched(server.app / "model")
    nothing = tmp_path / "nothing.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(phantom.image.shape, dtype=np.uint8), phantom.affine), nothing)
    for number in range(1, 5):
        client.save_label(f"sub-0{number}_T1w", str(nothing))
    assert client.train_start("itermask3d", {"epochs": "1"})["status"] in ("SUBMITTED", "RUNNING")
    read_log_until(server.log, "Return code:")
    assert client.train_status()["status"] in ("RUNNING", "DONE")
    assert untouched(server.app / "model") - before >= {"trained.pt"}
    stats = client.info()["train_stats"]["itermask3d"]
    assert (stats["epoch"], stats["epochs"], stats["scans"], stats["ended"]) == (1, 1, 4, True)
    assert not (server.app / "model" / "training" / "last.pt").exists()


def test_new_weights_are_loaded_and_named_by_their_own_digest(server, client, answer):
    def ask():
        return client.infer("itermask3d", IMAGE, {"weights": "trained here"})[1]

    trained = server.app / "model" / "trained.pt"
    state = torch.load(next(server.bundle.glob("models/model.pt")), weights_only=True)
    torch.save(state, trained)
    first = ask()
    torch.save({name: value * 0.5 for name, value in state.items()}, trained)
    second = ask()
    digests = [params["settings"]["weights_sha256"] for params in (first, second)]
    assert digests[0] != digests[1] == file_digest(trained)
    assert first["score"] != second["score"]


@pytest.mark.parametrize("tag", ["..", "../../x", "/tmp/x", "final", ""])
def test_a_label_cannot_be_put_where_a_scan_lies(server, client, answer, tag):
    before = (server.studies / f"{IMAGE}.nii.gz").read_bytes()
    if tag:
        with pytest.raises(MONAILabelClientException, match="Status: 422"):
            client.infer("itermask3d", IMAGE, {"save_label": True, "label_tag": tag})
    if tag not in ("", "final"):
        with pytest.raises(MONAILabelClientException, match="Status: 4"):
            client.save_label(IMAGE, answer[0], tag=tag)
    assert (server.studies / f"{IMAGE}.nii.gz").read_bytes() == before


def test_next_sample_is_empty_when_all_is_reviewed(server, client):
    assert client.next_sample("most_suspicious", {}) == {}
