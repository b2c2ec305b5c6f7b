"""A result belongs to the scan that was read: what counts as changed, as the same, and as another scan."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty import VALUES, blank, brighter, meta_text, mr_slices, nifti_bytes, raw, save
from itermask3d.files.discovery import discover
from itermask3d.files.identity import (
    input_files,
    is_unchanged,
    read_record,
    require_recorded,
    require_same_scan,
    series_source,
    source_of,
)
from itermask3d.files.read import read_volume
from itermask3d.files.scans import ScanError


def recorded(item: dict[str, Any]) -> dict[str, Any]:
    """``inputs`` of a result, as a run writes them."""
    found = input_files(item)
    source = source_of(item)
    assert source is not None
    return found | {"image": {**found["image"], **read_record(read_volume(source))}}


def nifti(path: Path, **how: Any) -> dict[str, Any]:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(nifti_bytes(**how))
    return {"case": "scan", "image": str(path)}


def restamped(path: Path, content: bytes) -> None:
    """Write a file and set its time back."""
    state = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_scan_that_stays_is_unchanged(tmp_path):
    item = nifti(tmp_path / "a.nii")
    assert is_unchanged(recorded(item), item)


def test_other_content_of_the_same_size_and_time_is_noticed(tmp_path):
    item = nifti(tmp_path / "a.nii")
    before = recorded(item)
    restamped(tmp_path / "a.nii", nifti_bytes(values=VALUES[::-1]))
    assert not is_unchanged(before, item)


def test_scan_that_was_touched_or_copied_is_the_same(tmp_path):
    item = nifti(tmp_path / "a.nii")
    before = recorded(item)
    os.utime(tmp_path / "a.nii", ns=(1, 1))
    assert is_unchanged(before, item)
    assert is_unchanged(before, nifti(tmp_path / "elsewhere" / "a.nii"))


def test_image_beside_a_header_is_noticed(tmp_path):
    (tmp_path / "a.raw").write_bytes(raw())
    (tmp_path / "a.mhd").write_text(meta_text(ElementDataFile="a.raw"))
    item = {"case": "a", "image": str(tmp_path / "a.mhd")}
    before = recorded(item)
    assert is_unchanged(before, item)
    restamped(tmp_path / "a.raw", raw()[::-1])
    assert not is_unchanged(before, item)


def test_slice_overwritten_inside_a_series_is_noticed(tmp_path):
    folder = save(mr_slices(), tmp_path / "series")
    item = {"case": "series", "image": str(folder)}
    before = recorded(item)
    (folder / "notes.txt").write_text("a note changes no voxel")
    assert is_unchanged(before, item)
    slices = brighter(mr_slices())
    slices[3].save_as(tmp_path / "one.dcm", write_like_original=False)
    restamped(sorted(folder.glob("*.dcm"))[3], (tmp_path / "one.dcm").read_bytes())
    assert not is_unchanged(before, item)


def test_result_of_a_scan_elsewhere_is_not_replaced(tmp_path):
    first, second = nifti(tmp_path / "p1" / "T1.nii"), nifti(tmp_path / "p2" / "T1.nii")
    before = recorded(first)
    require_same_scan(before, first, tmp_path / "out" / "T1")
    with pytest.raises(ScanError, match=r"T1' holds the result of '.*p1/T1\.nii'; expected another .*p2/T1\.nii"):
        require_same_scan(before, second, tmp_path / "out" / "T1")


def test_scan_that_moved_keeps_its_result_and_another_in_its_stead_does_not(tmp_path):
    item = nifti(tmp_path / "old" / "T1.nii")
    before = recorded(item)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = {"case": "scan", "image": str(tmp_path / "new" / "T1.nii")}
    require_same_scan(before, moved, tmp_path)
    assert is_unchanged(before, moved)
    with pytest.raises(ScanError, match="holds the result of"):
        require_same_scan(before, nifti(tmp_path / "new" / "T1.nii", values=VALUES[::-1]), tmp_path)


def test_link_to_a_scan_is_that_scan(tmp_path):
    item = nifti(tmp_path / "T1.nii")
    (tmp_path / "link.nii").symlink_to(tmp_path / "T1.nii")
    require_same_scan(recorded(item), {"case": "scan", "image": str(tmp_path / "link.nii")}, tmp_path)


def two_series(folder: Path) -> Path:
    """Two contrasts on one grid in one folder, of 24 slices each."""
    values = np.random.default_rng(3).integers(1, 4000, (12, 10, 24)).astype(np.int16)
    for number, contrast in enumerate(("T1", "T2"), start=1):
        slices = mr_slices(values if number == 1 else values[::-1], SeriesNumber=number, SeriesDescription=contrast)
        save(slices, folder, [f"{contrast}{index:03d}.dcm" for index in range(len(slices))])
    return folder


def test_series_of_one_folder_are_read_and_found_again_each(tmp_path):
    scans = discover(two_series(tmp_path / "study")).scans
    assert [scan.case for scan in scans] == ["study_series-1_T1", "study_series-2_T2"]
    records = [recorded(scan.item) for scan in scans]
    assert len({record["image"]["series"] for record in records}) == 2
    for scan, record in zip(scans, records, strict=True):
        assert scan.series == record["image"]["series"]
        source = series_source(Path(record["image"]["path"]), record["image"]["series"])
        assert sorted(source) == sorted(scan.files)
        require_recorded(record["image"], read_record(read_volume(source)), source)
        require_same_scan(record, scan.item, tmp_path)
    with pytest.raises(ScanError, match="holds the result of"):
        require_same_scan(records[0], scans[1].item, tmp_path)
    with pytest.raises(ScanError, match="is not the scan that was segmented"):
        require_recorded(records[0]["image"], read_record(read_volume(scans[1].files)), scans[1].files)


def test_series_that_is_gone_is_told(tmp_path):
    folder = save([blank()], tmp_path / "other")
    with pytest.raises(ScanError, match="does not hold the DICOM series"):
        series_source(folder, "0123456789abcdef")
