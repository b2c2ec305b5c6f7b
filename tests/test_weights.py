"""The weights that are shipped: plain, small, of the configured network, with a calibration that belongs to them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from itermask3d import BUNDLE_ROOT
from monai.bundle import ConfigWorkflow

MODELS = Path(BUNDLE_ROOT) / "models"
SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def config() -> ConfigWorkflow:
    workflow = ConfigWorkflow(
        config_file=f"{BUNDLE_ROOT}/configs/inference.json",
        meta_file=f"{BUNDLE_ROOT}/configs/metadata.json",
        logging_file=False,
        workflow_type="infer",
    )
    workflow.initialize()
    return workflow


def test_no_file_of_the_bundle_is_over_25_megabytes():
    assert max(path.stat().st_size for path in Path(BUNDLE_ROOT).rglob("*") if path.is_file()) < 25e6


def test_weights_are_a_plain_state_dict_of_the_configured_network(config):
    state = torch.load(MODELS / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert all(torch.isfinite(value).all() for value in state.values())
    config.parser.get_parsed_content("network_def").load_state_dict(state, strict=True)


def test_calibration_belongs_to_the_weights_and_settings_that_are_shipped(config):
    store = config.parser.get_parsed_content("store")
    data = json.loads((MODELS / "calibration.json").read_text())
    assert len(data["normal_scores"]) == len(data["cases"]) > 10
    assert store.percentile(max(data["normal_scores"]) + 1) == 100.0


def test_calibration_and_test_subjects_are_in_no_other_subset():
    splits = json.loads((Path(BUNDLE_ROOT) / "configs" / "split_ixi_t1_2mm.json").read_text())
    cases = [case for subset in splits.values() for case in subset]
    assert len(cases) == len(set(cases)) == 150
    assert set(json.loads((MODELS / "calibration.json").read_text())["cases"]) == set(splits["calibration"])


@pytest.mark.slow
def test_the_demo_finds_the_lesion_and_says_less_about_the_scan_without_it(tmp_path):
    subprocess.run([sys.executable, SCRIPTS / "demo.py", "--output", tmp_path], check=True, cwd=tmp_path)
    results = {name: tmp_path / "results" / name for name in ("as_it_is", "with_lesion")}
    lesion = nib.load(tmp_path / "input" / "lesion.nii.gz").get_fdata() > 0
    mask = nib.load(results["with_lesion"] / "with_lesion_mask.nii.gz").get_fdata() > 0
    assert np.mean(mask[lesion]) > 0.6
    scores = {name: json.loads((folder / "result.json").read_text()) for name, folder in results.items()}
    assert scores["with_lesion"]["score"] > 1.2 * scores["as_it_is"]["score"]
    found = [component["centroid_mm"] for component in scores["with_lesion"]["components"]]
    centre = nib.affines.apply_affine(nib.load(tmp_path / "input" / "lesion.nii.gz").affine, np.argwhere(lesion)).mean(
        0
    )
    assert min(np.linalg.norm(np.subtract(found, centre), axis=1)) < 10
    assert all((folder / "picture.png").exists() for folder in results.values())
