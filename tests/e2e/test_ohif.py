"""A person at OHIF: open a study, run, look at score and mask, correct with the brush, refine, save to the PACS."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import requests
from dicom_helpers import read_by_dcmqi, require_same_scan
from itermask3d.files.dicom import write_mr_series
from ohif_page import COLOURED, OVERLAID, RUN_MS, SEGMENT_NAMES, VOXELS, Study, Viewer, paint
from pages import require_accessible, require_readable_part

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def viewer(
    services: ModuleType,
    orthanc: Any,
    start: Callable[..., Any],
    browser: Any,
    quick_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Viewer:
    study = Study(tmp_path_factory.mktemp("study"), services, orthanc)
    page = browser.new_context(viewport={"width": 1600, "height": 1000}).new_page()
    return Viewer(page, start(bundle=str(quick_bundle)), study)


SIZES = ((1280, 800), (1920, 1080))
INSIDE = """() => {
  const box = selector => document.querySelector(selector)?.getBoundingClientRect();
  const card = box('#itermask3d-card');
  const cut = ['.itermask3d-verdict', '.itermask3d-region', '.itermask3d-actions'].filter(selector => {
    const part = box(selector);
    return !part || part.top < card.top || part.bottom > card.bottom || part.right > innerWidth;
  });
  const views = [...document.querySelectorAll('.cornerstone-viewport-element')].map(one => one.getBoundingClientRect());
  const covered = views.filter(view => view.right > card.left + 1).length;
  const sideways = [...document.querySelectorAll('#itermask3d-card, #itermask3d-card *')].filter(
    one => one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).overflowX !== 'visible').length;
  const page = document.documentElement;
  return { cut, covered, sideways, wide: page.scrollWidth > innerWidth, low: card.bottom > innerHeight };
}"""
"""What of the panel cannot be seen without scrolling, and what it covers."""


LIGHT = ":root { " + " ".join(
    f"--{name}: {value} !important;"
    for name, value in {
        "background": "0 0% 100%", "foreground": "236 62% 5%", "muted": "210 40% 94%", "input": "214 32% 80%",
        "muted-foreground": "215 25% 35%", "accent": "210 60% 88%", "accent-foreground": "222 60% 11%",
        "ring": "214 98% 40%",
    }.items()
) + " }"  # fmt: skip
"""OHIF's own variables as a light theme sets them; the version that MONAI Label ships has none."""


def require_readable_in_both_themes(viewer: Viewer) -> None:
    """Every word of the panel is readable and every control named, in OHIF's dark theme and in a light one."""
    folded = viewer.card.locator("summary").all()
    for summary in folded:
        summary.click()
    require_readable_part(viewer.page, "#itermask3d-card")
    style = viewer.page.add_style_tag(content=LIGHT)
    require_readable_part(viewer.page, "#itermask3d-card")
    viewer.shoot("light")
    style.evaluate("element => element.remove()")
    for summary in folded:
        summary.click()


def require_all_in_view(viewer: Viewer) -> None:
    """Verdict, regions and buttons are seen at once at both sizes, and nothing is covered."""
    usual = viewer.page.viewport_size
    for width, height in SIZES:
        viewer.page.set_viewport_size({"width": width, "height": height})
        good = "found => !found.cut.length && !found.covered && !found.sideways && !found.wide && !found.low"
        viewer.page.wait_for_function(f"() => ({good})(({INSIDE})())", polling=250)
        viewer.shoot(f"panel_{width}")
    viewer.page.set_viewport_size(usual)


def run_in_monai_label_panel(viewer: Viewer) -> None:
    """The steps of OHIF's own MONAI Label panel, which is the tab beside: connect, choose the model, run, wait."""
    page = viewer.page
    page.locator("[data-cy='monailabel-btn']").click()
    page.locator(".settingsTable button.actionButton").click()
    page.locator(".monaiLabelPanel .tabs").wait_for()
    page.get_by_text("Auto-Segmentation").first.click()
    page.locator("select.selectBox").first.select_option("itermask3d")
    with page.expect_console_message(
        lambda message: "updated the segmentation's scalar data" in message.text, timeout=RUN_MS
    ):
        page.locator("button[title='Run Segmentation']").click()
    page.keyboard.press("Alt+p")
    viewer.card.wait_for()


def require_overlays(viewer: Viewer, places: np.ndarray) -> None:
    """Map, its parts and the expected scan lie over the scan in its own geometry, voxel by voxel, and go again."""
    shown_as = {"map": "anomaly map", "expected": "expected scan", "deviation": "deviation", "error": "error"}
    for name, label in shown_as.items():
        viewer.card.get_by_label(label, exact=True).click()
        viewer.page.wait_for_function(
            "name => window.cornerstone.cache.getVolumes().some(one => one.volumeId.startsWith(`itermask3d-${name}`))",
            arg=name,
            polling=250,
        )
        viewer.card.locator(".itermask3d-bar").wait_for(state="hidden")
        shown = viewer.page.evaluate(OVERLAID, [name, places.tolist()])
        query = {"image": viewer.study.series.series_uid, "name": name}
        answer = requests.get(f"{viewer.server.url}/itermask3d/overlay", params=query, timeout=60)
        sent = np.frombuffer(answer.content, answer.headers["X-Voxels"])
        assert shown["count"] == 1
        assert shown["length"] == sent.size == viewer.study.voxels.size
        np.testing.assert_array_equal(shown["values"], sent[places])
        viewer.shoot(name)
    viewer.card.get_by_label("scan", exact=True).click()
    viewer.page.wait_for_function(
        "() => !window.cornerstone.cache.getVolumes().some(one => one.volumeId.startsWith('itermask3d-'))", polling=250
    )


def reload_with_a_draft(viewer: Viewer) -> np.ndarray:
    """Leaving at once after a stroke loses nothing: the server has the drawing, and it comes back as it was."""
    drawn = paint(viewer, at=0.55)
    viewer.reload()
    np.testing.assert_array_equal(viewer.draft() > 0, drawn)
    viewer.card.get_by_role("button", name="Restore it").wait_for()
    viewer.shoot("draft")
    viewer.press("Restore it", until="Your drawing is back")
    np.testing.assert_array_equal(viewer.labelmap() > 0, drawn)
    return drawn


def read_seg(orthanc: Any, series_uid: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The SEG of a series, as another client gets it from the PACS."""
    query = {"Level": "Instance", "Query": {"SeriesInstanceUID": series_uid}}
    found = requests.post(f"{orthanc.url}/tools/find", json=query, timeout=60).json()
    assert len(found) == 1
    path = folder / "seg.dcm"
    path.write_bytes(requests.get(f"{orthanc.url}/instances/{found[0]}/file", timeout=60).content)
    return read_by_dcmqi(path, folder / "dcmqi")


def test_a_scan_is_run_corrected_refined_and_saved(viewer: Viewer, orthanc: Any, tmp_path: Path) -> None:
    places = np.random.default_rng(0).integers(0, viewer.study.voxels.size, 4000)
    shown = viewer.page.evaluate(VOXELS, places.tolist())
    np.testing.assert_allclose(shown, viewer.study.voxels.ravel(order="F")[places], atol=1e-3)
    before = viewer.page.evaluate(COLOURED)
    viewer.shoot("opened")

    run_in_monai_label_panel(viewer)
    mask, drawn = viewer.server_mask(), viewer.labelmap()
    assert mask.any()
    names = viewer.page.evaluate(SEGMENT_NAMES)
    bands = {int(index): int(re.search(r"\d", name).group()) for index, name in names.items() if "anomaly " in name}
    np.testing.assert_array_equal(np.vectorize(lambda index: bands.get(index, 0))(drawn), mask)
    viewer.shoot("run")
    result = requests.get(
        f"{viewer.server.url}/itermask3d/result", params={"image": viewer.study.series.series_uid}, timeout=60
    ).json()
    viewer.card.get_by_text("Technical values").click()
    viewer.card.locator("dt:text-is('Score') + dd").filter(has_text=f"{result['score']:.4f}").wait_for()
    viewer.card.get_by_text("Technical values").click()
    assert viewer.card.locator(".itermask3d-verdict").inner_text() == result["headline"]
    require_all_in_view(viewer)
    require_readable_in_both_themes(viewer)
    viewer.card.locator(".itermask3d-region").first.click()
    viewer.page.wait_for_function(f"before => ({COLOURED})() > before + 200", arg=before, polling=250)
    viewer.shoot("region")

    require_overlays(viewer, places)

    viewer.take_brush()
    painted = paint(viewer)
    assert painted[drawn > 0].all()
    assert painted.sum() > (drawn > 0).sum()
    viewer.shoot("painted")
    for keys, wanted in (("Control+z", drawn > 0), ("Control+Shift+Z", painted)):
        viewer.require_step(keys, wanted)
    painted = reload_with_a_draft(viewer)

    viewer.press("Refine from my edit", until="Refined", timeout_ms=RUN_MS)
    refined = viewer.labelmap() > 0
    np.testing.assert_array_equal(refined, viewer.server_mask() > 0)
    assert "region" in viewer.card.locator(".itermask3d-verdict").inner_text()
    assert viewer.card.locator(".itermask3d-verdict").get_by_text("No unusual region").count() == (not refined.any())
    viewer.shoot("refined")

    viewer.card.get_by_placeholder("Your name").fill("e2e")
    said = viewer.press("Save to PACS", until="saved")
    viewer.shoot("saved")
    series_uid = re.search(r"series ([\d.]+\d)", said).group(1)
    require_same_scan(refined, viewer.study.affine, *read_seg(orthanc, series_uid, tmp_path))


def save(viewer: Viewer, mask: np.ndarray) -> str:
    """Save a mask without the viewer; returns the series of its SEG."""
    answer = requests.post(
        f"{viewer.server.url}/itermask3d/save",
        params={"image": viewer.study.series.series_uid, "user": "e2e"},
        files={"label": ("label.bin", mask.astype(np.uint8).tobytes(order="F"))},
        timeout=120,
    )
    assert answer.ok, answer.text
    return str(answer.json()["seg_series_uid"])


def test_saved_masks_are_read_back_by_the_viewer(viewer: Viewer) -> None:
    mask = viewer.study.voxels > 600
    mask[: mask.shape[0] // 3] = False
    masks = {save(viewer, drawn): drawn for drawn in (mask, np.zeros_like(mask))}
    viewer.page.goto(f"{viewer.server.url}/ohif/viewer?StudyInstanceUIDs={viewer.study.series.study_uid}")
    for series_uid, drawn in masks.items():
        np.testing.assert_array_equal(viewer.stored(series_uid) > 0, drawn)
    viewer.shoot("read_back")


def test_axe_finds_no_serious_fault_in_the_panel_and_its_report(viewer: Viewer) -> None:
    image = {"image": viewer.study.series.series_uid}
    requests.post(f"{viewer.server.url}/infer/itermask3d", params={**image, "output": "json"}, timeout=300)
    context = viewer.page.context.browser.new_context(viewport={"width": 1280, "height": 800})
    opened = Viewer(context.new_page(), viewer.server, viewer.study)
    opened.card.locator(".itermask3d-status").filter(has_text="The mask is shown").wait_for()
    for summary in opened.card.locator("summary").all():
        summary.click()
    require_accessible(opened.page, "#itermask3d-card")
    opened.page.goto(f"{viewer.server.url}/itermask3d/report?image={image['image']}")
    require_accessible(opened.page)
    context.close()


def test_nothing_left_the_machine(viewer: Viewer) -> None:
    assert viewer.asked
    assert viewer.asked_elsewhere() == []


def test_a_viewer_of_one_patient_is_told_of_no_other(viewer: Viewer, services: ModuleType, orthanc: Any) -> None:
    other = write_mr_series(
        viewer.study.voxels[:20, :20], viewer.study.affine, viewer.study.series.folder / "other", description="T1",
        name="somebody else",
    )  # fmt: skip
    services.store(orthanc, other.files)
    query = {"StudyInstanceUID": viewer.study.series.study_uid}
    found = requests.get(f"{viewer.server.url}/proxy/dicom/qido/studies", params=query, timeout=60).json()
    assert [one["0020000D"]["Value"] for one in found] == [[viewer.study.series.study_uid]]
