"""How configs are written: they hold values, and Python holds the arithmetic."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    path
    for folder in ("bundle/configs", "configs")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".json", ".yaml") and path.name != "metadata.json"
)
ARITHMETIC = (ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult)


def expressions(value: Any) -> Iterator[str]:
    """Every Python expression of a config, without its mark."""
    if isinstance(value, dict):
        for item in value.values():
            yield from expressions(item)
    elif isinstance(value, list):
        for item in value:
            yield from expressions(item)
    elif isinstance(value, str) and value.startswith("$") and not value.startswith("$import"):
        yield re.sub(r"@([\w:]+)", lambda found: found.group(1).replace("::", "__"), value[1:])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_expressions_compute_nothing_and_choose_nothing(path: Path) -> None:
    for expression in expressions(ConfigParser.load_config_file(path)):
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
        assert not [node for node in nodes if isinstance(node, ast.Lambda)], f"{expression}: a lambda"
        assert not [node for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ARITHMETIC)], (
            expression
        )
        chosen = [node for node in nodes if isinstance(node, ast.IfExp)]
        assert not chosen or "cuda.is_available" in expression, f"{expression}: a choice, which belongs into Python"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_no_handler_is_addressed_by_its_position(path: Path) -> None:
    found = re.findall(r"[\w:]*handlers::\d+[\w:]*", path.read_text(encoding="utf-8"))
    assert not found, f"{path.name} counts handlers: {', '.join(found)}; give train.json a name for the value"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_an_expression_has_a_line_of_its_own_save_in_a_list(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    crowded = [
        line.strip() for line in lines if line.count('"$') > 1 and not re.fullmatch(r'\s*"[^"]+": \[.*\],?', line)
    ]
    assert not crowded


def test_bundle_configs_are_json_because_monai_loads_them_by_that_name() -> None:
    assert {path.suffix for path in CONFIGS if path.parent == ROOT / "bundle" / "configs"} == {".json"}
