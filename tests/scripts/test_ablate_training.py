"""An ablation of training: every variant is possible, is trained and judged, and is not done twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import head_phantom, load_script
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[2]
ABLATIONS = sorted((ROOT / "configs" / "training_ablations").glob("*.json"))
TINY = {
    "network_def::channels": [2, 2, 2, 2, 2],
    "spacing_mm": 8.0,
    "spatial_size": [32, 32, 32],
    "radius_cycles_per_mm": 0.03,
    "batch_size": 1,
    "bias_correction": "none",
}

pytestmark = pytest.mark.usefixtures("kept_global_state")


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")


@pytest.fixture
def scans(tmp_path) -> dict[str, Path]:
    """Three phantoms to train on and check with, one of which has a lesion."""
    folder, labels = tmp_path / "scans", tmp_path / "labels"
    folder.mkdir()
    labels.mkdir()
    phantom, listed = head_phantom(spacing_mm=(4, 4, 4)), []
    for seed, case in enumerate(("one", "two", "three")):
        noise = np.random.default_rng(seed).normal(0, 3, phantom.image.shape)
        image, label = folder / f"{case}.nii.gz", labels / f"{case}.nii.gz"
        nib.save(
            nib.Nifti1Image(np.where(phantom.brain_mask, phantom.image + noise, 0).astype(np.float32), phantom.affine),
            image,
        )
        nib.save(nib.Nifti1Image((phantom.label * (seed == 2)).astype(np.uint8), phantom.affine), label)
        listed.append({"case": case, "image": str(image), "label": str(label)})
    (tmp_path / "check.json").write_text(json.dumps(listed))
    (tmp_path / "split.json").write_text(json.dumps({"train": ["one", "two"], "validation": ["three"]}))
    return {"folder": folder, "check": tmp_path / "check.json", "split": tmp_path / "split.json"}


def call(monkeypatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["ablate_training.py", *map(str, arguments)])
    load_script("ablate_training").main()


@pytest.mark.parametrize(
    ("ablation", "name"), [(path, name) for path in ABLATIONS for name in json.loads(path.read_text())["variants"]]
)
def test_every_value_of_an_ablation_changes_something_that_the_config_has(ablation, name):
    content = json.loads(ablation.read_text())
    values = dict(content["variants"][name])
    parser = ConfigParser()
    parser.read_config([ROOT / "bundle" / "configs" / "train.json", *(ROOT / file for file in content["overlays"])])
    for file in values.pop("overlays", []):
        assert (ROOT / file).is_file()
    optional = {"augment", "seed", "lr_scheduler::milestones"}
    for key in {**content["all"], **values}:
        outer, _, last = key.rpartition("::")
        if key not in optional and last not in optional:
            assert last in (parser[outer] if outer else parser.config) or "_target_" in parser[outer], key


def test_an_ablation_is_trained_judged_written_into_a_page_and_not_done_twice(monkeypatch, scripts, tmp_path, scans):
    ablation = tmp_path / "ablation.json"
    variant = {"overlays": ["configs/averaged_weights.json"]}
    ablation.write_text(
        json.dumps({"overlays": [], "all": {"epochs": 1, "val_interval": 1}, "variants": {"averaged": variant}})
    )
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- block -->\n<!-- /block -->\nafter\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    override = json.dumps({**TINY, "split_file": str(scans["split"])})
    out = tmp_path / "out"
    arguments = (ablation, scans["folder"], out, "--check", f"here={scans['check']}", "--override", override)
    call(monkeypatch, *arguments, "--write", page, "block")

    metrics = json.loads((out / "00" / "checks.json").read_text())["here"]
    assert (metrics["normals"], metrics["lesions"]) == (2, 1)
    assert metrics["squared_error"] > 0
    assert 0 < metrics["ap"] <= 1
    assert 0 <= metrics["dice"] <= 1
    assert f"| averaged | {metrics['squared_error']:.3f} | {metrics['ap']:.3f} |" in page.read_text()
    assert page.read_text().endswith("after\n")

    kept = {path: path.stat().st_mtime_ns for path in (out / "00").glob("*.*")}
    call(monkeypatch, *arguments)
    assert {path: path.stat().st_mtime_ns for path in (out / "00").glob("*.*")} == kept


def test_another_variant_in_the_same_place_and_an_unknown_name_are_refused(monkeypatch, scripts, tmp_path, scans):
    ablation = tmp_path / "ablation.json"
    ablation.write_text(json.dumps({"overlays": [], "all": {}, "variants": {"a": {"epochs": 1}}}))
    with pytest.raises(SystemExit, match="no variant 'b'; it has a"):
        call(monkeypatch, ablation, scans["folder"], tmp_path / "out", "--only", "b")
    (tmp_path / "out" / "00").mkdir(parents=True)
    (tmp_path / "out" / "00" / "variant.json").write_text("{}")
    with pytest.raises(SystemExit, match="holds another variant than 'a' of now; expected an empty folder"):
        call(monkeypatch, ablation, scans["folder"], tmp_path / "out")
