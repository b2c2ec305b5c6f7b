"""What tells one file from another, and whether it changed since."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["file_digest", "input_files"]


def input_files(item: Mapping[str, Any]) -> dict[str, Any]:
    """The files of an item (``image``, ``brain_mask``) with what tells whether they changed: path, size, time."""
    described: dict[str, Any] = {}
    for key in ("image", "brain_mask"):
        path = Path(str(item.get(key, "")))
        if key in item and path.exists():
            described[key] = {
                "path": str(item[key]),
                "bytes": path.stat().st_size,
                "changed_ns": path.stat().st_mtime_ns,
            }
    return described


def file_digest(path: str | Path) -> str:
    """First 16 hexadecimal digits of a file's SHA-256; ``"none"`` where there is no file."""
    path = Path(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else "none"
