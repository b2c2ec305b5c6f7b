"""What is computed once: prepared scans, scans with a lesion, and what a method says about them, a file each.

A file is used again only where its key is that of today: what it was made from, and how. So a run can be broken off
and taken up, and other weights cost no more than their passes.
"""

from __future__ import annotations

import ast
import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from itermask3d.files.writing import replaced

__all__ = ["array_digest", "code_digest", "kept"]


def array_digest(*arrays: np.ndarray) -> str:
    """16 hexadecimal digits that tell arrays apart by type, shape and every voxel."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def code_digest(paths: Iterable[Path]) -> str:
    """16 hexadecimal digits that change with what Python files do, not with their comments, docstrings and imports."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [part for part in body if not _says_nothing(part)]  # type: ignore[attr-defined]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def _says_nothing(node: ast.stmt) -> bool:
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return text or isinstance(node, (ast.Import, ast.ImportFrom))


def kept(path: Path, key: Mapping[str, Any], make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays from a file, or made and written to it.

    Args:
        path: ends in ``.npz``; its folder is made where absent.
        key: plain values that decide whether the file is that of today.
        make: computes the arrays where it is not, or is damaged.
    """
    wanted = json.dumps(key, sort_keys=True)
    found = _read(path, wanted)
    if found is not None:
        return found
    arrays = dict(make())
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as partial:
        np.savez_compressed(partial, _key=np.str_(wanted), **arrays)
    return arrays


def _read(path: Path, wanted: str) -> dict[str, np.ndarray] | None:
    if not path.is_file():
        return None
    try:
        with np.load(path) as found:
            if str(found["_key"]) != wanted:
                return None
            return {name: found[name] for name in found.files if name != "_key"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None  # cut off in the middle of the disk's work: it is made anew
