"""A table of an evaluation, and the ways to write it down."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from itermask3d.evaluation.discrimination import Estimate

__all__ = ["Table", "markdown_rows", "markdown_table", "shown", "to_csv", "to_markdown"]


@dataclass(frozen=True)
class Table:
    """Rows with one meaning.

    Attributes:
        name: of its files.
        title: for a reader.
        note: how to read it.
        columns: headings by key.
        rows: values by key: text, number, :class:`itermask3d.evaluation.discrimination.Estimate` or ``None``.
    """

    name: str
    title: str
    note: str
    columns: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]


def to_csv(table: Table) -> str:
    """Comma-separated, with the keys as header; the ends of an interval have columns of their own."""
    intervals = {key for row in table.rows for key, value in row.items() if isinstance(value, Estimate)}
    header = [
        part for key in table.columns for part in ([key, f"{key}_low", f"{key}_high"] if key in intervals else [key])
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        plain: dict[str, Any] = {}
        for key in table.columns:
            value = row.get(key)
            if isinstance(value, Estimate):
                plain |= {key: value.value, f"{key}_low": value.low, f"{key}_high": value.high}
            else:
                plain[key] = value
        writer.writerow(plain)
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """A heading, the note and the table."""
    return f"## {table.title}\n\n{table.note}\n\n{markdown_rows(table)}"


def markdown_rows(table: Table) -> str:
    """The table alone."""
    lines = [_line(table.columns.values()), _line("---" for _ in table.columns)]
    lines += [_line(shown(row.get(key)) for key in table.columns) for row in table.rows]
    return "\n".join(lines) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells that are text already."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown(value: Any) -> str:
    """One cell as text: three decimals, an interval in brackets, a dash for nothing."""
    if isinstance(value, Estimate):
        return f"{shown(value.value)} [{shown(value.low)}, {shown(value.high)}]"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return "∞" if math.isinf(value) else f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
    return str(value)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
