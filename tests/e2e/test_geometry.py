"""Over HTTP, for slices of any direction: masks, points, drawn labels and saved SEGs are where they belong."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
from dicom_helpers import read_by_dcmqi, read_by_simpleitk, require_same_scan
from fast_bundle import write_fast_bundle
from helpers import Phantom, axes_of, dice, head_phantom, rotation
from itermask3d.files.dicom import MrSeries, write_mr_series

pytestmark = pytest.mark.e2e

DIRECTIONS = {
    "axial": axes_of("LPS"),
    "axial reversed": axes_of("LPI"),
    "sagittal": axes_of("PIL"),
    "sagittal reversed": axes_of("PIR"),
    "oblique": rotation(degrees=(12, -9, 17)) @ axes_of("PIR"),
}
SPACING_MM = (2.0, 2.2, 2.6)


class Case:
    """One series in the PACS: what was written, and what MONAI Label must make of it."""

    def __init__(self, name: str, folder: Path, services: ModuleType, orthanc: Any) -> None:
        self.phantom: Phantom = head_phantom(axes=DIRECTIONS[name], spacing_mm=SPACING_MM)
        self.series: MrSeries = write_mr_series(
            np.round(self.phantom.image), self.phantom.affine, folder / "dicom", description=f"T1 {name}", name=name
        )
        services.store(orthanc, self.series.files)
        scan, self.affine = read_by_simpleitk(self.series.folder, folder / "scan.nii.gz")
        self.shape = scan.shape

    def to_server(self, voxels: np.ndarray) -> np.ndarray:
        """An array on the phantom's grid in the voxel order of MONAI Label's image."""
        to_source = np.linalg.inv(self.phantom.affine) @ self.affine
        places = nib.affines.apply_affine(to_source, np.moveaxis(np.indices(self.shape), 0, -1))
        return np.asarray(voxels[tuple(np.moveaxis(np.round(places).astype(int), -1, 0))])


@pytest.fixture(scope="module")
def server(start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return start(bundle=str(write_fast_bundle(tmp_path_factory.mktemp("bundle"))))


@pytest.fixture(scope="module", params=DIRECTIONS, ids=lambda name: name.replace(" ", "-"))
def case(
    request: pytest.FixtureRequest, services: ModuleType, orthanc: Any, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("case"), services, orthanc)


def infer(server: Any, model: str, case: Case, output: str, **params: Any) -> requests.Response:
    answer = requests.post(
        f"{server.url}/infer/{model}",
        params={"image": case.series.series_uid, "output": output},
        data={"params": json.dumps(params)},
        timeout=300,
    )
    assert answer.ok, answer.text
    return answer


def read_nifti(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    image = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    return np.asarray(image.dataobj), image.affine


def raw_mask(server: Any, case: Case) -> np.ndarray:
    answer = requests.get(f"{server.url}/itermask3d/mask", params={"image": case.series.series_uid}, timeout=60)
    assert answer.ok, answer.text
    return np.frombuffer(answer.content, np.uint8).reshape(case.shape, order="F")


def read_seg(orthanc: Any, series_uid: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The SEG of a series, as another client gets it from the PACS."""
    found = requests.post(
        f"{orthanc.url}/tools/find", json={"Level": "Instance", "Query": {"SeriesInstanceUID": series_uid}}, timeout=60
    ).json()
    assert len(found) == 1
    path = folder / "seg.dcm"
    path.write_bytes(requests.get(f"{orthanc.url}/instances/{found[0]}/file", timeout=60).content)
    return read_by_dcmqi(path, folder / "dcmqi")


def test_automatic_mask_covers_the_lesion(server: Any, case: Case) -> None:
    mask, affine = read_nifti(infer(server, "itermask3d", case, "image").content)
    assert mask.shape == case.shape
    np.testing.assert_allclose(affine, case.affine, atol=1e-3)
    np.testing.assert_array_equal(mask, raw_mask(server, case))
    lesion = case.to_server(case.phantom.label)
    found = dice(mask > 0, lesion)
    elsewhere = max(dice(np.flip(mask > 0, axis), lesion) for axis in range(3))
    assert found > 0.6
    assert found > elsewhere + 0.1, "a mask flipped along an axis fits as well"


def test_point_makes_the_place_suspicious_that_it_names(server: Any, case: Case) -> None:
    infer(server, "itermask3d", case, "json")
    lesion = case.to_server(case.phantom.label)
    brain = case.to_server(case.phantom.brain_mask)
    candidates = np.argwhere(brain & ~lesion & (raw_mask(server, case) == 0))
    point = candidates[len(candidates) // 3]
    content = infer(server, "itermask3d_points", case, "image", foreground=[point.tolist()], radius_mm="4").content
    mask, affine = read_nifti(content)
    np.testing.assert_allclose(affine, case.affine, atol=1e-3)
    assert mask[tuple(point)] > 0


def test_drawn_label_is_saved_where_it_was_drawn(
    server: Any, case: Case, services: ModuleType, orthanc: Any, tmp_path: Path
) -> None:
    drawn = case.to_server(case.phantom.label)
    answer = requests.post(
        f"{server.url}/itermask3d/save",
        params={"image": case.series.series_uid, "user": "reader"},
        files={"label": ("label.bin", io.BytesIO(drawn.astype(np.uint8).tobytes(order="F")))},
        timeout=120,
    )
    assert answer.ok, answer.text
    found, affine = read_seg(orthanc, answer.json()["seg_series_uid"], tmp_path)
    require_same_scan(case.phantom.label, case.phantom.affine, found, affine)


def test_segmentation_of_the_automatic_mask_equals_it(
    server: Any, case: Case, services: ModuleType, orthanc: Any, tmp_path: Path
) -> None:
    mask, affine = read_nifti(infer(server, "itermask3d", case, "image").content)
    path = tmp_path / "seg.dcm"
    path.write_bytes(infer(server, "itermask3d", case, "dicom_seg").content)
    require_same_scan(mask > 0, affine, *read_by_dcmqi(path, tmp_path / "dcmqi"))
