"""The page of a cohort in a browser: silent, without the network, readable, and of use without a mouse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import head_phantom
from itermask3d.files.discovery import FoundScan, LeftOut
from itermask3d.method.detection import Outcome
from itermask3d.reports.scan_report import write_scan_report
from itermask3d.workflows.screening.cohort_report import Throughput, write_cohort_report
from itermask3d.workflows.screening.journal import Journal, Record, Status
from pages import WIDTHS, Opened, require_accessible, require_readable, tab_to
from PIL import Image
from report_helpers import finished_scan

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flagged scan, one without a finding, one unlike the training, one that failed, and a series left out."""
    output, phantom = tmp_path_factory.mktemp("cohort"), head_phantom(spacing_mm=(4, 4, 4))
    told: dict[str, dict[str, Any]] = {
        "sub-01": {"percentile": 93.75, "p_value": 0.0625, "in_distribution": True},
        "sub-02": {"outcome": Outcome.NO_ANOMALY, "percentile": 0.0, "p_value": 1.0, "in_distribution": True},
        "sub-03": {"in_distribution": False, "score": 0.4, "warnings": ["Out-of-distribution (contrast): look."]},
    }
    for case, facts in told.items():
        folder = finished_scan(phantom, output, case=case, **facts)
        write_scan_report(folder)
        Image.new("RGB", (1650, 1496), "#202020").save(folder / "overview.png")
        Journal(output).append(Record.of(FoundScan(case, f"/scans/{case}.nii.gz", case), Status.DONE))
    broken = FoundScan("sub-04", "/scans/sub-04.nii.gz", "sub-04")
    Journal(output).append(Record.of(broken, Status.FAILED, reason="'sub-04.nii.gz' cannot be read; expected a scan"))
    return write_cohort_report(
        Journal(output),
        title="A night's scans",
        normals=[0.0, 0.01, 0.03],
        throughput=Throughput(4, 1200, 2, 1),
        left_out=[LeftOut("/scans/x", "series 1 (scout): 3 images, expected at least 20")],
    )


@pytest.fixture(params=[(width, dark) for width in WIDTHS for dark in (False, True)], ids=str)
def opened(request: pytest.FixtureRequest, browser: Any, cohort: Path) -> Iterator[Opened]:
    width, dark = request.param
    found = Opened(browser, cohort, width, dark=dark)
    found.name = f"cohort_{width}{'_dark' if dark else ''}"
    yield found
    found.close()


def cases(page: Any) -> list[str]:
    """Scans that the table shows, in its order."""
    return [text.strip() for text in page.locator("#table tbody tr:visible th").all_inner_texts()]


def test_page_is_silent_asks_for_nothing_and_can_be_read(opened: Opened) -> None:
    for details in opened.page.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    require_readable(opened.page)
    assert "1 of the scans is unlike those of the training" in opened.page.inner_text("main")
    assert opened.said == []
    assert opened.outside() == []
    assert opened.page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_axe_finds_no_serious_fault_in_the_cohorts_page(opened: Opened) -> None:
    require_accessible(opened.page)


def test_table_is_sorted_and_filtered_by_keyboard(opened: Opened) -> None:
    page = opened.page
    assert cases(page) == ["sub-03", "sub-01", "sub-02"]
    tab_to(page, "#words")
    page.keyboard.type("sub-0")
    tab_to(page, "#outcome")
    page.keyboard.type("flagged")
    assert cases(page) == ["sub-03", "sub-01"]
    assert page.inner_text("#shown") == "2 of 3 shown"
    tab_to(page, "#table thead th:first-child button")
    page.keyboard.press("Enter")
    assert cases(page) == ["sub-01", "sub-03"]
    assert page.get_attribute("#table thead th:first-child", "aria-sort") == "ascending"
    assert opened.said == []


def test_a_link_leads_to_the_scans_report(opened: Opened) -> None:
    page = opened.page
    tab_to(page, ".cards a")
    page.keyboard.press("Enter")
    page.wait_for_selector("#view:not([hidden])", timeout=60_000)
    assert page.inner_text("h1") == "sub-03"
    assert "not comparable" in page.inner_text(".facts")
    page.go_back()
    assert opened.said == []
