"""What a person changed, how far from it an answer may change, and what it changed."""

from __future__ import annotations

import importlib
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("monailabel")

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


@pytest.fixture
def local(app_modules: None) -> ModuleType:
    return importlib.import_module("lib.local")


def mask(*places: tuple[int, int, int]) -> np.ndarray:
    made = np.zeros((40, 20, 14), dtype=bool)
    for place in places:
        made[place] = True
    return made


def test_an_untouched_mask_is_no_edit_and_has_no_zone(local: ModuleType) -> None:
    edit = local.Edit(mask((1, 1, 1)), mask((1, 1, 1)), mask(), mask())
    assert not edit.voxels.any()
    assert not edit.zone(AFFINE).any()


@pytest.mark.parametrize("kind", ["drawn", "erased", "suspicious", "normal"])
def test_the_zone_is_a_ball_in_millimetres_around_any_edit(local: ModuleType, kind: str) -> None:
    spot = mask((20, 10, 7))
    said = {
        "drawn": (mask(), spot, mask(), mask()),
        "erased": (spot, mask(), mask(), mask()),
        "suspicious": (mask(), mask(), spot, mask()),
        "normal": (mask(), mask(), mask(), spot),
    }
    zone = local.Edit(*said[kind]).zone(AFFINE)
    apart_mm = np.linalg.norm((np.argwhere(np.ones_like(zone)) - [20, 10, 7]) * [1, 2, 3], axis=1).reshape(zone.shape)
    np.testing.assert_array_equal(zone, apart_mm <= local.LOCAL_MM)


def test_a_change_is_told_in_millilitres(local: ModuleType) -> None:
    previous, drawn = mask((0, 0, 0), (1, 0, 0)), mask((0, 0, 0), (5, 5, 5), (6, 5, 5))
    change = local.Edit(previous, drawn, mask(), mask()).change_ml(mask((0, 0, 0), (5, 5, 5), (9, 9, 9)), AFFINE)
    assert change == {"added_ml": 0.012, "removed_ml": 0.006, "drawn_ml": 0.012, "kept_ml": 0.006}


def test_the_maps_outside_the_zone_are_the_earlier_ones(local: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "replace", lambda result, **changes: SimpleNamespace(**changes))
    new, zone = np.full((40, 20, 14), 5, dtype=np.float32), mask((3, 3, 3))
    result = SimpleNamespace(anomaly_map=new, evidence_maps={"reconstruction_error": 2 * new, "tissue_deviation": -new})
    earlier = {"anomaly_map": np.ones_like(new), "reconstruction_error": np.ones_like(new), "tissue_deviation": None}
    mixed = local.with_maps_of(result, earlier, zone)
    assert (mixed.anomaly_map[3, 3, 3], mixed.anomaly_map.sum()) == (5, new.size + 4)
    assert mixed.evidence_maps["reconstruction_error"].sum() == new.size + 9
    assert mixed.evidence_maps["tissue_deviation"] is result.evidence_maps["tissue_deviation"]
    assert local.with_maps_of(result, {}, zone).anomaly_map is new
