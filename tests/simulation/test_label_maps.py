"""Label maps in files: lists that keep subsets apart, the grid of training, companions, one sentence a failure."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from itermask3d.files.scans import ScanError
from itermask3d.preprocessing.pipeline import inference_transforms
from itermask3d.simulation.generator.label_maps import (
    TEMPLATE,
    LoadTissuesd,
    label_items,
    require_label_maps,
    tissue_transforms,
)
from itermask3d.simulation.generator.tissues import Tissue
from synthesis_helpers import label_phantom, save_volume, t1_phantom

SIZE = (48, 48, 48)
CASES = ("one", "two", "three")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("maps")
    labels, affine = label_phantom()
    for case in CASES:
        save_volume(labels, affine, root / "labels" / f"{case}.nii.gz")
        save_volume(t1_phantom(labels), affine, root / "t1" / f"{case}.nii.gz")
        save_volume((labels > 0).astype(np.uint8), affine, root / "masks" / f"{case}.nii.gz")
    (root / "split.json").write_text(json.dumps({"train": ["one"], "validation": ["two"], "test": ["three"]}))
    return root


@pytest.mark.parametrize(("subset", "case"), [("train", "one"), ("validation", "two"), ("test", "three")])
def test_only_maps_of_the_subset_are_listed(folder, subset, case):
    items = label_items(folder / "labels", split_file=folder / "split.json", subset=subset)
    assert [item["case"] for item in items] == [case]


def test_without_a_split_file_no_map_is_in_two_subsets(folder):
    train, validation = (
        {item["case"] for item in label_items(folder / "labels", subset=subset)} for subset in ("train", "validation")
    )
    assert train
    assert validation
    assert not train & validation
    assert train | validation == set(CASES)


def test_companions_are_found_by_case(folder):
    scans = [{"case": "one", "image": "a.nii.gz", "brain_mask": "m.nii.gz"}, {"case": "other", "image": "b.nii.gz"}]
    one, *others = sorted(label_items(folder / "labels", subset=None, scans=scans), key=lambda item: item["case"])
    assert one == {
        "case": "one",
        "labels": str(folder / "labels/one.nii.gz"),
        "image": "a.nii.gz",
        "brain_mask": "m.nii.gz",
    }
    assert all("image" not in item for item in others)


def test_an_extra_map_of_a_person_in_the_split_is_refused(folder, tmp_path):
    labels, affine = label_phantom()
    extra = save_volume(labels, affine, tmp_path / "three.nii.gz")
    options = {"split_file": folder / "split.json", "extra": [extra]}
    with pytest.raises(ScanError, match="'three' is a case of the split file"):
        label_items(folder / "labels", **options)
    with pytest.raises(SystemExit, match="error: extra label map 'three'"):
        require_label_maps(folder / "labels", **options)
    further = save_volume(labels, affine, tmp_path / "four.nii.gz")
    listed = label_items(folder / "labels", split_file=folder / "split.json", extra=[further])
    assert [item["case"] for item in listed] == ["one", "four"]


def test_missing_maps_end_a_training_with_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match=r"error: '.*nowhere' does not exist"):
        require_label_maps(tmp_path / "nowhere")
    require_label_maps(TEMPLATE)


def test_tissues_lie_where_the_scan_lies(folder):
    labels, affine = label_phantom()
    item = {"case": "one", "labels": str(folder / "labels/one.nii.gz"), "brain_mask": str(folder / "masks/one.nii.gz")}
    found = tissue_transforms(spacing_mm=4.0, spatial_size=SIZE)(item)
    prepared = inference_transforms(spacing_mm=4.0, spatial_size=SIZE)(
        {"image": str(folder / "t1/one.nii.gz"), "brain_mask": item["brain_mask"]}
    )
    assert found["tissues"].shape == (3, *SIZE)
    assert torch.equal(found["brain_mask"], prepared["brain_mask"])
    assert np.allclose(found["tissues"].affine, prepared["image"].affine)
    assert (found["tissues"][0] == Tissue.WHITE).sum() == ((labels == 81) | (labels == 82)).sum()
    assert affine[0, 0] == 4.0


def test_orientation_of_the_file_does_not_matter(folder, tmp_path):
    labels, affine = label_phantom()
    image = nib.Nifti1Image(labels, affine)
    turned = image.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    path = tmp_path / "turned.nii.gz"
    nib.save(turned, path)
    prepare = tissue_transforms(spacing_mm=4.0, spatial_size=SIZE)
    there = prepare({"case": "a", "labels": str(folder / "labels/one.nii.gz")})
    back = prepare({"case": "b", "labels": str(path)})
    assert torch.equal(there["tissues"][0], back["tissues"][0])
    assert torch.allclose(there["tissues"][2], back["tissues"][2], atol=1e-4)
    assert torch.equal(there["brain_mask"], back["brain_mask"])


def test_coarser_voxels_hold_two_tissues_each(folder):
    item = {"case": "one", "labels": str(folder / "labels/one.nii.gz")}
    found = tissue_transforms(spacing_mm=8.0, spatial_size=(32, 32, 32))(item)
    inside = found["brain_mask"][0] > 0.5
    share = found["tissues"][2][inside]
    assert share.min() >= 0.3
    assert (share < 0.95).float().mean() > 0.2


def test_a_scan_refines_its_map_and_must_lie_on_its_grid(folder, tmp_path):
    labels, affine = label_phantom()
    load = LoadTissuesd(spacing_mm=4.0, bias_correction="none")
    item = {"case": "one", "labels": str(folder / "labels/one.nii.gz")}
    plain, refined = load(item), load(item | {"image": str(folder / "t1/one.nii.gz")})
    assert not torch.equal(plain["tissues"], refined["tissues"])
    moved = affine.copy()
    moved[0, 3] += 8
    elsewhere = save_volume(t1_phantom(labels), moved, tmp_path / "elsewhere.nii.gz")
    with pytest.raises(ScanError, match=r"scan of a label map lies up to 2\.0 voxels"):
        load(item | {"image": str(elsewhere)})


def test_a_scan_in_place_of_a_label_map_is_refused(folder):
    with pytest.raises(ScanError, match="expected the labels of one of dlmuse"):
        LoadTissuesd(spacing_mm=4.0)({"case": "x", "labels": str(folder / "t1/one.nii.gz")})


def test_the_template_has_every_tissue_that_it_can_tell():
    pytest.importorskip("nilearn")
    found = tissue_transforms(spacing_mm=6.0, spatial_size=(32, 32, 32))({"labels": TEMPLATE, "case": TEMPLATE})
    inside = found["brain_mask"][0] > 0.5
    volume_ml = float(inside.sum()) * 0.216
    assert 1500 < volume_ml < 2200
    present = {int(value) for value in found["tissues"][0][inside].unique()}
    expected = set(Tissue) - {Tissue.BACKGROUND, Tissue.PALLIDUM, Tissue.CEREBELLAR_WHITE, Tissue.VESSEL}
    assert {int(tissue) for tissue in expected} <= present
