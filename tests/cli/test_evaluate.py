"""The whole command on phantoms and an analytic network: resume, regenerated tables, a page that stands alone."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import torch
from fast_bundle import BUNDLE, write_fast_bundle
from helpers import head_phantom
from itermask3d.cli.app import main
from itermask3d.evaluation.run import BundleParts
from itermask3d.files.scans import ScanError
from itermask3d.workflows import evaluate as evaluate_run


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return evaluate_run


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A list of two normal scans, a lesion, an artefact and a scan without label, and a list of two more normals."""
    root = tmp_path_factory.mktemp("data")
    (root / "bundle").mkdir()
    write_fast_bundle(root / "bundle")
    phantom = head_phantom(spacing_mm=(6, 6, 6))
    rng = np.random.default_rng(0)

    def save(name: str, voxels: np.ndarray) -> str:
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), phantom.affine), root / f"{name}.nii.gz")
        return f"{name}.nii.gz"

    brain, label = save("brain", phantom.brain_mask), save("label", phantom.label)

    def item(case: str, lesion: float = 0.0, noise: float = 2.0, **facts: str) -> dict[str, str]:
        image = phantom.image + (lesion - 60) * phantom.label + noise * rng.standard_normal(phantom.image.shape)
        return {"case": case, "image": save(case, np.where(phantom.brain_mask, image, 0)), "brain_mask": brain, **facts}

    scans = [
        item("n1", group="normal", subject="a"),
        item("n2", group="normal", subject="b"),
        item("l1", 60, label=label, group="strong lesion", subject="a"),
        item("f1", noise=20, group="artefact:noise:3", subject="a"),
        item("r1", 40),
        item("r2", 40, label=label, group="real", subject="c", contrast="FLAIR"),
    ]
    for name, items in (("scans", scans), ("normals", [item("c1"), item("c2")])):
        (root / f"{name}.json").write_text(json.dumps(items))
    return root


def evaluate(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, data: Path, output: Path, *options: str, expected: int = 0
) -> None:
    methods = [] if "--methods" in options else ["--methods", "itermask3d", "zscore", "single_pass"]
    command = [str(data / "scans.json"), str(output), "--bundle", str(data / "bundle"), "--level", "0.4"]
    command += ["--calibration", str(data / "normals.json"), *methods, *options]
    monkeypatch.setattr(sys, "argv", ["itermask3d", "evaluate", *command])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == expected


def test_one_command_writes_everything_resumes_and_regenerates(script, data, tmp_path, monkeypatch):
    output = tmp_path / "out"
    evaluate(script, monkeypatch, data, output)
    page = (output / "report.html").read_text()
    headings = re.findall(r"<h([1-6])", page)
    assert all(int(after) <= int(before) + 1 for before, after in pairwise(headings)), "no level is left out"
    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert targets <= set(re.findall(r'id="([^"]+)"', page))
    real = page[page.index('id="real"') : page.index("</section>", page.index('id="real"'))]
    assert "r2 (FLAIR). itermask3d: Dice" in real, "the picture of a real case stands under its table"
    assert not re.findall(r"(?:https?:)?//[\w.]+", re.sub(r"data:[^\"]+", "", page)), "the page asks for nothing else"
    assert all('alt=""' not in image and "alt=" in image for image in re.findall(r"<img[^>]*>", page))
    assert len(re.findall(r"<h1", page)) == 1
    assert "research use only" in page
    with (output / "metrics.csv").open() as table:
        rows = {(row["method"], row["case"]): row for row in csv.DictReader(table)}
    assert len(rows) == 18
    assert float(rows["itermask3d", "l1"]["dice"]) > 0.3
    assert rows["itermask3d", "r1"]["dice"] == "", "a scan without label has no overlap"
    assert rows["itermask3d", "n1"]["flagged"] in {"True", "False"}
    assert round(3 * float(rows["zscore", "f1"]["p_value"])) in {1, 2, 3}, "two calibration scans of its own"
    assert rows["single_pass", "r2"]["contrast"] == "FLAIR"
    assert rows["zscore", "l1"]["psnr_db"] == "", "an intensity rule reconstructs nothing"
    assert float(rows["single_pass", "l1"]["psnr_db"]) > 0
    shares = [
        np.mean([one["flagged_share"] for one in json.loads(path.read_text())["metrics"].values()])
        for path in sorted(output.glob("methods/*/calibration.json"))
    ]
    assert shares == pytest.approx([shares[0]] * 3, abs=2e-3), "all flag the same share of normal brain"

    tables = {path: path.read_bytes() for path in (*output.glob("tables/*.csv"), output / "tables.md")}
    stamps = {path: path.stat().st_mtime_ns for path in output.glob("methods/*/results/*/result.json")}
    lost = output / "methods/zscore/results/n1/result.json"
    lost.unlink()
    evaluate(script, monkeypatch, data, output)
    assert {path: path.read_bytes() for path in tables} == tables
    assert lost.exists()
    again = [path for path, stamp in stamps.items() if path != lost and path.stat().st_mtime_ns != stamp]
    assert not again, "only what was lost is made again"


def test_a_finished_run_goes_into_a_page_and_is_compared_with_what_was_kept(
    script, data, tmp_path, monkeypatch, capsys
):
    output, kept, page = tmp_path / "out", tmp_path / "kept", tmp_path / "page.md"
    evaluate(script, monkeypatch, data, output, "--methods", "zscore", "--share", "0.01")
    shutil.copytree(output / "tables", kept)
    names = ("run", "detection", "real", "picture_case_r2")
    page.write_text("".join(f"<!-- accuracy_test_{name} -->\n<!-- /accuracy_test_{name} -->\n" for name in names))
    options = ("--methods", "zscore", "--report-only", "--docs", str(page), "test", "--compare-with", str(kept))
    evaluate(script, monkeypatch, data, output, *options, "--about", "Phantoms.")
    text = page.read_text()
    assert "- Command: `itermask3d evaluate scans.json out " in text
    assert "--report-only" not in text, "the command is the one that measured"
    assert "- Data: Phantoms.\n" in text
    assert "| zscore | strong lesion | 1 | 2 |" in text
    assert (tmp_path / "page" / "test_case_r2.png").exists()
    assert "came back, up to the noise" in capsys.readouterr().out
    table = kept / "detection.csv"
    table.write_text(table.read_text().replace("zscore", "yscore"))
    evaluate(script, monkeypatch, data, output, *options[:3], "--compare-with", str(kept), expected=1)
    assert "1 metrics differ" in capsys.readouterr().err


def test_a_command_is_kept_for_the_methods_that_it_ran(script, tmp_path):
    script.record(tmp_path, ["zscore", "bright"], "the first command")
    script.record(tmp_path, ["bright"], "the second command")
    commands = {name: one["command"] for name, one in script.recorded(tmp_path).items()}
    assert commands == {"zscore": "the first command", "bright": "the second command"}


def test_a_calibration_scan_must_not_be_among_those_reported(script, data, tmp_path, monkeypatch, capsys):
    evaluate(script, monkeypatch, data, tmp_path / "out", "--calibration", str(data / "scans.json"), expected=2)
    assert "share case 'f1'" in capsys.readouterr().err


def test_an_unknown_method_and_a_report_of_nothing_are_refused(script, data, tmp_path, monkeypatch, capsys):
    evaluate(script, monkeypatch, data, tmp_path / "out", "--methods", "magic", expected=2)
    assert "expected itermask3d, reference, zscore" in capsys.readouterr().err
    evaluate(script, monkeypatch, data, tmp_path / "out", "--report-only", expected=2)
    assert "holds no results" in capsys.readouterr().err


def test_simulated_artefacts_are_listed_with_group_and_subject(script, data, tmp_path):
    folder = tmp_path / "thick_slices_3"
    folder.mkdir()
    (folder / "scans.json").write_text(json.dumps([{"case": "a", "image": "a.nii.gz"}]))
    (found,) = script.artefact_scans(tmp_path, ["3"], 1)
    with pytest.raises(ScanError, match=r"holds no ARTEFACT_SEVERITY/scans.json of severity 4"):
        script.artefact_scans(tmp_path, ["4"])
    assert (found["case"], found["group"], found["subject"]) == ("thick_slices_3_a", "artefact:thick_slices:3", "a")
    assert found["image"] == str(folder / "a.nii.gz")


def test_a_baseline_takes_the_first_network_of_a_bundle_that_chooses_a_model_for_each_scan(tmp_path):
    bundle = write_fast_bundle(tmp_path / "bundle")
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    torch.save({name: value / 2 for name, value in state.items()}, bundle / "models" / "model_agnostic.pt")
    shutil.copy(BUNDLE / "models" / "domain.json", bundle / "models")
    path = bundle / "configs" / "inference.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": "auto"}))
    parts = BundleParts.read(bundle)
    assert parts.weights == str(bundle / "models" / "model.pt")
    assert all(torch.equal(value, state[name]) for name, value in parts.trained_network.state_dict().items())
