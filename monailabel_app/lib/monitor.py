"""What the server is doing: one inference at a time, with its progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lib.errors import RequestError

__all__ = ["CANCELLED", "EXPECTED_S", "Monitor", "Run"]

CANCELLED = 409
"""Status of a run that a person has ended."""


EXPECTED_S = {"reading": 10.0, "brain extraction": 6.0, "sweep": 14.0, "shrink": 4.0, "writing": 10.0}
"""What the phases take on a laptop, until a run on this machine tells; only their proportions matter."""

TOLD_FROM_S, TOLD_FROM_SHARE = 3.0, 0.1
"""Before that much of a run, nobody can say how long the rest takes."""

NOT_YET_ALL = 0.97
"""A phase that takes longer than expected waits here."""


class Run:
    """An inference in progress.

    Args:
        model, image: what runs on what.
        expected_s: seconds of each phase, in their order.
        clock: seconds since some moment.
    """

    def __init__(
        self,
        model: str,
        image: str,
        expected_s: Mapping[str, float] = EXPECTED_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.image = image
        self.phase = "reading"
        self.done = 0
        self.total = 1
        self.took_s: dict[str, float] = {}
        self._expected_s = dict(expected_s)
        self._clock = clock
        self._since = self._phase_since = clock()
        self._furthest = 0.0
        self._cancelled = threading.Event()

    def report(self, phase: str, done: int, total: int) -> None:
        """Take note of progress; the signature is the segmenter's.

        Raises:
            RequestError: with status 409 if somebody has cancelled the run, which ends here.
        """
        if phase != self.phase:
            self._end_phase()
        self.phase, self.done, self.total = phase, done, total
        if self._cancelled.is_set():
            raise RequestError(CANCELLED, "the run was cancelled; nothing was changed")

    def cancel(self) -> None:
        """Let the run end at its next report."""
        self._cancelled.set()

    def finish(self) -> None:
        """Take note of the last phase's end."""
        self._end_phase()

    def status(self) -> dict[str, Any]:
        """Plain values for the page; ``share`` of the whole run, 0 to 1, and ``seconds_left``, ``None`` at first."""
        seconds, share = self._clock() - self._since, self._share()
        told = seconds >= TOLD_FROM_S and share >= TOLD_FROM_SHARE
        return {
            "model": self.model,
            "image": self.image,
            "phase": self.phase,
            "done": self.done,
            "total": self.total,
            "seconds": round(seconds, 1),
            "share": round(share, 3),
            "seconds_left": round(seconds * (1 - share) / share) if told else None,
            "cancelled": self._cancelled.is_set(),
        }

    def _share(self) -> float:
        """Phases before count as expected; the one that runs by its steps, or else by its time."""
        phases = list(self._expected_s)
        place = phases.index(self.phase) if self.phase in phases else 0
        expected = self._expected_s.get(self.phase, 0.0)
        steps = self.done / self.total if self.total > 1 else 0.0
        waited = (self._clock() - self._phase_since) / expected if expected else 0.0
        part = min(steps if self.total > 1 else waited, NOT_YET_ALL)
        before = sum(self._expected_s[phase] for phase in phases[:place])
        whole = sum(self._expected_s.values())
        self._furthest = max(self._furthest, (before + part * expected) / whole if whole else 0.0)
        return self._furthest

    def _end_phase(self) -> None:
        now = self._clock()
        self.took_s[self.phase] = self.took_s.get(self.phase, 0.0) + now - self._phase_since
        self._phase_since = now


class Monitor:
    """Lets one inference run at a time and knows how far it is.

    Args:
        patience_s: how long a second request waits for its turn at most.
        shared: a file that other processes of the app lock too, such as a batch; ``None`` for this process alone.
    """

    def __init__(self, patience_s: float = 600.0, shared: str | Path | None = None) -> None:
        self.patience_s = patience_s
        self._shared = FileLock(shared, thread_local=False) if shared else None
        self._turn = threading.Lock()
        self._state = threading.Lock()
        self._running: Run | None = None
        self._waiting = 0
        self._finished: dict[str, Any] | None = None
        self._count = 0
        self._took_s: dict[str, dict[str, float]] = {}

    @contextmanager
    def claim(self, model: str, image: str, wait: bool = True) -> Iterator[Run]:
        """Hold the turn for one inference.

        Raises:
            RequestError: with status 503 if another inference runs and ``wait`` is false, or does not end in time.
        """
        self._queue(model, image, wait)
        run = Run(model, image, self._took_s.get(model, EXPECTED_S))
        with self._state:
            self._running = run
        message = "the inference ended with an error"
        ok = False
        try:
            yield run
            ok, message = True, ""
            self._learn(run)
        except RequestError as error:
            message = error.message
            raise
        finally:
            with self._state:
                self._running = None
                self._count += 1
                self._finished = {"image": image, "model": model, "id": self._count, "ok": ok, "message": message}
            self._release()

    def status(self) -> dict[str, Any]:
        """What runs, how many wait, what ended last."""
        with self._state:
            return {
                "running": self._running.status() if self._running else None,
                "waiting": self._waiting,
                "finished": self._finished,
            }

    def cancel(self, image: str) -> None:
        """End the run on an image at its next step.

        Raises:
            RequestError: with status 404 if none runs; one that waits for its turn cannot be ended.
        """
        with self._state:
            if self._running is None or self._running.image != image:
                raise RequestError(404, f"no run on image '{image}' is on")
            self._running.cancel()

    def _learn(self, run: Run) -> None:
        """What a whole run took tells how long the next one will; an answer from the disk tells nothing."""
        run.finish()
        if "writing" in run.took_s:
            self._took_s[run.model] = {phase: run.took_s.get(phase, 0.0) for phase in EXPECTED_S}

    def _queue(self, model: str, image: str, wait: bool) -> None:
        if self._acquire(0):
            return
        if not wait:
            raise RequestError(503, self._busy())
        with self._state:
            self._waiting += 1
        try:
            if not self._acquire(self.patience_s):
                raise RequestError(503, self._busy())
        finally:
            with self._state:
                self._waiting -= 1

    def _acquire(self, timeout_s: float) -> bool:
        if not self._turn.acquire(timeout=timeout_s):
            return False
        try:
            if self._shared is not None:
                Path(self._shared.lock_file).parent.mkdir(parents=True, exist_ok=True)
                self._shared.acquire(timeout=timeout_s)
        except Timeout:
            self._turn.release()
            return False
        return True

    def _release(self) -> None:
        if self._shared is not None:
            self._shared.release()
        self._turn.release()

    def _busy(self) -> str:
        running = self.status()["running"]
        return (
            f"the server is busy with {running['model'] if running else 'a batch or another request'}; ask again later"
        )
