"""The page of misses: the worst lesions first, the normal scans with most flagged, and a picture of them."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "show_misses.py"
SHAPE = (10, 12, 8)


def _record(case: str, kind: str, dice: float | None, flagged_ml: float) -> dict:
    return {"case": case, "site": "a", "method": "loop", "kind": kind, "dice": dice, "flagged_ml": flagged_ml}


def _ranking(case: str, label_ml: float) -> dict:
    ranked = {"case": case, "method": "loop", "kind": "field: dark", "label_ml": label_ml}
    return {**ranked, "average_precision": 0.5, "reconstructed_share": 0.25}


@pytest.fixture
def judged(tmp_path):
    """Two normal scans, one of them flagged, and three lesions, one of them small."""
    cache, folder = tmp_path / "cache", tmp_path / "judge"
    brain = np.zeros(SHAPE, dtype=bool)
    brain[2:8, 2:10, 1:7] = True
    truth = np.zeros(SHAPE, dtype=bool)
    truth[3:5, 4:6, 3:5] = True
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32) * brain
    for part in ("prepared", "lesioned", "maps/loop-1"):
        (cache / part).mkdir(parents=True)
    cases = ["a__s1", "a__s2", "a__s1__field0", "a__s2__field0", "a__s2__field1"]
    for case in cases:
        if case.count("__") == 1:
            np.savez(cache / "prepared" / f"{case}.npz", image=image, brain=brain)
        else:
            np.savez(cache / "lesioned" / f"{case}.npz", image=image - truth, truth=truth)
        seen = {"mask": truth[brain], "anomaly_map": image[brain] ** 2, "reconstruction": image[brain]}
        np.savez(cache / "maps/loop-1" / f"{case}.npz", **seen)
    records = [
        _record("a__s1", "normal", None, 0.0),
        _record("a__s2", "normal", None, 3.5),
        _record("a__s1__field0", "field: dark", 0.7, 20.0),
        _record("a__s2__field0", "field: dark", 0.2, 5.0),
        _record("a__s2__field1", "field: dark", 0.0, 0.0),
    ]
    rankings = [_ranking("a__s1__field0", 20.0), _ranking("a__s2__field0", 15.0), _ranking("a__s2__field1", 2.0)]
    folder.mkdir()
    about = {"weights": "model.pt", "weights_sha256": "0", "seed": 0}
    (folder / "results.json").write_text(json.dumps({"about": about, "records": records, "rankings": rankings}))
    return folder, cache


def _call(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_worst_lesions_come_first_and_small_ones_are_left_out(monkeypatch, judged, tmp_path):
    page = tmp_path / "out" / "misses.md"
    _call(monkeypatch, *judged, "--write", page)
    rows = [line.split(" | ")[0] for line in page.read_text().splitlines() if line.startswith("| a__")]
    assert rows == ["| a__s2__field0", "| a__s1__field0"]
    assert "- a__s2: 3.5 ml" in page.read_text()
    assert "a__s1: " not in page.read_text()
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_cache_without_maps_is_refused(monkeypatch, judged, tmp_path):
    with pytest.raises(SystemExit, match="holds no maps of 'single-pass'"):
        _call(monkeypatch, *judged, "--method", "single-pass", "--write", tmp_path / "misses.md")
