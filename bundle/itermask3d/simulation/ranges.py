"""Ranges from which the parameters of simulated scans are drawn, checked when they are set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

__all__ = ["Range", "check_ranges"]

Range = tuple[float, float]
"""Lowest and highest value that is drawn."""


def check_ranges(ranges: Any, *, signed: Sequence[str] = ()) -> None:
    """Refuse a probability outside 0 to 1, a range that falls, and one below 0 unless it is ``signed``.

    Args:
        ranges: a dataclass with a ``probability`` and pairs of numbers.
        signed: fields that may be negative.

    Raises:
        ValueError: naming the field and its value.
    """
    if not 0 <= ranges.probability <= 1:
        raise ValueError(f"probability = {ranges.probability}; expected 0 to 1")
    for field in fields(ranges):
        value = getattr(ranges, field.name)
        if not isinstance(value, (tuple, list)):
            continue
        if not value[0] <= value[1]:
            raise ValueError(f"{field.name} = {tuple(value)}; expected a range that does not fall")
        if value[0] < 0 and field.name not in signed:
            raise ValueError(f"{field.name} = {tuple(value)}; expected a range that is not negative")
