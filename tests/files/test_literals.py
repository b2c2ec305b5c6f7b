"""Nothing that comes from outside is evaluated, replaced or changed by MONAI's config parser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import itermask3d
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from itermask3d.files.literal_workflow import LITERAL_IDS, LiteralWorkflow
from itermask3d.files.literals import as_literal, as_literals
from monai.bundle import ConfigParser, ConfigWorkflow

HOSTILE = [
    "$open('PWNED', 'w').name",
    "$__import__('os').system('touch PWNED')",
    "$import os",
    "$from os import system",
    "$@other",
    "@other",
    "@other::0",
    "@missing",
    "@::sibling",
    "@##other",
    "%other",
    "%configs/other.json::key",
    "%::other",
    "/data/a#b/c#1.nii.gz",
    "a@::other b",
    "/data/@other/scan.nii",
    "/data/$HOME/scan.nii",
    "100%",
    "'quoted' \"twice\" \\back\\x24slash\n\ttab",
    "Müller 山田 🧠",
    os.fsdecode(b"latin-\xfc.nii"),
    "plain/path with space.nii.gz",
    "import os",
    "",
    "__local_refs['other']",
]
NESTED: list[Any] = [
    ["$1/0", "@other", ["%other"]],
    {"image": "$1/0", "case": "@other"},
    {"_target_": "os.system", "command": "touch PWNED"},
    {"a": {"_target_": "os.getcwd"}, "b": [{"_target_": "os.getcwd", "_disabled_": True}]},
    {"_mode_": "debug", "$1/0": 1, "a::b": 2, "+c": [1, None, True, 1.5, float("inf")], "#": {}},
]


def resolved(value: Any, id: str = "value") -> Any:
    config = {"other": ["secret"], "value": value, "used": {"deep": ["@value", {"x": "@value"}]}, "made": {
        "_target_": "builtins.dict", "given": "@value"}}  # fmt: skip
    parser = ConfigParser(config)
    parser.parse()
    return parser.get_parsed_content(id)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("value", [*HOSTILE, *NESTED], ids=repr)
def test_value_comes_back_as_it_was(value: Any) -> None:
    literal = as_literal(value)
    assert resolved(literal) == value
    assert resolved(literal, "used")["deep"] == [value, {"x": value}]
    assert resolved(literal, "made") == {"given": value}
    assert resolved({"inside": [literal]}) == {"inside": [value]}


@pytest.mark.parametrize("value", [*HOSTILE, *NESTED], ids=repr)
def test_literal_passes_through_a_config_file(value: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"value": as_literal(value)}))
    parser = ConfigParser()
    parser.read_config(tmp_path / "config.json")
    assert parser.get_parsed_content("value") == value


@pytest.mark.parametrize("value", ["$1+1", "%other"])
def test_parser_would_take_them_otherwise(value: str) -> None:
    assert resolved(value) != value


def test_plain_values_are_left_alone() -> None:
    plain = {"a": ["b/c.nii.gz", 1, 2.5, None, True], "d": Path("e/f.nii")}
    assert as_literal(plain) == {"a": ["b/c.nii.gz", 1, 2.5, None, True], "d": "e/f.nii"}


def test_anything_else_is_no_literal() -> None:
    with pytest.raises(TypeError, match="a set cannot go into a config"):
        as_literal({1, 2})


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.recursive(
        st.one_of(st.text(st.sampled_from("$%@#:_+'\"\\{}[]()ab01 \n.é🧠"), max_size=12), st.integers(), st.none()),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("_$@#:+ab", max_size=5), inner, max_size=3)
        ),
        max_leaves=6,
    )
)  # fmt: skip
def test_any_value_comes_back_as_it_was(value: Any) -> None:
    assert resolved(as_literal(value)) == value


CONFIG = {"dataset_dir": "data", "other": "secret", "seen": [], "run": ["$@seen.append(@dataset_dir)"]}


@pytest.mark.parametrize("value", HOSTILE[:-4], ids=repr)
def test_workflow_takes_literals_as_they_are(value: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG))
    common: dict[str, Any] = {"config_file": str(file), "meta_file": None, "logging_file": False, "workflow_type": None}
    (tmp_path / "metadata.json").write_text("{}")
    plain = ConfigWorkflow(**common, **as_literals({"dataset_dir": value}))
    ours = LiteralWorkflow(**common, dataset_dir=value)
    for workflow in (plain, ours):
        workflow.initialize()
        workflow.run()
        workflow.run()
        assert workflow.parser.get_parsed_content("seen") == [value, value]


def test_every_path_of_the_configs_is_a_literal() -> None:
    configs = Path(itermask3d.BUNDLE_ROOT) / "configs"
    ids = {
        key for name in ("inference", "evaluate", "train") for key in json.loads((configs / f"{name}.json").read_text())
    }
    paths = {key for key in ids if key.endswith(("_dir", "_file", "_path")) and "::" not in key}
    assert {"dataset_dir", "ckpt_path", "split_file"} <= paths <= set(LITERAL_IDS)


def test_command_line_takes_a_path_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text("{}")
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"dataset_dir": "data", "run": ["$import pathlib", "$pathlib.Path('seen').write_text(@dataset_dir)"]}
        )
    )
    command = [sys.executable, "-m", "monai.bundle", "run", "--workflow_name",
               "itermask3d.files.literal_workflow.LiteralWorkflow", "--config_file", "config.json",
               "--dataset_dir", HOSTILE[0]]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(Path(itermask3d.__file__).parents[1])}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True, timeout=120)
    assert (tmp_path / "seen").read_text() == HOSTILE[0]
