"""Finding scans: every kind of source, names that tell scans apart, and series that are no scans."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from itermask3d.files.dicom import write_mr_series
from itermask3d.files.discovery import discover, is_bids
from itermask3d.files.names import MAX_NAME_BYTES
from itermask3d.files.scans import ScanError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def cases(found) -> list[str]:
    return [scan.case for scan in found.scans]


def series(folder: Path, n_slices: int = 24, **options) -> Path:
    """Write a small series; ``options`` go to :func:`write_mr_series`."""
    volume = np.arange(6 * 5 * n_slices, dtype=float).reshape(6, 5, n_slices)
    write_mr_series(volume, np.eye(4), folder, **{"description": "T1 MPRAGE", **options})
    return folder


def test_scans_of_a_folder_are_named_by_their_place(tmp_path):
    touch(tmp_path, "s1/t1.nii.gz", "s2/t1.nii.gz", "b.nii", ".hidden/x.nii", "derivatives/y.nii", "out/z.nii.gz")
    found = discover(tmp_path, ignore=tmp_path / "out")
    assert (found.kind, cases(found)) == ("folder", ["b", "derivatives_y", "s1_t1", "s2_t1"])
    assert found.scans[2].folder == "s1_t1"
    assert found.scans[2].image == str(tmp_path / "s1" / "t1.nii.gz")


def test_results_of_an_earlier_run_are_no_scans(tmp_path):
    touch(tmp_path, "a.nii.gz", "results/a/a_mask.nii.gz", "results/a/result.json")
    assert cases(discover(tmp_path)) == ["a"]


def test_two_scans_of_one_name_are_refused_with_both(tmp_path):
    touch(tmp_path, "a.nii", "a.nii.gz")
    with pytest.raises(ScanError, match=r"a\.nii.*a\.nii\.gz.*'case'"):
        discover(tmp_path)


def test_a_long_name_is_shortened_and_stays_unique(tmp_path):
    deep = "/".join(["folder-of-some-length"] * 9)
    touch(tmp_path, f"a/{deep}/t1.nii.gz", f"b/{deep}/t1.nii.gz")
    names = cases(discover(tmp_path))
    assert len(set(names)) == 2
    assert all(len(name) <= MAX_NAME_BYTES and name.endswith("_t1") for name in names)


def test_a_list_keeps_its_order_and_names_scans_that_are_missing(tmp_path):
    (tmp_path / "list.txt").write_text("z.nii.gz\nsub/a.nii.gz\n")
    found = discover(tmp_path / "list.txt")
    assert (found.kind, cases(found)) == ("list", ["z", "a"])
    assert found.scans[1].image == str(tmp_path / "sub" / "a.nii.gz")
    (tmp_path / "list.json").write_text(json.dumps([{"image": "z.nii.gz", "case": "one", "brain_mask": "m.nii.gz"}]))
    listed = discover(tmp_path / "list.json").scans[0]
    assert listed.item == {
        "case": "one",
        "image": str(tmp_path / "z.nii.gz"),
        "brain_mask": str(tmp_path / "m.nii.gz"),
    }


def test_brain_masks_are_paired_by_name(tmp_path):
    touch(tmp_path, "in/s1/t1.nii.gz", "masks/s1_t1.nii.gz")
    found = discover(tmp_path / "in", brain_mask_dir=tmp_path / "masks")
    assert found.scans[0].brain_mask == str(tmp_path / "masks" / "s1_t1.nii.gz")
    with pytest.raises(ScanError, match="has no brain_mask"):
        discover(tmp_path / "in", brain_mask_dir=tmp_path / "in")


def test_a_bids_dataset_gives_one_contrast_at_its_own_places(tmp_path):
    touch(
        tmp_path,
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.json",
        "sub-01/ses-1/dwi/sub-01_ses-1_dwi.nii.gz",
        "sub-02/anat/sub-02_run-1_T1w.nii",
        "derivatives/tool/sub-02/anat/sub-02_desc-x_T1w.nii.gz",
    )
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    found = discover(tmp_path)
    assert found.kind == "bids"
    assert [scan.folder for scan in found.scans] == [
        "sub-01/ses-1/anat/sub-01_ses-1_T1w",
        "sub-02/anat/sub-02_run-1_T1w",
    ]
    assert cases(discover(tmp_path, suffixes=["FLAIR"])) == ["sub-01_ses-1_FLAIR"]
    with pytest.raises(ScanError, match=r"\*_T2w"):
        discover(tmp_path, suffixes=["T2w"])


def test_derivatives_are_no_raw_dataset(tmp_path):
    (tmp_path / "dataset_description.json").write_text('{"BIDSVersion": "1.10.0", "DatasetType": "derivative"}')
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    assert not is_bids(tmp_path)


def test_a_tree_of_dicom_files_gives_a_scan_a_series(tmp_path):
    series(tmp_path / "p1" / "study" / "t1", name="one")
    series(tmp_path / "p2" / "study" / "t1", name="two")
    series(tmp_path / "p2" / "study" / "scout", n_slices=3, name="three", description="scout")
    series(tmp_path / "p2" / "study" / "map", name="four", image_type=("DERIVED", "PRIMARY", "M"))
    found = discover(tmp_path)
    assert (found.kind, cases(found)) == ("dicom", ["p1_study_t1", "p2_study_t1"])
    assert all(scan.files == () for scan in found.scans)
    reasons = sorted(entry.reason for entry in found.left_out)
    assert "derived" in reasons[0]
    assert "3 images, expected at least 20" in reasons[1]


def test_series_that_share_a_folder_are_told_apart_without_a_patients_identity(tmp_path):
    folder = tmp_path / "in" / "p1"
    folder.mkdir(parents=True)
    for number, uid_of in ((2, "a"), (3, "b"), (3, "c")):
        written = series(tmp_path / f"{number}{uid_of}", name=uid_of, series_number=number)
        for file in written.iterdir():
            file.rename(folder / f"{uid_of}{file.name}")
    found = discover(tmp_path / "in")
    assert cases(found)[0] == "p1_series-2_T1-MPRAGE"
    assert len(set(cases(found))) == 3
    assert all(len(scan.files) == 24 for scan in found.scans)
    patient = pydicom.dcmread(found.scans[0].files[0]).PatientID
    assert not any(str(patient) in name for name in cases(found))


@pytest.mark.parametrize("content", ["nothing", "only a scout", "missing"])
def test_a_source_without_scans_is_said_in_one_sentence(tmp_path, content):
    source = tmp_path / "in"
    if content != "missing":
        source.mkdir()
    if content == "only a scout":
        series(source / "scout", n_slices=3)
    with pytest.raises(ScanError, match="expected"):
        discover(source)


def test_a_single_scan_is_a_source(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4)), tmp_path / "one.nii.gz")
    assert cases(discover(tmp_path / "one.nii.gz")) == ["one"]
