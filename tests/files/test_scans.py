"""Finding scans, naming them and refusing what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from itermask3d.files.dicom import write_mr_series
from itermask3d.files.scans import (
    SCAN_SUFFIXES,
    ScanError,
    bare_scan_errors,
    first_cause,
    list_scans,
    scan_error,
    split_scans,
)
from itermask3d.files.tree import LeftOut


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _dicom(folder: Path, n_slices: int = 24) -> None:
    write_mr_series(np.ones((4, 5, n_slices)), np.eye(4), folder, description="T1", name=folder.name)


@pytest.mark.parametrize("suffix", SCAN_SUFFIXES)
def test_single_file_is_named_after_its_stem(tmp_path, suffix):
    path = tmp_path / f"sub-01.T1w{suffix}"
    _touch(path)
    assert list_scans(path) == [{"image": str(path), "case": "sub-01.T1w"}]
    assert list_scans(str(path)) == list_scans(path)


def test_folder_is_searched_recursively_in_order_and_other_files_are_left_out(tmp_path):
    _touch(tmp_path / "b.nii.gz", tmp_path / "a" / "c.mgz", tmp_path / "notes.txt", tmp_path / "a.json")
    assert [item["case"] for item in list_scans(tmp_path)] == ["c", "b"]


def test_text_list_is_relative_to_its_own_folder_and_skips_comments(tmp_path):
    absolute = tmp_path / "elsewhere" / "two.nii"
    (tmp_path / "scans.txt").write_text(f"# my cohort\none.nii.gz\n\n  {absolute}  \n")
    assert [item["image"] for item in list_scans(tmp_path / "scans.txt")] == [
        str(tmp_path / "one.nii.gz"),
        str(absolute),
    ]


def test_json_list_takes_paths_and_items(tmp_path):
    entries = [
        "one.nii.gz",
        {"image": "two.nii.gz", "brain_mask": "m.nii.gz", "label": "l.nii.gz", "case": "B", "age": 7},
    ]
    (tmp_path / "scans.json").write_text(json.dumps(entries))
    one, two = list_scans(tmp_path / "scans.json")
    assert one == {"image": str(tmp_path / "one.nii.gz"), "case": "one"}
    paths = {
        key: str(tmp_path / f"{name}.nii.gz") for key, name in (("image", "two"), ("brain_mask", "m"), ("label", "l"))
    }
    assert two == {**paths, "case": "B", "age": 7}


def test_sequence_of_paths_and_items_is_taken_and_not_mutated(tmp_path):
    entry = {"image": str(tmp_path / "b.nii")}
    items = list_scans([tmp_path / "a.nii", entry])
    assert [item["case"] for item in items] == ["a", "b"]
    assert set(entry) == {"image"}


def test_folder_of_dicom_files_is_one_scan_named_by_the_folder(tmp_path):
    _dicom(tmp_path / "series-7", n_slices=3)
    assert list_scans(tmp_path / "series-7") == [{"image": str(tmp_path / "series-7"), "case": "series-7"}]


def test_every_folder_of_dicom_files_is_a_scan_of_its_own(tmp_path):
    _dicom(tmp_path / "anna")
    _dicom(tmp_path / "bert")
    _touch(tmp_path / "readme.txt")
    told: list[LeftOut] = []
    assert [item["case"] for item in list_scans(tmp_path, left_out=told.append)] == ["anna", "bert"]
    assert told == [LeftOut(str(tmp_path / "readme.txt"), "of no known format")]


def test_dicom_folder_given_as_the_working_directory_has_a_name(tmp_path, monkeypatch):
    _dicom(tmp_path / "series")
    monkeypatch.chdir(tmp_path / "series")
    assert list_scans(".")[0]["case"] == "series"


def test_companions_are_found_by_file_name_or_by_case(tmp_path):
    _touch(tmp_path / "t1" / "a.nii.gz", tmp_path / "masks" / "a.nii.gz", tmp_path / "labels" / "a.mgz")
    (item,) = list_scans(tmp_path / "t1", brain_mask_dir=tmp_path / "masks", label_dir=tmp_path / "labels")
    assert item["brain_mask"] == str(tmp_path / "masks" / "a.nii.gz")
    assert item["label"] == str(tmp_path / "labels" / "a.mgz")


@pytest.mark.parametrize("key", ["brain_mask", "label"])
def test_missing_companion_is_named_with_the_place_where_it_was_expected(tmp_path, key):
    _touch(tmp_path / "t1" / "a.nii.gz", tmp_path / "t1" / "b.nii.gz", tmp_path / "other" / "a.nii.gz")
    with pytest.raises(ScanError, match=f"scan 'b' has no {key} in .*other.*; expected 'b.nii.gz' there"):
        list_scans(tmp_path / "t1", **{f"{key}_dir": tmp_path / "other"})


def test_two_scans_of_one_name_in_one_folder_are_refused_by_name(tmp_path):
    _touch(tmp_path / "t1.nii.gz", tmp_path / "t1.nii")
    with pytest.raises(ScanError, match="share the name 't1'") as error:
        list_scans(tmp_path)
    assert str(tmp_path / "t1.nii.gz") in str(error.value)
    assert str(tmp_path / "t1.nii") in str(error.value)


def test_scans_of_one_name_in_several_folders_are_named_by_these_too(tmp_path):
    _touch(tmp_path / "p1" / "t1.nii.gz", tmp_path / "p2" / "t1.nii", tmp_path / "p2" / "t2.nii")
    assert [item["case"] for item in list_scans(tmp_path)] == ["p1_t1", "p2_t1", "t2"]


def test_no_two_scans_share_a_brain_mask(tmp_path):
    _touch(tmp_path / "in" / "p1" / "t1.nii.gz", tmp_path / "in" / "p2" / "t1.nii.gz", tmp_path / "masks" / "t1.nii.gz")
    with pytest.raises(ScanError, match=r"scans 'p1_t1' and 'p2_t1' both have .*; expected a file for each"):
        list_scans(tmp_path / "in", brain_mask_dir=tmp_path / "masks")
    _touch(tmp_path / "masks" / "p1_t1.nii.gz", tmp_path / "masks" / "p2_t1.nii.gz")
    masks = [Path(item["brain_mask"]).name for item in list_scans(tmp_path / "in", brain_mask_dir=tmp_path / "masks")]
    assert masks == ["p1_t1.nii.gz", "p2_t1.nii.gz"]


def test_own_case_names_resolve_a_clash():
    items = list_scans([{"image": "x/t1.nii", "case": "x"}, {"image": "y/t1.nii", "case": "y"}])
    assert [item["case"] for item in items] == ["x", "y"]


@pytest.mark.parametrize("content", ["nothing", "text", "almost_dicom"])
def test_folder_without_a_scan_is_refused(tmp_path, content):
    if content == "text":
        _touch(tmp_path / "notes.docx")
    if content == "almost_dicom":
        (tmp_path / "short").write_bytes(b"DICM")
    with pytest.raises(ScanError, match=r"holds no scan.*; expected \.nii\.gz"):
        list_scans(tmp_path)


def test_missing_path_is_refused_by_name(tmp_path):
    with pytest.raises(ScanError, match=r"nowhere\.nii\.gz' does not exist; expected a scan, a folder"):
        list_scans(tmp_path / "nowhere.nii.gz")


@pytest.mark.parametrize(("name", "text"), [("empty.txt", "# nothing\n\n"), ("empty.json", "[]")])
def test_empty_list_is_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ScanError, match="the list of scans is empty"):
        list_scans(tmp_path / name)


def test_item_without_an_image_is_refused_with_its_keys():
    with pytest.raises(ScanError, match=r"\['label', 'scan'\], expected at least 'image'"):
        list_scans([{"scan": "a.nii", "label": "b.nii"}])


@pytest.mark.parametrize("text", ['{"training": [{"image": "a.nii"}]}', '"a.nii"', "7", "[1, 2]", '["a.nii",', ""])
def test_json_that_is_no_list_of_scans_is_refused_as_a_scan_error(tmp_path, text):
    (tmp_path / "scans.json").write_text(text)
    with pytest.raises(ScanError, match=r"scans\.json"):
        list_scans(tmp_path / "scans.json")


ITEMS = [{"image": f"{case}.nii", "case": case} for case in "abcd"]


@pytest.fixture
def split_file(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": ["c", "a"], "validation": ["d"], "test": ["z"], "none": []}))
    return path


def test_split_keeps_its_own_cases_in_its_own_order(split_file):
    assert [item["case"] for item in split_scans(ITEMS, split_file, "train")] == ["c", "a"]
    assert split_scans(ITEMS, split_file, "validation") == [ITEMS[3]]


def test_unknown_subset_is_refused_with_those_that_exist(split_file):
    with pytest.raises(ScanError, match="no subset 'tests', only train, validation, test, none"):
        split_scans(ITEMS, split_file, "tests")


@pytest.mark.parametrize(("subset", "count"), [("test", 1), ("none", 0)])
def test_split_without_a_single_scan_is_refused(split_file, subset, count):
    with pytest.raises(ScanError, match=f"none of the {count} cases of subset '{subset}' is among the 4 scans"):
        split_scans(ITEMS, split_file, subset)


@pytest.mark.parametrize("case", ["a/b", "../up", "/absolute", ".", ".."])
def test_a_case_that_leaves_the_output_folder_is_refused(tmp_path, case):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"image": "a.nii.gz", "case": case}]))
    with pytest.raises(ScanError, match="cannot name a folder"):
        list_scans(path)


def test_results_and_hidden_files_in_a_folder_are_not_taken_for_scans(tmp_path):
    for name in ("scan.nii.gz", "out/scan/scan_mask.nii.gz", ".scan.partial/scan_mask.nii.gz", "._scan.nii.gz"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "out" / "scan" / "result.json").write_text("{}")
    assert [item["case"] for item in list_scans(tmp_path)] == ["scan"]


def test_null_in_a_list_is_as_if_absent(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"image": "a.nii.gz", "label": None}]))
    assert "label" not in list_scans(path)[0]
    path.write_text(json.dumps([{"image": 5}]))
    with pytest.raises(ScanError, match="expected a path"):
        list_scans(path)


def test_scan_error_is_found_behind_what_monai_wraps():
    wrapped = RuntimeError("applying transform")
    wrapped.__cause__ = ScanError("the reason")
    assert str(scan_error(wrapped)) == "the reason"
    assert scan_error(RuntimeError("another")) is None


def test_a_wrapped_scan_error_comes_out_bare_with_its_own_cause():
    cause = OSError("half a file")

    def wrapping() -> None:
        try:
            raise ScanError("the reason") from cause
        except ScanError as error:
            raise RuntimeError("applying transform") from error

    with pytest.raises(ScanError, match="the reason") as raised, bare_scan_errors():
        wrapping()
    assert raised.value.__cause__ is cause
    assert first_cause(raised.value) is cause


def test_causes_that_lead_back_into_themselves_end():
    first, second = RuntimeError("first"), RuntimeError("second")
    first.__cause__, second.__cause__ = second, first
    assert first_cause(first) is second
    assert scan_error(first) is None


def test_other_errors_pass_as_they_are():
    error = RuntimeError("another")
    with pytest.raises(RuntimeError) as raised, bare_scan_errors():
        raise error
    assert raised.value is error
