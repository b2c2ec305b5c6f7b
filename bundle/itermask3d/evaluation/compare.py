"""Whether a table that was made again equals the one that was kept, up to a stated noise.

On one machine with the same versions every metric comes back exactly: loops and bootstraps are seeded. Between machines
sums of floating-point numbers differ in their last digits, and a voxel at a threshold may change its side.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["NOISE", "compare_folders", "compare_rows"]

NOISE = 0.01
"""Largest difference that counts as none, absolute up to 1 and relative above."""

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.])")


def compare_folders(kept: str | Path, made: str | Path, *, noise: float = NOISE) -> list[str]:
    """Compare tables by their name.

    Args:
        kept: a CSV file, or a folder of them, or of an evaluation.
        made: a folder of CSV files, or of an evaluation.
        noise: see :func:`compare_rows`.

    Returns:
        A sentence a difference; empty where all kept tables came back.

    Raises:
        ValueError: if nothing is kept there.
    """
    tables = [Path(kept)] if Path(kept).is_file() else sorted(_tables(Path(kept)).glob("*.csv"))
    if not tables:
        raise ValueError(f"'{kept}' holds no table; expected CSV files, or a folder 'tables' of them")
    differences = []
    for path in tables:
        other = _tables(Path(made)) / path.name
        if not other.is_file():
            differences.append(f"{path.stem}: was not made again")
            continue
        found = compare_rows(_read(path), _read(other), noise=noise)
        differences += [f"{path.stem}: {sentence}" for sentence in found]
    return differences


def compare_rows(kept: Sequence[Sequence[str]], made: Sequence[Sequence[str]], *, noise: float = NOISE) -> list[str]:
    """Compare two tables cell by cell: the same words, and numbers that differ by at most the noise.

    Args:
        kept, made: rows of cells, the first with the headings.
        noise: largest difference of two numbers up to 1; of larger ones, the largest share of the kept one.

    Returns:
        A sentence a difference.

    Raises:
        ValueError: if the noise is negative.
    """
    if not noise >= 0:
        raise ValueError(f"noise must not be negative, got {noise}")
    if [len(row) for row in kept] != [len(row) for row in made]:
        return [f"{len(kept)} rows of {_widths(kept)} columns were kept, {len(made)} of {_widths(made)} were made"]
    differences = []
    for number, (old, new) in enumerate(zip(kept, made, strict=True)):
        for heading, before, after in zip(kept[0], old, new, strict=True):
            if not _equal(before, after, noise):
                differences.append(f"row {number}, {heading}: '{before}' was kept, '{after}' was made")
    return differences


def _equal(before: str, after: str, noise: float) -> bool:
    if _NUMBER.sub("#", before) != _NUMBER.sub("#", after):
        return False
    pairs = zip(map(float, _NUMBER.findall(before)), map(float, _NUMBER.findall(after)), strict=True)
    return all(math.isclose(a, b, rel_tol=0, abs_tol=noise * max(1.0, abs(a))) for a, b in pairs)


def _widths(rows: Sequence[Sequence[str]]) -> str:
    return " or ".join(map(str, sorted({len(row) for row in rows}))) or "no"


def _tables(folder: Path) -> Path:
    return folder / "tables" if (folder / "tables").is_dir() else folder


def _read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))
