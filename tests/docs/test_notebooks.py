"""The notebooks run from the first cell to the last, show a picture, and are kept with what they showed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nbformat
import pytest
import torch
from fast_bundle import BUNDLE, write_fast_bundle
from helpers import head_phantom
from itermask3d.method.network import ReconstructionUNet

nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOKS = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
CHANNELS = [2, 2, 2, 4, 4]
LARGEST_BYTES = 1_000_000


def run(name: str, folder: Path, parameters: str) -> nbformat.NotebookNode:
    """The executed notebook; ``parameters`` stands in place of its cell of parameters."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    cell.source += f"\n{parameters}"
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    return notebook


def printed(notebook: nbformat.NotebookNode) -> str:
    """All that its cells printed."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def pictures(notebook: nbformat.NotebookNode) -> list[str]:
    """The PNG pictures that its cells showed."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_a_picture_without_errors_and_paths_of_a_machine(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert pictures(notebook)
    assert "research use only" in notebook.cells[0].source
    assert not [cell for cell in notebook.cells for output in cell.get("outputs", ()) if output.output_type == "error"]
    assert path.stat().st_size < LARGEST_BYTES
    for word in ("/tmp/", "/home/", "/root/"):
        assert word not in printed(notebook)


@pytest.mark.slow
def test_segment_runs_on_another_scan_and_bundle(tmp_path):
    bundle = write_fast_bundle(tmp_path / "bundle")
    scan = head_phantom(spacing_mm=(4, 4, 4)).save(tmp_path)["image"]
    options = {"bundle": str(bundle), "brain_extraction": "none"}
    notebook = run("segment", tmp_path, f"scan, options = Path({str(scan)!r}), {options!r}")
    assert "outcome   anomaly" in printed(notebook)
    assert len(pictures(notebook)) == 2
    result = json.loads((tmp_path / "out" / "notebook" / "scan_image" / "result.json").read_text())
    assert f"{result['components'][0]['volume_ml']:.1f} ml at" in printed(notebook)


def write_tiny_bundle(root: Path) -> Path:
    """A bundle with a tiny network of random weights, on a grid of 6 mm."""
    shutil.copytree(BUNDLE / "configs", root / "configs")
    (root / "models").mkdir()
    path = root / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["network_def"]["channels"] = CHANNELS
    config |= {"spacing_mm": 6.0, "spatial_size": [32, 48, 32], "bias_correction": "none"}
    config["settings"] |= {"max_iterations": 2}
    config["evidence"] = {}
    path.write_text(json.dumps(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        weights = ReconstructionUNet(out_channels=2, channels=CHANNELS).state_dict()
    torch.save(weights, root / "models" / "model.pt")
    return root


@pytest.mark.slow
def test_adapt_to_your_site_goes_from_scans_to_a_bundle_that_segments(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    notebook = run("adapt_to_your_site", tmp_path, f"bundle = {str(bundle)!r}")
    assert (tmp_path / "out" / "site" / "bundle" / "models" / "model.pt").is_file()
    assert "8 normal scores" in printed(notebook)
    assert len(pictures(notebook)) == 1
