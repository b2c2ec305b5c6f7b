"""The bundle's inference workflow as a whole, on phantoms and a small random network: geometry and repeatability."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import Phantom, axes_of, dice, head_phantom, rotation, save_dicom
from itermask3d import BUNDLE_ROOT
from itermask3d.method.network import ReconstructionUNet
from monai.bundle import ConfigWorkflow
from monai.data import ITKWriter

CHANNELS = [4, 4, 8, 8, 8]
OBLIQUE = rotation(degrees=(8, -12, 15))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.pt"
    torch.manual_seed(0)
    torch.save(ReconstructionUNet(channels=CHANNELS, out_channels=2).state_dict(), path)
    return path


def workflow(source: Path, output: Path, weights: Path, **overrides: Any) -> ConfigWorkflow:
    values = {
        "dataset_dir": str(source),
        "output_dir": str(output),
        "ckpt_path": str(weights),
        "calibration": None,
        "network_def::channels": CHANNELS,
        "progress": False,
        "overview": False,
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
        assert len(files) == 7
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
        return torch.cat((self.expected, torch.zeros_like(self.expected)), dim=1)


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
        bias_correction="none", **{"settings::n_steps": 20, "settings::error_window": 1},
    )  # fmt: skip
    transform = run.parser.get_parsed_content("preprocessing")
    from itermask3d.preprocessing.pipeline import inference_transforms

    sample = inference_transforms(brain_extraction="none", with_label=True)(dict(item))
    assert sample["image"].shape == transform(dict(item))["image"].shape
    oracle = Oracle(sample["image"].as_tensor()[None], sample["label"].as_tensor()[None])
    run.parser.get_parsed_content("trained_model").load().networks[None] = oracle
    run.run()
    mask = nib.load(tmp_path / "out" / "scan" / "scan_mask.nii.gz")
    np.testing.assert_allclose(mask.affine, phantom.affine, atol=1e-5)
    assert mask.shape == phantom.label.shape
    assert dice(np.asarray(mask.dataobj) > 0, phantom.label) >= least


def save_as(kind: str, phantom: Phantom, folder: Path) -> Path:
    """Write the phantom in one of the formats that are read."""
    path = folder / f"scan.{kind}"
    if kind == "dicom":
        return save_dicom(phantom, folder / "scan")
    if kind == "mgz":
        nib.save(nib.MGHImage(phantom.image, phantom.affine), path)
    elif kind == "4d.nii":
        nib.save(nib.Nifti1Image(phantom.image[..., None], phantom.affine), path)
    else:
        writer = ITKWriter(output_dtype=np.float32, affine_lps_to_ras=True)
        writer.set_data_array(phantom.image, channel_dim=None)
        writer.set_metadata({"affine": phantom.affine}, resample=False)
        writer.write(str(path))
    return path


@pytest.mark.parametrize("kind", ["mgz", "nrrd", "mha", "4d.nii", "dicom"])
def test_every_format_comes_back_on_its_own_grid(tmp_path, weights, kind):
    phantom = head_phantom(axes=OBLIQUE @ axes_of("LAS"), spacing_mm=(3, 3, 4))
    source = save_as(kind, phantom, tmp_path)
    workflow(source, tmp_path / "out", weights, **small(overview=True, **{"settings::n_steps": 2})).run()
    (folder,) = (path.parent for path in (tmp_path / "out").glob("*/result.json"))
    brain = nib.load(folder / f"{folder.name}_brain_mask.nii.gz")
    centre = nib.affines.apply_affine(brain.affine, np.argwhere(np.asarray(brain.dataobj) > 0)).mean(axis=0)
    expected = nib.affines.apply_affine(phantom.affine, np.argwhere(phantom.brain_mask)).mean(axis=0)
    np.testing.assert_allclose(centre, expected, atol=1.0)
    assert sorted(brain.shape) == sorted(phantom.image.shape)
    if kind != "dicom":  # readers of DICOM may order the axes of a series differently
        np.testing.assert_allclose(brain.affine, phantom.affine, atol=1e-3)
        assert dice(np.asarray(brain.dataobj) > 0, phantom.brain_mask) > 0.97


def test_evaluation_takes_its_figures_from_the_masks_that_were_written(two_scans, tmp_path, weights):
    labels = tmp_path / "labels"
    labels.mkdir()
    for path in two_scans.iterdir():
        scan = nib.load(path)
        nib.save(nib.Nifti1Image((scan.get_fdata() > 140).astype(np.uint8) * 2, scan.affine), labels / path.name)
    config = ConfigWorkflow(
        config_file=[f"{BUNDLE_ROOT}/configs/inference.json", f"{BUNDLE_ROOT}/configs/evaluate.json"],
        meta_file=f"{BUNDLE_ROOT}/configs/metadata.json",
        logging_file=False,
        workflow_type="infer",
        dataset_dir=str(two_scans),
        label_dir=str(labels),
        output_dir=str(tmp_path / "out"),
        **{"ckpt_path": str(weights), "network_def::channels": CHANNELS, "overview": False, "progress": False},
        **small(),
    )
    config.initialize()
    config.run()
    rows = list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))
    assert [row["case"] for row in rows] == ["first", "second"]
    for row in rows:
        mask = nib.load(tmp_path / "out" / row["case"] / f"{row['case']}_mask.nii.gz").get_fdata() > 0
        label = nib.load(labels / f"{row['case']}.nii.gz").get_fdata() > 0
        assert float(row["dice"]) == pytest.approx(dice(mask, label), abs=1e-6)
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert summary["dice_mean"] == pytest.approx(np.mean([float(row["dice"]) for row in rows]))


def test_a_folder_of_others_is_never_replaced(two_scans, tmp_path, weights, capsys):
    precious = tmp_path / "out" / "first" / "notes.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("keep me")
    with pytest.raises(SystemExit) as end:
        workflow(two_scans, tmp_path / "out", weights, **small()).run()
    assert end.value.code == 2
    assert "files of others" in capsys.readouterr().out
    assert precious.read_text() == "keep me"
