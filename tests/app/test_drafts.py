"""A drawing that nobody saved outlives a reload: kept whole, given back as it was, gone once it is saved."""

from __future__ import annotations

import errno
import gzip
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

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


def number(value: int) -> bytes:
    """Seven bits a byte, the lowest first, as the panel writes them."""
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + number(rest) if rest else bytes([low])


def runs(drawing: bytes) -> bytes:
    """A drawing as the panel sends it."""
    before = np.frombuffer(bytes(1) + drawing[:-1], np.uint8)
    places = np.flatnonzero(np.frombuffer(drawing, np.uint8) != before)
    gaps = np.diff(places, prepend=0)
    numbers = [len(drawing), len(places)]
    for place, gap in zip(places, gaps, strict=True):
        numbers += [int(gap), drawing[place]]
    return b"".join(number(one) for one in numbers)


def put(client: TestClient, drawing: bytes, **moment: Any) -> Any:
    query = {"image": "1.2.3", **moment}
    return client.put("/itermask3d/draft", params=query, files={"label": ("label.runs", runs(drawing))})


def kept(drafts: Any, image: str = "scan") -> bytes:
    return gzip.decompress(drafts.find(image)[0])


def test_a_draft_comes_back_byte_for_byte_with_its_time_until_it_is_dropped(client: TestClient) -> None:
    query = {"image": "1.2.3"}
    assert client.get("/itermask3d/draft", params=query).status_code == 204
    assert put(client, b"older").json()["voxels"] == 5
    assert put(client, DRAWN).json() == {"image": "1.2.3", "voxels": len(DRAWN)}
    answer = client.get("/itermask3d/draft", params=query)
    assert answer.content == DRAWN
    assert answer.headers["X-Kept"].endswith("+00:00")
    assert client.get("/itermask3d/draft", params={"image": "1.2.4"}).status_code == 204
    assert client.delete("/itermask3d/draft", params=query).status_code == 204
    assert client.get("/itermask3d/draft", params=query).status_code == 204


@given(pieces=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40000)), min_size=1, max_size=12))
def test_every_drawing_comes_back(app_modules: None, tmp_path_factory, pieces: list[tuple[int, int]]) -> None:
    drawing = b"".join(bytes([value]) * length for value, length in pieces)
    drafts = importlib.import_module("lib.drafts").Drafts(tmp_path_factory.mktemp("drafts"))
    assert drafts.keep("scan", runs(drawing)) == len(drawing)
    assert kept(drafts) == drawing


def test_of_two_that_a_page_sent_the_later_counts_in_whatever_order_they_arrive(client: TestClient) -> None:
    query = {"image": "1.2.3"}
    put(client, b"later", page="one", step=3)
    put(client, b"earlier", page="one", step=2)
    client.delete("/itermask3d/draft", params={**query, "page": "one", "step": 1})
    assert client.get("/itermask3d/draft", params=query).content == b"later"
    put(client, b"of another page", page="two", step=1)
    assert client.get("/itermask3d/draft", params=query).content == b"of another page"
    client.delete("/itermask3d/draft", params={**query, "page": "two", "step": 3})
    put(client, b"before it was dropped", page="two", step=2)
    assert client.get("/itermask3d/draft", params=query).status_code == 204


REFUSED = {
    "empty": b"",
    "cut within a number": runs(DRAWN) + b"\x80",
    "cut between runs": runs(DRAWN)[:-2],
    "more than it says": runs(DRAWN) + b"\x01\x01",
    "beyond the end": bytes([5, 1, 5, 1]),
    "two at one place": bytes([5, 2, 1, 1, 0, 2]),
    "no voxel's value": bytes([5, 1, 1, 128, 2]),
    "a number without end": b"\xff" * 9 + b"\x01",
    "gzip": gzip.compress(DRAWN, mtime=0),
}


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_and_the_earlier_draft_stays(module, drafts, sent: bytes) -> None:
    drafts.keep("scan", runs(DRAWN))
    with pytest.raises(module.RequestError, match="the draft") as refused:
        drafts.keep("scan", sent)
    assert refused.value.status == 422
    assert kept(drafts) == DRAWN


def test_a_draft_that_holds_more_than_any_scan_is_refused(module, drafts) -> None:
    with pytest.raises(module.RequestError, match="expected a mask of a scan"):
        drafts.keep("scan", number(module.MAX_VOXELS + 1) + b"\x00")


def test_a_full_disk_is_a_sentence_and_the_earlier_draft_stays(module, drafts, monkeypatch) -> None:
    drafts.keep("scan", runs(DRAWN))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(module.RequestError, match="the disk is full: the draft"):
        drafts.keep("scan", runs(b"newer"))
    assert kept(drafts) == DRAWN
