"""Progress over scans with rate and remaining time: a bar on a terminal, a line a scan in a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from itermask3d.workflows.screening.cohort_report import duration
from itermask3d.workflows.screening.journal import Record, Status

__all__ = ["ScanProgress"]


class ScanProgress:
    """Who looks on while a cohort is screened; see :class:`itermask3d.workflows.screening.run.Watch`."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stdout, soft_wrap=True, highlight=False, markup=False)
        self.total = self.finished = self.failed = 0
        self.start = self.last = time.monotonic()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("the first scan is under way", total=None)

    @property
    def speed(self) -> tuple[int, float]:
        """Scans that ended, and the seconds from the start to the last one's end."""
        return self.finished, self.last - self.start

    def say(self, sentence: str) -> None:
        """Print one sentence, above the bar where there is one."""
        self.console.print(sentence)

    @contextmanager
    def watching(self, total: int) -> Iterator[None]:
        """Show the bar while scans are done."""
        self.total = total
        self.start = self.last = time.monotonic()
        self.bar.update(self.task, total=total)
        with self.bar:
            yield

    def tell(self, record: Record) -> None:
        """Count a scan that ended; say so where there is no bar, or if it failed."""
        self.last = time.monotonic()
        self.finished += 1
        self.failed += record.status is Status.FAILED
        rate = self.finished / max(self.last - self.start, 1e-9)
        left = duration((self.total - self.finished) / rate)
        text = f"{3600 * rate:.1f} scans/h, {left} left" + (f", {self.failed} failed" if self.failed else "")
        self.bar.update(self.task, completed=self.finished, description=text)
        if record.status is Status.FAILED:
            self.say(f"failed: {record.case}: {record.reason}")
        elif not self.console.is_terminal:
            self.say(f"{self.finished}/{self.total} {record.case} {duration(record.seconds)} ({text})")
