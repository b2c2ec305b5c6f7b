"""What became of every scan of a run, a line each, written as it happens: nothing of it is lost when a run dies."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from itermask3d.files.discovery import FoundScan
from itermask3d.files.identity import input_files

__all__ = ["JOURNAL", "Journal", "Record", "Status"]

logger = logging.getLogger(__name__)


JOURNAL = "journal.jsonl"


class Status(StrEnum):
    """What became of a scan."""

    DONE = "done"
    FAILED = "failed"
    """Its own fault as far as can be told; not tried again unless asked for, or unless its files change."""
    NO_ROOM = "no_room"
    """The disk was full; tried again by the next run."""


@dataclass(frozen=True)
class Record:
    """A line of the journal.

    Attributes:
        case, folder, image: see :class:`itermask3d.files.discovery.FoundScan`.
        status: see :class:`Status`.
        reason: one sentence on why there is no result; empty for one that is done.
        seconds: spent on the scan.
        worker: name of the process that did it.
        finished: UTC, ISO 8601.
        inputs: the files with what tells whether they changed.
        details: a traceback, where the reason was not foreseen.
        found: what the cohort's table says of a result of this run; the journal keeps no line of it.
    """

    case: str
    folder: str
    image: str
    status: Status
    reason: str = ""
    seconds: float = 0.0
    worker: str = ""
    finished: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    details: str = ""
    found: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, scan: FoundScan, status: Status, **values: Any) -> Record:
        """A record of a scan that ends now."""
        finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        values = {"finished": finished, "inputs": input_files(scan.item), **values}
        return cls(scan.case, scan.folder, scan.image, status, **values)


class Journal:
    """A file of one JSON object a line, to which every outcome is appended at once.

    A line that a crash cut short is passed over. One process writes, so the file is read once.
    """

    def __init__(self, output: Path) -> None:
        self.path = output / JOURNAL
        self._records: dict[str, Record] | None = None

    def latest(self) -> Mapping[str, Record]:
        """The last record of every scan, by folder, in the order of their first."""
        if self._records is None:
            self._records = self._read()
        return self._records

    def _read(self) -> dict[str, Record]:
        records: dict[str, Record] = {}
        if self.path.is_file():
            for line in self.path.read_text().splitlines():
                try:
                    values = json.loads(line)
                    records[values["folder"]] = Record(**{**values, "status": Status(values["status"])})
                except (ValueError, KeyError, TypeError):
                    logger.warning("a line of %s cannot be read and is passed over: %.60s", self.path, line)
        return records

    def append(self, record: Record) -> None:
        """Add a record, on the disk before this returns.

        Raises:
            OSError: if it cannot be written.
        """
        known = self.latest()
        line = json.dumps({name: value for name, value in asdict(record).items() if name != "found"}) + "\n"
        with self.path.open("a+b") as stream:
            if stream.tell() and not self._ends_a_line():
                line = "\n" + line
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())
        self._records = {**known, record.folder: record}

    def _ends_a_line(self) -> bool:
        with self.path.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) == b"\n"

    def enter(self, scans: Iterable[FoundScan]) -> None:
        """Add scans that are done and not known as such, like the last ones of a run that was killed."""
        known = self.latest()
        for scan in scans:
            if scan.folder not in known or known[scan.folder].status is not Status.DONE:
                self.append(Record.of(scan, Status.DONE))
