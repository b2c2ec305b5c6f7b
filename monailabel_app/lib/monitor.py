"""What the server is doing: one inference at a time, with its progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lib.errors import RequestError

__all__ = ["Monitor", "Run"]


class Run:
    """An inference in progress."""

    def __init__(self, model: str, image: str) -> None:
        self.model = model
        self.image = image
        self.phase = "reading"
        self.done = 0
        self.total = 1
        self.since = time.monotonic()

    def report(self, phase: str, done: int, total: int) -> None:
        """Take note of progress; the signature is the segmenter's."""
        self.phase, self.done, self.total = phase, done, total

    def status(self) -> dict[str, Any]:
        """Plain values for the page."""
        return {
            "model": self.model,
            "image": self.image,
            "phase": self.phase,
            "done": self.done,
            "total": self.total,
            "seconds": round(time.monotonic() - self.since, 1),
        }


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

    @contextmanager
    def claim(self, model: str, image: str, wait: bool = True) -> Iterator[Run]:
        """Hold the turn for one inference.

        Raises:
            RequestError: with status 503 if another inference runs and ``wait`` is false, or does not end in time.
        """
        self._queue(model, image, wait)
        run = Run(model, image)
        with self._state:
            self._running = run
        message = "the inference ended with an error"
        ok = False
        try:
            yield run
            ok, message = True, ""
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
