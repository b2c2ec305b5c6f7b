"""Every ablation runs: one tiny scan through the workflow with a fast network, changed by the overlay alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fast_bundle import write_fast_bundle
from helpers import head_phantom
from itermask3d.evaluation.run import run_bundle
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[2]
ABLATIONS = sorted((ROOT / "configs" / "ablations").glob("*.json"))
TINY = {"spacing_mm": 6.0, "spatial_size": [32, 32, 32], "bias_correction": "none", "domain": "$None"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A fast bundle, a list of one scan with a lesion, and an overlay that makes all of it small."""
    root = tmp_path_factory.mktemp("tiny")
    write_fast_bundle(root / "bundle")
    item = head_phantom(spacing_mm=(6, 6, 6)).save(root, keys=("image", "brain_mask", "label"))
    (root / "scans.json").write_text(json.dumps([{**item, "case": "one"}]))
    overlay = TINY | {"settings::n_steps": 10, "radius_cycles_per_mm": 0.03, "calibration": "$None"}
    (root / "tiny.json").write_text(json.dumps(overlay))
    return root


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_is_possible_with_the_shipped_settings(path):
    parser = ConfigParser()
    parser.read_config(ROOT / "bundle" / "configs" / "inference.json")
    parser.update(json.loads(path.read_text()))
    settings = parser.get_parsed_content("settings")
    for key, value in json.loads(path.read_text()).items():
        if key.startswith("settings::"):
            assert getattr(settings, key.removeprefix("settings::")) == value


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_runs_and_its_result_names_what_was_changed(tiny, path):
    method = tiny / "methods" / path.stem
    run_bundle(tiny / "scans.json", method, overlays=[tiny / "tiny.json", path], bundle_root=tiny / "bundle")
    result = json.loads((method / "results" / "one" / "result.json").read_text())
    for key, value in json.loads(path.read_text()).items():
        assert result["settings"][key.removeprefix("settings::")] == value
    assert result["outcome"] in {"anomaly", "no_anomaly"}
    assert len(result["curve"]) == result["settings"]["n_steps"]
    if "settings::min_r_squared" in json.loads(path.read_text()):
        assert result["estimate"]["slope_source"] != "fit"
