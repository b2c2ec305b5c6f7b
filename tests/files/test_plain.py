"""Values as they come back from JSON, without the text between."""

from __future__ import annotations

import json
from enum import Enum, StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itermask3d.files.plain import as_json_values

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
KEYS = st.text() | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_values_are_those_that_json_gives_back(values):
    assert as_json_values(values) == json.loads(json.dumps(values))


def test_an_enumeration_is_its_value():
    class Plain(Enum):
        SIZE = (1, 2)

    class Word(StrEnum):
        ONE = "one"

    assert as_json_values({Word.ONE: Plain.SIZE, "as": Word.ONE}) == {"one": [1, 2], "as": "one"}
    assert type(as_json_values(Word.ONE)) is str


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object()], ids=["bytes", "set", "object"])
def test_what_json_does_not_hold_is_refused(value):
    with pytest.raises(TypeError, match="is no value that JSON holds"):
        as_json_values({"at": [value]})
    with pytest.raises(TypeError, match="is no key that JSON holds"):
        as_json_values({(1, 2): 3})
