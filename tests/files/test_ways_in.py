"""Every input of the table through every way in: where the reader refuses, each way says so in one sentence.

The phantom of the table is a patch of noise, no head: a way that reads it right refuses it for its size. So every row
ends in one sentence in every way, and no row in a result, a traceback or silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cases_dicom import DICOM_CASES
from cases_files import FILE_CASES
from fast_bundle import write_fast_bundle
from faulty import Case
from itermask3d.files.discovery import FoundScan, discover
from itermask3d.files.scans import ScanError, list_scans
from itermask3d.inference.cohort import ScanStream
from itermask3d.inference.segmenter import Segmenter
from itermask3d.preprocessing.load import LoadScand
from itermask3d.workflows.screening.screener import Screener
from itermask3d.workflows.site.data import Measurement

CASES = [case for case in (*DICOM_CASES, *FILE_CASES) if not case.options]
NO_HEAD = r"expected a whole head"
NOT_FOUND = r"no scan|does not exist|several DICOM series|cannot be used"
"""What a way says that looks for scans before it reads one."""


def items(source: Any) -> list[Any]:
    """A source of the table as what a user gives: a path, or an item that names the files of a series."""
    if not isinstance(source, list):
        return list_scans(source)
    return list_scans([{"image": str(Path(source[0]).parents[1]), "files": list(map(str, source)), "case": "series"}])


class Ways:
    """A function for each way in: from a source to the sentence that it ends in."""

    def __init__(self, folder: Path) -> None:
        self.bundle = write_fast_bundle(folder / "bundle")
        self.segmenter = Segmenter(self.bundle)
        self.screener = Screener(self.bundle, overview=False)
        self.measurement = Measurement(folder / "train", spacing_mm=4.0)
        self.output = folder / "out"

    def segment(self, source: Any) -> str:
        """``itermask3d segment`` and ``python -m monai.bundle run``."""
        stream = ScanStream(items(source), LoadScand())
        assert list(stream) == []
        (sentence,) = stream.failures.values()
        return sentence

    def screen(self, source: Any) -> str:
        (scan,) = self._found(source)
        record = self.screener.screen(scan, self.output)
        assert not record.details
        return record.reason

    def app(self, source: Any) -> str:
        """The app and ``itermask3d.segment`` of Python."""
        (item,) = items(source)
        with pytest.raises(ScanError) as caught:
            self.segmenter.prepare(item)
        return str(caught.value)

    def train(self, source: Any) -> str:
        (scan,) = self._found(source)
        return self.measurement.measure(scan).sentence

    def _found(self, source: Any) -> tuple[FoundScan, ...]:
        if isinstance(source, list):
            folder = str(Path(source[0]).parents[1])
            return (FoundScan("series", folder, "series", files=tuple(map(str, source))),)
        return discover(source).scans


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Ways:
    return Ways(tmp_path_factory.mktemp("ways"))


def sentence_of(way: Callable[[Any], str], source: Any) -> str:
    try:
        return way(source)
    except ScanError as error:
        return str(error)


def test_table_is_large_enough() -> None:
    assert len(CASES) >= 80


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_way_ends_in_the_right_sentence(case: Case, ways: Ways, tmp_path: Path) -> None:
    source = case.build(tmp_path)
    expected = "|".join((case.refused or NO_HEAD, NOT_FOUND))
    for name in ("segment", "screen", "app", "train"):
        sentence = sentence_of(getattr(ways, name), source)
        assert re.search(expected, sentence), (name, sentence)
        assert "\n" not in sentence, name
        assert len(sentence) < 500 + 3 * len(str(tmp_path)), (name, sentence)
    assert not ways.output.exists() or not list(ways.output.rglob("result.json"))
