"""Choosing the rows of a table and taking plain figures of a column; a missing value is never counted as zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from itermask3d.evaluation import NORMAL
from itermask3d.evaluation_cases import MethodResults, fault_of

__all__ = ["REAL", "finite_values", "groups_of", "is_pooled", "mean_of", "median_of", "normals_of"]

REAL = "real"
"""Group of the real cases."""


def groups_of(methods: Sequence[MethodResults], wanted: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """Groups of the rows that are wanted, in the order of the list."""
    return list(dict.fromkeys(row["group"] for method in methods for row in method.rows if wanted(row)))


def is_pooled(group: str) -> bool:
    """Whether a group's scans are taken together: not the real ones, shown one by one; faults have their own table."""
    return group != REAL and fault_of(group) is None


def normals_of(method: MethodResults) -> list[Mapping[str, Any]]:
    return [row for row in method.rows if row["group"] == NORMAL]


def finite_values(rows: Sequence[Mapping[str, Any]], column: str) -> list[float]:
    return [float(row[column]) for row in rows if row.get(column) is not None and math.isfinite(row[column])]


def mean_of(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    values = finite_values(rows, column)
    return float(np.mean(values)) if values else None


def median_of(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    values = [float(row[column]) for row in rows if row.get(column) is not None and not math.isnan(row[column])]
    with np.errstate(invalid="ignore"):  # the mean of two infinite distances
        return float(np.median(values)) if values else None
