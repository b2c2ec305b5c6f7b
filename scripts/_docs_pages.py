"""Pages of the site that are generated: the command's verbs, the fields of a report, the package's modules."""

from __future__ import annotations

import ast
import base64
import json
import re
from pathlib import Path
from typing import Any

import click
from itermask3d.cli.app import app
from typer.main import get_command

ARCHITECTURE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "architecture.md"
ROOMS = tuple(
    room
    for room in re.findall(r"^\| `(\w+)` \|", ARCHITECTURE.read_text(encoding="utf-8"), re.MULTILINE)
    if room != "cli"
)
"""Rooms in the order of their table; the command has a page of its own."""

WIDTH = 100
THREE_LINES = """import itermask3d

result = itermask3d.segment("scan.nii.gz")
result  # in a notebook: the overview
"""


def command_page() -> str:
    """The help of the command and of each verb, with a table of its options, hidden ones too."""
    command = get_command(app)
    parts = ["# The command `itermask3d`", "Generated from the command itself.", fenced(help_of(command, "itermask3d"))]
    for name, verb in command.commands.items():  # type: ignore[attr-defined]
        rows = [row for part in verb.params if (row := option_row(part))]
        table = ["| option | default | meaning |", "|---|---|---|", *rows]
        parts += [f"## `itermask3d {name}`", fenced(help_of(verb, f"itermask3d {name}")), "\n".join(table)]
    return "\n\n".join(parts) + "\n"


def help_of(command: Any, name: str) -> str:
    """What ``--help`` prints, as wide as the page."""
    context = command.make_context(name, [], resilient_parsing=True)
    formatter = click.HelpFormatter(width=WIDTH)
    context.terminal_width = context.max_content_width = WIDTH
    command.format_help(context, formatter)
    return formatter.getvalue().rstrip()


def option_row(part: Any) -> str | None:
    """A row of the table of options; ``None`` for an argument and for ``--help``."""
    if part.param_type_name != "option" or part.name == "help":
        return None
    names = ", ".join(f"`{name}`" for name in part.opts)
    default = part.default
    shown = "" if callable(default) or default in (None, False, "", ()) or part.name == "bundle" else f"`{default}`"
    return f"| {names} | {shown} | {str(part.help).replace('|', '/')} |"


def fenced(text: str) -> str:
    """A block of plain text."""
    return f"```text\n{text}\n```"


def schema_page(path: Path) -> str:
    """A table of the fields of a JSON schema, nested ones with dots."""
    schema = json.loads(path.read_text(encoding="utf-8"))
    rows = ["| field | type | meaning |", "|---|---|---|"]
    rows += [f"| `{name}` | {kind} | {told} |" for name, kind, told in fields(schema, schema.get("definitions", {}))]
    head = f"# Fields of `report.json`\n\n{schema['description']}\n\n"
    head += f"Generated from `{path.name}`, layout {schema['properties']['schema_version']['const']}.\n\n"
    return head + "\n".join(rows) + "\n"


def fields(schema: dict[str, Any], known: dict[str, Any], prefix: str = "") -> list[tuple[str, str, str]]:
    """Name, type and meaning of every field, depth first."""
    found = []
    for name, field in schema.get("properties", {}).items():
        full = {**known.get(str(field.get("$ref", "")).rpartition("/")[2], {}), **field}
        values = full.get("enum") or ([full["const"]] if "const" in full else [])
        kinds = full.get("type", "value")
        kind = " or ".join(kinds) if isinstance(kinds, list) else kinds
        told = ", ".join(f"`{value}`" for value in values) if values else kind
        found.append((f"{prefix}{name}", told, str(full.get("description", "")).replace("|", "/")))
        inner = full.get("items", full) if isinstance(full.get("items", full), dict) else full
        found += fields(inner, known, f"{prefix}{name}{'[]' if 'items' in full else ''}.")
    return found


def room_page(package: Path, room: str) -> str:
    """A room: the sentence that opens it, and its modules for mkdocstrings."""
    folder = package / room
    sentence = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    names = sorted(
        ".".join((package.name, *path.relative_to(package).with_suffix("").parts)).removesuffix(".__init__")
        for path in folder.rglob("*.py")
        if path != folder / "__init__.py" and not path.name.startswith("_")
    )
    blocks = "\n\n".join(f"::: {name}" for name in names)
    return f"# `{package.name}.{room}`\n\n{sentence}\n\n{blocks}\n"


def notebook_page(path: Path, folder: Path) -> str:
    """A notebook as Markdown: its text, its code, and what it printed and showed; pictures are written beside it.

    Args:
        path: of the notebook.
        folder: of the page, where the pictures go.
    """
    parts, pictures = [], 0
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            if output["output_type"] == "stream":
                parts.append(fenced("".join(output["text"]).rstrip()))
            elif png := output.get("data", {}).get("image/png"):
                pictures += 1
                name = f"{path.stem}_{pictures}.png"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(base64.b64decode("".join(png)))
                parts.append(f"![what the cell shows]({name})")
    return "\n\n".join([*parts, f"[The notebook itself]({path.name})"]) + "\n"


def names_page(names: list[str]) -> str:
    """The public names of the package, each a link to where it is described."""
    from importlib import import_module

    face = import_module("itermask3d")
    rows = ["| name | what |", "|---|---|"]
    for name in names:
        home = face._HOMES.get(name)
        told = (getattr(face, name).__doc__ or "").strip().splitlines()[0] if home else "see the package"
        where = f"[`{name}`]({home.split('.')[0]}.md#itermask3d.{home}.{name})" if home else f"`{name}`"
        rows.append(f"| {where} | {told} |")
    table = "\n".join(rows)
    return f"# Python\n\n```python\n{THREE_LINES}```\n\n{table}\n"
