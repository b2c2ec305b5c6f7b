"""Many scans, one at a time: what is left to do, and one scan from its files to its published result."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
import traceback
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from itermask3d.files.discovery import Discovery, FoundScan
from itermask3d.files.errors import ScanError, first_cause, out_of_memory, scan_error
from itermask3d.files.identity import input_files
from itermask3d.files.writing import no_room, publish_folder, settle, write_atomically
from itermask3d.inference.conclusion import conclude
from itermask3d.inference.model import Model, load_model
from itermask3d.inference.overview import save_overview
from itermask3d.inference.preparation import prepare
from itermask3d.inference.results import RESEARCH_USE, ScanResult, foreign_files, write_result
from itermask3d.inference.store import ResultStore, require_own_place
from itermask3d.workflows.screening.cohort_table import found_in
from itermask3d.workflows.screening.journal import JOURNAL, Journal, Record, Status

__all__ = ["Plan", "Report", "Screener", "clear_staging", "make_plan", "prepare_output"]

logger = logging.getLogger(__name__)


STAGING = ".staging"


class Report(Protocol):
    """Writes a report into a scan's folder, which holds its result."""

    def __call__(self, folder: Path, *, result: ScanResult | None = None) -> object:
        """Write it; of a result of this run, which is given, nothing is read again."""


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        todo: scans without an up-to-date result.
        reports: scans with a result that lack their report.
        done: scans with a result, those of ``reports`` included.
        failed: records of scans that failed before and are not tried again.
    """

    todo: tuple[FoundScan, ...]
    reports: tuple[FoundScan, ...]
    done: tuple[FoundScan, ...]
    failed: tuple[Record, ...]


def make_plan(
    scans: Iterable[FoundScan],
    journal: Journal,
    screener: Screener,
    *,
    retry_failed: bool = False,
    overwrite: bool = False,
) -> Plan:
    """Tell apart what is done, what failed before and what is left.

    Args:
        scans: see :func:`itermask3d.files.discovery.discover`.
        journal: of the folder of the results.
        screener: knows what makes a result up to date.
        retry_failed: try again what failed before.
        overwrite: do finished scans again.
    """
    output, earlier = journal.path.parent, journal.latest()
    todo, reports, done, failed = [], [], [], []
    for scan in scans:
        record = earlier.get(scan.folder)
        if not overwrite and screener.is_done(scan, output):
            done.append(scan)
            if screener.lacks_report(scan, output):
                reports.append(scan)
        elif record is not None and not retry_failed and _failed_as_it_is(record, scan):
            failed.append(record)
        else:
            todo.append(scan)
    return Plan(tuple(todo), tuple(reports), tuple(done), tuple(failed))


def _failed_as_it_is(record: Record, scan: FoundScan) -> bool:
    return record.status is Status.FAILED and record.inputs == input_files(scan.item)


class Screener:
    """From a scan's files to its published result, with one model that is loaded when the first scan needs it.

    It can be sent to other processes; each loads its own model.

    Args:
        bundle_root: the bundle's folder.
        overrides: see :func:`itermask3d.inference.model.load_model`.
        report: see :class:`Report`; ``None`` writes no report. A report that fails is told in the log and missing;
            the result stays.
        overview: draw ``overview.png``.
        overwrite: do scans again that have an up-to-date result.
    """

    REPORT_STEM = "report"
    REPORT_NAME = "report.html"

    def __init__(
        self,
        bundle_root: str | Path,
        overrides: Mapping[str, Any] | None = None,
        *,
        report: Report | None = None,
        overview: bool = True,
        overwrite: bool = False,
    ) -> None:
        self.bundle_root = str(bundle_root)
        self.overrides = dict(overrides or {})
        self.report = report
        self.overview = overview
        self.overwrite = overwrite
        self._model: Model | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_model", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _model=None, _lock=threading.Lock())

    @property
    def model(self) -> Model:
        """The model of this process.

        Raises:
            ScanError: if the weights are missing, damaged or of another network.
        """
        if self._model is None:
            self._model = load_model(self.bundle_root, overrides=self.overrides)
        return self._model

    def store(self, scan: FoundScan, output: Path) -> ResultStore:
        """The store in which a scan's result lies."""
        return ResultStore((output / scan.folder).parent, self.model)

    def is_done(self, scan: FoundScan, output: Path) -> bool:
        """Whether there is a result of these files, settings and weights; a damaged one is none."""
        try:
            return self.store(scan, output).is_done(scan.item)
        except (ValueError, KeyError, TypeError):
            return False

    def lacks_report(self, scan: FoundScan, output: Path) -> bool:
        """Whether a report is wanted and not there."""
        return self.report is not None and not (output / scan.folder / self.REPORT_NAME).exists()

    def screen(self, scan: FoundScan, output: Path, worker: str = "") -> Record:
        """Do one scan, or only its report; whatever goes wrong with it ends in the record.

        Scans of one process wait for each other.
        """
        start = time.monotonic()
        with self._lock:
            try:
                found = self._screen(scan, output)
                record = Record.of(scan, Status.DONE, found=found)
            except Exception as error:  # of whatever kind: no scan may cost another its result
                record = _record_of(error, scan)
        return replace(record, seconds=round(time.monotonic() - start, 3), worker=worker)

    def _screen(self, scan: FoundScan, output: Path) -> dict[str, Any] | None:
        """Leave a scan with its result and report; what the table says of a result that is new."""
        final = output / scan.folder
        if self.overwrite or not self.is_done(scan, output):
            result = self._segment(scan)
            with _staged(output) as staging:
                folder = write_result(result, staging / scan.case, draw=save_overview if self.overview else None)
                self._write_report(folder, result)
                publish_folder(folder, final)
            return found_in(result.to_json())
        if self.lacks_report(scan, output):
            self._write_report(final)
        return None

    def _segment(self, scan: FoundScan) -> ScanResult:
        prepared = prepare(scan.item, self.model.preprocessing)
        return conclude(self.model.predict(prepared), prepared, self.model)

    def _write_report(self, folder: Path, result: ScanResult | None = None) -> None:
        if self.report is None:
            return
        try:
            self.report(folder, result=result)
        except Exception as error:  # a page is worth less than the result that it shows
            if no_room(first_cause(error)):
                raise
            logger.exception("%s: the result is there, but its report could not be written", folder.name)


def prepare_output(output: Path, plan: Plan, found: Discovery, version: str, screener: Screener) -> None:
    """Make the output folder and clear what an interrupted run left; results of a BIDS dataset are described as such.

    Raises:
        ScanError: if nothing can be written there, or a folder of a scan holds files or the result of another.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        clear_staging(output)
        for scan in plan.todo:
            settle(output / scan.folder)
            _require_own(output / scan.folder)
        for scan in (*plan.todo, *plan.done):
            require_own_place(screener.store(scan, output), scan.item)
        if found.kind == "bids":
            description = json.dumps(_description(found.source, version), indent=1) + "\n"
            write_atomically(description, output / "dataset_description.json")
            write_atomically("".join(f"{line}\n" for line in BIDSIGNORE), output / ".bidsignore")
            if not any((output / name).exists() for name in ("README", "README.md", "README.rst", "README.txt")):
                write_atomically(README, output / "README")
    except OSError as error:
        raise ScanError(f"results cannot be written to '{output}' ({error.strerror})") from error


def clear_staging(output: Path) -> None:
    """Remove what workers that were stopped had not yet published."""
    shutil.rmtree(output / STAGING, ignore_errors=True)


BIDSIGNORE = ("**/anat/*", "index.html", JOURNAL, "scans.tsv", "scans.json", "left_out.tsv")
"""What lies beside the specification: a folder for each scan, and the tables of the whole cohort."""

README = f"""Results of IterMask3D, an unsupervised anomaly segmenter for 3D brain MR.

{RESEARCH_USE}

Every scan of the source dataset has a folder of its own in sub-*/[ses-*/]anat, with a mask of what is unusual, the
anomaly map, what the network expected, the brain mask and result.json. index.html shows all scans on one page,
scans.tsv is the same as a table, and scans.json says what its columns mean. The folders and the tables lie beside the
BIDS specification, and .bidsignore names them.
"""


def _description(source: str, version: str) -> dict[str, Any]:
    return {
        "Name": "IterMask3D screening",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "itermask3d", "Version": version}],
        "SourceDatasets": [{"URL": Path(source).as_uri()}],
    }


def _require_own(folder: Path) -> None:
    foreign = [name for name in foreign_files(folder, folder.name) if not name.startswith(Screener.REPORT_STEM)]
    if foreign:
        raise ScanError(f"'{folder}' holds files of others ({foreign[0]} …); expected a folder for results only")


@contextmanager
def _staged(output: Path) -> Iterator[Path]:
    """A folder of its own on the output's disk: two processes that do one scan never write into one folder."""
    staging = output / STAGING / uuid.uuid4().hex
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _record_of(error: Exception, scan: FoundScan) -> Record:
    reason = scan_error(error)
    if no_room(first_cause(error)):
        return Record.of(scan, Status.NO_ROOM, reason=f"the result cannot be written ({first_cause(error)})")
    if reason is not None:
        return Record.of(scan, Status.FAILED, reason=_one_line(str(reason)))
    if out_of_memory(error):
        return Record.of(scan, Status.FAILED, reason="it needs more memory than there is; expected a smaller scan")
    cause = first_cause(error)
    sentence = f"unexpected {type(cause).__name__}: {_one_line(str(cause)) or 'no message'}"
    return Record.of(scan, Status.FAILED, reason=sentence, details=_traceback(error))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
