"""The wheel is the whole product: installed alone, in a folder of its own, it does what the repository does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bundle_helpers import CHANNELS
from fast_bundle import write_fast_bundle
from helpers import head_phantom
from itermask3d.method.network import ReconstructionUNet

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")

pytestmark = pytest.mark.slow


def run(*words: object, cwd: Path, path: Path | None = None) -> str:
    """Standard output of a command that must end well; ``path`` is all that it finds beside the environment."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(path or "")}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the installed wheel and nothing else."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "bundle", source / "bundle", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "scripts", source / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", source, "-w", source, cwd=source)
    (wheel,) = source.glob("*.whl")
    assert wheel.stat().st_size < 60e6
    run(*pip, "install", "-q", "--no-deps", "--no-index", "--target", target, wheel, cwd=source)
    return target


def test_the_command_says_what_it_is_and_finds_its_own_models(installed, tmp_path):
    facts = json.loads(run(installed / "bin" / "itermask3d", "info", "--json", cwd=tmp_path, path=installed))
    assert facts["bundle"] == str(installed / "itermask3d" / "_bundle")
    assert "missing" not in facts["models"]["t1"].values()
    assert facts["models"]["agnostic"]["weights"] != "missing"


def test_the_command_segments_and_reports(installed, tmp_path):
    bundle = write_fast_bundle(tmp_path / "bundle")
    scan = head_phantom(spacing_mm=(4, 4, 4)).save(tmp_path)["image"]
    command = (sys.executable, "-m", "itermask3d")
    options = ("--bundle", bundle, "--brain-extraction", "none", "--json")
    (result,) = json.loads(run(*command, "segment", scan, *options, cwd=tmp_path, path=installed))
    folder = tmp_path / "scan_image_itermask3d" / "scan_image"
    assert result == json.loads((folder / "result.json").read_text())
    assert (folder / "overview.png").is_file()
    run(*command, "report", folder, cwd=tmp_path, path=installed)
    assert (folder / "report.html").is_file()


def test_monai_reads_the_installed_bundle_and_builds_its_network(installed, tmp_path):
    code = """
import itermask3d
from monai.bundle import ConfigParser, ConfigWorkflow, load
root = itermask3d.BUNDLE_ROOT
flow = ConfigWorkflow(config_file=f"{root}/configs/inference.json", meta_file=f"{root}/configs/metadata.json",
                      logging_file=False, workflow_type="infer", dataset_dir="x", output_dir="y")
flow.initialize()
assert not flow.check_properties(), flow.check_properties()
loaded = load("_bundle", bundle_dir=f"{root}/..")
flow.parser.get_parsed_content("network_def").load_state_dict(loaded.state_dict())
print(root)
"""
    root = run(sys.executable, "-c", code, cwd=tmp_path, path=installed).splitlines()[-1]
    assert root == str(installed / "itermask3d" / "_bundle")
    network = ("run", "--config_file", f"{root}/configs/inference.json", "--run_id", "network_def")
    run(sys.executable, "-m", "monai.bundle", "verify_net_in_out", "network_def", *network[1:3], "--meta_file",
        f"{root}/configs/metadata.json", cwd=tmp_path, path=installed)  # fmt: skip


def test_monai_runs_the_installed_configs_on_a_raw_scan(installed, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(ReconstructionUNet(channels=CHANNELS, out_channels=2).state_dict(), tmp_path / "tiny.pt")
    scan = head_phantom(spacing_mm=(4, 4, 4)).save(tmp_path)["image"]
    tiny = {"network_def::channels": CHANNELS, "spacing_mm": 8.0, "spatial_size": [32, 32, 32]}
    tiny |= {"settings::n_steps": 5, "settings::max_iterations": 3}
    options = [word for name, value in tiny.items() for word in (f"--{name}", json.dumps(value))]
    config = installed / "itermask3d" / "_bundle" / "configs" / "inference.json"
    run(sys.executable, "-m", "monai.bundle", "run", "--config_file", config, "--dataset_dir", scan, "--output_dir",
        "out", "--ckpt_path", tmp_path / "tiny.pt", *options, cwd=tmp_path, path=installed)  # fmt: skip
    assert (tmp_path / "out" / "scan_image" / "result.json").is_file()


def test_the_scripts_of_the_stages_of_training_are_inside(installed):
    names = {path.name for path in (installed / "itermask3d" / "_scripts").glob("*.py")}
    assert names == {"fit_domain.py", "plot_training.py", "tune.py"}
