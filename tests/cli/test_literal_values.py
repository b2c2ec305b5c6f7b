"""No value of a command line, a list or a folder's name is ever evaluated, whatever verb it is given to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import run_command
from itermask3d.files.scans import list_scans

HOSTILE = ("$open('PWNED','w').name", "@network", "%train.json::seed")
COMMANDS = (
    "segment VALUE out",
    "segment list.txt VALUE",
    "segment list.json out",
    "segment list.txt out --weights VALUE",
    "segment list.txt out --brain-masks VALUE",
    "segment list.txt out --bundle VALUE",
    "segment list.txt out --model VALUE",
    "segment list.txt out --brain-extraction VALUE",
    "screen VALUE out",
    "screen list.txt out --weights VALUE",
    "screen list.txt out --model VALUE",
    "screen list.txt out --brain-masks VALUE",
    "screen list.txt out --title VALUE --suffix VALUE --weights VALUE",
    "report VALUE",
    "report out --scan VALUE",
    "train VALUE out",
    "train list.txt VALUE --check-only",
    "train list.txt out --split-file VALUE --check-only",
    "calibrate VALUE",
    "evaluate VALUE out",
    "evaluate list.json out --bundle VALUE",
    "info --bundle VALUE",
)


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("command", COMMANDS)
def test_value_is_text(command, value, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text(f"{value}\n")
    (tmp_path / "list.json").write_text(json.dumps([{"image": value, "case": value.replace("/", "-")}]))
    words = [value if word == "VALUE" else word for word in command.split()]
    status, printed = run_command(monkeypatch, capsys, *words)
    assert status != 0
    assert "Traceback" not in printed
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.parametrize("value", HOSTILE)
def test_entry_of_a_list_is_a_path(value, tmp_path):
    (tmp_path / "list.txt").write_text(f"{value}\n")
    (tmp_path / "list.json").write_text(json.dumps([value]))
    for name in ("list.txt", "list.json"):
        assert [item["image"] for item in list_scans(tmp_path / name)] == [str(tmp_path / value)]
    assert not Path("PWNED").exists()
