"""The bundle's inference workflow as a whole, on phantoms and a small random network: geometry and repeatability."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import axes_of, dice, head_phantom, rotation
from itermask3d import BUNDLE_ROOT
from itermask3d.network import ReconstructionUNet
from monai.bundle import ConfigWorkflow

CHANNELS = [4, 4, 8, 8, 8]
OBLIQUE = rotation(degrees=(8, -12, 15))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.pt"
    torch.manual_seed(0)
    torch.save(ReconstructionUNet(channels=CHANNELS).state_dict(), path)
    return path


def workflow(source: Path, output: Path, weights: Path, **overrides: Any) -> ConfigWorkflow:
    values = {
        "dataset_dir": str(source),
        "output_dir": str(output),
        "ckpt_path": str(weights),
        "calibration": None,
        "network_def::channels": CHANNELS,
        "progress": False,
        "picture": False,
    }
    config = ConfigWorkflow(
        config_file=f"{BUNDLE_ROOT}/configs/inference.json",
        meta_file=f"{BUNDLE_ROOT}/configs/metadata.json",
        logging_file=False,
        workflow_type="infer",
        **(values | overrides),
    )
    config.initialize()
    return config


def small(**overrides: Any) -> dict[str, Any]:
    return {"spacing_mm": 4.0, "spatial_size": [48, 48, 48], "settings::n_steps": 10, "min_volume_ml": 0.0} | overrides


@pytest.fixture
def two_scans(tmp_path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for name, axes in (("first", np.eye(3)), ("second", axes_of("PIL"))):
        phantom = head_phantom(axes=axes, spacing_mm=(3, 3, 3))
        nib.save(nib.Nifti1Image(phantom.image, phantom.affine), folder / f"{name}.nii.gz")
    return folder


def test_two_runs_give_identical_bytes_and_a_batch_of_two_agrees(two_scans, tmp_path, weights):
    for name, batch_size in (("a", 1), ("b", 1), ("batch", 2)):
        workflow(two_scans, tmp_path / name, weights, **small(batch_size=batch_size)).run()
    for case in ("first", "second"):
        first, again, batch = (tmp_path / name / case for name in ("a", "b", "batch"))
        files = sorted(path.name for path in first.iterdir())
        assert len(files) == 5
        for name in files:
            assert (first / name).read_bytes() == (again / name).read_bytes(), name
        one, two = (json.loads((folder / "result.json").read_text()) for folder in (first, batch))
        assert one["outcome"] == two["outcome"]
        assert one["score"] == pytest.approx(two["score"], rel=1e-3)
        np.testing.assert_allclose(one["curve"], two["curve"], rtol=1e-4, atol=1e-6)
        masks = [np.asarray(nib.load(folder / f"{case}_mask.nii.gz").dataobj) for folder in (first, batch)]
        assert np.mean(masks[0] != masks[1]) < 1e-4


def test_finished_scans_are_skipped_and_a_lost_one_is_done_again(two_scans, tmp_path, weights):
    workflow(two_scans, tmp_path / "out", weights, **small()).run()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/result.json")}
    (tmp_path / "out" / "second" / "result.json").unlink()
    (tmp_path / "out" / ".second.partial").mkdir()
    workflow(two_scans, tmp_path / "out", weights, **small()).run()
    first = tmp_path / "out" / "first" / "result.json"
    assert first.stat().st_mtime_ns == stamps[first]
    assert (tmp_path / "out" / "second" / "result.json").exists()
    assert not list((tmp_path / "out").glob(".*"))


class Oracle(torch.nn.Module):
    """Expects the phantom without its lesion: everything else is reproduced exactly."""

    def __init__(self, image: torch.Tensor, label: torch.Tensor) -> None:
        super().__init__()
        self.expected = torch.where(label > 0.5, image - 3.0, image)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.expected


@pytest.mark.parametrize(
    ("axes", "spacing_mm", "least"),
    [
        (np.eye(3), (2, 2, 2), 0.97),
        (axes_of("LIA"), (1, 1, 1), 0.97),
        (axes_of("PSR"), (2, 2, 2), 0.97),
        (OBLIQUE, (1.2, 1.2, 1.2), 0.97),
        (OBLIQUE, (0.7, 0.7, 5), 0.9),
    ],
    ids=["plain", "permuted_1mm", "permuted_2mm", "oblique", "oblique_thick"],
)
def test_an_asymmetric_lesion_comes_back_where_it_was(tmp_path, weights, axes, spacing_mm, least):
    """From file to file: the mask on the scan's own grid, against the lesion on that grid."""
    phantom = head_phantom(axes=axes, spacing_mm=spacing_mm)
    item = phantom.save(tmp_path)
    (tmp_path / "list.json").write_text(json.dumps([item | {"case": "scan"}]))
    run = workflow(
        tmp_path / "list.json", tmp_path / "out", weights, brain_extraction="none", min_volume_ml=0.0,
        **{"settings::n_steps": 20, "settings::gamma": 0.05},
    )  # fmt: skip
    transform = run.parser.get_parsed_content("preprocessing")
    from itermask3d.preprocessing import inference_transforms

    sample = inference_transforms(brain_extraction="none", with_label=True)(dict(item))
    assert sample["image"].shape == transform(dict(item))["image"].shape
    oracle = Oracle(sample["image"].as_tensor()[None], sample["label"].as_tensor()[None])
    run.parser.get_parsed_content("evaluator").network = oracle
    run.run()
    mask = nib.load(tmp_path / "out" / "scan" / "scan_mask.nii.gz")
    np.testing.assert_allclose(mask.affine, phantom.affine, atol=1e-5)
    assert mask.shape == phantom.label.shape
    assert dice(np.asarray(mask.dataobj) > 0, phantom.label) >= least
