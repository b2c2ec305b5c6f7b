"""The list of a PACS: one question for all series, a look at a study only when it is needed, and no waiting."""

from __future__ import annotations

import importlib
import threading
from collections import Counter
from types import ModuleType
from typing import Any

import pytest
import requests

pytest.importorskip("monailabel")

from pydicom.dataset import Dataset

N_STUDIES, PATIENCE_S = 300, 60


def header(study: int, place: int | None = None, description: str = "T1 MPRAGE") -> Dataset:
    data = Dataset()
    data.Modality, data.SOPClassUID = "MR", "1.2.840.10008.5.1.4.1.1.4"
    data.StudyInstanceUID, data.SeriesInstanceUID = f"1.{study}", f"1.{study}.1"
    data.SeriesDescription, data.NumberOfSeriesRelatedInstances = description, 30
    if place is not None:
        data.SOPInstanceUID, data.FrameOfReferenceUID = f"1.{study}.1.{place}", "1.9"
        data.Rows, data.Columns, data.PixelSpacing = 8, 8, [1, 1]
        data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, place]
    return data


class Client:
    """A DICOMweb client that counts what it is asked, and is silent while ``speak`` is not set."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.speak = threading.Event()
        self.speak.set()
        self.trouble: Exception | None = None
        self.descriptions = {7: "T2 FLAIR"}

    def search_for_series(self, study_instance_uid: str = "", search_filters: Any = None) -> list[dict[str, Any]]:
        kind = "study" if study_instance_uid else "all"
        self.asked[kind] += 1
        assert self.speak.wait(PATIENCE_S)
        if self.trouble:
            raise self.trouble
        wanted = study_instance_uid or ".".join((search_filters or {}).get("SeriesInstanceUID", "").split(".")[:2])
        found = [header(number, description=self.descriptions.get(number, "T1 MPRAGE")) for number in range(N_STUDIES)]
        return [one.to_json_dict() for one in found if not wanted or one.StudyInstanceUID == wanted]

    def search_for_instances(self, study: str, series: str, limit: int | None = None) -> list[dict[str, Any]]:
        self.asked["instances"] += 1
        return [header(int(study.split(".")[1]), 0).to_json_dict()]

    def retrieve_instance_metadata(self, study: str, series: str, instance: str) -> dict[str, Any]:
        return header(int(study.split(".")[1]), 0).to_json_dict()

    def retrieve_series_metadata(self, study: str, series: str) -> list[dict[str, Any]]:
        self.asked["headers"] += 1
        return [header(int(study.split(".")[1]), place).to_json_dict() for place in range(30)]


@pytest.fixture
def lib(app_modules: None) -> ModuleType:
    return importlib.import_module("lib.listing")


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def listing(lib: ModuleType, client: Client) -> Any:
    return lib.Listing(client)


def test_all_series_are_listed_with_one_question(listing: Any, client: Client) -> None:
    assert len(listing.offered()) == N_STUDIES - 1
    assert "1.7.1" not in listing.offered()
    assert client.asked == {"all": 2}


def test_a_study_is_looked_at_when_it_is_opened_and_once(listing: Any, client: Client) -> None:
    for _ in range(3):
        assert [series.slices for series in listing.study("1.5")] == [30]
    assert client.asked["headers"] == 1
    assert listing.find("1.5.1").slices == 30
    assert client.asked["all"] == 0


def test_a_series_is_found_without_a_list(listing: Any, client: Client) -> None:
    assert listing.find("1.9.1").slices == 30
    assert (client.asked["headers"], client.asked["instances"]) == (1, 1)
    assert listing.find("9.9.9") is None


def test_counts_do_not_wait_for_a_silent_pacs(lib: ModuleType, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    listing = lib.Listing(client, clock=lambda: now[0])
    monkeypatch.setattr(lib, "FIRST_WAIT_S", PATIENCE_S)
    monkeypatch.setattr(lib, "WAIT_S", 0.0)
    assert len(listing.counted()) == N_STUDIES
    assert len(listing.counted()) == N_STUDIES
    assert client.asked["all"] == 1
    client.speak.clear()
    now[0] += 60
    for _ in range(5):
        assert len(listing.counted()) == N_STUDIES
    assert client.asked["all"] == 2
    client.speak.set()


def test_a_dead_pacs_leaves_the_list_of_before(lib: ModuleType, client: Client) -> None:
    listing = lib.Listing(client)
    listing.listed()
    client.trouble = requests.ConnectionError("gone")
    assert len(listing.counted()) == N_STUDIES
    with pytest.raises(importlib.import_module("lib.errors").RequestError, match="does not answer"):
        listing.offered()
    with pytest.raises(importlib.import_module("lib.errors").RequestError, match="does not describe"):
        listing.study("1.5")
