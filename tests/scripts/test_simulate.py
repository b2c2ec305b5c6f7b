"""The scripts that make semi-synthetic scans: their lists feed the evaluation as they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import head_phantom, load_script
from itermask3d.files.scans import list_scans

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def run(monkeypatch) -> Callable[..., None]:
    """Run a script with arguments in this process."""

    def main(name: str, *arguments: str) -> None:
        module = load_script(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        module.main()

    return main


@pytest.fixture
def normals(tmp_path) -> Path:
    """A list of two normal scans and one with a lesion, of two people."""
    item = head_phantom(spacing_mm=(8, 8, 8)).save(tmp_path, keys=("image", "brain_mask"))
    items = [
        {**item, "case": "a1", "subject": "a"},
        {**item, "case": "b1", "subject": "b", "group": "normal"},
        {**item, "case": "b2", "subject": "b", "group": "weak lesion"},
    ]
    (tmp_path / "normals.json").write_text(json.dumps(items))
    return tmp_path / "normals.json"


def test_lesions_are_listed_with_subject_and_group_by_contrast(run, normals, tmp_path):
    output = tmp_path / "lesions"
    run(
        "simulate_lesions", str(normals), str(output), "--kinds", "hypo", "iso", "--mass-effect", "3", "--subjects", "2"
    )
    items = {item["case"]: item for item in list_scans(output / "scans.json")}
    drawn = json.loads((output / "lesions.json").read_text())
    assert set(items) == {"a1_normal", "a1_lesion", "b1_normal", "b1_lesion"}
    for case, facts in drawn.items():
        normal, lesion = items[f"{case}_normal"], items[f"{case}_lesion"]
        assert (normal["group"], normal["subject"], lesion["subject"]) == ("normal", case[0], case[0])
        contrast = abs(facts["contrast"])
        expected = "strong" if contrast >= 1.5 else "weak" if contrast >= 0.8 else "iso-intense"
        assert lesion["group"] == facts["group"] == f"{expected} lesion"
        assert facts["mass_effect_mm"] == 3
    made = json.loads((output / "simulation.json").read_text())
    assert (made["scans"], made["seed"], made["subset"]) == (4, 0, None)
    assert made["command"].startswith("python scripts/simulate_lesions.py normals.json lesions --kinds hypo iso")


@pytest.mark.parametrize("wrong", [("--mass-effect", "20"), ("--subjects", "0"), ("--kinds", "pink")])
def test_wrong_options_of_lesions_are_refused(run, normals, tmp_path, wrong):
    with pytest.raises(SystemExit):
        run("simulate_lesions", str(normals), str(tmp_path / "out"), *wrong)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_lesion_shapes_is_named(run, normals, tmp_path):
    (tmp_path / "shapes").mkdir()
    with pytest.raises(SystemExit, match="shapes' holds no lesion shape"):
        run("simulate_lesions", str(normals), str(tmp_path / "out"), "--shapes", str(tmp_path / "shapes"))


def test_artefacts_are_made_of_normal_scans_alone_of_the_severities_and_subjects_asked_for(run, normals, tmp_path):
    output = tmp_path / "artefacts"
    few = ("--artefacts", "noise", "inversion", "--severities", "2", "4")
    run("simulate_artefacts", str(normals), str(output), *few)
    found = {path.parent.name: list_scans(path) for path in output.glob("*/scans.json")}
    assert set(found) == {"noise_2", "noise_4", "inversion_2", "inversion_4"}
    assert [(item["case"], item["subject"]) for item in found["noise_2"]] == [("a1", "a"), ("b1", "b")]
    assert json.loads((output / "simulation.json").read_text())["scans"] == 8
    run("simulate_artefacts", str(normals), str(tmp_path / "one"), *few, "--subjects", "1")
    assert len(list_scans(tmp_path / "one" / "noise_2" / "scans.json")) == 1


def test_a_virtual_scanner_lists_images_with_masks_and_keeps_what_is_there(run, normals, tmp_path):
    output = tmp_path / "soft"
    command = ("simulate_scanner", str(normals), str(output), "--scanner", "soft")
    for _ in range(2):
        with pytest.raises(SystemExit, match="0"):
            run(*command)
    items = {item["case"]: item for item in list_scans(output / "scans.json")}
    assert set(items) == {"a1", "b1", "b2"}
    assert all(Path(item["brain_mask"]).is_file() for item in items.values())
    assert Path(items["a1"]["image"]).read_bytes() != Path(items["b1"]["image"]).read_bytes()
