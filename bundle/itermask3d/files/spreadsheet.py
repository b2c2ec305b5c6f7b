"""Cells that a spreadsheet shows as text, whatever name a scan has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["safe_cell", "safe_row", "unescape_cell"]

ACTIVE = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
"""What a text begins with that a spreadsheet takes for a formula or a command.

The first six: OWASP, CSV Injection (owasp.org/www-community/attacks/CSV_Injection); the others are old DDE calls.
"""

WIDE = ("\uff1d", "\uff0b", "\uff0d", "\uff20")
"""The full-width signs, which some spreadsheets turn into the plain ones."""


NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def safe_cell(value: Any) -> Any:
    """A value for a cell of a CSV or TSV file that a person opens in a spreadsheet.

    Numbers, ``bool`` and ``None`` stay what they are, a text that is a plain number too. Any other text that a
    spreadsheet would run gets an apostrophe in front, which is the spreadsheet's own sign for text; line breaks and
    tabs inside become spaces, so that a row stays a row.

    >>> safe_cell("=cmd|' /C calc'!A0")
    "'=cmd|' /C calc'!A0"
    >>> safe_cell(-1.5), safe_cell("-1.5"), safe_cell("sub-01")
    (-1.5, '-1.5', 'sub-01')
    """
    if not isinstance(value, str):
        return value if value is None or isinstance(value, (bool, int, float)) else safe_cell(str(value))
    text = value.translate({ord(sign): " " for sign in "\t\r\n\v\f\0\x85\u2028\u2029"})
    bare = value.lstrip(" \u00a0\ufeff")
    active = bare.startswith((*ACTIVE, *WIDE)) or value.startswith("'")
    return f"'{text}" if active and not _is_number(bare) else text


def unescape_cell(text: str) -> str:
    """What :func:`safe_cell` was given, but for line breaks and tabs."""
    return text[1:] if text.startswith("'") else text


def safe_row(row: Mapping[str, Any] | Iterable[Any]) -> Any:
    """:func:`safe_cell` for every cell of a row: values of a mapping, whose keys are ours, or of a sequence."""
    if isinstance(row, Mapping):
        return {key: safe_cell(value) for key, value in row.items()}
    return [safe_cell(value) for value in row]


def _is_number(text: str) -> bool:
    return NUMBER.fullmatch(text) is not None
