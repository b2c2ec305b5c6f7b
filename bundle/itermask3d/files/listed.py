"""Lists of scans as people write them: in UTF-8, UTF-16 or, with single bytes, Latin-1."""

from __future__ import annotations

import codecs
import json
import os
from pathlib import Path
from typing import Any

from itermask3d.files.errors import ScanError

__all__ = ["read_json_list", "read_lines", "read_text_lines"]

MARKED = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_lines(path: Path) -> list[Path]:
    """Paths of a list, one a line, relative ones from its folder; empty lines and comments (``#``) are passed over.

    Raises:
        ScanError: if the file cannot be read, or is no text.
    """
    paths = []
    for line in read_text_lines(path):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            single_bytes = path.parent / os.fsencode(entry).decode("latin-1")
            as_stored = path.parent / entry
            paths.append(single_bytes if not as_stored.exists() and single_bytes.exists() else as_stored)
    return paths


def read_json_list(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ScanError: if the file cannot be read, or is no JSON.
    """
    try:
        return json.loads(_content(path))
    except UnicodeDecodeError as error:
        raise ScanError(f"'{path}' is neither UTF-8 nor UTF-16 (byte {error.start}); expected JSON in UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ScanError(f"'{path}' is no JSON ({error}); expected a list of paths or items") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ScanError(f"'{path}' cannot be read ({error.strerror}); expected a list of scans") from error


def read_text_lines(path: Path) -> list[str]:
    """Lines of a text in any of the encodings.

    Raises:
        ScanError: if the file cannot be read, or is no text.
    """
    content = _content(path)
    if content.startswith(MARKED) or b"\0" in content:
        try:
            return content.decode(json.detect_encoding(content)).lstrip("\ufeff").splitlines()
        except UnicodeDecodeError as error:
            raise ScanError(f"'{path}' is no text (byte {error.start}); expected one path a line, in UTF-8") from error
    return os.fsdecode(content).splitlines()
