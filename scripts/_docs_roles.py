"""For mkdocstrings: roles of docstrings (``:func:`x```) as code, because that is what they name."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):`~?\.?([^`]+)`")


class Roles(griffe.Extension):
    """Rewrite the docstring of every object that is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
