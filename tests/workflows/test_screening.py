"""Screening one scan after another: what is done again, what a bad scan, a bug or a full disk may cost."""

from __future__ import annotations

import errno
import json
import pickle
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fast_bundle import write_fast_bundle
from helpers import axes_of, head_phantom
from itermask3d.files.dicom import write_mr_series
from itermask3d.files.discovery import FoundScan, LeftOut, discover, write_left_out
from itermask3d.files.locking import one_run
from itermask3d.files.scans import ScanError
from itermask3d.inference.results import ScanResult
from itermask3d.workflows.screening import screener as screening
from itermask3d.workflows.screening.cohort_report import Throughput, duration, write_cohort_report
from itermask3d.workflows.screening.cohort_table import rows_of
from itermask3d.workflows.screening.journal import Journal, Record, Status
from itermask3d.workflows.screening.screener import Screener, make_plan, prepare_output
from screening_helpers import KnownScreener, contents, write_scans


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_fast_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def screener(bundle) -> KnownScreener:
    return KnownScreener(bundle)


def run(source: Path, output: Path, screener: Screener, **options) -> list[Record]:
    """A whole run without workers."""
    found, journal = discover(source), Journal(output)
    plan = make_plan(found.scans, journal, screener, **options)
    prepare_output(output, plan, found, "0", screener)
    journal.enter(plan.done)
    records = [screener.screen(scan, output) for scan in (*plan.todo, *plan.reports)]
    for record in records:
        if record.status is not Status.NO_ROOM:
            journal.append(record)
    return records


def left(source: Path, output: Path, screener: Screener, **options) -> list[str]:
    return [scan.case for scan in make_plan(discover(source).scans, Journal(output), screener, **options).todo]


def test_a_restart_skips_what_is_done_and_does_what_changed(screener, tmp_path):
    source, output = write_scans(tmp_path / "in", ["a", "b"]), tmp_path / "out"
    run(source, output, screener)
    first = contents(output)
    assert run(source, output, screener) == []
    assert left(source, output, screener, overwrite=True) == ["a", "b"]
    write_scans(source, ["c", "b"])  # c is new, b another volume
    (output / "a" / "result.json").write_text("{damaged")
    assert left(source, output, screener) == ["a", "b", "c"]
    run(source, output, screener)
    assert contents(output)["a/a_mask.nii.gz"] == first["a/a_mask.nii.gz"]


def test_a_failed_scan_is_told_with_its_reason_and_retried_on_request_or_when_it_changes(screener, tmp_path):
    source, output = write_scans(tmp_path / "in", ["a", "bad", "bug"]), tmp_path / "out"
    records = {record.case: record for record in run(source, output, screener)}
    assert records["a"].status is Status.DONE
    assert "cannot be read" in records["bad"].reason
    assert records["bug"].reason == "unexpected KeyError: 'a bug'"
    assert "KeyError" in records["bug"].details
    plan = make_plan(discover(source).scans, Journal(output), screener)
    assert plan.todo == ()
    assert [record.reason for record in plan.failed] == [records["bad"].reason, records["bug"].reason]
    assert left(source, output, screener, retry_failed=True) == ["bad", "bug"]
    (source / "bad.nii.gz").write_bytes((source / "a.nii.gz").read_bytes())
    assert [record.status for record in run(source, output, screener)] == [Status.DONE]
    assert not (output / "bug").exists()


def test_a_full_disk_costs_no_other_scan_and_is_no_failure_of_the_scan(screener, tmp_path, monkeypatch):
    source, output = write_scans(tmp_path / "in", ["a", "b", "c"]), tmp_path / "out"
    write = screening.write_result

    def full(result, folder, **options):
        if result.case == "b":
            folder.mkdir(parents=True)
            (folder / "half").write_text("written so far")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(result, folder, **options)

    monkeypatch.setattr(screening, "write_result", full)
    statuses = [record.status for record in run(source, output, screener)]
    assert statuses == [Status.DONE, Status.NO_ROOM, Status.DONE]
    assert not (output / "b").exists()
    assert list((output / ".staging").iterdir()) == []
    monkeypatch.undo()
    assert left(source, output, screener) == ["b"]


def test_an_older_result_survives_a_full_disk(screener, tmp_path, monkeypatch):
    source, output = write_scans(tmp_path / "in", ["a"]), tmp_path / "out"
    run(source, output, screener)
    before = contents(output)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(screening, "write_result", full)
    screener.overwrite = True
    assert [record.status for record in run(source, output, screener, overwrite=True)] == [Status.NO_ROOM]
    assert contents(output) == before


def test_what_a_killed_run_left_is_cleared_and_what_it_published_is_known(screener, tmp_path):
    source, output = write_scans(tmp_path / "in", ["a", "b"]), tmp_path / "out"
    run(source, output, screener)
    (output / "journal.jsonl").write_bytes(b'{"case": "a", "fol')  # cut short, and without b
    (output / ".staging" / "x").mkdir(parents=True)
    assert run(source, output, screener) == []
    assert not (output / ".staging").exists()
    assert {name: record.status for name, record in Journal(output).latest().items()} == {
        "a": Status.DONE,
        "b": Status.DONE,
    }


def test_files_of_others_are_never_replaced(screener, tmp_path):
    source, output = write_scans(tmp_path / "in", ["a"]), tmp_path / "out"
    (output / "a").mkdir(parents=True)
    (output / "a" / "notes.txt").write_text("mine")
    with pytest.raises(ScanError, match=r"notes\.txt"):
        run(source, output, screener)
    assert (output / "a" / "notes.txt").read_text() == "mine"


def test_one_run_an_output_folder(tmp_path):
    with one_run(tmp_path), pytest.raises(ScanError, match="another run"), one_run(tmp_path):
        pass
    with one_run(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_fails_costs_no_result_and_is_written_by_the_next_run(bundle, tmp_path):
    source, output = write_scans(tmp_path / "in", ["a"]), tmp_path / "out"
    seen = []

    def report(folder: Path, *, result: ScanResult | None = None) -> None:
        seen.append(folder.name)
        if len(seen) == 1:
            raise RuntimeError("a bug in the page")
        assert (folder / "result.json").exists()
        (folder / "report.html").write_text("page")

    screener = KnownScreener(bundle, report=report)
    assert [record.status for record in run(source, output, screener)] == [Status.DONE]
    assert not (output / "a" / "report.html").exists()
    run(source, output, screener)
    assert (output / "a" / "report.html").read_text() == "page"
    assert run(source, output, screener) == []
    assert seen == ["a", "a"]


def write_bids_description(folder: Path) -> None:
    """What makes a folder a BIDS dataset."""
    folder.mkdir(parents=True)
    (folder / "dataset_description.json").write_text('{"Name": "test", "BIDSVersion": "1.10.0"}')


def test_results_of_a_bids_dataset_lie_at_its_places_and_say_what_they_are(screener, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    write_bids_description(source)
    write_scans(source / "sub-01" / "ses-1" / "anat", ["sub-01_ses-1_T1w"])
    run(source, output, screener)
    assert (output / "sub-01/ses-1/anat/sub-01_ses-1_T1w/sub-01_ses-1_T1w_mask.nii.gz").exists()
    description = json.loads((output / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "itermask3d"
    assert "**/anat/*" in (output / ".bidsignore").read_text().splitlines()


BIDS_PLACE = re.compile(r"dataset_description\.json|README|sub-[0-9A-Za-z+]+(/ses-[0-9A-Za-z+]+)?(/anat)?")
"""What of ours the specification (common principles, 1.10) knows: two files, and folders down to the modality."""


@pytest.fixture
def derivatives(screener, tmp_path) -> Path:
    """Results of a BIDS dataset with and without sessions, and the cohort's page and table."""
    source, output = tmp_path / "in", tmp_path / "out"
    write_bids_description(source)
    write_scans(source / "sub-01" / "ses-1" / "anat", ["sub-01_ses-1_T1w"])
    write_scans(source / "sub-02" / "anat", ["sub-02_acq-mprage_run-1_T1w"])
    run(source, output, screener)
    write_left_out([LeftOut("notes.txt", "no scan")], output)
    write_cohort_report(Journal(output), title="cohort")
    return output


def test_names_are_those_of_bids_or_ignored_by_name(derivatives):
    ignored = [line for line in (derivatives / ".bidsignore").read_text().splitlines() if line]
    plain = [line.replace(".", r"\.").replace("*", "[^/]*").replace("[^/]*[^/]*/", "(.*/)?") for line in ignored]
    patterns = [re.compile(line) for line in plain]
    found = {str(path.relative_to(derivatives)) for path in derivatives.rglob("*")}
    below = {name for name in found for pattern in patterns if re.match(f"({pattern.pattern})(/|$)", name)}
    visible = {name for name in found - below if not name.startswith(".")}
    assert {"dataset_description.json", "README", "sub-01/ses-1/anat", "sub-02/anat"} <= visible
    assert [name for name in sorted(visible) if not BIDS_PLACE.fullmatch(name)] == []
    assert "sub-02/anat/sub-02_acq-mprage_run-1_T1w/result.json" in below
    for pattern in patterns:
        assert any(pattern.fullmatch(name) for name in found), f"nothing is called {pattern.pattern}"


def test_descriptions_hold_what_bids_requires(derivatives):
    description = json.loads((derivatives / "dataset_description.json").read_text())
    assert re.fullmatch(r"\d+\.\d+\.\d+", description["BIDSVersion"])
    assert description["Name"]
    assert all(maker["Name"] for maker in description["GeneratedBy"])
    assert all(source["URL"].startswith("file:///") for source in description["SourceDatasets"])
    assert len((derivatives / "README").read_text()) > 150
    columns = (derivatives / "scans.tsv").read_text().splitlines()[0].split("\t")
    assert set(columns) <= json.loads((derivatives / "scans.json").read_text()).keys()


def test_a_readme_of_others_is_kept(screener, tmp_path):
    write_bids_description(tmp_path / "in")
    write_scans(tmp_path / "in" / "sub-01" / "anat", ["sub-01_T1w"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    run(tmp_path / "in", tmp_path / "out", screener)
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
    assert not (tmp_path / "out" / "README").exists()


def test_the_validator_of_bids_finds_no_error(derivatives):
    tool = shutil.which("bids-validator-deno")
    if tool is None:
        pytest.skip("this test needs the BIDS validator (pip install bids-validator-deno)")
    checked = subprocess.run([tool, derivatives, "--json"], check=False, capture_output=True, text=True, timeout=300)
    issues = json.loads(checked.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert {issue["code"] for issue in issues} <= {"TOO_FEW_AUTHORS"}


def test_a_series_that_shares_its_folder_is_read_alone_and_named_by_its_folder(bundle, tmp_path):
    phantom = head_phantom(axes=axes_of("LPS"), spacing_mm=(4, 4, 4))
    folder = tmp_path / "in" / "patient"
    folder.mkdir(parents=True)
    for number in (1, 2):
        volume = phantom.image * number
        series = write_mr_series(
            volume, phantom.affine, tmp_path / str(number), description=f"T1 {number}", series_number=number
        )
        for file in series.files:
            file.rename(folder / f"{number}{file.name}")
    scans = discover(tmp_path / "in").scans
    screener = Screener(bundle, {"brain_extraction": "none", "inferer::progress": False}, overview=False)
    screener.screen(scans[1], tmp_path / "out")
    result = json.loads((tmp_path / "out" / scans[1].folder / "result.json").read_text())
    assert result["scan"] == str(folder)
    assert result["geometry"]["shape"] == list(phantom.image.shape)
    assert screener.is_done(scans[1], tmp_path / "out")
    assert not screener.is_done(scans[0], tmp_path / "out")


def test_a_screener_travels_without_its_model(bundle):
    screener = KnownScreener(bundle)
    assert screener.model is screener.model
    travelled = pickle.loads(pickle.dumps(screener))
    assert travelled._model is None
    assert len(pickle.dumps(screener)) < 2000


def test_journal_passes_over_a_line_that_a_crash_cut_short(tmp_path):
    journal = Journal(tmp_path)
    scan = FoundScan("a", "/scans/a.nii", "a")
    journal.append(Record.of(scan, Status.FAILED, reason="first"))
    with journal.path.open("a") as stream:
        stream.write('{"case": "a", "st')
    journal.append(Record.of(scan, Status.DONE))
    assert journal.latest()["a"].status is Status.DONE
    assert len(journal.path.read_text().splitlines()) == 3


def test_results_of_a_run_are_not_read_again_and_those_of_an_earlier_one_say_the_same(screener, tmp_path):
    found, journal = discover(write_scans(tmp_path / "in", ["a", "b"])), Journal(tmp_path / "out")
    plan = make_plan(found.scans, journal, screener)
    prepare_output(tmp_path / "out", plan, found, "0", screener)
    for scan in plan.todo:
        journal.append(screener.screen(scan, tmp_path / "out"))
    later = rows_of(Journal(tmp_path / "out"))
    for path in (tmp_path / "out").glob("*/result.json"):
        path.unlink()
    assert rows_of(journal) == later
    assert {row["status"] for row in later} == {"done"}
    assert {row["status"] for row in rows_of(Journal(tmp_path / "out"))} == {"failed"}


def test_hours_are_scans_over_workers_times_worker_seconds():
    measured = Throughput(scans=20, seconds=600.0, workers=2)
    assert measured.scans_per_hour == pytest.approx(120)
    assert measured.worker_seconds == pytest.approx(60)
    assert measured.hours(10_000, 1) == pytest.approx(10_000 / 60)
    assert measured.hours(10_000, 8) == pytest.approx(measured.hours(10_000, 1) / 8)
    assert Throughput(0, 0.0, 1).scans_per_hour == 0
    with pytest.raises(ValueError, match="n_workers"):
        measured.hours(1, 0)
    assert [duration(value) for value in (42, 185, 25920, 273600, float("nan"))] == [
        "42 s",
        "3 min 05 s",
        "7 h 12 min",
        "3 d 4 h",
        "unknown",
    ]
