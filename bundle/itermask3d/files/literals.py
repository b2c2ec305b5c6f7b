"""Values from outside for MONAI's config parser, which would run them: here they stay the text that they are.

``monai.bundle.ConfigParser`` evaluates a string that begins with ``$`` as Python, replaces one that begins with ``%``
by what it finds in another file or item, replaces ``@id`` by an item, turns every ``#`` into ``::``, and calls what a
dictionary names under ``_target_`` (monai/bundle/config_parser.py and reference_resolver.py of MONAI 1.6.1). A path,
a list's entry or a request may hold any of these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

__all__ = ["as_literal", "as_literals"]

SPECIAL = frozenset("$%@#")
EVALUATED = "$"
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _-+./,=()[]{}~&!;")
"""Characters that mean nothing to the parser, and stand in a Python string as they are; ``:`` is not among them, since
two of them separate the parts of an id."""


def as_literal(value: Any) -> Any:
    """A value that MONAI's parser resolves to the given one, whatever it holds.

    What the parser would leave alone comes back unchanged. Anything else becomes one config expression made of
    literals only, in which every character that means something to the parser is written as its number:
    ``as_literal("$x")`` is ``"$'\\\\x24x'"``. It is a string, so it also passes through JSON, YAML and a command line.

    Args:
        value: text, a path, a number, ``None``, or lists and dictionaries of these; paths become text, tuples lists.

    Raises:
        TypeError: for anything else.
    """
    plain = _plain(value)
    return EVALUATED + _source(plain) if _meant(plain) else plain


def as_literals(values: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`as_literal` for every value of ``ConfigWorkflow``'s overrides; the keys are ids of ours."""
    return {key: as_literal(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(content) for key, content in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(content) for content in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot go into a config; expected text, numbers, lists or dictionaries")


def _meant(value: Any) -> bool:
    """Whether the parser would make anything else of a value."""
    if isinstance(value, str):
        return not SPECIAL.isdisjoint(value)
    if isinstance(value, dict):
        return any(_odd_key(key) or _meant(content) for key, content in value.items())
    return isinstance(value, list) and any(map(_meant, value))


def _odd_key(key: Any) -> bool:
    return not isinstance(key, str) or key.startswith(("_", "+")) or "::" in key or _meant(key)


def _source(value: Any) -> str:
    """Python source that evaluates to the value, made of literals only and free of the parser's signs."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_source(key)}: {_source(content)}" for key, content in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_source, value)) + "]"
    if isinstance(value, str):
        return "'" + "".join(character if character in PLAIN else _escape(character) for character in value) + "'"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    return repr(value)


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"
