"""The command as a whole: help that loads nothing, one sentence for bad input, and what a person is told."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from fast_bundle import write_fast_bundle
from helpers import run_command
from itermask3d import __version__, segment
from itermask3d.cli.app import app, main
from itermask3d.cli.common import repeated
from itermask3d.inference.models import NAMES
from typer.main import get_command

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
def test_help_fits_a_screen_and_holds_an_example_and_the_exit_statuses(monkeypatch, capsys, verb):
    monkeypatch.setenv("COLUMNS", "80")
    status, told = run_command(monkeypatch, capsys, verb, "--help")
    assert status == 0
    assert f"itermask3d {verb}" in told.split("xample", 1)[1]
    assert "Exit status: " in told
    assert "research use only" in told
    assert len(told.splitlines()) <= 40
    assert all(len(line) <= 80 for line in told.splitlines())


def options_of(verb):
    """The options of a verb, hidden ones too."""
    return [part for part in get_command(app).commands[verb].params if part.param_type_name == "option"]


@pytest.mark.parametrize("verb", VERBS)
def test_options_have_one_style(verb):
    names = [name for option in options_of(verb) for name in option.opts]
    assert all(re.fullmatch(r"--[a-z]+(-[a-z]+)*|-[a-z]", name) for name in names)
    told = {name: option.help for option in options_of(verb) for name in option.opts}
    assert all(text and text.endswith(".") for name, text in told.items()), told


def test_the_same_option_says_the_same_in_every_verb():
    told = {}
    for verb in VERBS:
        for option in options_of(verb):
            told.setdefault(option.opts[0], {})[verb] = option.help
    for verb in ("calibrate", "adapt"):  # what made the results, and what is adapted: these choose no answer
        told["--model"].pop(verb)
    for name in ("--bundle", "--model", "--weights", "--brain-masks", "--overwrite", "--gamma", "--schedule"):
        assert len(set(told[name].values())) == 1, (name, told[name])


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "label"])
def test_every_verb_that_ends_speaks_to_machines(verb):
    assert "--json" in [name for option in options_of(verb) for name in option.opts]


@pytest.mark.parametrize("verb", ["segment", "screen", "adapt", "calibrate"])
def test_the_models_in_the_help_are_those_that_there_are(verb):
    (told,) = [option.help for option in options_of(verb) if "--model" in option.opts]
    assert all(name in told for name in NAMES), told
    assert set(re.findall(r"\b(any|t2|flair)\b", told)) == set()


def test_help_loads_neither_torch_nor_numpy():
    code = (
        "import sys; sys.argv[1:] = ['segment', '--help']\nfrom itermask3d.cli.app import main\ntry:\n    main()\n"
        "except SystemExit:\n    print(sorted({'torch', 'numpy', 'monai', 'nibabel'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_told(monkeypatch, capsys):
    assert run_command(monkeypatch, capsys, "--version") == (0, f"itermask3d {__version__}\n")


def test_info_says_what_is_here_and_what_is_missing(monkeypatch, capsys, bundle, tmp_path):
    status, told = run_command(monkeypatch, capsys, "info", "--bundle", bundle, "--json")
    facts = json.loads(told)
    assert (status, facts["ready"], facts["models"]["t1"]["calibration"]) == (0, True, "missing")
    assert not any(facts["optional"].values()), "requirements.lock holds every optional part"
    (tmp_path / "configs").mkdir()
    status, told = run_command(monkeypatch, capsys, "info", "--bundle", tmp_path)
    assert status == 1
    assert "not ready, weights are missing" in told
    status, told = run_command(monkeypatch, capsys, "info", "--bundle", tmp_path / "absent")
    assert (status, "is no bundle" in told) == (2, True)


@pytest.mark.parametrize(
    "words",
    [
        ("fly",),
        ("segment", "a", "--wings"),
        ("segment", "a", "--schedule", "slow"),
        ("segment", "a", "--side", "left"),
        ("report", "nowhere"),
        ("calibrate", "nowhere"),
        ("calibrate", ".", "--bundle", "nowhere"),
        ("adapt", ".", "out", "--model", "flair"),
        ("adapt", ".", "out", "--bundle", "nowhere"),
        ("screen", "nowhere", "out"),
        ("screen", ".", "out", "--bundle", "nowhere"),
        ("evaluate", "a.json", "out", "--bundle", "nowhere"),
        ("train", "nowhere", "out"),
        ("evaluate", "nowhere.json", "out"),
        ("demo", "out", "--scan", "nowhere.nii"),
        ("label", ".", "--app", "nowhere"),
        ("label", ".", "--bundle", "nowhere"),
    ],
)
def test_bad_input_is_status_2_without_a_traceback(monkeypatch, capsys, tmp_path, words):
    monkeypatch.chdir(tmp_path)
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
    assert f"overview: {folder / 'overview.png'}" in told


def test_machines_get_json_of_a_report_and_a_calibration(monkeypatch, capsys, bundle, scan, tmp_path):
    options = ("--bundle", bundle, "--brain-extraction", "none", "--json")
    run_command(monkeypatch, capsys, "segment", scan, tmp_path / "out", *options)
    status, told = run_command(monkeypatch, capsys, "report", tmp_path / "out", "--json")
    (report,) = json.loads(told)
    assert (status, report["files"]) == (0, [str(tmp_path / "out" / "scan" / "report.html")])
    target = tmp_path / "calibration.json"
    monkeypatch.setattr(sys, "argv", ["itermask3d", "calibrate", str(tmp_path / "out"), "-o", str(target), "--json"])
    with pytest.raises(SystemExit):
        main()
    facts = json.loads(capsys.readouterr().out)
    assert (facts["file"], facts["normal_scans"]) == (str(target), 1)
    assert facts["smallest_p_value"] == pytest.approx(0.5)
    (tmp_path / "own" / "models").mkdir(parents=True)
    status, told = run_command(monkeypatch, capsys, "calibrate", tmp_path / "out", "--bundle", tmp_path / "own")
    assert (status, "1 normal scores" in told) == (0, True)
    assert (tmp_path / "own" / "models" / "calibration.json").read_text() == target.read_text()


def test_three_lines_in_a_notebook_give_the_result_and_its_picture(bundle, scan, tmp_path):
    result = segment(scan, tmp_path / "out", brain_extraction="none", bundle=bundle)
    assert result.mask.any()
    assert result._repr_png_().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "scan" / "result.json").is_file()


def test_an_option_of_several_words_is_read_as_the_same_option_again():
    assert repeated(["--exclude", "a", "b", "--seed", "1"]) == ["--exclude", "a", "--exclude", "b", "--seed", "1"]
