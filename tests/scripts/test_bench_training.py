"""The benchmark of training steps: both recipes, from raw scans and from prepared ones. No times."""

from __future__ import annotations

import json

import pytest
from helpers import SCRIPTS, head_phantom, load_script
from itermask3d.files.scans import list_scans
from itermask3d.preprocessing.pipeline import inference_transforms
from itermask3d.training.prepared import list_prepared, save_prepared

GRID = {"spacing_mm": 8.0, "spatial_size": [32, 32, 32]}
OVERRIDE = {**GRID, "network_def::channels": [2, 4, 4, 4, 4], "batch_size": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three scans, raw and prepared, and a split of them."""
    out = tmp_path_factory.mktemp("bench")
    for name in ("raw", "prepared"):
        (out / name).mkdir()
    phantom = head_phantom(spacing_mm=(4, 4, 4))
    for case in ("one", "two", "three"):
        phantom.save(out / "raw", name=case, keys=("image",))
    prepare = inference_transforms(**GRID)
    for item in list_scans(out / "raw"):
        save_prepared(prepare(item), out / "prepared" / f"{item['case']}.npz", spacing_mm=8.0)
    cases = [item["case"] for item in list_prepared(out / "prepared")]
    (out / "split.json").write_text(json.dumps({"train": cases[:2], "validation": cases[2:]}))
    return out


@pytest.mark.usefixtures("kept_global_state")
@pytest.mark.parametrize("form", ["raw", "prepared"])
def test_both_recipes_are_measured_part_by_part(form, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = load_script("bench_training")
    command = ["bench_training.py", str(folder / form), str(tmp_path), "--split-file", str(folder / "split.json")]
    command += ["--steps", "1", "--override", json.dumps(OVERRIDE), *(["--prepared"] if form == "prepared" else [])]
    monkeypatch.setattr("sys.argv", command)
    script.main()
    measured = json.loads((tmp_path / "training.json").read_text())
    assert list(measured) == list(script.RECIPES)[:2]
    parts = (
        {"drawn at once"}
        if form == "prepared"
        else {"from the cache", "augmentation", "synthetic anomaly", "guide", "mask"}
    )
    seconds = measured["the bundle's recipe"]["parts"]
    assert {part for part in seconds if seconds[part] > 0} == parts | {"batch", "forward", "backward", "optimiser"}
    assert all(row["channels"] == OVERRIDE["network_def::channels"] for row in measured.values())
    assert "| the bundle's recipe | 32×32×32, 2-4-4-4-4 |" in capsys.readouterr().out


def test_folder_without_scans_is_one_sentence(folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = load_script("bench_training")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("sys.argv", ["bench_training.py", str(tmp_path / "empty"), str(tmp_path / "out"), "--prepared"])
    with pytest.raises(SystemExit, match="holds no prepared scan"):
        script.main()
