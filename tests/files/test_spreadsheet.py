"""A spreadsheet shows what a cell says and runs none of it."""

from __future__ import annotations

import csv
from io import StringIO
from typing import Any

import numpy as np
import pytest
from itermask3d.files.spreadsheet import safe_cell, safe_row, unescape_cell

ACTIVE = ["=cmd|' /C calc'!A0", "=1+1", "+1+1", "-1+1", "-case", "@SUM(A1)", "|calc", "%0A", " =1", "\t=1", "\r=1",
          "\n=1", "＝1+1", "\ufeff=1", "-inf", "-1_000", "+nan", "=", "-", "'=1"]  # fmt: skip
PLAIN: list[Any] = ["sub-01", "a=b", "T1 + T2", "", "-1.5", "+2e-3", ".5", -1.5, 0, None, True, float("nan"), "mm²"]


@pytest.mark.parametrize("value", ACTIVE)
def test_active_text_becomes_plain_text(value: str) -> None:
    cell = safe_cell(value)
    assert cell.startswith("'")
    assert not {"\t", "\r", "\n"} & set(cell)


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_value_is_left_alone(value: Any) -> None:
    cell = safe_cell(value)
    assert type(cell) is type(value)
    assert cell == value or cell != cell


@pytest.mark.parametrize("value", [value for value in ACTIVE if not {"\t", "\r", "\n"} & set(value)])
def test_escape_can_be_taken_back(value: str) -> None:
    assert unescape_cell(safe_cell(value)) == value


def test_row_stays_a_row() -> None:
    row = safe_row({"case": "=1\n2\t3", "score": np.float32(-0.5), "volume_ml": 2.5})
    assert row == {"case": "'=1 2 3", "score": "-0.5", "volume_ml": 2.5}
    stream = StringIO()
    csv.writer(stream, delimiter="\t").writerow(safe_row(["a\tb", "@x"]))
    assert stream.getvalue() == "a b\t'@x\r\n"
