"""The page and the table of a cohort: complete, in order, explained, and without a word to the network."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from itermask3d.files.discovery import FoundScan, LeftOut
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.workflows.screening.cohort_report import Throughput, distribution, write_cohort_report
from itermask3d.workflows.screening.cohort_table import COLUMNS, rows_of, write_cohort_table
from itermask3d.workflows.screening.journal import Journal, Record, Status
from PIL import Image


def add(
    output: Path, case: str, *, outcome: str = "anomaly", score: float | None = 0.1, overview: bool = False
) -> None:
    """A finished scan with what the table reads."""
    folder = output / case
    folder.mkdir(parents=True)
    result = {
        "outcome": outcome,
        "score": score,
        "percentile_among_normals": None if score is None else 50.0,
        "flagged_share": score,
        "mean_error": score,
        "volumes_ml": {"anomaly": 3.5, "brain": 1300.0},
        "components": [{"volume_ml": 3.0}, {"volume_ml": 0.5}],
        "preprocessing": {"brain_extraction": "deepbet"},
        "warnings": ["first\twarning", "second"],
    }
    (folder / "result.json").write_text(json.dumps(result))
    if overview:
        Image.new("RGB", (1650, 1496)).save(folder / "overview.png")
    Journal(output).append(Record.of(FoundScan(case, f"/scans/{case}.nii", case), Status.DONE))


@pytest.fixture
def cohort(tmp_path) -> Path:
    add(tmp_path, "normal", outcome="no_anomaly", score=0.0)
    add(tmp_path, "mild", score=0.01, overview=True)
    add(tmp_path, "unclear", outcome="fit_failed", score=None)
    add(tmp_path, "<strong> & co", score=0.4, overview=True)
    broken = FoundScan("broken", "/scans/broken.nii", "broken")
    Journal(tmp_path).append(Record.of(broken, Status.FAILED, reason="it cannot be <read>"))
    return tmp_path


class Page(HTMLParser):
    """Collects tags with their attributes, and texts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def test_rows_come_highest_score_first_and_failures_last(cohort):
    rows = rows_of(Journal(cohort))
    assert [row["case"] for row in rows] == ["<strong> & co", "mild", "unclear", "normal", "broken"]
    assert all(set(row) == set(COLUMNS) for row in rows)


def test_every_column_of_the_table_is_in_the_data_dictionary(cohort):
    write_cohort_table(rows_of(Journal(cohort)), cohort)
    with (cohort / "scans.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    dictionary = json.loads((cohort / "scans.json").read_text())
    columns = {name for name, value in dictionary.items() if isinstance(value, dict)}
    assert set(rows[0]) == columns
    assert all(dictionary[name]["Description"] for name in columns)
    for row in rows:
        for name in columns & {key for key in columns if "Levels" in dictionary[key]}:
            assert row[name] in {*dictionary[name]["Levels"], "n/a"}
    assert rows[-1]["reason"] == "it cannot be <read>"
    assert rows[-1]["score"] == "n/a"
    assert rows[0]["warnings"] == "first warning | second"


def test_the_page_asks_nothing_of_the_network_and_escapes_what_it_shows(cohort):
    left_out = [LeftOut("/scans/x", "series 1 (scout): 3 images")]
    path = write_cohort_report(
        Journal(cohort),
        title="<b>mine</b>",
        normals=[0.0, 0.02],
        throughput=Throughput(4, 3600, 2, 1),
        left_out=left_out,
    )
    page, text = Page(path), path.read_text()
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+|@import|url\(", text)
    for attributes in (attributes for _, attributes in page.tags):
        for name in ("src", "href"):
            value = attributes.get(name) or ""
            assert not value.startswith(("http", "//", "file:", "/"))
    assert "<b>mine</b>" not in text
    assert "<strong>" not in text
    assert RESEARCH_USE in page.text
    assert "it cannot be <read>" in page.text
    assert "10,000 scans" in page.text
    assert "series 1 (scout)" in page.text


def test_the_page_links_to_reports_and_shows_outliers_with_their_picture(cohort):
    (cohort / "mild" / "report.html").write_text("page")
    page = Page(write_cohort_report(Journal(cohort), title="cohort"))
    links = [attributes["href"] for attributes in page.named("a")]
    assert "mild/report.html" in links
    assert "%3Cstrong%3E%20%26%20co/overview.png" in links
    images = page.named("img")
    assert len(images) == 2
    assert all(image["src"].startswith("data:image/jpeg") and image["alt"] for image in images)


def test_the_table_can_be_used_without_a_mouse(cohort):
    page = Page(write_cohort_report(Journal(cohort), title="cohort"))
    sortable = [attributes for attributes in page.named("th") if "aria-sort" in attributes]
    assert [attributes["aria-sort"] for attributes in sortable].count("descending") == 1
    assert len([attributes for attributes in page.named("button") if attributes.get("type") == "button"]) == len(
        sortable
    )
    labelled = {attributes["for"] for attributes in page.named("label")}
    assert labelled == {attributes["id"] for tag in ("input", "select") for attributes in page.named(tag)}
    assert page.named("html")[0]["lang"] == "en"
    assert [tag for tag, _ in page.tags].count("h1") == 1


def test_a_page_of_nothing_but_failures_is_written(tmp_path):
    Journal(tmp_path).append(Record.of(FoundScan("a", "/a.nii", "a"), Status.FAILED, reason="gone"))
    assert "gone" in Page(write_cohort_report(Journal(tmp_path), title="cohort")).text


@pytest.mark.parametrize(("scores", "normals"), [([0.0], []), ([0.0, 0.0], [0.0]), ([0.1, 0.9], [0.2, 2.0])])
def test_bars_and_ticks_lie_on_the_axis_and_the_highest_bar_fills_it(scores, normals):
    found = distribution(scores, normals)
    assert max(height for _, _, height in found.bars) == 1
    assert all(0 <= left <= left + width <= 1 + 1e-9 for left, width, _ in found.bars)
    assert all(0 <= place <= 1 for place in found.normals)
    assert len(found.normals) == len(normals)
    assert str(len(scores)) in found.summary


def test_without_scores_there_is_nothing_to_draw():
    assert distribution([], [0.1]) is None
