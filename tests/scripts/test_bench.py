"""The benchmark's quick form: every variant gives one answer. No times."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def bench():
    """The script's names; the folder of the scripts is on the path only while they are read."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        return runpy.run_path(str(SCRIPTS / "bench.py"))
    finally:
        sys.path.remove(str(SCRIPTS))


def test_variants_agree_on_a_small_scan(bench, tmp_path):
    bench["quick"](None, tmp_path / "bench")
    rows = json.loads((tmp_path / "bench.json").read_text())["quick"]
    assert {row["variant"] for row in rows} == set(bench["VARIANTS"])
    assert all(row["flagged_share"] > 0 for row in rows)


def test_report_fills_its_blocks_only(bench, tmp_path):
    page = "a\n<!-- pass_2mm -->\nold\n<!-- /pass_2mm -->\nb\n<!-- scan -->\nkept\n<!-- /scan -->\n"
    (tmp_path / "benchmarks.md").write_text(page)
    bench["write_report"]({"pass_2mm": {"plain": 2.0, "fused": 1.0}, "note": "x"}, tmp_path)
    written = (tmp_path / "benchmarks.md").read_text()
    assert "| fused | 1.00 | 2.0 |" in written
    assert "old" not in written
    assert written.endswith("b\n<!-- scan -->\nkept\n<!-- /scan -->\n")


def test_floor_counts_fewer_operations_in_each_form(bench):
    network = bench["shipped_network"]()
    image, brain = bench["ball_scan"](64)
    floor = bench["floor"](network, bench["network_inputs"](image, 2.0), brain, rounds=1)
    plain, whole, needed = floor["gflop"].values()
    assert plain > 1.5 * whole
    assert whole > needed > 0
    assert set(floor["gflop_per_second"]) == set(floor["seconds"]) == {"float32", "bfloat16"}
    assert "bfloat16: floor of a pass" in bench["write_report"].__globals__["floor_table"](floor)


def test_predicted_variance_is_scaled_to_the_finer_grid(bench):
    network = bench["shipped_network"]()
    image, brain = bench["ball_scan"](32)
    typical = bench["typical_error"](network, image, brain, 2.0)
    bench["scale_variance"](network, 3.0)
    assert bench["typical_error"](network, image, brain, 2.0) == pytest.approx(typical / 3.0, rel=1e-3)
