"""The scripts over generated scans: a test set that evaluation reads, and a picture with its table."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from itermask3d.files.scans import list_scans
from synthesis_helpers import label_phantom, save_volume, t1_phantom

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("maps")
    labels, affine = label_phantom()
    for case in ("one", "two"):
        save_volume(labels, affine, root / "labels" / f"{case}.nii.gz")
        save_volume(t1_phantom(labels), affine, root / "t1" / f"{case}.nii.gz")
    (root / "split.json").write_text(json.dumps({"train": ["one"], "test": ["two"]}))
    return root


def run(monkeypatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")


def test_test_set_has_a_normal_and_a_lesioned_scan_of_each_contrast(folder, tmp_path, monkeypatch):
    options = ["--labels", folder / "labels", "--split-file", folder / "split.json", "--contrasts", "t2", "pd"]
    for out in ("a", "b"):
        run(monkeypatch, "simulate_contrasts", tmp_path / out, *options)
    items = list_scans(tmp_path / "a/scans.json")
    assert [item["case"] for item in items] == [f"two_{c}_{k}" for c in ("t2", "pd") for k in ("normal", "lesion")]
    assert [item["group"] for item in items] == ["normal", "t2 lesion", "normal", "pd lesion"]
    assert {item["subject"] for item in items} == {"two"}
    assert [item["case"] for item in list_scans(tmp_path / "a/pd.json")] == ["two_pd_normal", "two_pd_lesion"]
    for item in items:
        image, label, brain = (nib.load(item[key]) for key in ("image", "label", "brain_mask"))
        voxels, inside = image.get_fdata(), brain.get_fdata() > 0
        assert image.shape == label.shape == brain.shape
        assert np.allclose(image.affine, label.affine)
        assert (voxels >= 0).all()
        assert not voxels[~inside].any()
        lesion = label.get_fdata() > 0
        assert lesion.any() == item["group"].endswith("lesion")
        assert not (lesion & ~inside).any()
        again = nib.load(str(item["image"]).replace("/a/", "/b/"))
        assert np.array_equal(again.get_fdata(), voxels)
    recipes = json.loads((tmp_path / "a/recipes.json").read_text())
    assert recipes["two_pd"]["recipe"]["contrast"]["name"] == "pd"
    assert 0.9 < recipes["two_t2"]["lesion"]["volume_ml"] < 110


def test_a_missing_folder_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"error: '.*nowhere' does not exist"):
        run(monkeypatch, "simulate_contrasts", tmp_path, "--labels", tmp_path / "nowhere")
    with pytest.raises(SystemExit, match=r"error: '.*nowhere' does not exist"):
        run(monkeypatch, "show_synthesis", "--labels", tmp_path / "nowhere", "--cache", tmp_path / "cache")


def test_picture_and_table_are_written(folder, tmp_path, monkeypatch):
    real = tmp_path / "real.json"
    real.write_text(json.dumps([{"image": str(folder / "t1/one.nii.gz"), "group": "t2"}]))
    options = [
        "--labels",
        folder / "labels",
        "--maps",
        1,
        "--split-file",
        folder / "split.json",
        "--contrasts",
        "t2",
        "flair",
        "--shown",
        1,
        "--measured",
        1,
    ]
    output = tmp_path / "sheet.png"
    run(monkeypatch, "show_synthesis", *options, "--real", real, "--cache", tmp_path / "cache", "--output", output)
    assert output.read_bytes().startswith(b"\x89PNG")
    header, _, first, *_ = (tmp_path / "sheet.md").read_text().splitlines()
    assert header == "| feature | real t2 (1) | generated t2 (1) | generated flair (1) |"
    assert first.startswith("| `dark_tail` |")
