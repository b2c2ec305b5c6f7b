"""The record of a first minute shows what a person sees, and nothing of the machine that made it."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import load_script
from PIL import Image

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"


@pytest.fixture
def script() -> ModuleType:
    return load_script("first_minute")


def test_lines_are_as_they_stand_in_the_end_without_paths(script, tmp_path):
    printed = f"  5 %\r 50 %\rdone  \noverview: {tmp_path}/out/a.png\nin {tmp_path}\n\n"
    assert script.shown(printed, tmp_path) == ["done", "overview: out/a.png", "in ."]


def test_a_command_is_shown_as_it_is_typed(script, tmp_path):
    program = tmp_path / "say"
    program.write_text('#!/bin/sh\necho "$COLUMNS columns, $@, in $PWD"\n')
    program.chmod(0o755)
    terminal = script.Terminal(tmp_path, tmp_path)
    terminal.run("say", "hello", hidden=("--quiet",))
    assert terminal.text() == "$ say hello\n100 columns, hello --quiet, in .\n"


def test_the_picture_keeps_its_size(script, tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "large.png")
    script.shrink(tmp_path / "large.png", tmp_path / "small.png")
    assert Image.open(tmp_path / "small.png").size == (50, 40)


def test_the_tutorial_holds_the_record_and_no_path_of_a_machine():
    record = PAGE.read_text().partition("<!-- first_minute -->")[2].partition("<!-- /first_minute -->")[0]
    for words in ("$ pip install itermask3d-", "$ itermask3d info", "$ itermask3d demo", "$ itermask3d segment"):
        assert words in record
    assert not re.search(r"(?:^|[\s'])/\w+/", record), "an absolute path"
    assert PAGE.with_name("first_minute.png").is_file()
