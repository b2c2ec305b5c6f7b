"""Values as JSON holds them, so that what a program has in memory can be compared with what it wrote before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

__all__ = ["as_json_values"]


def as_json_values(values: Any) -> Any:
    """The same values as they come back from JSON: tuples as lists, keys as text, an enumeration as its value.

    Args:
        values: mappings, sequences, text, numbers, truth values and ``None``, in each other.

    Raises:
        TypeError: for anything else.

    >>> as_json_values({"size": (80, 96.5, None), 2: True})
    {'size': [80, 96.5, None], '2': True}
    """
    if isinstance(values, Mapping):
        return {_key(key): as_json_values(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [as_json_values(value) for value in values]
    if isinstance(values, Enum):
        return as_json_values(values.value)
    if values is None or isinstance(values, (str, bool, int, float)):
        return values
    raise TypeError(f"{values!r} of type {type(values).__name__} is no value that JSON holds")


def _key(key: Any) -> str:
    plain = key.value if isinstance(key, Enum) else key
    if isinstance(plain, str):
        return plain
    if plain is None or isinstance(plain, (bool, int, float)):
        return json.dumps(plain)
    raise TypeError(f"{key!r} of type {type(key).__name__} is no key that JSON holds")
