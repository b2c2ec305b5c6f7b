"""The one command from a folder of normal scans to a bundle: it stops at what is suspect, and goes all the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import head_phantom, run_command
from itermask3d.cli.app import main
from itermask3d.files.locking import one_run

TINY = ("--spacing-mm", "8", "--bias-correction", "none", "--channels", "2", "4", "4", "4", "4", "--epochs", "2")


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Six stripped phantoms of 4 mm with their own fine structure."""
    folder = tmp_path_factory.mktemp("scans")
    phantom = head_phantom(spacing_mm=(4, 4, 4))
    for seed in range(6):
        noise = np.random.default_rng(seed).normal(0, 6, phantom.image.shape)
        image = np.where(phantom.brain_mask, phantom.image + noise, 0).astype(np.float32)
        nib.save(nib.Nifti1Image(image, phantom.affine), folder / f"sub-{seed}_T1w.nii.gz")
    return folder


def _run(*options, verb: str = "train") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "itermask3d", verb, *map(str, options)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.fixture
def run_here(monkeypatch, capsys):
    """The script in this process: its exit status and what it printed."""

    def run(*options) -> tuple[int, str]:
        return run_command(monkeypatch, capsys, "train", *options)

    handler = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, handler)


def test_the_checks_stop_at_a_copy_and_say_how_to_go_on(scans, tmp_path, run_here):
    mixed = tmp_path / "mixed"
    shutil.copytree(scans, mixed)
    shutil.copy(mixed / "sub-2_T1w.nii.gz", mixed / "sub-9_T1w.nii.gz")
    (mixed / "sub-8_T1w.nii.gz").write_bytes(b"no scan")
    status, said = run_here(mixed, tmp_path / "out", *TINY)
    assert status == 3
    assert "suspect: 'sub-9_T1w' is 'sub-2_T1w' byte for byte; expected every scan once" in said
    assert "Then --exclude sub-9_T1w, or --force to go on" in said
    check = json.loads((tmp_path / "out" / "check" / "check.json").read_text())
    assert list(check["excluded"]) == ["sub-8_T1w"]
    assert {scan["case"] for scan in check["scans"]} == {f"sub-{i}_T1w" for i in (0, 1, 2, 3, 4, 5, 9)}
    assert "truncated" in (tmp_path / "out" / "check" / "check.md").read_text()
    assert not (tmp_path / "out" / "bundle").exists()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda folder: shutil.rmtree(folder), (), "does not exist"),
        (lambda folder: None, ("--exclude", "sub-77"), "--exclude names sub-77"),
        (lambda folder: None, ("--subject", "IXI(.*)"), "does not match the subject pattern"),
    ],
    ids=["nowhere", "unknown_case", "no_subject"],
)
def test_what_cannot_start_is_one_clear_sentence(change, options, message, scans, tmp_path, run_here):
    folder = tmp_path / "scans"
    shutil.copytree(scans, folder)
    change(folder)
    status, said = run_here(folder, tmp_path / "out", *TINY, *options)
    assert status == 2
    assert message in said


def test_machines_get_json_alone_and_a_second_run_is_refused(scans, tmp_path, monkeypatch, capsys, run_here):
    out = tmp_path / "out"
    options = (scans, out, *TINY, "--check-only", "--force", "--json")
    monkeypatch.setattr(sys, "argv", ["itermask3d", "train", *map(str, options)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    check = str(out / "check" / "check.json")
    assert json.loads(capsys.readouterr().out) == {"status": 0, "check": check, "bundle": None, "report": None}
    with one_run(out):
        status, said = run_here(*options)
    assert status == 2
    assert "another run is writing to" in said


@pytest.mark.slow
def test_a_folder_of_scans_becomes_a_bundle_that_segments_and_is_made_once(scans, tmp_path):
    out = tmp_path / "out"
    first = _run(scans, out, *TINY, "--force", "--seed", "1")
    assert first.returncode == 0, first.stdout + first.stderr
    bundle = out / "bundle"
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert state["conv_1.conv.unit0.conv.weight"].shape[0] == 2
    assert (out / "report.html").read_text().count("data:image/png") >= 2
    card = (bundle / "docs" / "README.md").read_text()
    assert "2 epochs of batches of 2" in card

    written = (out / "train" / "last.pt").stat().st_mtime_ns
    again = _run(scans, out, *TINY, "--force", "--seed", "1", "--json")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "training: done before" in again.stderr
    assert json.loads(again.stdout)["bundle"] == str(bundle)
    assert (out / "train" / "last.pt").stat().st_mtime_ns == written
    other = _run(scans, out, *TINY, "--force", "--seed", "2")
    assert other.returncode == 2
    assert "holds a run of other scans or settings" in other.stdout

    scan = next(scans.iterdir())
    done = _run(scan, tmp_path / "results", "--bundle", bundle, verb="segment")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(next((tmp_path / "results").glob("*/result.json")).read_text())
    assert result["settings"]["spacing_mm"] == 8
    elsewhere = tmp_path / "moved"
    shutil.move(bundle, elsewhere)
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", elsewhere / "configs" / "inference.json"]
    command += ["--dataset_dir", scan, "--output_dir", tmp_path / "plain"]
    plain = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert plain.returncode == 0, plain.stdout + plain.stderr
    other = json.loads(next((tmp_path / "plain").glob("*/result.json")).read_text())
    assert other["settings"]["weights_sha256"] == result["settings"]["weights_sha256"]
