"""``itermask3d segment`` as a user meets it: bad input gets one sentence, and never costs another scan its result."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import Phantom, run_command
from itermask3d.method.network import ReconstructionUNet


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Random weights of the shipped architecture: bad input must be refused before they matter."""
    path = tmp_path_factory.mktemp("weights") / "random.pt"
    torch.manual_seed(0)
    torch.save(ReconstructionUNet(channels=(16, 32, 64, 128, 256), out_channels=2).state_dict(), path)
    return path


@pytest.fixture
def segment(monkeypatch, capsys, weights):
    """Run the command; returns its exit status and what it printed."""

    def run(*arguments: object) -> tuple[int, str]:
        given = [str(argument) for argument in arguments]
        given += [] if "--weights" in given else ["--weights", str(weights)]
        return run_command(monkeypatch, capsys, "segment", *given)

    return run


def save(array: np.ndarray, path: Path, spacing: float = 2.0) -> Path:
    nib.save(nib.Nifti1Image(array.astype(np.float32), np.diag([spacing] * 3 + [1.0])), path)
    return path


def bad_scans(folder: Path, phantom: Phantom) -> dict[str, str]:
    """Write one file of every kind of bad input; the words that its sentence must hold, by case."""
    rng = np.random.default_rng(0)
    noise = rng.random((60, 60, 60)) + 1
    with_nan, with_inf = phantom.image.copy(), phantom.image.copy()
    with_nan[30, 30, 30], with_inf[30, 30, 30] = np.nan, np.inf
    small_ball = np.where(phantom.label, phantom.image, 0)
    save(np.zeros((60, 60, 60)), folder / "empty.nii.gz")
    save(with_nan, folder / "nan.nii.gz")
    save(with_inf, folder / "inf.nii.gz")
    save(noise[0], folder / "flat2d.nii.gz")
    save(np.stack([noise] * 3, axis=-1), folder / "series4d.nii.gz")
    save(rng.random((8, 8, 8)), folder / "tiny.nii.gz")
    save(phantom.label, folder / "label.nii.gz")
    save(small_ball, folder / "nobrain.nii.gz")
    whole = gzip.compress(np.random.default_rng(1).bytes(20000))
    complete = save(phantom.image, folder / "truncated.nii.gz").read_bytes()
    (folder / "truncated.nii.gz").write_bytes(complete[: len(complete) // 2])
    (folder / "garbage.nii.gz").write_bytes(whole)
    (folder / "text.nii").write_text("not a scan")
    return {
        "empty": "constant", "nan": "NaN", "inf": "NaN or infinite", "flat2d": "three axes", "series4d": "3 volumes",
        "tiny": "8 x 8 x 8", "label": "label map", "nobrain": "ml", "truncated": "truncated",
        "garbage": "garbage.nii.gz' ", "text": "truncated",
    }  # fmt: skip


def test_every_bad_scan_of_a_folder_is_listed_with_its_reason_and_leaves_no_output(segment, phantom, tmp_path):
    folder, output = tmp_path / "scans", tmp_path / "out"
    folder.mkdir()
    expected = bad_scans(folder, phantom)
    status, printed = segment(folder, output, "--brain-extraction", "none")
    assert status == 1
    failures = json.loads((output / "failures.json").read_text())
    assert set(failures) == set(expected)
    for case, words in expected.items():
        assert words in failures[case], (case, failures[case])
        assert "\n" not in failures[case]
        assert case in printed
    assert [path.name for path in output.iterdir()] == ["failures.json"]
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("source", "words"),
    [("absent.nii.gz", "does not exist"), (".", "holds no scan"), ("empty.txt", "list of scans is empty")],
)
def test_nothing_to_do_is_said_in_one_sentence(segment, tmp_path, source, words):
    inputs = tmp_path / "in"
    inputs.mkdir()
    if source.endswith(".txt"):
        (inputs / source).write_text("")
    status, printed = segment(inputs / source, tmp_path / "out")
    assert status == 2
    assert words in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["missing", "garbage", "other network", "no variance", "not a state dict"])
def test_wrong_weights_are_named(segment, phantom, tmp_path, kind):
    path = tmp_path / "weights.pt"
    if kind == "garbage":
        path.write_bytes(b"nothing of the kind")
    elif kind == "other network":
        torch.save(torch.nn.Conv3d(2, 2, 3).state_dict(), path)
    elif kind == "no variance":
        torch.save(ReconstructionUNet(channels=(4, 4, 4, 4, 4)).state_dict(), path)
    elif kind == "not a state dict":
        torch.save([1, 2, 3], path)
    scan = save(phantom.image, tmp_path / "scan.nii.gz")
    status, printed = segment(scan, tmp_path / "out", "--weights", path)
    assert status == 2
    assert "weights" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "out").exists()


def test_a_wrong_gamma_is_named(segment, phantom, tmp_path):
    scan = save(phantom.image, tmp_path / "scan.nii.gz")
    status, printed = segment(scan, tmp_path / "out", "--gamma", "-1")
    assert status == 2
    assert "gamma" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("name", ["$open('PWNED','w').name", "@network", "%train.json::seed"])
def test_a_path_is_never_evaluated(name, segment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, said = segment(name, tmp_path / "out")
    assert status == 2
    assert name.split("'")[0] in said.replace("\n", "")
    assert "does not exist" in said
    assert not (tmp_path / "PWNED").exists()


def test_results_go_where_an_odd_path_says(segment, tmp_path, phantom, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "$open('PWNED','w').name"
    folder.mkdir()
    segment(save(phantom.label, folder / "label.nii.gz"), folder / "out")
    assert (folder / "out" / "failures.json").is_file()
    assert not (tmp_path / "PWNED").exists()
