"""The pages of the reference, held against what the program has: options with their defaults, fields, statuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from itermask3d.cli.app import app
from itermask3d.inference.results import ScanResult
from itermask3d.method.settings import RefinementSettings
from screening_helpers import findings
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "reference"
CONFIG = json.loads((ROOT / "bundle/configs/inference.json").read_text(encoding="utf-8"))
PUBLISHED = yaml.safe_load((ROOT / "configs/reference_inference.yaml").read_text(encoding="utf-8"))
OF_AGNOSTIC = re.compile(r" \(`agnostic`: ([^)]*)\)")


def rows(page: Path, heading: str) -> list[list[str]]:
    """Cells of the table under a heading."""
    section = page.read_text(encoding="utf-8").split(f"{heading}\n")[1].split("\n#")[0]
    table = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return [row for row in table[1:] if not row[0].startswith("--")]


def names(cell: str) -> list[str]:
    return re.findall(r"`([\w_]+)`", cell)


def values(cell: str, count: int) -> list[Any]:
    """What a cell says of so many names: numbers, truths, words and ``None``; one value holds for all."""
    told = [part.strip("` ") for part in cell.split(", ")]
    found = [None if part == "none" else yaml.safe_load(part) for part in told]
    return found * count if len(found) == 1 else found


@pytest.mark.parametrize("row", rows(PAGES / "options.md", "## Settings of the loop"), ids=lambda row: row[0])
def test_settings_have_the_values_that_their_table_tells(row: list[str]) -> None:
    told, shipped, published = names(row[0]), row[1], row[2]
    default, own = RefinementSettings(), CONFIG["models"]["settings"]["agnostic"]
    agnostic = OF_AGNOSTIC.search(shipped)
    first = values(OF_AGNOSTIC.sub("", shipped), len(told))
    second = values(agnostic[1], len(told)) if agnostic else first
    for name, value, other in zip(told, first, second, strict=True):
        assert value == CONFIG["settings"].get(name, getattr(default, name)), name
        assert other == own.get(name, value), f"{name} of the second model"
    if published != "–":
        for name, value in zip(told, values(published, len(told)), strict=True):
            assert value == PUBLISHED.get(f"settings::{name}", getattr(default, name)), f"{name} as published"


def test_every_setting_of_the_config_is_in_the_table() -> None:
    told = {name for row in rows(PAGES / "options.md", "## Settings of the loop") for name in names(row[0])}
    assert set(CONFIG["settings"]) - {"_target_"} <= told


def test_options_have_the_defaults_that_their_table_tells() -> None:
    for row in rows(PAGES / "options.md", "# Options of inference"):
        told, shipped = names(row[0]), row[1]
        assert all(name in CONFIG for name in told), told
        if shipped not in ("–", "of the model"):
            for name, value in zip(told, values(shipped, len(told)), strict=True):
                given = CONFIG[name]
                assert value == ("×".join(map(str, given)) if isinstance(given, list) else given), name


def test_result_json_has_the_fields_that_its_table_tells() -> None:
    cube = np.ones((2, 2, 2), dtype=bool)
    grey = cube.astype(np.float32)
    result = ScanResult("a", "/a.nii", findings(0.5, True), grey, cube, grey, grey, cube, np.eye(4), {}, {})
    told = {name for row in rows(PAGES / "results.md", "### `result.json`") for name in names(row[0])}
    assert told == set(result.to_json())


def test_every_exit_status_of_a_verb_is_in_the_table() -> None:
    told = {int(row[0]) for row in rows(ROOT / "docs" / "how-to" / "segment.md", "### Exit statuses")}
    verbs = get_command(app).commands.values()  # type: ignore[attr-defined]
    helped = " ".join(f"{verb.help} {verb.epilog}".split("Exit status:", 1)[-1] for verb in verbs)
    found = {int(number) for number in re.findall(r"\b(\d{1,3}) [a-z]", helped)}
    assert found
    assert found <= told
