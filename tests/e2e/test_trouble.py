"""A person at OHIF when PACS, server or disk fail in the middle of the work: one sentence, and nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import requests
from fast_bundle import write_fast_bundle
from helpers import Phantom
from ohif_page import RUN_MS, Study, Viewer, paint
from small_disk import own_mounts

pytestmark = pytest.mark.e2e

SILENT = "The server does not answer; is it still running?"
SMALL_MB = 200


@pytest.fixture(scope="module")
def study(services: ModuleType, orthanc: Any, phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Study:
    scan = (np.round(phantom.image), phantom.affine)
    return Study(tmp_path_factory.mktemp("study"), services, orthanc, scan)


class Restartable:
    """The server at one address with one folder, however often it is started."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start
        self.start()

    def start(self) -> None:
        self.service = self._start()
        self.service.wait_until_it_answers("/info/")

    def kill(self) -> None:
        """As a power cut does."""
        os.killpg(self.service.process.pid, signal.SIGKILL)
        self.service.process.wait()

    @property
    def url(self) -> str:
        return str(self.service.url)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fast_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def serve(services: ModuleType, orthanc: Any, bundle: Path) -> Iterator[Callable[..., Restartable]]:
    """Starts a server with its data in a folder."""
    started: list[Restartable] = []

    def start(folder: Path, *within: str) -> Restartable:
        port, studies, conf = services.free_port(), f"{orthanc.url}/dicom-web", (("bundle", str(bundle)),)
        started.append(Restartable(lambda: services.start_server(studies, folder, port=port, conf=conf, within=within)))
        return started[-1]

    yield start
    for one in started:
        one.service.stop()


@pytest.fixture(scope="module")
def server(serve: Callable[..., Restartable], tmp_path_factory: pytest.TempPathFactory) -> Restartable:
    return serve(tmp_path_factory.mktemp("server"))


@pytest.fixture
def look(browser: Any, study: Study) -> Iterator[Callable[[Any], Viewer]]:
    """Opens the study in a new window, with the result of a run and the brush at hand."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})

    def open_viewer(server: Any) -> Viewer:
        run = requests.post(
            f"{server.url}/infer/itermask3d",
            params={"image": study.series.series_uid, "output": "json"},
            data={"params": '{"brain_extraction": "none"}'},
            timeout=300,
        )
        assert run.ok, run.text
        viewer = Viewer(context.new_page(), server, study)
        viewer.card.locator(".itermask3d-status").filter(has_text="The mask is shown").wait_for()
        viewer.take_brush()
        return viewer

    yield open_viewer
    context.close()


def alert(viewer: Viewer, words: str) -> Any:
    """A sentence about a failure."""
    return viewer.card.get_by_role("alert").filter(has_text=words)


def test_a_killed_server_loses_neither_the_result_nor_the_drawing(
    server: Restartable, look: Callable[[Any], Viewer]
) -> None:
    viewer = look(server)
    verdict = viewer.card.locator(".itermask3d-verdict").inner_text()
    paint(viewer)
    server.kill()
    drawn = paint(viewer, at=0.55)
    alert(viewer, SILENT).wait_for()
    with viewer.page.expect_response(lambda one: one.request.method == "PUT" and one.ok, timeout=RUN_MS):
        server.start()
    alert(viewer, SILENT).wait_for(state="hidden")
    np.testing.assert_array_equal(viewer.draft() > 0, drawn)
    viewer.reload()
    assert viewer.card.locator(".itermask3d-verdict").inner_text() == verdict
    viewer.press("Restore it", until="Your drawing is back")
    np.testing.assert_array_equal(viewer.labelmap() > 0, drawn)


@contextmanager
def stalled(service: Any) -> Iterator[None]:
    """A program that is there and says nothing, as behind a network that fails."""
    service.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        service.process.send_signal(signal.SIGCONT)


def test_a_pacs_that_stalls_blocks_nothing_else_and_a_save_ends_when_it_is_back(
    server: Restartable, look: Callable[[Any], Viewer], orthanc: Any
) -> None:
    viewer = look(server)
    paint(viewer)
    said = viewer.card.locator(".itermask3d-status")
    with ThreadPoolExecutor() as pool:
        with stalled(orthanc):
            listed = pool.submit(requests.get, f"{server.url}/proxy/dicom/qido/studies", timeout=300)
            viewer.card.get_by_role("button", name="Save to PACS", exact=True).click()
            said.filter(has_text="Saving").wait_for()
            for path in ("/info/", "/itermask3d/status"):
                assert requests.get(server.url + path, timeout=60).ok
            assert not listed.done()
            assert said.filter(has_text="Saving").count()
        said.filter(has_text="Mask saved in the PACS as series").wait_for()
        assert listed.result().ok


def fill(folder: Path) -> Path:
    """A file that takes all that is left of a disk."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"\1" * 2**16)
    return filler


def test_a_full_disk_is_told_in_one_sentence_and_the_drawing_is_saved_once_there_is_room(
    serve: Callable[..., Restartable], look: Callable[[Any], Viewer], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size={SMALL_MB}m tmpfs "$0" && exec "$@"'
    server = serve(disk, *own_mounts(), "sh", "-c", mount, str(disk))
    viewer = look(server)
    drawn = paint(viewer)
    filler = fill(Path(f"/proc/{server.service.process.pid}/root{disk}"))
    viewer.card.get_by_role("button", name="Save to PACS", exact=True).click()
    alert(viewer, "the disk is full: the label was not saved").wait_for()
    viewer.shoot("full_disk")
    np.testing.assert_array_equal(viewer.labelmap() > 0, drawn)
    filler.unlink()
    viewer.press("Save to PACS", until="Mask saved in the PACS as series")
