"""One inference at a time: the second waits or is told, and the server knows how far the first is."""

from __future__ import annotations

import threading

import pytest


@pytest.fixture
def monitor():
    from lib.monitor import Monitor

    return Monitor()


def test_progress_is_seen_while_a_run_is_on(monitor):
    with monitor.claim("itermask3d", "a") as run:
        run.report("sweep", 12, 100)
        running = monitor.status()["running"]
    assert {key: running[key] for key in ("model", "image", "phase", "done", "total")} == {
        "model": "itermask3d",
        "image": "a",
        "phase": "sweep",
        "done": 12,
        "total": 100,
    }
    assert monitor.status()["running"] is None
    assert monitor.status()["finished"] == {"image": "a", "model": "itermask3d", "id": 1, "ok": True, "message": ""}


def test_a_second_request_that_does_not_wait_is_told_so(monitor):
    from lib.errors import RequestError

    with (
        monitor.claim("itermask3d", "a"),
        pytest.raises(RequestError, match="busy with itermask3d") as told,
        monitor.claim("x", "b", wait=False),
    ):
        pass
    assert told.value.status == 503


def test_a_second_request_waits_for_its_turn(monitor):
    order, started = [], threading.Event()

    def second() -> None:
        started.set()
        with monitor.claim("itermask3d", "b"):
            order.append("second")

    with monitor.claim("itermask3d", "a"):
        thread = threading.Thread(target=second)
        thread.start()
        started.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert monitor.status()["waiting"] == 0


def test_an_error_frees_the_turn_and_is_told(monitor):
    from lib.errors import RequestError

    with pytest.raises(RequestError), monitor.claim("itermask3d", "a"):
        raise RequestError(422, "the scan is empty")
    assert monitor.status()["finished"]["message"] == "the scan is empty"
    with monitor.claim("itermask3d", "a", wait=False):
        pass


def test_patience_ends(monitor):
    from lib.errors import RequestError
    from lib.monitor import Monitor

    impatient = Monitor(patience_s=0.0)
    with impatient.claim("m", "a"), pytest.raises(RequestError, match="busy"), impatient.claim("m", "b"):
        pass
    assert impatient.status()["waiting"] == 0
