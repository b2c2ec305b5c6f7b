"""The site: links of documents lead on, formulas need no script, generated pages hold what they are made of."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from helpers import SCRIPTS, load_script
from itermask3d.cli.app import app
from typer.main import get_command

pytest.importorskip("latex2mathml")
ROOT = SCRIPTS.parent


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return load_script("docs")


def test_links_are_turned_to_where_documents_stand_and_other_files_are_copied(script, tmp_path):
    text = "[a](../../configs/README.md) [b](method.md#x) [c](https://monai.io) `[d](../no.md)` [e](../../LICENSE)"
    turned = script.turned(text, "docs/explanation/domain.md", tmp_path)
    assert turned == (
        "[a](../reference/overlays.md) [b](method.md#x) [c](https://monai.io) `[d](../no.md)` [e](../files/LICENSE)"
    )
    assert (tmp_path / "files" / "LICENSE").is_file()


def test_formulas_become_mathml_and_money_and_code_stay(script):
    assert "<msup>" in script.formulas("where $x^2$ is")
    assert 'display="block"' in script.formulas("$$a+b$$")
    assert script.outside_code("`$x$` costs 5 $ or $PATH", script.formulas) == "`$x$` costs 5 $ or $PATH"


def test_the_page_of_the_command_holds_every_option_of_every_verb(script):
    page = script.command_page()
    for name, verb in get_command(app).commands.items():
        assert f"## `itermask3d {name}`" in page
        section = page.split(f"## `itermask3d {name}`")[1].split("\n## ")[0]
        for option in (part for part in verb.params if part.param_type_name == "option" and part.name != "help"):
            assert f"`{option.opts[0]}`" in section, (name, option.opts)


def test_the_page_of_the_report_holds_every_field_of_its_schema(script):
    page = script.schema_page(script.SCHEMA)
    for name in json.loads(script.SCHEMA.read_text())["properties"]:
        assert f"| `{name}` |" in page
    assert "| `threshold.fit.r_squared` | number or null |" in page


def test_every_module_has_its_place_among_the_pages_of_python(script):
    package = ROOT / "bundle" / "itermask3d"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")} - {"cli"}
    assert set(script.ROOMS) == rooms
    pages = "".join(script.room_page(package, room) for room in script.ROOMS)
    for path in package.rglob("*.py"):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        if path.name not in ("__init__.py", "__main__.py") and not name.startswith("cli."):
            assert f"::: itermask3d.{name}\n" in pages


def test_a_notebook_becomes_a_page_with_its_code_words_and_pictures(script, tmp_path):
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["1 ml\n"]},
        {"output_type": "execute_result", "data": {"image/png": "iVBORw0KGgo="}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Look"]},
        {"cell_type": "code", "source": ["look()"], "outputs": outputs},
    ]
    path = tmp_path / "look.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    page = script.notebook_page(path, tmp_path / "site")
    assert page.startswith(
        "# Look\n\n```python\nlook()\n```\n\n```text\n1 ml\n```\n\n![what the cell shows](look_1.png)"
    )
    assert (tmp_path / "site" / "look_1.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocstrings_handlers.python")
    command = [sys.executable, SCRIPTS / "docs.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\bsrc=\"?([^\s\">]+)|<link[^>]*href=\"?([^\s\">]+)", text)
        fetched = [address for pair in loaded for address in pair if "://" in address]
        assert not fetched, f"{page.name}: {fetched}"
        assert "fonts.googleapis" not in text
    public = (tmp_path / "site" / "python" / "inference.html").read_text()
    assert 'id="itermask3d.inference.single.segment"' in public
    assert ":func:" not in public
