"""One bad scan ends only itself, and what ends a whole run is said in one sentence; results of others stay."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fast_bundle import write_fast_bundle
from faulty import edit_header, gzipped, nifti_bytes
from helpers import Phantom, head_phantom, run_command
from itermask3d.files.locking import one_run
from itermask3d.files.names import case_name
from itermask3d.inference import cohort
from itermask3d.inference.cohort import ScanStream, SegmentationRun


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_fast_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def coarse() -> Phantom:
    return head_phantom(spacing_mm=(4, 4, 4))


@pytest.fixture
def segment(bundle, monkeypatch, capsys):
    def run(*words: object) -> tuple[int, str]:
        return run_command(monkeypatch, capsys, "segment", *words, "--bundle", bundle, "--no-overview")

    return run


def save(phantom: Phantom, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(phantom.image.astype(np.float32), phantom.affine), path)
    return path


def results(output: Path) -> set[str]:
    return {path.parent.name for path in output.glob("*/result.json")}


def test_odd_names_and_promises_of_gigabytes_cost_no_other_scan(segment, coarse, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    good = save(coarse, folder / "good.nii.gz")
    for name in (os.fsdecode(b"M\xfcller.nii.gz"), f"{'n' * 240}.nii.gz", "$1.nii.gz", "with space.nii.gz"):
        (folder / name).write_bytes(good.read_bytes())
    content = bytearray(nifti_bytes())
    edit_header(content, dim__1=1100, dim__2=1100, dim__3=1100)
    (folder / "huge.nii.gz").write_bytes(gzipped(bytes(content)))
    (folder / "hüge.nii.gz").write_bytes(b"")
    status, printed = segment(folder, output)
    assert status == 1
    assert "Traceback" not in printed
    assert results(output) == {"good", "Müller", case_name("n" * 240), "$1", "with space"}
    failures = json.loads((output / "failures.json").read_text())
    assert failures.keys() == {"huge", "hüge"}
    assert "which need 5.0 GiB; expected at most 2.0 GiB" in failures["huge"]
    assert "is empty" in failures["hüge"]


def test_full_disk_is_one_sentence_and_what_is_done_stays(segment, coarse, tmp_path, monkeypatch):
    for name in ("a", "b"):
        save(coarse, tmp_path / "in" / f"{name}.nii.gz")
    write = cohort.write_result

    def full(result, folder, **options):
        if result.case == "b":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(result, folder, **options)

    monkeypatch.setattr(cohort, "write_result", full)
    status, printed = segment(tmp_path / "in", tmp_path / "out")
    assert status == 3
    assert "the disk is full" in printed
    assert "Traceback" not in printed
    assert results(tmp_path / "out") == {"a"}
    monkeypatch.undo()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_folder_that_takes_no_results_is_one_sentence(segment, coarse, tmp_path, monkeypatch, number):
    def denied(self, *arguments, **options):
        raise OSError(number, os.strerror(number))

    scan = save(coarse, tmp_path / "in" / "a.nii.gz")
    monkeypatch.setattr(Path, "mkdir", denied)
    status, printed = segment(scan, tmp_path / "out")
    assert status == 2
    assert f"results cannot be written to '{tmp_path / 'out'}' ({os.strerror(number)})" in printed.replace("\n", "")
    assert "Traceback" not in printed


def test_second_run_on_one_folder_is_refused(segment, coarse, tmp_path):
    scan = save(coarse, tmp_path / "in" / "a.nii.gz")
    (tmp_path / "out").mkdir()
    with one_run(tmp_path / "out"):
        status, printed = segment(scan, tmp_path / "out")
    assert status == 2
    assert "another run is writing to" in printed
    assert list((tmp_path / "out").iterdir()) == [] or not results(tmp_path / "out")


def test_scan_of_another_folder_leaves_the_older_result(segment, coarse, tmp_path):
    first = save(coarse, tmp_path / "p1" / "T1.nii.gz")
    second = save(head_phantom(spacing_mm=(4, 4, 5)), tmp_path / "p2" / "T1.nii.gz")
    assert segment(first, tmp_path / "out")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "T1").iterdir()}
    status, printed = segment(second, tmp_path / "out", "--overwrite")
    assert status == 1
    assert "holds the result of" in printed
    assert "differ from what the network expects" not in printed
    assert {path: path.read_bytes() for path in (tmp_path / "out" / "T1").iterdir()} == before


def test_interrupted_run_says_that_it_goes_on(segment, coarse, tmp_path, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(SegmentationRun, "run", interrupted)
    status, printed = segment(save(coarse, tmp_path / "in" / "a.nii.gz"), tmp_path / "out")
    assert (status, "the same command goes on" in printed) == (130, True)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_scan_beyond_the_memory_ends_only_itself(error, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.nii.gz").write_bytes(b"x")

    def transform(item):
        if item["case"] == "a":
            raise RuntimeError("applying transform") from error
        return item["case"]

    stream = ScanStream(tmp_path, transform)
    assert list(stream) == ["b"]
    assert "needs more memory than there is" in stream.failures["a"]
