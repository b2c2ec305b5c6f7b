"""Geometry is decided from headers alone, in files of any folder, and costs no memory beyond its limit."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from cases_files import huge, with_nan
from faulty import OBLIQUE, again, enhanced, mr_slices, nifti_bytes, require_phantom, save
from itermask3d.files.dicom_files import group_series
from itermask3d.files.dicom_planes import planes_of
from itermask3d.files.dicom_stack import arrange
from itermask3d.files.dicom_volume import read_series
from itermask3d.files.read import read_volume
from itermask3d.files.scans import ScanError
from pydicom.dataset import Dataset


def test_stack_is_known_from_dicom_json() -> None:
    headers = [Dataset.from_json(data.to_json_dict()) for data in mr_slices(affine=OBLIQUE)[::-1]]
    for header in headers:
        del header.PixelData
    stack = arrange([plane for header in headers for plane in planes_of(header, "series 5")], "series 5")
    assert stack.shape == (12, 10, 9)
    np.testing.assert_allclose(np.abs(np.linalg.det(stack.affine[:3, :3])), 2.5, rtol=1e-6)
    assert stack.warnings == ()


def test_copies_are_refused_where_pixels_are_unknown() -> None:
    slices = mr_slices()
    planes = [plane for data in slices + again(slices[:1]) for plane in planes_of(data, "series 5")]
    with pytest.raises(ScanError, match="different images at one place"):
        arrange(planes, "series 5")


def test_no_plane_is_no_stack() -> None:
    with pytest.raises(ScanError, match="holds no image"):
        arrange([], "series 5")


def test_series_split_over_folders_is_one(tmp_path: Path) -> None:
    first, second = mr_slices(), mr_slices()
    save(first[:4], tmp_path / "a")
    save(first[4:], tmp_path / "b" / "c")
    save(second, tmp_path / "b" / "d")
    (tmp_path / "b" / "notes.txt").write_text("no scan")
    (tmp_path / "b" / "empty").write_bytes(b"")
    groups = group_series(path for path in tmp_path.rglob("*") if path.is_file())
    assert sorted(group.uid for group in groups) == sorted({first[0].SeriesInstanceUID, second[0].SeriesInstanceUID})
    for group in groups:
        assert group.n_images == 9
        require_phantom(read_series(group.files), np.asarray(read_volume(tmp_path / "b" / "d").affine))


def test_one_series_of_a_mixed_folder_is_read(tmp_path: Path) -> None:
    wanted = mr_slices()
    save(wanted, tmp_path)
    save(mr_slices(affine=OBLIQUE), tmp_path, [f"other{index}.dcm" for index in range(9)])
    volume = read_series(tmp_path, series_uid=wanted[0].SeriesInstanceUID)
    assert volume.instances == tuple(data.SOPInstanceUID for data in wanted)
    with pytest.raises(ScanError, match="no image of series"):
        read_series(tmp_path, series_uid="1.2.3")


def test_frames_of_an_enhanced_file_are_counted(tmp_path: Path) -> None:
    (group,) = group_series([save([enhanced()], tmp_path) / "0000.dcm"])
    assert group.n_images == 9


def test_values_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    values = with_nan(0.01)
    values[-1, -1, -1] = np.inf
    (tmp_path / "scan.nii").write_bytes(nifti_bytes(values))
    volume = read_volume(tmp_path / "scan.nii")
    assert (volume.n_nan, volume.n_infinite) == (10, 1)


def test_no_memory_is_taken_for_a_refused_scan(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(huge())
    tracemalloc.start()
    with pytest.raises(ScanError, match=r"which need 5\.0 GiB"):
        read_volume(tmp_path / "scan.nii.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 1024**2
