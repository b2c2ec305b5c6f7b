"""OHIF's way to the PACS, and its files: the query goes along, silence blocks nobody, nobody else is asked."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import requests

pytest.importorskip("monailabel")

from fastapi import FastAPI
from fastapi.testclient import TestClient

PATIENCE_S = 60
"""Only reached where a test fails."""


class Pacs:
    """Stands in for the session with a PACS: notes what is asked, and is silent while ``speak`` is not set."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.speak, self.heard = threading.Event(), threading.Semaphore(0)
        self.speak.set()
        self.trouble: Exception | None = None

    def request(self, method: str, url: str, **options: Any) -> Any:
        self.asked.append((method, url, options))
        self.heard.release()
        assert self.speak.wait(PATIENCE_S)
        if self.trouble:
            raise self.trouble
        return Answer(status_code=200, headers={"content-type": "application/json", "server": "x"}, raw=BytesIO(b"[]"))


class Answer(SimpleNamespace):
    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@pytest.fixture
def pacs() -> Pacs:
    return Pacs()


@pytest.fixture
def lib(app_modules: None) -> Callable[[str], ModuleType]:
    return lambda name: importlib.import_module(f"lib.{name}")


@pytest.fixture
def client(lib: Callable[[str], ModuleType], pacs: Pacs) -> Iterator[TestClient]:
    app = FastAPI(exception_handlers={lib("errors").RequestError: lib("guard").answer_error})
    proxy = lib("proxy").PacsProxy("http://pacs/dicom-web/", pacs)
    app.add_api_route("/proxy/dicom/{path:path}", proxy.__call__, methods=["GET", "POST"])
    app.add_api_route("/status", lambda: "alive")
    app.add_api_route("/ohif/{path:path}", lib("ohif").ohif_file)
    with TestClient(app) as open_client:
        yield open_client


def test_the_query_goes_along(client: TestClient, pacs: Pacs) -> None:
    answer = client.get("/proxy/dicom/qido/studies?StudyInstanceUID=1.2&includefield=a&includefield=b")
    assert (answer.status_code, answer.json(), answer.headers["content-type"]) == (200, [], "application/json")
    assert "server" not in answer.headers
    method, url, options = pacs.asked[0]
    assert (method, url) == ("GET", "http://pacs/dicom-web/studies")
    assert options["params"] == [("StudyInstanceUID", "1.2"), ("includefield", "a"), ("includefield", "b")]


def test_what_is_posted_goes_along(client: TestClient, pacs: Pacs) -> None:
    client.post("/proxy/dicom/stow/studies", content=b"abc", headers={"content-type": "multipart/related"})
    method, _, options = pacs.asked[0]
    assert (method, options["data"], options["headers"]["content-type"]) == ("POST", b"abc", "multipart/related")


@pytest.mark.parametrize("path", ["qido/%2e%2e/instances", "wado/a/%2e%2e/%2e%2e/%2e%2e/system"])
def test_nothing_but_dicomweb_is_asked(client: TestClient, pacs: Pacs, path: str) -> None:
    assert client.get(f"/proxy/dicom/{path}").status_code == 404
    assert not pacs.asked


@pytest.mark.parametrize("trouble", [requests.ConnectionError("gone"), requests.ReadTimeout("silent")])
def test_a_dead_pacs_is_a_sentence(client: TestClient, pacs: Pacs, trouble: Exception) -> None:
    pacs.trouble = trouble
    answer = client.get("/proxy/dicom/qido/studies")
    assert answer.status_code == 503
    assert "the PACS does not answer" in answer.json()["detail"]


def test_a_silent_pacs_blocks_nobody_else(client: TestClient, lib: Callable[[str], ModuleType], pacs: Pacs) -> None:
    at_once = lib("proxy").AT_ONCE
    pacs.speak.clear()
    with ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(client.get, "/proxy/dicom/qido/studies") for _ in range(50)]
        for _ in range(at_once):
            assert pacs.heard.acquire(timeout=PATIENCE_S)
        assert client.get("/status").json() == "alive"
        assert len(pacs.asked) == at_once
        pacs.speak.set()
        assert {one.result(PATIENCE_S).status_code for one in waiting} == {200}


def test_a_folder_has_no_pacs(lib: Callable[[str], ModuleType]) -> None:
    app = FastAPI(exception_handlers={lib("errors").RequestError: lib("guard").answer_error})
    app.add_api_route("/proxy/dicom/{path:path}", lib("proxy").PacsProxy("").__call__)
    assert TestClient(app).get("/proxy/dicom/qido/studies").status_code == 404


@pytest.mark.parametrize("path", ["", "viewer?StudyInstanceUIDs=1.2", "index.html", "app.bundle.css"])
def test_ohif_asks_no_other_host(client: TestClient, path: str) -> None:
    answer = client.get(f"/ohif/{path}")
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "fonts.g" not in answer.text
    assert "OHIF Viewer" in answer.text or path.endswith("css")
    assert answer.headers["content-type"].startswith("text/css" if path.endswith("css") else "text/html")


def test_ohif_gives_no_other_file(client: TestClient) -> None:
    assert client.get("/ohif/%2e%2e/%2e%2e/ohif.py").status_code == 404


@pytest.mark.parametrize("name", ["app-config.js", "es6-shim.min.js"])
def test_other_files_of_ohif_are_as_shipped(client: TestClient, lib: Callable[[str], ModuleType], name: str) -> None:
    assert client.get(f"/ohif/{name}").content == (lib("ohif").FOLDER / name).read_bytes()
