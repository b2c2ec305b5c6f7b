"""The wheel is the whole product: installed alone, in a clean environment, it does what the repository does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_helpers import CHANNELS
from fast_bundle import write_fast_bundle
from helpers import head_phantom
from itermask3d.method.network import ReconstructionUNet

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "bundle", "monailabel_app", "scripts")
LARGEST_BYTES = 40e6
SERVING = "Uvicorn running on"

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the wheel in it, and nothing that leads to the clone."""

    folder: Path

    @property
    def package(self) -> Path:
        (found,) = self.folder.glob("lib/python*/site-packages/itermask3d")
        return found

    @property
    def bundle(self) -> Path:
        return self.package / "_bundle"

    def words(self, *words: object) -> list[str]:
        return [str(self.folder / "bin" / str(words[0])), *map(str, words[1:])]

    def environment(self, home: Path) -> dict[str, str]:
        """That of a user who has just switched it on; files of the user's own lie in ``home``."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", "HOME": str(home), "XDG_CONFIG_HOME": str(home)}

    def run(self, *words: object, cwd: Path) -> str:
        """Standard output of a command of the environment, which must end well."""
        command = self.words(*words)
        done = subprocess.run(command, cwd=cwd, env=self.environment(cwd), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    """The wheel, built in one folder and installed by pip in another; packages of the lock stand in for a network."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed") / "env"
    for name in SOURCES:
        path = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(path, source / name, ignore=ignored) if path.is_dir() else shutil.copy(path, source)
    venv.create(folder, with_pip=True)
    env = Installed(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    for old in packages.glob("setuptools*"):  # that of the venv is older than the build asks for; the lock's is used
        shutil.rmtree(old)
    (packages / "locked.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = ("python", "-m", "pip", "--disable-pip-version-check")
    alone = ("-q", "--no-deps", "--no-index")
    env.run(*pip, "wheel", *alone, "--no-build-isolation", source, "-w", source, cwd=source)
    (wheel,) = source.glob("*.whl")
    assert wheel.stat().st_size < LARGEST_BYTES
    env.run(*pip, "install", *alone, "--force-reinstall", wheel, cwd=source)
    shutil.rmtree(source)
    return env


@pytest.fixture
def scan(tmp_path) -> Path:
    """A raw scan of 4 mm."""
    return Path(head_phantom(spacing_mm=(4, 4, 4)).save(tmp_path)["image"])


def test_the_command_says_what_it_is_and_finds_its_own_models(installed, tmp_path):
    facts = json.loads(installed.run("itermask3d", "info", "--json", cwd=tmp_path))
    assert facts["bundle"] == str(installed.bundle)
    assert "missing" not in facts["models"]["t1"].values()
    assert facts["models"]["agnostic"]["weights"] != "missing"
    code = "import itermask3d, sys; print(itermask3d.__file__); print(*sys.path, sep='\\n')"
    where, *searched = installed.run("python", "-c", code, cwd=tmp_path).splitlines()
    assert where == str(installed.package / "__init__.py")
    assert not [path for path in searched if Path(path).name == "bundle"], "the clone is within reach"


def test_the_shipped_weights_segment_a_raw_scan_with_its_head_beside_it(installed, tmp_path):
    pytest.importorskip("deepbet", reason="the brain is found by deepbet: pip install 'itermask3d[brain]'")
    code = "from itermask3d.simulation.demo import packaged_scan; print(packaged_scan())"
    shutil.copy(installed.run("python", "-c", code, cwd=tmp_path).strip(), tmp_path / "scan.nii.gz")
    (result,) = json.loads(installed.run("itermask3d", "segment", "scan.nii.gz", "--json", cwd=tmp_path))
    folder = tmp_path / "scan_itermask3d" / "scan"
    assert result == json.loads((folder / "result.json").read_text())
    assert 1400 < result["volumes_ml"]["brain"] < 2200
    assert result["model"]["name"] == "t1"
    assert (folder / "overview.png").is_file()


def test_the_command_segments_and_reports(installed, scan, tmp_path):
    bundle = write_fast_bundle(tmp_path / "bundle")
    told = installed.run("itermask3d", "segment", scan, "--bundle", bundle, "--brain-extraction", "none", cwd=tmp_path)
    folder = tmp_path / "scan_image_itermask3d" / "scan_image"
    assert f"overview: {folder / 'overview.png'}" in told
    installed.run("itermask3d", "report", folder, cwd=tmp_path)
    assert (folder / "report.html").is_file()


def test_monai_reads_the_installed_bundle_and_builds_its_network(installed, tmp_path):
    code = """
import itermask3d
from monai.bundle import ConfigWorkflow, load
root = itermask3d.BUNDLE_ROOT
flow = ConfigWorkflow(config_file=f"{root}/configs/inference.json", meta_file=f"{root}/configs/metadata.json",
                      logging_file=False, workflow_type="infer", dataset_dir="x", output_dir="y")
flow.initialize()
assert not flow.check_properties(), flow.check_properties()
loaded = load("_bundle", bundle_dir=f"{root}/..")
flow.parser.get_parsed_content("network_def").load_state_dict(loaded.state_dict())
print(root)
"""
    assert installed.run("python", "-c", code, cwd=tmp_path).splitlines()[-1] == str(installed.bundle)
    configs = installed.bundle / "configs"
    network = ("verify_net_in_out", "network_def", "--config_file", configs / "inference.json")
    installed.run("python", "-m", "monai.bundle", *network, "--meta_file", configs / "metadata.json", cwd=tmp_path)


def test_monai_runs_the_installed_configs_on_a_raw_scan(installed, scan, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(ReconstructionUNet(channels=CHANNELS, out_channels=2).state_dict(), tmp_path / "tiny.pt")
    tiny: dict[str, Any] = {"network_def::channels": CHANNELS, "spacing_mm": 8.0, "spatial_size": [32, 32, 32]}
    tiny |= {"settings::n_steps": 5, "settings::max_iterations": 3}
    options = [word for name, value in tiny.items() for word in (f"--{name}", json.dumps(value))]
    options += ["--dataset_dir", str(scan), "--output_dir", "out", "--ckpt_path", str(tmp_path / "tiny.pt")]
    config = installed.bundle / "configs" / "inference.json"
    installed.run("python", "-m", "monai.bundle", "run", "--config_file", config, *options, cwd=tmp_path)
    assert (tmp_path / "out" / "scan_image" / "result.json").is_file()


def test_the_app_for_viewers_is_inside_and_serves(installed, scan, tmp_path):
    pytest.importorskip("monailabel", reason="the viewers need MONAI Label: pip install 'itermask3d[label]'")
    studies = tmp_path / "studies"
    studies.mkdir()
    shutil.move(scan, studies)
    command = installed.words("itermask3d", "label", studies, "--port", "0")
    process = subprocess.Popen(
        command, cwd=tmp_path, env=installed.environment(tmp_path), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        told: list[str] = []
        for line in process.stdout:
            told.append(line)
            if SERVING in line:
                break
        assert SERVING in told[-1], "".join(told)
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / "itermask3d" / "label" / "main.py").is_file()
    assert not (installed.package / "_app" / "logs").exists()


def test_the_scripts_of_the_stages_of_training_are_inside(installed):
    names = {path.name for path in (installed.package / "_scripts").glob("*.py")}
    assert names == {"fit_domain.py", "plot_training.py", "tune.py"}
