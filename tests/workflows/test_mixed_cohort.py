"""A mixed cohort is the same for the same seed and says what it holds; the check of a screening sees what differs."""

from __future__ import annotations

import csv
import importlib
import json
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from fast_bundle import write_fast_bundle
from helpers import axes_of, head_phantom
from itermask3d.simulation.artefacts.registry import ArtefactRecord, apply
from screening_helpers import write_scans

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(SCRIPTS)
    return SCRIPTS


@pytest.fixture(scope="module")
def checker() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module("screen_check")
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def normals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four phantoms of 4 mm, each with its brain mask."""
    folder = tmp_path_factory.mktemp("normals")
    (folder / "masks").mkdir()
    for index, codes in enumerate(("LPS", "RAS", "PIR", "LIP")):
        phantom = head_phantom(axes=axes_of(codes), spacing_mm=(4, 4, 4))
        image = np.where(phantom.label, phantom.image - 60, phantom.image)  # without its lesion
        nib.save(nib.Nifti1Image(image + index, phantom.affine), folder / f"n{index}.nii.gz")
        mask = nib.Nifti1Image(phantom.brain_mask.astype(np.uint8), phantom.affine)
        nib.save(mask, folder / "masks" / f"n{index}.nii.gz")
    split = {"test": ["n3", "n0"], "validation": ["n1", "n2"], "train": ["n9"]}
    (folder / "split.json").write_text(json.dumps(split))
    (folder / "list.txt").write_text("".join(f"n{index}.nii.gz\n" for index in range(4)))
    return folder


@pytest.fixture
def mix(normals: Path, scripts: Path, monkeypatch: pytest.MonkeyPatch):
    def run(output: Path, *options: str) -> Path:
        given = [str(normals / "list.txt"), str(output), "--brain-masks", str(normals / "masks"), *options]
        monkeypatch.setattr(sys, "argv", ["simulate_cohort.py", *given])
        runpy.run_path(str(scripts / "simulate_cohort.py"), run_name="__main__")
        return output

    return run


def truth_of(cohort: Path) -> list[dict[str, str]]:
    with (cohort / "truth.tsv").open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def voxels_of(cohort: Path) -> dict[str, bytes]:
    return {str(p.relative_to(cohort)): np.asarray(nib.load(p).dataobj).tobytes() for p in cohort.rglob("*.nii.gz")}


def test_one_seed_makes_one_cohort(mix, tmp_path):
    first, again, other = (mix(tmp_path / name, "--scans", "4", "--seed", seed) for name, seed in ("a1", "b1", "c2"))
    assert voxels_of(first) == voxels_of(again)
    for name in ("truth.tsv", "truth.json", "records.json", "scans.json"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    assert voxels_of(first) != voxels_of(other)


def test_the_table_says_what_was_done(mix, normals, tmp_path):
    cohort = mix(tmp_path / "cohort", "--scans", "4")
    rows = truth_of(cohort)
    assert Counter(row["kind"] for row in rows) == {"normal": 2, "lesion": 1, "artefact": 1}
    assert sorted(row["source"] for row in rows) == ["n0", "n1", "n2", "n3"]
    dictionary = json.loads((cohort / "truth.json").read_text())
    assert set(rows[0]) == {name for name, about in dictionary.items() if isinstance(about, dict)}
    records = json.loads((cohort / "records.json").read_text())
    for row in rows:
        image = nib.load(cohort / "images" / f"{row['case']}.nii.gz").get_fdata(dtype=np.float32)
        source = nib.load(normals / f"{row['source']}.nii.gz")
        brain = nib.load(cohort / "brain_masks" / f"{row['case']}.nii.gz").get_fdata() > 0
        changed = image != source.get_fdata(dtype=np.float32)
        assert changed.any() == (row["kind"] != "normal")
        if row["kind"] == "lesion":
            label = nib.load(cohort / "labels" / f"{row['case']}.nii.gz").get_fdata() > 0
            assert float(row["label_ml"]) == pytest.approx(label.sum() * 0.064)
            assert changed[label].mean() > 0.99
        if row["kind"] == "artefact":
            assert row["severity"] in ("2", "3")
            record = ArtefactRecord.from_json(records[row["case"]])
            again = apply(record, source.get_fdata(dtype=np.float32), brain, source.affine)
            np.testing.assert_array_equal(again.image.astype(np.float32), image)


def test_only_the_subsets_that_were_named_are_used(mix, normals, tmp_path):
    split = ["--split-file", str(normals / "split.json")]
    rows = truth_of(mix(tmp_path / "a", "--scans", "3", "--subsets", "test", "validation", *split))
    assert Counter(row["subset"] for row in rows) == {"test": 2, "validation": 1}
    with pytest.raises(SystemExit, match="there are 2 normal scans"):
        mix(tmp_path / "b", "--scans", "3", "--subsets", "validation", *split)
    assert not (tmp_path / "b").exists()
    with pytest.raises(SystemExit, match="holds a cohort already"):
        mix(tmp_path / "a", "--scans", "3")


def test_kinds_do_not_follow_the_order_of_the_subsets(scripts):
    functions = runpy.run_path(str(scripts / "simulate_cohort.py"))
    draw_kinds, stream_of = functions["draw_kinds"], functions["stream_of"]
    assert Counter(draw_kinds(40, stream_of(0, "kinds"))) == {"normal": 20, "lesion": 10, "artefact": 10}
    assert stream_of(0, "kinds").permutation(40).tolist() != stream_of(0, "order").permutation(40).tolist()


def finished(folder: Path, *, mask: bytes = b"mask", written: str = "2026-01-01T00:00:00+00:00") -> Path:
    """What the check reads of a finished scan."""
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "a_mask.nii.gz").write_bytes(mask)
    (folder / "a" / "result.json").write_text("{}")
    times = {"result_written": written, "report_written": written}
    (folder / "a" / "report.json").write_text(json.dumps({"provenance": times}))
    (folder / "a" / "report.html").write_text(f"<td>{written}</td> and <td>{written.replace('+', '&#43;')}</td>")
    (folder / "scans.tsv").write_text(f"case\tkind\tseconds\tfinished\tscore\na\tx\t{len(written)}\t{written}\t0.5\n")
    return folder


def test_the_check_sees_a_voxel_and_not_the_time(checker, tmp_path):
    one = finished(tmp_path / "one")
    same = finished(tmp_path / "same", written="2027-12-31T23:59:59+00:00")
    other = finished(tmp_path / "other", mask=b"mash")
    assert checker.unlike(checker.digests(one), checker.digests(same)) == []
    assert checker.unlike(checker.table(one), checker.table(same)) == []
    assert checker.unlike(checker.digests(one), checker.digests(other)) == ["a/a_mask.nii.gz"]
    shutil.rmtree(other / "a")
    assert len(checker.unlike(checker.digests(one), checker.digests(other))) == 4


def test_the_check_needs_three_scans(checker, tmp_path):
    write_scans(tmp_path / "in", ["a", "b"])
    with pytest.raises(checker.ScanError, match="lists 2 scans and 2 are wanted"):
        checker.shortened(tmp_path / "in", None, tmp_path / "out")


def test_findings_name_what_was_broken_and_the_hours_of_a_large_run(checker, tmp_path):
    finished(tmp_path / "one")
    runs = [checker.Run("one", 1, 0, 360.0, 3), checker.Run("two", 2, 0, 180.0, 3, killed=7)]
    checker.write_findings(runs, ["one: touched"], 3, tmp_path, tmp_path / "truth.tsv")
    text = (tmp_path / "check.md").read_text()
    assert "- one: touched" in text
    assert "| 1 | 6 min 00 s | 30.0 | 2 min 00 s | 13 d 21 h |" in text
    assert "| 2, one killed | 3 min 00 s | 60.0 | 2 min 00 s |" in text
    assert json.loads((tmp_path / "check.json").read_text())["broken"] == ["one: touched"]


@pytest.mark.slow
def test_screening_keeps_its_promises(mix, tmp_path):
    pytest.importorskip("distributed", reason="screening needs Dask: pip install 'itermask3d[cohort]'")
    bundle, cohort = write_fast_bundle(tmp_path / "bundle"), mix(tmp_path / "cohort", "--scans", "4")
    command = [sys.executable, SCRIPTS / "screen_check.py", cohort / "scans.json", tmp_path / "out"]
    done = subprocess.run(
        [*command, "--", "--bundle", bundle], check=False, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the second runs skipped every scan" in done.stdout
    assert "| lesion | 1 |" in done.stdout
    found = json.loads((tmp_path / "out" / "check.json").read_text())
    assert [run["finished"] for run in found["runs"]] == [4, 4]
    assert found["runs"][1]["killed"]
