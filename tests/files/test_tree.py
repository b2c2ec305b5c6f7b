"""Nothing below a source is overlooked: every file is a scan, a part of one, or left out with the reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from faulty import mr_slices, save
from itermask3d.files.discovery import discover, write_left_out
from itermask3d.files.names import MAX_NAME_BYTES, case_name
from itermask3d.files.read import read_volume
from itermask3d.files.scans import ScanError, list_scans
from itermask3d.files.tree import LeftOut, grouped, search

VALUES = np.random.default_rng(5).integers(1, 4000, (6, 5, 24)).astype(np.int16)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def told(root: Path) -> dict[str, str]:
    """Reason by path below the root."""
    return {os.path.relpath(entry.path, root): entry.reason for entry in search(root).left_out}


def volumes(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in search(root).volumes]


def test_every_file_is_a_scan_a_part_or_left_out(tmp_path):
    root = touch(
        tmp_path, "a.nii.gz", "a.json", "B.NII.GZ", "c.hdr", "c.img", "d.mhd", "d.raw", "e.nhdr", "alone.hdr",
        "alone.json", "notes.docx", ".hidden.nii.gz", ".git/config", "old/result.json", "old/old_mask.nii.gz",
    )  # fmt: skip
    assert volumes(root) == ["B.NII.GZ", "a.nii.gz", "c.img", "d.mhd", "e.nhdr"]
    assert told(root) == {
        ".git": "hidden, its name begins with a full stop",
        ".hidden.nii.gz": "hidden, its name begins with a full stop",
        "alone.hdr": "of no known format",
        "alone.json": "of no known format",
        "notes.docx": "of no known format",
        "old": "the result of an earlier run",
    }


def test_links_are_followed_and_dangling_ones_named(tmp_path):
    elsewhere = touch(tmp_path / "store", "sub-02/t1.nii.gz", "object")
    root = touch(tmp_path / "in", "sub-01/t1.nii.gz")
    (root / "sub-02").symlink_to(elsewhere / "sub-02")
    (root / "annexed.nii.gz").symlink_to(elsewhere / "object")
    (root / "dangling.nii.gz").symlink_to("../.git/annex/objects/gone")
    (root / "sub-01" / "loop").symlink_to(root)
    assert volumes(root) == ["annexed.nii.gz", "sub-01/t1.nii.gz", "sub-02/t1.nii.gz"]
    reasons = told(root)
    assert reasons.keys() == {"dangling.nii.gz", "sub-01/loop"}
    assert reasons["dangling.nii.gz"].startswith("a link to nothing")
    assert [item["case"] for item in list_scans(root / "sub-02")] == ["t1"]


def test_series_without_preamble_is_found(tmp_path):
    folder = save(mr_slices(VALUES), tmp_path / "in" / "p1")
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[132:])
    assert [scan.case for scan in discover(tmp_path / "in").scans] == ["p1"]


def test_series_split_over_folders_is_one_scan(tmp_path):
    slices = mr_slices(VALUES)
    save(slices[::2], tmp_path / "in" / "p1" / "a")
    save(slices[1::2], tmp_path / "in" / "p1" / "b")
    (scan,) = discover(tmp_path / "in").scans
    assert (scan.case, scan.image, len(scan.files)) == ("p1", str(tmp_path / "in" / "p1"), 24)
    assert read_volume(scan.files).voxels.shape == (6, 5, 24)
    (item,) = list_scans(tmp_path / "in")
    assert (item["case"], item["files"], item["series"]) == ("p1", list(scan.files), scan.series)


def test_copies_of_a_series_are_scans_of_their_own(tmp_path):
    slices = mr_slices(VALUES)
    for name in ("first", "second"):
        save(slices, tmp_path / "in" / name)
    assert [scan.case for scan in discover(tmp_path / "in").scans] == ["first", "second"]


def test_volumes_and_series_of_one_folder_are_both_taken(tmp_path):
    save(mr_slices(VALUES), tmp_path / "in" / "p1")
    touch(tmp_path / "in", "p2.nii.gz")
    assert [scan.case for scan in discover(tmp_path / "in").scans] == ["p2", "p1"]


BIDS_FILES = (
    "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-01/anat/sub-01_part-mag_T1w.nii.gz",
    "sub-01/anat/sub-01_part-phase_T1w.nii.gz",
    "sub-01/anat/sub-01_FLAIR.nii.gz",
    "sub-01/anat/sub-02_T1w.nii.gz",
    "sub-03/anat/sub-03_T1w.nii.gz",
    "sourcedata/sub-01/anat/sub-01_T1w.nii.gz",
    "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz",
    "code/t1.nii.gz",
)


@pytest.mark.parametrize("way", ["screen", "segment"])
def test_bids_rules_hold_in_bids_datasets(way, tmp_path):
    root = touch(tmp_path, *BIDS_FILES)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    (root / ".bidsignore").write_text("sub-03/\n")
    left_out: list[LeftOut] = []
    if way == "screen":
        found = discover(root)
        cases, left_out = [scan.case for scan in found.scans], list(found.left_out)
    else:
        cases = [item["case"] for item in list_scans(root, left_out=left_out.append)]
    assert cases == ["sub-01_T1w", "sub-01_part-mag_T1w"]
    reasons = {os.path.relpath(entry.path, root): entry.reason for entry in left_out}
    assert {name: reasons[name] for name in BIDS_FILES if name in reasons} == {
        "sub-01/anat/sub-01_part-phase_T1w.nii.gz": "part-phase, expected the magnitude",
        "sub-01/anat/sub-01_FLAIR.nii.gz": "FLAIR, not T1w",
        "sub-01/anat/sub-02_T1w.nii.gz": "not in its place sub-*/[ses-*/]anat",
        "sub-03/anat/sub-03_T1w.nii.gz": "named by the dataset's .bidsignore",
        "sourcedata/sub-01/anat/sub-01_T1w.nii.gz": "in the dataset's folder 'sourcedata', which holds no raw scans",
        "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz":
            "in the dataset's folder 'derivatives', which holds no raw scans",
        "code/t1.nii.gz": "in the dataset's folder 'code', which holds no raw scans",
    }  # fmt: skip


def test_bids_rules_hold_nowhere_else(tmp_path):
    root = touch(tmp_path, *BIDS_FILES)
    (root / ".bidsignore").write_text("sub-03/\n")
    assert len(discover(root).scans) == len(BIDS_FILES)


def test_mask_in_the_folders_of_its_scan_is_found(tmp_path):
    scans = touch(tmp_path / "in", "sub-01/anat/sub-01_T1w.nii.gz")
    masks = touch(tmp_path / "masks", "sub-01/anat/sub-01_T1w.nii.gz")
    (item,) = list_scans(scans, brain_mask_dir=masks)
    assert item["brain_mask"] == str(masks / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    touch(masks, "other/sub-01_T1w.nii.gz")
    with pytest.raises(ScanError, match="has 2 files for its brain_mask"):
        list_scans(scans, brain_mask_dir=masks)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
@pytest.mark.parametrize("ending", ["txt", "json"])
def test_list_in_any_encoding_names_its_scans_or_is_refused(encoding, ending, tmp_path):
    touch(tmp_path, "Müller.nii.gz")
    text = "# scans\r\nMüller.nii.gz\r\n" if ending == "txt" else '["Müller.nii.gz"]'
    (tmp_path / f"list.{ending}").write_bytes(text.encode(encoding))
    if (encoding, ending) == ("latin-1", "json"):
        with pytest.raises(ScanError, match="neither UTF-8 nor UTF-16"):
            list_scans(tmp_path / f"list.{ending}")
    else:
        (item,) = list_scans(tmp_path / f"list.{ending}")
        assert item == {"image": str(tmp_path / "Müller.nii.gz"), "case": "Müller"}


def test_names_in_any_bytes_and_of_any_length_name_a_folder(tmp_path):
    odd = os.fsdecode(b"M\xfcller.nii.gz")
    root = touch(tmp_path, odd, f"{'n' * 240}.nii.gz")
    items = {item["case"]: item["image"] for item in list_scans(root)}
    assert items["Müller"] == str(root / odd)
    assert all(len(case.encode()) <= MAX_NAME_BYTES for case in items)
    assert case_name("n" * 240) in items
    assert case_name("m" + "n" * 239) not in items


def test_what_was_left_out_is_told_by_reason_and_written_whole(tmp_path):
    left_out = [LeftOut(f"/in/{name}.doc", "of no known format") for name in "abcd"] + [LeftOut("=cmd", "hidden")]
    assert grouped(left_out) == [
        "left out: /in/a.doc, /in/b.doc, /in/c.doc and 1 more: of no known format",
        "left out: =cmd: hidden",
    ]
    write_left_out(left_out, tmp_path)
    lines = (tmp_path / "left_out.tsv").read_text().splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("path\treason", "'=cmd\thidden", 6)
    write_left_out([], tmp_path)
    assert not (tmp_path / "left_out.tsv").exists()


def test_a_series_whose_parts_overlap_is_one_and_told_of_its_copies(tmp_path):
    slices = mr_slices(VALUES)
    save(slices[:16], tmp_path / "a")
    save(slices[12:], tmp_path / "b")
    (found,) = search(tmp_path).series
    volume = read_volume([str(file) for file in found.files])
    assert volume.voxels.shape == VALUES.shape
    assert "4 identical copies of images were left out" in volume.warnings
    assert told(tmp_path) == {}


def test_a_part_beside_the_whole_series_is_left_out_and_whole_copies_are_scans_of_their_own(tmp_path):
    slices = mr_slices(VALUES)
    for name in ("a", "b"):
        save(slices, tmp_path / name)
    save(slices[:21], tmp_path / "c")
    assert [len(found.files) for found in search(tmp_path).series] == [24, 24]
    reasons = told(tmp_path)
    assert len(reasons) == 21
    assert set(reasons.values()) == {f"an image of a series that lies whole in '{tmp_path / 'a'}'"}
