"""From raw scans to what a training needs: measured once, split by person, a recipe that fits, a bundle that loads."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import axes_of, head_phantom, volume
from itermask3d.files.dicom import write_mr_series
from itermask3d.files.discovery import FoundScan, discover
from itermask3d.files.scans import ScanError, list_scans
from itermask3d.preprocessing.load import LoadScand
from itermask3d.workflows.site.bundle import Recipe, derived_epochs, derived_size, set_loop, write_bundle, write_card
from itermask3d.workflows.site.data import (
    Measurement,
    brain_extraction_for,
    derived_spacing,
    split_by_subject,
    subject_of,
)
from itermask3d.workflows.site.data_check import Finding, MeasuredScan
from monai.bundle import ConfigParser


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> FoundScan:
    path = tmp_path_factory.mktemp("raw") / "sub-07_T1w.nii.gz"
    phantom = head_phantom(spacing_mm=(4, 4, 4))
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), path)
    return FoundScan("sub-07_T1w", str(path), "sub-07_T1w")


def _measurement(folder: Path, **changes) -> Measurement:
    return Measurement(folder, **({"spacing_mm": 4.0, "bias_correction": "none"} | changes))


def test_a_scan_is_measured_once_and_again_when_it_changes(scan, tmp_path):
    first = _measurement(tmp_path).measure(scan)
    record = tmp_path / "records" / "sub-07_T1w.npz"
    written = record.stat().st_mtime_ns
    second = _measurement(tmp_path).measure(scan)
    assert isinstance(first, MeasuredScan)
    assert record.stat().st_mtime_ns == written
    assert second.features == first.features
    assert np.array_equal(second.thumbnail, first.thumbnail)
    _measurement(tmp_path, spacing_mm=5.0).measure(scan)
    assert record.stat().st_mtime_ns != written


def test_series_that_share_a_folder_are_a_scan_each_up_to_the_list_that_training_reads(tmp_path):
    phantom = head_phantom(axes=axes_of("LPS"), spacing_mm=(4, 4, 4))
    folder = tmp_path / "in" / "patient"
    folder.mkdir(parents=True)
    for number in (1, 2):
        noise = np.random.default_rng(number).normal(0, 6, phantom.image.shape)
        slices = np.where(phantom.brain_mask, phantom.image + noise, 0)
        series = write_mr_series(slices, phantom.affine, tmp_path / str(number), description="T1", series_number=number)
        for file in series.files:
            file.rename(folder / f"{number}{file.name}")
    measurement = _measurement(tmp_path / "check")
    scans = discover(tmp_path / "in").scans
    first, second = (measurement.measure(scan) for scan in scans)
    assert isinstance(first, MeasuredScan)
    assert isinstance(second, MeasuredScan)
    assert first.file_sha256 != second.file_sha256
    assert first.voxel_sha256 != second.voxel_sha256
    (tmp_path / "scans.json").write_text(json.dumps([measurement.item(scan) for scan in scans]))
    read = [np.asarray(LoadScand()(item)["image"]) for item in list_scans(tmp_path / "scans.json")]
    assert np.abs(read[0] - read[1]).max() > 6


@pytest.mark.parametrize("kind", ["codes 0", "analyze"])
def test_a_scan_that_does_not_say_its_sides_is_told_in_any_format(kind, tmp_path):
    phantom = head_phantom(spacing_mm=(4, 4, 4))
    if kind == "analyze":
        path, image = tmp_path / "a.img", nib.AnalyzeImage(phantom.image.astype(np.int16), None)
        image.header.set_zooms((4, 4, 4))
    else:
        path, image = tmp_path / "a.nii.gz", nib.Nifti1Image(phantom.image.astype(np.int16), phantom.affine)
        image.set_sform(phantom.affine, 0)
        image.set_qform(phantom.affine, 0)
    nib.save(image, path)
    assert not _measurement(tmp_path / "check").measure(FoundScan("a", str(path), "a")).oriented


def test_a_mask_that_somebody_mended_is_kept_and_the_figures_follow_it(scan, tmp_path):
    first = _measurement(tmp_path).measure(scan)
    path = tmp_path / "masks" / "sub-07_T1w.nii.gz"
    mask = nib.load(path)
    smaller = np.asarray(mask.dataobj) * (np.arange(mask.shape[2]) > mask.shape[2] // 4)
    nib.save(nib.Nifti1Image(smaller.astype(np.uint8), mask.affine), path)
    second = _measurement(tmp_path).measure(scan)
    assert second.features["brain_ml"] < 0.95 * first.features["brain_ml"]
    assert np.array_equal(np.asarray(nib.load(path).dataobj), smaller)


def test_a_measured_scan_names_its_person_its_size_and_its_orientation(scan, tmp_path):
    found = _measurement(tmp_path).measure(scan)
    assert found.subject == "sub-07"
    assert found.oriented
    np.testing.assert_allclose(found.spans_mm, (130, 160, 120), atol=4)
    assert found.features["brain_ml"] == pytest.approx(1307, rel=0.02)
    assert found.thumbnail.shape == (48, 56, 48)
    assert (tmp_path / "masks" / "sub-07_T1w.nii.gz").exists()


def test_a_copy_in_other_axes_has_the_same_voxels_and_no_orientation_is_seen(scan, tmp_path):
    image = nib.load(scan.image)
    turned = nib.as_closest_canonical(image).as_reoriented([[1, -1], [0, 1], [2, 1]])
    nib.save(turned, tmp_path / "turned.nii")
    turned.set_sform(None, code=0)
    turned.set_qform(None, code=0)
    nib.save(turned, tmp_path / "bare.nii")
    measure = _measurement(tmp_path / "check").measure
    original, other, bare = (
        measure(FoundScan(path.stem, str(path), path.stem))
        for path in (Path(scan.image), tmp_path / "turned.nii", tmp_path / "bare.nii")
    )
    assert original.voxel_sha256 == other.voxel_sha256
    assert original.file_sha256 != other.file_sha256
    assert (other.oriented, bare.oriented) == (True, False)


@pytest.mark.parametrize(
    ("shape", "words"), [((40, 40, 40, 3), "holds 3 volumes"), ((40, 40), "expected three axes")], ids=["4D", "2D"]
)
def test_a_scan_that_cannot_be_used_is_a_finding(shape, words, tmp_path):
    path = tmp_path / "bad.nii"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random(shape, dtype=np.float32), np.diag([4, 4, 4, 1])), path)
    found = _measurement(tmp_path / "check").measure(FoundScan("bad", str(path), "bad"))
    assert isinstance(found, Finding)
    assert words in found.sentence


@pytest.mark.parametrize("contrast", ["T1", "T2", "FLAIR", "other"])
def test_the_tool_follows_the_contrast_and_a_stripped_scan_needs_none(contrast):
    phantom = head_phantom(spacing_mm=(4, 4, 4))
    assert brain_extraction_for(contrast, volume(phantom.image, spacing_mm=(4, 4, 4))) == "none"
    head = volume(phantom.image + np.random.default_rng(0).random(phantom.image.shape), spacing_mm=(4, 4, 4))
    assert brain_extraction_for(contrast, head) == ("deepbet" if contrast == "T1" else "hd_bet")


@pytest.mark.parametrize(
    ("voxels", "spacing"),
    [((1, 1, 1), 2.0), ((0.9, 0.9, 5), 2.0), ((2, 2, 2), 2.0), ((3, 3, 3), 3.0), ((2.4, 2.4, 2.4), 2.5)],
)
def test_spacing_follows_the_volume_of_a_voxel(voxels, spacing):
    assert derived_spacing([voxels] * 3) == spacing


def test_the_person_is_found_in_a_name():
    assert subject_of("sub-01_ses-2_T1w") == "sub-01"
    assert subject_of("IXI033-HH-1259") == "IXI033-HH-1259"
    assert subject_of("IXI033-HH-1259", r"IXI(\d+)") == "033"
    with pytest.raises(ScanError, match="does not match the subject pattern"):
        subject_of("other", r"IXI(\d+)")


@pytest.mark.parametrize("number", [4, 7, 8, 12, 30, 150])
def test_a_split_parts_all_scans_and_no_person(number):
    groups = [[f"p{i}_a", f"p{i}_b"] if i % 3 == 0 else [f"p{i}_a"] for i in range(number)]
    splits = split_by_subject(groups, seed=1)
    counted = Counter(case for cases in splits.values() for case in cases)
    assert set(counted.values()) == {1}
    assert len(counted) == sum(map(len, groups))
    people = [{case.split("_")[0] for case in cases} for cases in splits.values()]
    assert not any(a & b for a, b in combinations(people, 2))
    assert ("test" in splits) == (number >= 8)
    assert len(people[0]) >= 2
    assert split_by_subject(groups[::-1], seed=1) == splits
    assert number < 8 or split_by_subject(groups, seed=2) != splits


def test_a_split_needs_people():
    with pytest.raises(ScanError, match="3 people leave 1 to train on"):
        split_by_subject([["a"], ["b"], ["c"]], seed=0)


def test_the_grid_holds_every_brain_and_divides_by_sixteen():
    assert derived_size([(130, 176, 140), (145, 160, 150)], 2.0) == (80, 96, 80)
    assert derived_size([(130, 176, 140)], 1.0) == (144, 192, 144)
    assert derived_size([(130, 176, 140)], 8.0) == (32, 32, 32)


def test_epochs_make_about_as_many_steps_as_the_shipped_weights_have_seen():
    assert derived_epochs(100, 2) == 80
    assert derived_epochs(4, 2) == 300
    assert derived_epochs(5000, 2) == 20


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(3.0, (48, 64, 48), epochs=7, val_interval=2, channels=(2, 4, 4, 4, 4), contrast="FLAIR")


def test_a_bundle_takes_the_recipe_and_nothing_of_the_shipped_data(recipe, tmp_path):
    splits = {"train": ["a", "b"], "validation": ["c"], "calibration": ["d"]}
    write_bundle(tmp_path / "bundle", recipe, splits)
    configs = tmp_path / "bundle" / "configs"
    assert json.loads((configs / "split.json").read_text()) == splits
    train, inference = (json.loads((configs / f"{name}.json").read_text()) for name in ("train", "inference"))
    for key in ("spacing_mm", "spatial_size", "radius_cycles_per_mm", "bias_correction"):
        assert train[key] == inference[key], key
    assert (train["epochs"], train["spatial_size"], train["network_def"]["channels"][0]) == (7, [48, 64, 48], 2)
    assert [path.name for path in (tmp_path / "bundle" / "models").iterdir()] == ["model_tissue.pt"]
    assert not list(configs.glob("split_*"))
    assert "IXI" not in (configs / "metadata.json").read_text()
    parser = ConfigParser()
    parser.read_config(str(configs / "train.json"))
    assert parser["split_file"].endswith("'/configs/split.json'")


def test_chosen_settings_enter_the_bundle(recipe, tmp_path):
    write_bundle(tmp_path / "bundle", recipe, {"train": []})
    chosen = {"gamma": 0.2, "error_window": 3, "nested": True, "threshold_floor": 2.5, "min_volume_ml": 0.5, "dice": 1}
    set_loop(tmp_path / "bundle", chosen)
    config = json.loads((tmp_path / "bundle" / "configs" / "inference.json").read_text())
    assert (config["settings"]["gamma"], config["min_volume_ml"]) == (0.2, 0.5)
    assert "dice" not in config["settings"]


def test_the_card_says_what_is_known_and_what_is_not(recipe, tmp_path):
    write_bundle(tmp_path / "bundle", recipe, {"train": []})
    write_card(tmp_path / "bundle", recipe, {"Calibration": "5 normal scans"})
    card = (tmp_path / "bundle" / "docs" / "README.md").read_text()
    assert "| Calibration | 5 normal scans |" in card
    assert "FLAIR" in card
    assert "To be filled in" in card
