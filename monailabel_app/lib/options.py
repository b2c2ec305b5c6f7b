"""Options that a viewer can set: declared once, read from whatever a viewer sends, clamped to their range.

OHIF sends strings for numbers, a whole list where nobody chose, blanks, and null for a field that was cleared; it
corrupts numbers whose default is a number while they are typed. So numbers are declared as strings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Choice", "Number", "Option", "Switch", "declare", "read"]

TRUE = {"true", "1", "yes", "on"}
FALSE = {"false", "0", "no", "off"}


@dataclass(frozen=True)
class Number:
    """A number with a range; a default of ``None`` is shown as a blank field and means that the server decides."""

    default: float | None
    low: float
    high: float
    unit: str = ""

    def declared(self) -> str:
        """What ``/info`` shows."""
        return "" if self.default is None else f"{self.default:g}"

    def parse(self, name: str, value: Any) -> tuple[float | None, str | None]:
        """The value within the range, and a sentence where it is not what was sent."""
        text = _plain(value).replace(",", ".")
        if not text:
            return self.default, None
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            return self.default, f"{name} '{text}' is not a number; {self._default_text()} was used."
        clamped = min(max(number, self.low), self.high)
        if clamped == number:
            return number, None
        return clamped, f"{name} {number:g} is outside {self.low:g} to {self.high:g}{self.unit}; {clamped:g} was used."

    def _default_text(self) -> str:
        return "the automatic value" if self.default is None else f"{self.default:g}"


@dataclass(frozen=True)
class Choice:
    """One of several words; the first is the default."""

    words: Sequence[str]

    def declared(self) -> list[str]:
        """What ``/info`` shows; OHIF draws a list as a selection."""
        return list(self.words)

    def parse(self, name: str, value: Any) -> tuple[str, str | None]:
        """The word, and a sentence where another one was sent."""
        text = _plain(value)
        if not text:
            return self.words[0], None
        for word in self.words:
            if text.lower() == word.lower():
                return word, None
        return self.words[0], f"{name} '{text}' is not one of {', '.join(self.words)}; {self.words[0]} was used."


@dataclass(frozen=True)
class Switch:
    """On or off."""

    default: bool

    def declared(self) -> bool:
        """What ``/info`` shows; OHIF draws a check box."""
        return self.default

    def parse(self, name: str, value: Any) -> tuple[bool, str | None]:
        """The position, and a sentence where something else was sent."""
        text = _plain(value).lower()
        if not text:
            return self.default, None
        if text in TRUE | FALSE:
            return text in TRUE, None
        return self.default, f"{name} '{text}' is neither true nor false; {str(self.default).lower()} was used."


Option = Number | Choice | Switch


def declare(options: Mapping[str, Option]) -> dict[str, Any]:
    """The ``config`` of a task as ``/info`` shows it."""
    return {name: option.declared() for name, option in options.items()}


def read(options: Mapping[str, Option], request: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Read every option from a request.

    Returns:
        Values by name, and a sentence for each value that was not taken as it was sent.
    """
    values, remarks = {}, []
    for name, option in options.items():
        values[name], remark = option.parse(name, request.get(name))
        if remark:
            remarks.append(remark)
    return values, remarks


def _plain(value: Any) -> str:
    """The text of a value; of a list its first item, which is what an untouched selection means."""
    while isinstance(value, list | tuple):
        value = value[0] if value else None
    if value is None or isinstance(value, Mapping):
        return ""
    return str(value).strip()
