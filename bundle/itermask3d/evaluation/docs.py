"""Tables and pictures of an evaluation in a page that people keep: between markers, with what made them."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from itermask3d.evaluation.plots import Picture
from itermask3d.evaluation.text import Table, markdown_rows
from itermask3d.files.writing import write_atomically

__all__ = ["blocks_of", "fill_blocks", "hardware", "public_command", "write_docs"]

PREFIX = "accuracy"


def write_docs(
    page: Path, part: str, tables: Sequence[Table], pictures: Sequence[Picture], *, facts: Mapping[str, Any]
) -> list[str]:
    """Write one run into a Markdown page.

    ``<!-- accuracy_PART_NAME -->`` to ``<!-- /accuracy_PART_NAME -->`` gets the table NAME, ``…_PART_run`` what made
    the run, ``…_PART_picture_NAME`` the picture NAME, which is copied into a folder beside the page. Blocks that this
    run has nothing for stay as they are.

    Args:
        page: the Markdown file.
        part: which run it is, such as ``"test"`` or ``"real"``.
        tables, pictures: of the run.
        facts: what made it, by name.

    Returns:
        Names of the blocks that were filled.

    Raises:
        ValueError: if the page has no block for anything in this run.
    """
    text = page.read_text()
    blocks = blocks_of(part, tables, pictures, facts=facts, page=page)
    filled = [name for name in blocks if f"<!-- {name} -->" in text]
    if not filled:
        marker = f"<!-- {next(iter(blocks))} -->"
        raise ValueError(f"'{page}' has no block of part '{part}' for this run; expected a marker such as '{marker}'")
    for picture in pictures:
        if f"{PREFIX}_{part}_picture_{picture.path.stem}" in filled:
            target = page.parent / _beside(page, part, picture)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture.path, target)
    write_atomically(fill_blocks(text, blocks), page)
    return filled


def blocks_of(
    part: str, tables: Sequence[Table], pictures: Sequence[Picture], *, facts: Mapping[str, Any], page: Path
) -> dict[str, str]:
    """Markdown by the name of its block."""
    run = "".join(f"- {name}: {value}\n" for name, value in facts.items())
    blocks = {f"{PREFIX}_{part}_run": run}
    blocks |= {f"{PREFIX}_{part}_{table.name}": f"{table.note}\n\n{markdown_rows(table)}" for table in tables}
    for picture in pictures:
        alt = picture.alt.replace("[", "(").replace("]", ")").replace("\n", " ")
        text = f"![{alt}]({_beside(page, part, picture)})\n\n*{picture.title}*\n"
        blocks[f"{PREFIX}_{part}_picture_{picture.path.stem}"] = text
    return blocks


def fill_blocks(text: str, blocks: Mapping[str, str]) -> str:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->``, where there are such markers.

    >>> fill_blocks("<!-- a -->\\nold\\n<!-- /a -->\\n", {"a": "new\\n", "b": "x"})
    '<!-- a -->\\nnew\\n<!-- /a -->\\n'
    """
    for name, block in blocks.items():
        pattern = re.compile(f"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
        text = pattern.sub(lambda found, block=block: found[1] + block + found[2], text)  # type: ignore[misc]
    return text


def public_command(words: Sequence[str]) -> str:
    """A command as it may be shown: of an absolute path only the last name, for the rest is of one machine.

    >>> public_command(["evaluate.py", "/home/me/scans.json", "out", "a=/x/y.json"])
    'evaluate.py scans.json out a=y.json'
    """
    return shlex.join(re.sub(r"(^|[=,])/[^=,]*/(?=[^/,=]+)", r"\1", word) for word in words)


def hardware() -> str:
    """What the run computed on: processor, logical cores, and the GPU where there is one."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    processor = named[1].strip() if named else platform.processor() or platform.machine()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} logical cores ({processor}), {gpu}"


def _beside(page: Path, part: str, picture: Picture) -> str:
    return f"{page.stem}/{part}_{picture.path.name}"
