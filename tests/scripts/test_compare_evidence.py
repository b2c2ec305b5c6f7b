"""The script that compares kinds of evidence: its arithmetic, and a run on a phantom."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import SCRIPTS, load_script

RULES = ("bright", "fused")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return load_script("compare_evidence")


def measured(item: dict) -> dict:
    """A normal brain of 0 to 999, or a lesion of 100 voxels that only the fused map sees."""
    values = np.arange(1000.0)
    if "label" not in item:
        return {"maps": dict.fromkeys(RULES, values), "own": values > 989, "label": None, "kind": "flair"}
    label = values < 100
    return {
        "maps": {"bright": values, "fused": np.where(label, 5000.0, 0.0)},
        "own": label,
        "label": label,
        "kind": "flair",
    }


def test_thresholds_come_from_normal_scans_of_the_contrast_alone(script):
    normals = [{"case": "n", "contrast": "FLAIR"}]
    cases = [{"case": name, "contrast": name, "label": "there"} for name in ("FLAIR", "T2")]
    found = script.compare(measured, normals, cases, 0.8)
    assert found["thresholds"] == {"FLAIR": {"bright": 899.0, "fused": 899.0}}
    assert [row["case"] for row in found["cases"]] == ["FLAIR"]
    told = found["cases"][0]
    assert {rule: told["dice"][rule] for rule in (*RULES, "own")} == {"bright": 0.0, "fused": 1.0, "own": 1.0}
    assert (told["label_ml"], told["false_ml"]) == (pytest.approx(0.8), 0)
    assert found["flagged"] == [{"case": "n", "contrast": "FLAIR", "told": "flair", "own_ml": pytest.approx(0.08)}]
    assert "| FLAIR | FLAIR | flair | 0.8 | 0.00 | 1.00 | 1.00 |" in script.page(found)
    json.dumps(found)


def test_two_empty_masks_agree_and_one_does_not(script):
    nothing, all_ = np.zeros(4, dtype=bool), np.ones(4, dtype=bool)
    assert script.dice(nothing, nothing) == 1
    assert script.dice(nothing, all_) == 0
    assert script.dice(all_, all_) == 1
