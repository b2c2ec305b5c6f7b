"""What an evaluation writes into a page, and whether a table that was made again is the one that was kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from itermask3d.evaluation.compare import compare_folders, compare_rows
from itermask3d.evaluation.discrimination import Estimate
from itermask3d.evaluation.docs import blocks_of, fill_blocks, hardware, public_command, write_docs
from itermask3d.evaluation.plots import Picture
from itermask3d.evaluation.text import Table, to_csv

TABLE = Table("t", "T", "A note.", {"a": "A", "b": "B"}, [{"a": "x", "b": Estimate(0.5, 0.25, 0.75)}])
PAGE = """# Page

<!-- accuracy_test_run -->
not measured yet
<!-- /accuracy_test_run -->
<!-- accuracy_test_t -->
not measured yet
<!-- /accuracy_test_t -->
<!-- accuracy_test_picture_worst -->
<!-- /accuracy_test_picture_worst -->
<!-- accuracy_real_t -->
not measured yet
<!-- /accuracy_real_t -->
<!-- speed -->
1 s
<!-- /speed -->
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "benchmarks.md"
    path.write_text(PAGE)
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    path = tmp_path / "worst.png"
    path.write_bytes(b"png")
    return Picture(path, "The worst", "Three [bad] cases\nin rows.", "t")


def test_a_run_fills_its_own_blocks_and_leaves_those_of_others(page, picture):
    filled = write_docs(page, "test", [TABLE], [picture], facts={"Command": "`make`", "Seeds": 0})
    text = page.read_text()
    assert filled == ["accuracy_test_run", "accuracy_test_t", "accuracy_test_picture_worst"]
    assert "- Command: `make`\n- Seeds: 0\n" in text
    assert "A note.\n\n| A | B |\n| --- | --- |\n| x | 0.500 [0.250, 0.750] |\n" in text
    assert "![Three (bad) cases in rows.](benchmarks/test_worst.png)" in text
    assert (page.parent / "benchmarks" / "test_worst.png").read_bytes() == b"png"
    assert "<!-- accuracy_real_t -->\nnot measured yet" in text
    assert "<!-- speed -->\n1 s" in text
    again = text
    write_docs(page, "test", [TABLE], [picture], facts={"Command": "`make`", "Seeds": 0})
    assert page.read_text() == again


def test_a_page_without_a_block_for_the_run_is_refused(page):
    before = page.read_text()
    with pytest.raises(ValueError, match=r"no block of part 'other' .* '<!-- accuracy_other_run -->'"):
        write_docs(page, "other", [TABLE], [], facts={})
    assert page.read_text() == before


def test_a_block_is_written_as_it_is_even_with_backslashes(page):
    text = fill_blocks(page.read_text(), {"accuracy_test_t": "a \\1 | b\n"})
    assert "a \\1 | b\n<!-- /accuracy_test_t -->" in text
    assert set(blocks_of("real", [TABLE], [], facts={}, page=page)) == {"accuracy_real_run", "accuracy_real_t"}


def test_a_public_command_names_no_folder_of_a_machine():
    words = ["evaluate.py", "/home/someone/x/scans.json", "out/eval", "--methods", "a=/home/someone/b.json,c.json"]
    assert public_command(words) == "evaluate.py scans.json out/eval --methods a=b.json,c.json"
    assert "cores" in hardware()


ROWS = [["method", "dice"], ["a", "0.500"], ["b", "35.0"]]


@pytest.mark.parametrize(
    ("row", "column", "cell", "differs"),
    [
        (1, 1, "0.509", False),
        (1, 1, "0.512", True),
        (2, 1, "35.3", False),
        (2, 1, "36.0", True),
        (1, 0, "c", True),
        (1, 1, "–", True),
        (1, 1, "", True),
    ],
)
def test_numbers_may_differ_by_the_noise_and_words_not_at_all(row, column, cell, differs):
    made = [list(one) for one in ROWS]
    made[row][column] = cell
    found = compare_rows(ROWS, made, noise=0.01)
    assert bool(found) is differs
    if differs:
        assert f"'{ROWS[row][column]}' was kept, '{cell}' was made" in found[0]


def test_intervals_are_compared_number_by_number_and_rows_must_not_be_lost():
    kept = [["a"], ["0.500 [0.250, 0.750]"]]
    assert compare_rows(kept, [["a"], ["0.505 [0.245, 0.750]"]]) == []
    assert compare_rows(kept, [["a"], ["0.505 [0.205, 0.750]"]])
    assert compare_rows(kept, kept[:1]) == ["2 rows of 1 columns were kept, 1 of 1 were made"]
    with pytest.raises(ValueError, match="noise must not be negative, got -1"):
        compare_rows(kept, kept, noise=-1)


def test_folders_are_compared_table_by_table(tmp_path):
    for name in ("kept", "made"):
        (tmp_path / name / "tables").mkdir(parents=True)
        (tmp_path / name / "tables" / "t.csv").write_text(to_csv(TABLE))
    assert compare_folders(tmp_path / "kept", tmp_path / "made") == []
    assert compare_folders(tmp_path / "kept" / "tables" / "t.csv", tmp_path / "made") == []
    (tmp_path / "kept" / "tables" / "u.csv").write_text("a\n1\n")
    assert compare_folders(tmp_path / "kept", tmp_path / "made") == ["u: was not made again"]
    with pytest.raises(ValueError, match="holds no table"):
        compare_folders(tmp_path, tmp_path / "made")
