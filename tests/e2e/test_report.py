"""The report in a browser: opens from disk, asks for nothing, is silent in the console, and obeys the keyboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import head_phantom
from itermask3d.reports.scan_report import write_scan_report
from pages import WIDTHS, Opened, require_accessible, require_readable, tab_to
from report_helpers import finished_scan

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = finished_scan(
        head_phantom(), tmp_path_factory.mktemp("scan"), percentile=93.75, p_value=0.0625, warnings=["Look twice."]
    )
    return write_scan_report(folder)


@pytest.fixture(params=WIDTHS)
def opened(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Opened]:
    found = Opened(browser, report, request.param, ready="#view:not([hidden])")
    yield found
    found.close()


def test_page_is_silent_asks_for_nothing_and_fits(opened: Opened) -> None:
    assert opened.said == []
    assert opened.outside() == []
    require_readable(opened.page)
    assert "flagged" in opened.page.inner_text("#readout")


def test_axe_finds_no_serious_fault(opened: Opened) -> None:
    require_accessible(opened.page)


def test_keyboard_moves_and_switches(opened: Opened) -> None:
    page = opened.page
    before = page.input_value("#slice-axial")
    tab_to(page, "#canvas-axial")
    page.keyboard.press("PageUp")
    assert int(page.input_value("#slice-axial")) == int(before) + 1
    sagittal = int(page.input_value("#slice-sagittal"))
    page.keyboard.press("ArrowRight")  # the page's right is the patient's left
    assert int(page.input_value("#slice-sagittal")) == sagittal - 1
    shown = page.evaluate("document.getElementById('canvas-axial').toDataURL()")
    page.keyboard.press("m")
    assert page.is_checked("#show-map")
    assert page.evaluate("document.getElementById('canvas-axial').toDataURL()") != shown
    assert opened.said == []


def test_regions_can_be_gone_to(opened: Opened) -> None:
    opened.page.select_option("#region", "0")
    assert opened.page.inner_text("#readout").endswith(", flagged")
    opened.page.select_option("#region", "")
    assert "not flagged" in opened.page.inner_text("#readout")


def test_rating_is_kept_and_exported(opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    page.check("input[name=finding][value=partly]")
    page.fill("textarea[name=comment]", 'a "quoted"\tline\nand another')
    page.reload()
    page.wait_for_selector("#view:not([hidden])", timeout=60_000)
    assert page.is_checked("input[name=finding][value=partly]")
    with page.expect_download() as json_file:
        page.click("#export-json")
    found = json.loads(Path(json_file.value.path()).read_text())
    assert (found["case"], found["finding"]) == ("phantom", "partly")
    assert found["comment"] == 'a "quoted"\tline\nand another'
    with page.expect_download() as tsv_file:
        page.click("#export-tsv")
    header, row = Path(tsv_file.value.path()).read_text().strip().split("\n")
    assert len(header.split("\t")) == len(row.split("\t"))
    page.click("#rating-clear")
    assert not page.is_checked("input[name=finding][value=partly]")
    assert opened.said == []


def test_page_prints(opened: Opened, tmp_path: Path) -> None:
    printed = opened.page.pdf(path=tmp_path / "report.pdf", format="A4", print_background=True)
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") <= 8
