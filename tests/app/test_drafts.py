"""A drawing that nobody saved outlives a reload: kept whole, given back as it was, gone once it is saved."""

from __future__ import annotations

import errno
import gzip
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

pytest.importorskip("monailabel")

DRAWN = bytes(range(5)) * 100


@pytest.fixture
def module(app_modules: None) -> ModuleType:
    return importlib.import_module("lib.drafts")


@pytest.fixture
def drafts(module: ModuleType, tmp_path: Path) -> Any:
    return module.Drafts(tmp_path / "drafts")


@pytest.fixture
def client(module: ModuleType, drafts: Any) -> TestClient:
    app, router = FastAPI(), APIRouter()
    module.add_draft_routes(router, drafts, [])
    app.include_router(router)
    return TestClient(app)


def put(client: TestClient, compressed: bytes, image: str = "1.2.3") -> Any:
    return client.put("/itermask3d/draft", params={"image": image}, files={"label": ("label.bin.gz", compressed)})


def test_a_draft_comes_back_byte_for_byte_with_its_time_until_it_is_dropped(client: TestClient) -> None:
    query = {"image": "1.2.3"}
    assert client.get("/itermask3d/draft", params=query).status_code == 204
    assert put(client, gzip.compress(b"older")).json()["voxels"] == 5
    assert put(client, gzip.compress(DRAWN)).json() == {"image": "1.2.3", "voxels": len(DRAWN)}
    answer = client.get("/itermask3d/draft", params=query)
    assert answer.content == DRAWN
    assert answer.headers["X-Kept"].endswith("+00:00")
    assert client.get("/itermask3d/draft", params={"image": "1.2.4"}).status_code == 204
    assert client.delete("/itermask3d/draft", params=query).status_code == 204
    assert client.get("/itermask3d/draft", params=query).status_code == 204


@pytest.mark.parametrize(
    "compressed", [b"", b"no gzip", gzip.compress(DRAWN)[:-12]], ids=["empty", "no gzip", "cut short"]
)
def test_what_cannot_be_read_is_refused_and_the_earlier_draft_stays(module, drafts, compressed: bytes) -> None:
    drafts.keep("scan", gzip.compress(DRAWN))
    with pytest.raises(module.RequestError, match="the draft") as refused:
        drafts.keep("scan", compressed)
    assert refused.value.status == 422
    assert gzip.decompress(drafts.find("scan")[0]) == DRAWN


def test_a_draft_that_holds_more_than_any_scan_is_refused(module, drafts, monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_VOXELS", len(DRAWN) - 1)
    with pytest.raises(module.RequestError, match="expected a mask of a scan"):
        drafts.keep("scan", gzip.compress(DRAWN))


def test_a_full_disk_is_a_sentence_and_the_earlier_draft_stays(module, drafts, monkeypatch) -> None:
    drafts.keep("scan", gzip.compress(DRAWN))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(module.RequestError, match="the disk is full: the draft"):
        drafts.keep("scan", gzip.compress(b"newer"))
    assert gzip.decompress(drafts.find("scan")[0]) == DRAWN
