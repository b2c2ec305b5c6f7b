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


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_share_runs_through_all_phases_and_never_back():
    from lib.monitor import Run

    clock = Clock()
    run = Run("m", "a", {"reading": 10, "sweep": 20, "writing": 10}, clock)
    shares = []
    for now, phase, done, total in (
        (0, "reading", 0, 1), (5, "reading", 0, 1), (30, "reading", 0, 1), (31, "sweep", 1, 2), (32, "sweep", 0, 2),
        (40, "writing", 0, 1), (99, "writing", 0, 1),
    ):  # fmt: skip
        clock.now = now
        run.report(phase, done, total)
        shares.append(run.status()["share"])
    assert shares == pytest.approx([0, 0.125, 0.2425, 0.5, 0.5, 0.75, 0.9925], abs=1e-3)


def test_the_time_left_is_told_once_there_is_something_to_go_by():
    from lib.monitor import Run

    clock = Clock()
    run = Run("m", "a", {"reading": 10, "writing": 10}, clock)
    assert run.status()["seconds_left"] is None
    clock.now = 5
    assert run.status()["seconds_left"] == 15


def test_a_whole_run_tells_how_long_the_next_one_takes(monitor):
    with monitor.claim("m", "a") as run:
        run.report("sweep", 0, 2)
        run.report("writing", 0, 1)
    with monitor.claim("m", "b") as run:
        run.report("shrink", 0, 2)
        assert run.took_s.keys() == {"reading"}
    with monitor.claim("m", "c"):
        pass
    assert monitor._took_s["m"].keys() == {"reading", "brain extraction", "sweep", "shrink", "writing"}
    assert monitor._took_s["m"]["shrink"] == 0.0


def test_a_cancelled_run_ends_at_its_next_step_and_frees_the_turn(monitor):
    from lib.errors import RequestError

    def cancelled_run() -> None:
        with monitor.claim("m", "a") as run:
            monitor.cancel("a")
            assert monitor.status()["running"]["cancelled"]
            run.report("shrink", 1, 2)

    with pytest.raises(RequestError, match="cancelled") as told:
        cancelled_run()
    assert told.value.status == 409
    with pytest.raises(RequestError, match="no run on image 'a' is on"):
        monitor.cancel("a")
    with monitor.claim("m", "a", wait=False):
        pass


@pytest.mark.parametrize("shared", [False, True], ids=["in this process", "in another process"])
def test_a_run_that_waits_for_its_turn_is_cancelled_at_once(tmp_path, shared):
    from filelock import FileLock
    from lib.errors import RequestError
    from lib.monitor import Monitor

    lock = tmp_path / "turn.lock"
    monitor, told = Monitor(shared=lock if shared else None), []

    def second() -> None:
        with pytest.raises(RequestError, match="cancelled") as refused, monitor.claim("m", "b"):
            pass
        told.append(refused.value.status)

    with FileLock(lock) if shared else monitor.claim("m", "a"):
        thread = threading.Thread(target=second)
        thread.start()
        while not monitor.waits("b"):
            thread.join(0.01)
        monitor.cancel("b")
        thread.join(10)
        assert told == [409]
        assert monitor.status()["waiting"] == 0
    with monitor.claim("m", "c", wait=False):
        pass
