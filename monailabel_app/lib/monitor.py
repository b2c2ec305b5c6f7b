"""What the server is doing: one inference at a time, with its progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lib.errors import RequestError

__all__ = ["CANCELLED", "EXPECTED_S", "Monitor", "Run"]

CANCELLED = 409
"""Status of a run that a person has ended."""

ENDED = "the run was cancelled; nothing was changed"
LOOK_S = 0.25
"""How often a request that waits for another process looks whether it was cancelled."""

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
            raise RequestError(CANCELLED, ENDED)

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


@dataclass(eq=False)
class _Waiting:
    """A request that waits for its turn."""

    image: str
    is_cancelled: bool = False


class Monitor:
    """Lets one inference run at a time and knows how far it is.

    Args:
        patience_s: how long a second request waits for its turn at most.
        shared: a file that other processes of the app lock too, such as a batch; ``None`` for this process alone.
    """

    def __init__(self, patience_s: float = 600.0, shared: str | Path | None = None) -> None:
        self.patience_s = patience_s
        self._shared = FileLock(shared, thread_local=False) if shared else None
        self._freed = threading.Condition()
        self._taken = False
        self._state = threading.Lock()
        self._running: Run | None = None
        self._waiting: list[_Waiting] = []
        self._finished: dict[str, Any] | None = None
        self._count = 0
        self._took_s: dict[str, dict[str, float]] = {}

    @contextmanager
    def claim(self, model: str, image: str, wait: bool = True) -> Iterator[Run]:
        """Hold the turn for one inference.

        Raises:
            RequestError: with status 503 if another inference runs and ``wait`` is false, or does not end in time; 409
                if somebody has cancelled it while it waited.
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
                "waiting": len(self._waiting),
                "finished": self._finished,
            }

    def cancel(self, image: str) -> None:
        """End the run on an image at its next step, or where none is on, those that wait for their turn, at once.

        Raises:
            RequestError: with status 404 if none runs and none waits.
        """
        with self._state:
            if self._running is not None and self._running.image == image:
                self._running.cancel()
                return
            waiting = [one for one in self._waiting if one.image == image]
        if not waiting:
            raise RequestError(404, f"no run on image '{image}' is on")
        with self._freed:
            for one in waiting:
                one.is_cancelled = True
            self._freed.notify_all()

    def waits(self, image: str) -> bool:
        """Whether a run on an image waits for its turn."""
        with self._state:
            return any(one.image == image for one in self._waiting)

    def _learn(self, run: Run) -> None:
        """What a whole run took tells how long the next one will; an answer from the disk tells nothing."""
        run.finish()
        if "writing" in run.took_s:
            self._took_s[run.model] = {phase: run.took_s.get(phase, 0.0) for phase in EXPECTED_S}

    def _queue(self, model: str, image: str, wait: bool) -> None:
        request = _Waiting(image)
        if self._acquire(request, 0):
            return
        if not wait:
            raise RequestError(503, self._busy())
        with self._state:
            self._waiting.append(request)
        try:
            if not self._acquire(request, self.patience_s):
                raise RequestError(CANCELLED, ENDED) if request.is_cancelled else RequestError(503, self._busy())
        finally:
            with self._state:
                self._waiting.remove(request)

    def _acquire(self, request: _Waiting, timeout_s: float) -> bool:
        """Take the turn within this process, then among all that share it; false if it is cancelled or not in time."""
        with self._freed:
            self._freed.wait_for(lambda: request.is_cancelled or not self._taken, timeout_s)
            if request.is_cancelled or self._taken:
                return False
            self._taken = True
        if self._shared is None or self._acquire_shared(request, timeout_s):
            return True
        self._release_turn()
        return False

    def _acquire_shared(self, request: _Waiting, timeout_s: float) -> bool:
        assert self._shared is not None
        Path(self._shared.lock_file).parent.mkdir(parents=True, exist_ok=True)
        for _ in range(1 + int(timeout_s / LOOK_S)):
            try:
                self._shared.acquire(timeout=min(timeout_s, LOOK_S))
                return True
            except Timeout:
                if request.is_cancelled:
                    break
        return False

    def _release(self) -> None:
        if self._shared is not None:
            self._shared.release()
        self._release_turn()

    def _release_turn(self) -> None:
        with self._freed:
            self._taken = False
            self._freed.notify()

    def _busy(self) -> str:
        running = self.status()["running"]
        return (
            f"the server is busy with {running['model'] if running else 'a batch or another request'}; ask again later"
        )
