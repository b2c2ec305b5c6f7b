"""OHIF in a real browser with a study of ours open, and what a person does there."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
from dicom_helpers import read_by_simpleitk
from itermask3d.files.dicom import MrSeries, write_mr_series
from itermask3d.simulation.lesions import LesionLook, generated_shape, insert_lesion
from pages import SCREENSHOTS

RUN_MS, STEP_MS = 280_000, 60_000

LABELMAP = """() => {
  const values = window.services.segmentationService.getLabelmapVolume('1').voxelManager.getCompleteScalarDataArray();
  const places = [];
  values.forEach((value, place) => { if (value) { places.push(place, value); } });
  return { length: values.length, places };
}"""
SEGMENT_NAMES = """() => Object.fromEntries(Object.values(
  window.services.segmentationService.getSegmentation('1').segments
).filter(Boolean).map(segment => [segment.segmentIndex, segment.label]))"""
VOXELS = """places => {
  const volumes = window.cornerstone.cache.getVolumes().filter(one => one.metadata?.Modality === 'MR');
  const values = volumes[0].voxelManager.getCompleteScalarDataArray();
  return places.map(place => values[place]);
}"""
LOADED = """() => {
  const volumes = window.cornerstone?.cache.getVolumes().filter(one => one.metadata?.Modality === 'MR');
  return Boolean(volumes?.length && volumes[0].loadStatus?.loaded);
}"""
STORED = """async uid => {
  const found = window.services.displaySetService.activeDisplaySets.find(one => one.SeriesInstanceUID === uid);
  await found.load({ headers: {} });
  const values = new Uint8Array(found.labelmapBufferArray[0]);
  const places = [];
  values.forEach((value, place) => { if (value) { places.push(place, value); } });
  return { length: values.length, places };
}"""
"""How OHIF reads a SEG of the PACS."""

OVERLAID = """([name, places]) => {
  const volumes = window.cornerstone.cache.getVolumes().filter(one => one.volumeId.startsWith(`itermask3d-${name}`));
  const values = volumes[0].voxelManager.getCompleteScalarDataArray();
  return { count: volumes.length, length: values.length, values: places.map(place => values[place]) };
}"""
"""What lies over the scan, at some places."""


def pixels(condition: str) -> str:
    """A script that counts pixels of the viewports by ``data`` at ``i`` (red), ``i + 1`` and ``i + 2``."""
    return f"""() => {{
  let count = 0;
  for (const canvas of document.querySelectorAll('.cornerstone-viewport-element canvas')) {{
    const {{ data }} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < data.length; i += 4) {{
      count += {condition};
    }}
  }}
  return count;
}}"""


COLOURED = pixels("Math.max(data[i], data[i + 1], data[i + 2]) - Math.min(data[i], data[i + 1], data[i + 2]) > 40")


class Study:
    """A scan in the PACS, as given or the packaged template with a lesion, sagittal and from right to left."""

    def __init__(
        self, folder: Path, services: ModuleType, orthanc: Any, scan: tuple[np.ndarray, np.ndarray] | None = None
    ) -> None:
        image, affine = scan or self._scan()
        self.series: MrSeries = write_mr_series(image, affine, folder / "dicom", description="T1 with a lesion")
        services.store(orthanc, self.series.files)
        self.voxels, self.affine = read_by_simpleitk(self.series.folder, folder / "scan.nii.gz")

    @staticmethod
    def _scan() -> tuple[np.ndarray, np.ndarray]:
        """The template at 2 mm with a dark lesion, as a scanner would store it from right to left."""
        datasets = pytest.importorskip("nilearn.datasets", reason="this test needs nilearn's template")
        image = datasets.load_mni152_template(resolution=2)
        brain = datasets.load_mni152_brain_mask(resolution=2).get_fdata() > 0
        rng = np.random.default_rng(7)
        region = generated_shape(brain, image.affine, volume_ml=25, rng=rng)
        look = LesionLook(contrast=-2.0)
        changed = insert_lesion(image.get_fdata(dtype=np.float32), region, brain, image.affine, look=look, rng=rng)
        changed = np.round(1000 * changed / changed.max()) * (image.get_fdata() > 0)
        volume = nib.Nifti1Image(changed.astype(np.float32), image.affine)
        wanted = nib.orientations.axcodes2ornt("PIR")
        turned = volume.as_reoriented(
            nib.orientations.ornt_transform(nib.orientations.io_orientation(volume.affine), wanted)
        )
        return turned.get_fdata(), turned.affine


class Viewer:
    """OHIF in a browser, with the study open."""

    def __init__(self, page: Any, server: Any, study: Study) -> None:
        self.page, self.server, self.study = page, server, study
        self.card = page.locator("#itermask3d-card")
        self.stage = 0
        self.asked: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.set_default_timeout(STEP_MS)
        page.goto(f"{server.url}/ohif/monai-label?StudyInstanceUIDs={study.series.study_uid}")
        page.get_by_role("button", name="Confirm and Hide").click()
        page.locator(".cornerstone-viewport-element canvas").first.wait_for()
        page.wait_for_function(LOADED, polling=250)

    def asked_elsewhere(self) -> list[str]:
        """Requests that went to another host."""
        return [url for url in self.asked if not url.startswith((self.server.url, "data:", f"blob:{self.server.url}"))]

    def shoot(self, name: str) -> None:
        """A screenshot for people, numbered by stage."""
        self.stage += 1
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{self.stage}_{name}.png")

    def press(self, button: str, *, until: str, timeout_ms: int = STEP_MS) -> str:
        """Press a button of the card and wait for a sentence in its status; an error in the card fails the test."""
        self.card.get_by_role("button", name=button, exact=True).click()
        answer = self.card.locator(".itermask3d-status").filter(has_text=re.compile(until))
        trouble = self.card.locator(".itermask3d-error:visible")
        answer.or_(trouble).first.wait_for(timeout=timeout_ms)
        assert not trouble.count(), trouble.inner_text()
        return str(answer.inner_text())

    def require_step(self, keys: str, wanted: np.ndarray) -> None:
        """Press keys and wait until as many voxels are drawn as wanted, then compare each."""
        self.page.keyboard.press(keys)
        self.page.wait_for_function(
            f"count => ({LABELMAP})().places.length / 2 === count", arg=int(wanted.sum()), polling=250
        )
        np.testing.assert_array_equal(self.labelmap() > 0, wanted)

    def take_brush(self) -> None:
        """Give the left mouse button to the brush."""
        self.card.get_by_role("button", name="Brush", exact=True).click()
        self.card.locator("button[aria-pressed='true']", has_text="Brush").wait_for()

    def reload(self) -> None:
        """Load the page again while something is unsaved: the browser asks, and the person leaves."""
        asked: list[str] = []
        self.page.once("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
        self.page.reload()
        assert asked == ["beforeunload"]
        self.page.wait_for_function(LOADED, polling=250)

    def labelmap(self) -> np.ndarray:
        """What is drawn, in the voxel order of the server's image."""
        return self._volume(self.page.evaluate(LABELMAP))

    def stored(self, series_uid: str) -> np.ndarray:
        """What OHIF makes of a SEG in the PACS, in the same order."""
        known = "uid => window.services?.displaySetService?.activeDisplaySets?.some(s => s.SeriesInstanceUID === uid)"
        self.page.wait_for_function(known, arg=series_uid, polling=250)
        return self._volume(self.page.evaluate(STORED, series_uid))

    def _volume(self, found: dict[str, Any]) -> np.ndarray:
        assert found["length"] == self.study.voxels.size
        flat = np.zeros(found["length"], dtype=np.uint8)
        flat[found["places"][::2]] = found["places"][1::2]
        return flat.reshape(self.study.voxels.shape, order="F")

    def server_mask(self) -> np.ndarray:
        return self._bytes("mask")

    def draft(self) -> np.ndarray:
        """What the server keeps of a drawing that is not saved; strokes are 4."""
        return self._bytes("draft")

    def _bytes(self, name: str) -> np.ndarray:
        image = {"image": self.study.series.series_uid}
        answer = requests.get(f"{self.server.url}/itermask3d/{name}", params=image, timeout=60)
        assert answer.status_code == 200, answer.text
        return np.frombuffer(answer.content, np.uint8).reshape(self.study.voxels.shape, order="F")


def paint(viewer: Viewer, *, at: float = 0.45) -> np.ndarray:
    """A stroke with the brush in the first viewport, from that part of its width and height on; all that is drawn."""
    before = int((viewer.labelmap() > 0).sum())
    box = viewer.page.locator(".cornerstone-viewport-element").first.bounding_box()
    x, y = box["x"] + at * box["width"], box["y"] + at * box["height"]
    mouse = viewer.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x + 30, y + 12, steps=6)
    mouse.up()
    viewer.page.wait_for_function(f"before => ({LABELMAP})().places.length / 2 > before", arg=before, polling=250)
    return viewer.labelmap() > 0
