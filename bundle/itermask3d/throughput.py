"""How fast a run was, and what that says about a larger one."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Throughput", "duration"]


@dataclass(frozen=True)
class Throughput:
    """Scans that a run finished, in how long and with how many workers.

    Attributes:
        scans: finished in this run, failed ones included; skipped ones are not.
        seconds: from the first scan's start to the last one's end, loading of the model included.
        workers: at work at the same time.
        threads: cores of each worker; ``None`` if unknown.
    """

    scans: int
    seconds: float
    workers: int
    threads: int | None = None

    @property
    def scans_per_hour(self) -> float:
        """Of all workers together; 0 before the first scan."""
        return 3600 * self.scans / self.seconds if self.scans and self.seconds > 0 else 0.0

    @property
    def worker_seconds(self) -> float:
        """What one scan costs one worker."""
        return self.workers * self.seconds / self.scans if self.scans else float("nan")

    def hours(self, n_scans: int, n_workers: int) -> float:
        r"""Hours for many scans on many such workers.

        .. math:: h = \frac{n_{scans}}{n_{workers}} \cdot \frac{s}{3600}

        where :math:`s` are the worker-seconds of a scan. Scans do not depend on each other, so this holds as long as a
        worker keeps its cores or its GPU to itself and the disk keeps up; workers that share what one had do not
        count as further ones.

        Raises:
            ValueError: if there is no worker.
        """
        if n_workers < 1:
            raise ValueError(f"n_workers must be at least 1, got {n_workers}")
        return n_scans / n_workers * self.worker_seconds / 3600


def duration(seconds: float) -> str:
    """In words that fit a line: ``42 s``, ``3 min 05 s``, ``7 h 12 min``, ``3 d 4 h``.

    >>> [duration(value) for value in (42, 185, 25920, 273600)]
    ['42 s', '3 min 05 s', '7 h 12 min', '3 d 4 h']
    """
    if not 0 <= seconds < float("inf"):
        return "unknown"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    if total < 48 * 3600:
        return f"{total // 3600} h {total % 3600 // 60:02d} min"
    return f"{total // 86400} d {total % 86400 // 3600} h"
