"""The weights that are shipped: plain, small, of the configured network, with a calibration that belongs to them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from itermask3d import BUNDLE_ROOT
from itermask3d.files.identity import file_digest
from monai.bundle import ConfigWorkflow

MODELS = Path(BUNDLE_ROOT) / "models"
CARD = Path(BUNDLE_ROOT) / "docs" / "metrics.json"
SCRIPTS = Path(__file__).parents[2] / "scripts"


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
    used = config.parser.get_parsed_content("trained_model").variant("t1")
    data = json.loads((MODELS / "calibration.json").read_text())
    assert len(data["normal_scores"]) == len(data["cases"]) > 10
    assert used.applying_calibration().percentile(max(data["normal_scores"]) + 1) == 100.0


def test_calibration_and_test_subjects_are_in_no_other_subset():
    one_site = json.loads((Path(BUNDLE_ROOT) / "configs" / "split_ixi_t1_2mm.json").read_text())
    splits = json.loads((Path(BUNDLE_ROOT) / "configs" / "split_t1_2mm.json").read_text())
    for scans, split in ((150, one_site), (209, splits)):
        cases = [case for subset in split.values() for case in subset]
        assert len(cases) == len(set(cases)) == scans
    assert all(set(one_site[subset]) <= set(splits[subset]) for subset in splits)
    assert not [case for case in splits["train"] if case.startswith("oasis1")]
    assert set(json.loads((MODELS / "calibration.json").read_text())["cases"]) == set(splits["calibration"]) | set(
        splits["validation"]
    )


@pytest.mark.slow
def test_the_demo_finds_the_lesion_and_says_less_about_the_scan_without_it(tmp_path):
    subprocess.run([sys.executable, "-m", "itermask3d", "demo", tmp_path], check=True, cwd=tmp_path)
    results = {name: tmp_path / "results" / name for name in ("as_it_is", "with_lesion")}
    lesion = nib.load(tmp_path / "input" / "lesion.nii.gz").get_fdata() > 0
    mask = nib.load(results["with_lesion"] / "with_lesion_mask.nii.gz").get_fdata() > 0
    assert 2 * np.sum(lesion & mask) / (lesion.sum() + mask.sum()) > 0.68
    scores = {name: json.loads((folder / "result.json").read_text()) for name, folder in results.items()}
    assert scores["as_it_is"]["volumes_ml"]["anomaly"] <= 2
    assert scores["with_lesion"]["score"] > 1.2 * scores["as_it_is"]["score"]
    found = [component["centroid_mm"] for component in scores["with_lesion"]["components"]]
    centre = nib.affines.apply_affine(nib.load(tmp_path / "input" / "lesion.nii.gz").affine, np.argwhere(lesion)).mean(
        0
    )
    assert min(np.linalg.norm(np.subtract(found, centre), axis=1)) < 10
    assert all((folder / "overview.png").exists() for folder in results.values())


def card() -> dict[str, Any]:
    return json.loads(CARD.read_text())


def test_the_card_speaks_of_the_weights_that_are_shipped():
    assert card()["weights_sha256"] == file_digest(MODELS / "model.pt")
    assert all(metric["tolerance"] > 0 for metric in card()["metrics"].values())
    metadata = json.loads((Path(BUNDLE_ROOT) / "configs" / "metadata.json").read_text())
    assert metadata["eval_metrics"] == {name: metric["value"] for name, metric in card()["metrics"].items()}


@pytest.mark.slow
def test_the_shipped_weights_reproduce_the_metrics_of_the_card(shared_dir, tmp_path):
    scans, shapes = shared_dir / "data" / "normal_t1_2mm" / "t1", shared_dir / "data" / "lesion_shapes"
    if not (scans.is_dir() and shapes.is_dir()):
        pytest.skip(f"this test needs the IXI scans and lesion shapes in '{shared_dir / 'data'}'")
    split = f"{BUNDLE_ROOT}/configs/split_ixi_t1_2mm.json"
    (tmp_path / "test.json").write_text(
        json.dumps([str(scans / f"{case}.nii.gz") for case in json.loads(Path(split).read_text())["test"]])
    )
    masks, pairs, out = (tmp_path / name for name in ("masks", "pairs", "out"))
    _run(SCRIPTS / "extract_brain.py", tmp_path / "test.json", masks, "--method", "deepbet")
    options = ("--subset", "test", "--split-file", split, "--seed", 2, "--shapes", shapes, "--brain-masks", masks)
    _run(SCRIPTS / "simulate_lesions.py", tmp_path / "test.json", pairs, *options)
    configs = f"['{BUNDLE_ROOT}/configs/inference.json','{BUNDLE_ROOT}/configs/evaluate.json']"
    run = ("-m", "monai.bundle", "run", "--config_file", configs, "--overview", "False")
    _run(*run, "--dataset_dir", pairs / "scans.json", "--output_dir", out)
    found = _metrics(out)
    wrong = {
        name: (found[name], metric)
        for name, metric in card()["metrics"].items()
        if not abs(found[name] - metric["value"]) <= metric["tolerance"]
    }
    assert not wrong


def _run(*command: Any) -> None:
    subprocess.run([sys.executable, *map(str, command)], check=True)


def _metrics(out: Path) -> dict[str, float]:
    """Those of the card, from what an evaluation wrote."""
    summary = json.loads((out / "metrics.json").read_text())
    with (out / "metrics.csv").open() as stream:
        large = [float(row["dice"]) for row in csv.DictReader(stream) if float(row["label_ml"]) > 10]
    names = ("dice_mean", "lesion_f1_mean", "normal_flagged_share_median", "normal_flagged_share_max")
    return {name: summary[name] for name in names} | {
        "dice_mean_above_10_ml": float(np.mean(large)),
        "scan_auroc": summary["scan_level"]["auroc"]["value"],
    }
