"""The command as a whole: help that loads nothing, one sentence for bad input, and what a person is told."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from fast_bundle import write_fast_bundle
from helpers import run_command
from itermask3d import segment
from itermask3d.cli.app import app
from itermask3d.cli.common import repeated

VERBS = [command.name for command in app.registered_commands]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_fast_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def scan(phantom, tmp_path):
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(phantom.image.astype(np.float32), phantom.affine), path)
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_a_screen_and_holds_an_example(monkeypatch, capsys, verb):
    status, told = run_command(monkeypatch, capsys, verb, "--help")
    assert status == 0
    assert f"Example: itermask3d {verb}" in told
    assert "research use only" in told
    assert len(told.splitlines()) <= 60


@pytest.mark.parametrize(
    "words", [("fly",), ("segment", "a", "--wings"), ("report", "nowhere"), ("calibrate", "nowhere")]
)
def test_bad_input_is_status_2_without_a_traceback(monkeypatch, capsys, words):
    status, told = run_command(monkeypatch, capsys, *words)
    assert status == 2
    assert "rror: " in told
    assert "Traceback" not in told


def test_without_an_output_results_lie_beside_the_scan_and_are_told_in_words(monkeypatch, capsys, bundle, scan):
    options = ("--bundle", bundle, "--brain-extraction", "none")
    status, told = run_command(monkeypatch, capsys, "segment", scan, *options)
    folder = scan.with_name("scan_itermask3d") / "scan"
    assert status == 0
    result = json.loads((folder / "result.json").read_text())
    assert result["outcome"] == "anomaly"
    assert "differ from what the network expects" in told
    assert f"region 1: {result['components'][0]['volume_ml']:.1f} ml" in told
    assert f"picture: {folder / 'picture.png'}" in told


def test_three_lines_in_a_notebook_give_the_result_and_its_picture(bundle, scan, tmp_path):
    result = segment(scan, tmp_path / "out", brain_extraction="none", bundle=bundle)
    assert result.mask.any()
    assert result._repr_png_().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "scan" / "result.json").is_file()


def test_an_option_of_several_words_is_read_as_the_same_option_again():
    assert repeated(["--exclude", "a", "b", "--seed", "1"]) == ["--exclude", "a", "--exclude", "b", "--seed", "1"]
