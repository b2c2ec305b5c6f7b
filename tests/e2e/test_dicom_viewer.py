"""The DICOM objects of a result in OHIF's plain viewer: segmentation, report and picture are those of the files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pydicom
import pytest
from fast_bundle import write_fast_bundle
from helpers import Phantom
from itermask3d.files.dicom_slices import on_slices, read_slices
from itermask3d.reports.dicom_out import DicomFiles, write_dicom
from itermask3d.reports.dicom_seg import COLOUR_RGB, SEGMENT_LABEL
from ohif_page import pixels
from pages import SCREENSHOTS
from report_helpers import dicom_phantom, finished_scan

pytestmark = pytest.mark.e2e
pytest.importorskip("highdicom", reason="DICOM objects are written with highdicom (extra dicom)")

STEP_MS = 120_000

LISTED = """() => (window.services?.displaySetService?.activeDisplaySets ?? []).map(
  found => ({ modality: found.Modality, series: found.SeriesInstanceUID, description: found.SeriesDescription }))"""
HYDRATED = """() => window.services.segmentationService.getSegmentations().length === 1"""
LABELMAP = """() => {
  const [segmentation] = window.services.segmentationService.getSegmentations();
  const slices = segmentation.representationData.Labelmap.imageIds.map(id => {
    const image = window.cornerstone.cache.getImage(id);
    const places = [];
    image.voxelManager.getScalarData().forEach((value, place) => { if (value) { places.push(place, value); } });
    return { shown: image.referencedImageId, rows: image.rows, columns: image.columns, places };
  });
  return { label: segmentation.segments[1].label, slices };
}"""
"""What is drawn over each image of the scan."""

SCROLL = """sop => {
  const { cornerstoneViewportService, viewportGridService } = window.services;
  const viewport = cornerstoneViewportService.getCornerstoneViewport(viewportGridService.getActiveViewportId());
  return viewport.setImageIdIndex(viewport.getImageIds().findIndex(id => id.includes(sop)));
}"""
COLOUR = """() => {
  const { segmentationService, viewportGridService } = window.services;
  const [segmentation] = segmentationService.getSegmentations();
  return [...segmentationService.getSegmentColor(
    viewportGridService.getActiveViewportId(), segmentation.segmentationId, 1)];
}"""
ORANGE = pixels("data[i] > data[i + 1] + 40 && data[i + 1] >= data[i + 2]")
SHOW = """uid => {
  const { displaySetService, viewportGridService } = window.services;
  const displaySet = displaySetService.activeDisplaySets.find(found => found.SeriesInstanceUID === uid);
  const viewportId = viewportGridService.getActiveViewportId();
  viewportGridService.setDisplaySetsForViewport(
    { viewportId, displaySetInstanceUIDs: [displaySet.displaySetInstanceUID] });
}"""
PICTURE = """async sop => {
  for (const [id, entry] of window.cornerstone.cache._imageCache) {
    if (id.includes(sop) && entry.image) {
      const { rows, columns } = entry.image, pixels = entry.image.getPixelData();
      const channels = pixels.length / (rows * columns);
      const rgb = Uint8Array.from(channels === 3 ? pixels : pixels.filter((value, place) => place % 4 !== 3));
      const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', rgb));
      return { rows, columns, digest: [...digest].map(byte => byte.toString(16).padStart(2, '0')).join('') };
    }
  }
  return null;
}"""
"""Size and SHA-256 of the red, green and blue values of an image that the viewer has read."""


class Study(NamedTuple):
    """A scan in the PACS with the objects of its result."""

    phantom: Phantom
    series: Path
    files: DicomFiles
    uid: str


@pytest.fixture(scope="module")
def study(services: ModuleType, orthanc: Any, tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    phantom, series = dicom_phantom(folder)
    files = write_dicom(finished_scan(phantom, folder, scan=series, percentile=93.75, p_value=0.0625))
    uids = services.store(orthanc, [*sorted(series.glob("*.dcm")), *files])
    assert len(uids) == 1
    return Study(phantom, series, files, uids[0])


@pytest.fixture(scope="module")
def page(study: Study, start: Callable[..., Any], browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The viewer with the study open and all of its series listed."""
    server = start(bundle=str(write_fast_bundle(tmp_path_factory.mktemp("bundle"))))
    opened = browser.new_context(viewport={"width": 1600, "height": 1000}).new_page()
    opened.set_default_timeout(STEP_MS)
    opened.goto(f"{server.url}/ohif/viewer?StudyInstanceUIDs={study.uid}")
    opened.locator(".cornerstone-viewport-element canvas").first.wait_for()
    opened.get_by_role("button", name="Confirm and Hide").click()
    opened.wait_for_function(f"() => ({LISTED})().length === 4", polling=250)
    return opened


def shoot(page: Any, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"dicom_{name}.png")


def series_of(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID)


def test_viewer_lists_the_scan_and_all_three_objects(page: Any, study: Study) -> None:
    listed = page.evaluate(LISTED)
    assert sorted(found["modality"] for found in listed) == ["MR", "OT", "SEG", "SR"]
    by_series = {found["series"]: found["description"] for found in listed}
    for path in study.files:
        assert by_series[series_of(path)] == pydicom.dcmread(path, stop_before_pixels=True).SeriesDescription
    for description in by_series.values():
        page.get_by_text(description[:15]).first.wait_for()
    shoot(page, "listed")


def test_segmentation_is_drawn_where_the_file_has_it(page: Any, study: Study) -> None:
    slices = read_slices(study.series)
    frames = on_slices(study.phantom.label, study.phantom.affine, slices)
    uids = [str(data.SOPInstanceUID) for data in slices]
    before = page.evaluate(ORANGE)
    page.get_by_text("IterMask3D anomaly").first.dblclick()
    page.get_by_role("button", name="Yes", exact=True).click()
    page.wait_for_function(HYDRATED, polling=250)
    found = page.evaluate(LABELMAP)
    assert found["label"] == SEGMENT_LABEL
    assert len(found["slices"]) == len(uids)
    for drawn in found["slices"]:
        frame = frames[next(index for index, uid in enumerate(uids) if uid in drawn["shown"])]
        pixels = np.zeros(frame.size, dtype=np.uint8)
        pixels[drawn["places"][::2]] = drawn["places"][1::2]
        np.testing.assert_array_equal(pixels.reshape(drawn["rows"], drawn["columns"]), frame)
    np.testing.assert_allclose(page.evaluate(COLOUR)[:3], COLOUR_RGB, atol=3)
    page.evaluate(SCROLL, uids[int(frames.sum(axis=(1, 2)).argmax())])
    page.wait_for_function(f"before => ({ORANGE})() > before + 200", arg=before, polling=250)
    shoot(page, "segmentation")


def test_picture_has_the_pixels_of_the_file(page: Any, study: Study) -> None:
    data = pydicom.dcmread(study.files.overview)
    page.evaluate(SHOW, series_of(study.files.overview))
    loaded = "sop => [...window.cornerstone.cache._imageCache].some(([id, one]) => id.includes(sop) && one.image)"
    page.wait_for_function(loaded, arg=str(data.SOPInstanceUID), polling=500)
    found = page.evaluate(PICTURE, str(data.SOPInstanceUID))
    assert (found["rows"], found["columns"]) == (data.Rows, data.Columns)
    assert found["digest"] == hashlib.sha256(data.pixel_array.tobytes()).hexdigest()
    page.wait_for_function(f"() => ({ORANGE})() > 500", polling=250)
    shoot(page, "overview")
