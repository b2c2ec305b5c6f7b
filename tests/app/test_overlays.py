"""What a viewer lays over the scan: the map in steps of the threshold, the expected scan in the scan's own unit."""

from __future__ import annotations

import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient

pytest.importorskip("monailabel")

MAP = np.zeros((2, 3, 4), dtype=np.float32)
MAP[0, 1, 2], MAP[1, 0, 0], MAP[1, 2, 3] = 0.5, 1.0, 20.0
SCAN = np.arange(24, dtype=np.float32).reshape(2, 3, 4) * 40.25


@pytest.fixture
def module(app_modules: None) -> ModuleType:
    return importlib.import_module("lib.overlays")


def test_the_threshold_is_a_fixed_step_and_what_is_far_above_saturates(module: ModuleType) -> None:
    heat = module.as_heat(MAP, 0.5)
    assert heat.dtype == np.uint8
    assert [heat[0, 1, 2], heat[1, 0, 0], heat[1, 2, 3], heat[0, 0, 0]] == [32, 64, 255, 0]


def test_without_a_threshold_strengths_are_relative_and_an_empty_map_stays_empty(module: ModuleType) -> None:
    heat = module.as_heat(MAP, None)
    assert heat[1, 2, 3] >= 128 > heat[1, 0, 0] > 0
    assert not module.as_heat(np.zeros_like(MAP), None).any()


@pytest.mark.parametrize(("scale", "kind"), [(1, "int16"), (0.01, "float32"), (1000, "float32")])
def test_the_expected_scan_keeps_its_unit_within_half_a_step(module: ModuleType, scale: float, kind: str) -> None:
    sent = module.as_expected(SCAN * scale)
    assert sent.dtype == kind
    np.testing.assert_allclose(sent, SCAN * scale, atol=0.5, rtol=1e-6)


def test_the_deviation_keeps_its_sign_in_hundredths_and_does_not_wrap(module: ModuleType) -> None:
    sent = module.as_deviation(np.array([-1.234, 0.0, 2.0, 1e6, -1e6]))
    assert sent.dtype == np.int16
    assert sent.tolist() == [-123, 0, 200, 32767, -32768]


def asked(module: ModuleType, threshold: float | None, query: dict[str, str]) -> Any:
    volumes = {"anomaly_map": MAP, "reconstruction": SCAN, "mask": MAP > 1}
    tissues = {"tissue_deviation": 2 - MAP, "reconstruction_error": 2 * MAP}
    known = SimpleNamespace(
        volume=lambda image, name: {"scan": volumes | tissues, "without": volumes}.get(image, {}).get(name),
        params=lambda image: {"threshold": threshold},
    )
    app, router = FastAPI(), APIRouter()
    module.add_overlay_route(router, known, [])
    app.include_router(router)
    app.add_exception_handler(module.RequestError, lambda _, error: PlainTextResponse(error.message, error.status))
    return TestClient(app).get("/itermask3d/overlay", params=query)


def test_voxels_arrive_first_axis_fastest_with_their_type(module: ModuleType) -> None:
    answer = asked(module, 0.5, {"image": "scan", "name": "expected"})
    assert answer.headers["X-Voxels"] == "int16"
    voxels = np.frombuffer(answer.content, np.int16).reshape(SCAN.shape, order="F")
    np.testing.assert_array_equal(voxels, module.as_expected(SCAN))
    assert asked(module, 0.5, {"image": "scan", "name": "map"}).headers["X-Relative"] == "no"
    assert asked(module, None, {"image": "scan", "name": "map"}).headers["X-Relative"] == "yes"


def test_each_kind_of_evidence_is_sent_where_the_result_has_it(module: ModuleType) -> None:
    error, deviation = (asked(module, 0.5, {"image": "scan", "name": name}) for name in ("error", "deviation"))
    assert (error.headers["X-Voxels"], deviation.headers["X-Voxels"]) == ("uint8", "int16")
    sent = np.frombuffer(error.content, np.uint8).reshape(MAP.shape, order="F")
    np.testing.assert_array_equal(sent, module.as_heat(2 * MAP, None), "the threshold is of the map, not of its parts")
    shown = np.frombuffer(deviation.content, np.int16).reshape(MAP.shape, order="F")
    np.testing.assert_array_equal(shown, np.rint(100 * (2 - MAP)))
    lacking = asked(module, 0.5, {"image": "without", "name": "error"})
    assert (lacking.status_code, "one kind of evidence" in lacking.text) == (404, True)


@pytest.mark.parametrize(
    ("query", "status"), [({"image": "scan", "name": "x"}, 422), ({"image": "y", "name": "map"}, 404)]
)
def test_what_is_not_there_is_refused(module: ModuleType, query: dict[str, str], status: int) -> None:
    assert asked(module, 0.5, query).status_code == status
