"""Many scans through one pipeline: what is done again, what is not, and what a bad scan may cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from itermask3d.files.identity import input_files
from itermask3d.files.scans import ScanError, split_scans
from itermask3d.inference.cohort import ScanStream
from itermask3d.inference.model import Model
from itermask3d.inference.models import ModelTable
from itermask3d.inference.store import ResultStore
from itermask3d.method.inferer import IterMaskInferer
from itermask3d.method.settings import RefinementSettings
from itermask3d.preprocessing.pipeline import inference_transforms


@pytest.fixture
def scans(tmp_path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.nii.gz").write_bytes(b"")
    return folder


def store(tmp_path: Path, gamma: float = 0.1, *, overwrite: bool = False) -> ResultStore:
    inferer = IterMaskInferer(RefinementSettings(gamma=gamma))
    checkpoint = tmp_path / "weights.pt"
    checkpoint.write_bytes(b"weights")
    model = Model(
        preprocessing=inference_transforms(),
        network=torch.nn.Identity(),
        inferer=inferer,
        settings=inferer.settings,
        models=ModelTable(tmp_path),
        weights=checkpoint,
        calibration=tmp_path / "calibration.json",
    )
    return ResultStore(tmp_path / "out", model, overwrite=overwrite)


def settings_of(results: ResultStore) -> dict[str, Any]:
    return results.model.variant(None).settings


def finish(results: ResultStore, item: dict) -> None:
    folder = results.folder(item["case"])
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"settings": settings_of(results), "inputs": input_files(item)}))


def test_a_bad_scan_is_recorded_and_the_others_go_on(scans):
    def transform(item):
        if item["case"] == "b":
            raise RuntimeError("applying transform") from ScanError("the reason")
        return item["case"]

    stream = ScanStream(scans, transform)
    assert list(stream) == ["a", "c"]
    assert stream.failures == {"b": "the reason"}


def test_an_error_of_the_programme_is_not_taken_for_a_bad_scan(scans):
    def transform(item):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        list(ScanStream(scans, transform))


def test_finished_scans_are_not_done_again(scans, tmp_path):
    results = store(tmp_path)
    stream = ScanStream(scans, lambda item: item["case"], store=results)
    finish(results, stream.items()[0])
    assert list(stream) == ["b", "c"]
    assert stream.finished == ["a"]


@pytest.mark.parametrize("change", ["settings", "weights", "overwrite", "another scan", "a brain mask", "a new file"])
def test_a_result_of_other_settings_weights_or_scan_is_done_again(scans, tmp_path, change):
    results = store(tmp_path)
    item = ScanStream(scans, dict).items()[0]
    finish(results, item)
    assert results.is_done(item)
    if change == "settings":
        results = store(tmp_path, gamma=0.2)
    elif change == "weights":
        (tmp_path / "weights.pt").write_bytes(b"others")
    elif change == "overwrite":
        results = store(tmp_path, overwrite=True)
    elif change == "another scan":
        item = item | {"image": str(scans / "b.nii.gz")}
    elif change == "a brain mask":
        item = item | {"brain_mask": str(scans / "b.nii.gz")}
    else:
        Path(item["image"]).write_bytes(b"longer")
    assert not results.is_done(item)


def percentile(results: ResultStore, score: float) -> float | None:
    calibration = results.model.variant(None).applying_calibration()
    return None if calibration is None else calibration.percentile(score)


def p_value(results: ResultStore, score: float) -> float | None:
    calibration = results.model.variant(None).applying_calibration()
    return None if calibration is None else calibration.p_value(score)


def test_percentile_and_p_value_need_a_calibration_of_the_same_settings(tmp_path):
    results = store(tmp_path)
    calibration, settings = tmp_path / "calibration.json", settings_of(results)
    assert percentile(results, 1.0) is p_value(results, 1.0) is None
    content = {"normal_scores": [1, 3], "settings": settings}
    calibration.write_text(json.dumps(content))
    assert percentile(results, 2.0) == 50.0
    assert [p_value(results, score) for score in (4.0, 3.0, 2.0, 0.0)] == [1 / 3, 2 / 3, 2 / 3, 1.0]
    calibration.write_text(json.dumps(content | {"settings": settings | {"seed": 9}}))
    assert percentile(results, 2.0) == 50.0
    for other in ({"gamma": 9.0}, {"spatial_size": [96, 112, 96]}):  # another grid was seen to change scores
        calibration.write_text(json.dumps(content | {"settings": settings | other}))
        assert percentile(results, 2.0) is p_value(results, 2.0) is None
    calibration.write_text(json.dumps(content | {"normal_scores": []}))
    assert percentile(results, 2.0) is p_value(results, 2.0) is None
    calibration.write_text("{}")
    with pytest.raises(ValueError, match="normal_scores"):
        percentile(results, 2.0)


def test_inferer_takes_the_brain_from_the_image_where_no_mask_is_given():
    image = torch.zeros(1, 1, 32, 32, 32)
    image[..., 6:26, 6:26, 6:26] = torch.randn((20, 20, 20), generator=torch.Generator().manual_seed(0))
    inferer = IterMaskInferer(RefinementSettings(n_steps=5, gamma=0.05))

    def network(inputs: torch.Tensor) -> torch.Tensor:
        return inputs[:, :1] * 0.5

    without, given = inferer(image, network), inferer(image, network, image != 0)
    assert torch.equal(without["mask"], given["mask"])
    assert without["findings"] == given["findings"]
    assert set(np.unique(without["mask"])) <= {0.0, 1.0}


def test_without_a_split_file_every_scan_has_one_subset_and_keeps_it():
    items = [{"case": f"case{number}", "image": f"{number}.nii.gz"} for number in range(40)]
    train, validation = (split_scans(items, None, subset) for subset in ("train", "validation"))
    assert len(train) + len(validation) == 40
    assert 4 <= len(validation) <= 12
    assert not {item["case"] for item in train} & {item["case"] for item in validation}
    again = split_scans(items[::-1], None, "validation")
    assert {item["case"] for item in again} == {item["case"] for item in validation}


def test_without_a_split_file_two_scans_are_one_for_each_subset():
    items = [{"case": name, "image": name} for name in ("a", "b")]
    assert [len(split_scans(items, None, subset)) for subset in ("train", "validation")] == [1, 1]
    with pytest.raises(ScanError, match="at least two"):
        split_scans(items[:1], None, "train")


def test_result_of_another_scan_of_the_same_name_survives(tmp_path):
    results = store(tmp_path)
    for patient in ("p1", "p2"):
        (tmp_path / patient).mkdir()
        (tmp_path / patient / "T1.nii.gz").write_bytes(patient.encode())
    finish(results, ScanStream(tmp_path / "p1" / "T1.nii.gz", dict).items()[0])
    before = (results.folder("T1") / "result.json").read_text()
    for overwrite in (False, True):
        results.overwrite = overwrite
        second = ScanStream(tmp_path / "p2" / "T1.nii.gz", dict, store=results)
        assert list(second) == []
        assert "holds the result of" in second.failures["T1"]
        assert (results.folder("T1") / "result.json").read_text() == before


def test_damaged_result_counts_as_none(scans, tmp_path):
    results = store(tmp_path)
    finish(results, ScanStream(scans, dict).items()[0])
    (results.folder("a") / "result.json").write_text('{"case": "a"')
    assert results.read("a") is None
    assert not results.is_done(ScanStream(scans, dict).items()[0])
