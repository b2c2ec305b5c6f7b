"""Options: what viewers really send becomes a value within its range, and nothing is taken silently."""

from __future__ import annotations

import math

import pytest


@pytest.fixture
def options():
    from lib import options

    return options


@pytest.mark.parametrize(
    ("sent", "value", "remarks"),
    [
        (None, 5.0, 0),
        ("", 5.0, 0),
        ("  ", 5.0, 0),
        ([], 5.0, 0),
        ({}, 5.0, 0),
        ("7", 7.0, 0),
        (7, 7.0, 0),
        ("7,5", 7.5, 0),
        (["3", "4"], 3.0, 0),
        ("-1", 0.0, 1),
        (1e9, 50.0, 1),
        ("inf", 50.0, 1),
        ("nan", 5.0, 1),
        ("five", 5.0, 1),
        (True, 5.0, 1),
    ],
)
def test_numbers_are_parsed_and_held_within_their_range(options, sent, value, remarks):
    values, said = options.read({"grow_mm": options.Number(5, 0, 50, " mm")}, {"grow_mm": sent})
    assert values["grow_mm"] == value
    assert len(said) == remarks
    assert all("grow_mm" in sentence and f"{value:g}" in sentence for sentence in said)


def test_a_number_without_default_stays_with_the_server(options):
    values, said = options.read({"gamma": options.Number(None, 0.001, 10)}, {"gamma": "much"})
    assert values["gamma"] is None
    assert "automatic value" in said[0]


@pytest.mark.parametrize(
    ("sent", "word", "remarks"),
    [
        (None, "auto", 0),
        ("", "auto", 0),
        (["auto", "none"], "auto", 0),
        ("NONE", "none", 0),
        (["none"], "none", 0),
        ("magic", "auto", 1),
        (3, "auto", 1),
    ],
)
def test_choices_take_the_first_of_an_untouched_list(options, sent, word, remarks):
    values, said = options.read({"brain": options.Choice(["auto", "none"])}, {"brain": sent})
    assert (values["brain"], len(said)) == (word, remarks)


@pytest.mark.parametrize(
    ("sent", "on", "remarks"),
    [
        (None, True, 0),
        (False, False, 0),
        ("false", False, 0),
        ("True", True, 0),
        (0, False, 0),
        ("maybe", True, 1),
        ([False], False, 0),
    ],
)
def test_switches_read_words_and_numbers(options, sent, on, remarks):
    values, said = options.read({"bands": options.Switch(True)}, {"bands": sent})
    assert (values["bands"], len(said)) == (on, remarks)


def test_numbers_are_declared_as_text_because_ohif_corrupts_numbers(options):
    declared = options.declare(
        {"a": options.Number(0.25, 0, 1), "b": options.Number(None, 0, 1), "c": options.Choice(["x", "y"])}
    )
    assert declared == {"a": "0.25", "b": "", "c": ["x", "y"]}


def test_every_declared_default_reads_back_as_the_default(options):
    option = options.Number(5, 0, 50)
    assert option.parse("x", option.declared()) == (5.0, None)
    assert not math.isnan(option.parse("x", "nan")[0])
