"""The list of real cases: patients told by their folders, files by the words of their names."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers import load_script
from itermask3d.files.scans import list_scans

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "list_real_cases.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("list_real_cases")


def patient(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(b"")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    patient(tmp_path / "ms" / "p07", "t1.nii.gz", "t2.nii.gz", "flair.nii.gz", "lesion.nii.gz", "notes.txt")
    patient(
        tmp_path / "glioma" / "pat1",
        "T1c_subtrMeanDivStd.nii.gz", "Flair_subtrMeanDivStd.nii.gz", "OTMultiClass.nii.gz", "brainmask.nii.gz",
    )  # fmt: skip
    patient(tmp_path / "normal", "a_T1.nii.gz", "b_T1.nii.gz")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("t1.nii.gz", "T1"),
        ("sub-01_T1w.nii", "T1"),
        ("T1ce.mha", "T1c"),
        ("sub-01_FLAIR.nii.gz", "FLAIR"),
        ("t2w.nii.gz", "T2"),
        ("t1_lesion.nii.gz", "label"),
        ("consensus_gt.nii.gz", "label"),
        ("t1_brain_mask.nii.gz", "brain_mask"),
        ("brainmask.nii.gz", "brain_mask"),
        ("dwi.nii.gz", None),
        ("mask.nii.gz", None),
    ],
)
def test_a_file_is_what_the_words_of_its_name_say(script, name, kind):
    assert script.kind_of(Path(name)) == kind


def test_every_scan_of_a_patient_is_an_item_of_its_own_and_evaluation_reads_the_list(
    script, data, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "lists" / "real.json"
    monkeypatch.setattr(sys, "argv", ["list_real_cases.py", str(data), str(output)])
    script.main()
    items = {item["case"]: item for item in list_scans(output)}
    assert set(items) == {"p07_T1", "p07_T2", "p07_FLAIR", "pat1_T1c", "pat1_FLAIR"}
    assert {item["group"] for item in items.values()} == {"real"}
    assert (items["p07_T2"]["subject"], items["p07_T2"]["contrast"]) == ("p07", "T2")
    assert Path(items["p07_T1"]["label"]).name == "lesion.nii.gz"
    assert "brain_mask" not in items["p07_T1"]
    assert Path(items["pat1_T1c"]["brain_mask"]).name == "brainmask.nii.gz"
    told = capsys.readouterr().out
    assert "5 scans of 2 patients" in told
    assert "normal' holds 0 lesion masks" in told


def test_contrasts_can_be_chosen_and_nothing_found_is_said(script, data, tmp_path, monkeypatch):
    output = tmp_path / "real.json"
    monkeypatch.setattr(sys, "argv", ["list", str(data), str(output), "--contrasts", "T1"])
    script.main()
    assert [item["case"] for item in json.loads(output.read_text())] == ["p07_T1"]
    monkeypatch.setattr(sys, "argv", ["list", str(data / "normal"), str(output)])
    with pytest.raises(SystemExit, match="no scan of T1c, T1, T2, FLAIR with a lesion mask"):
        script.main()
    monkeypatch.setattr(sys, "argv", ["list", str(data / "none"), str(output)])
    with pytest.raises(SystemExit, match="is no folder; expected one with a folder a patient"):
        script.main()


def test_two_patients_of_one_name_and_two_masks_of_a_patient_are_named(script, data, tmp_path, monkeypatch, capsys):
    patient(data / "other" / "p07", "t1.nii.gz", "lesion.nii.gz")
    patient(data / "other" / "p08", "t1.nii.gz", "lesion.nii.gz", "label.nii.gz")
    monkeypatch.setattr(sys, "argv", ["list", str(data), str(tmp_path / "real.json")])
    with pytest.raises(SystemExit, match="two scans are called 'p07_T1'"):
        script.main()
    assert "2 lesion masks" in capsys.readouterr().out
