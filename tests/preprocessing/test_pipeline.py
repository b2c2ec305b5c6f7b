"""Raw scan to network grid and back: what is refused, what normalisation keeps, where a lesion ends up."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import axes_of, ball, dice, head_phantom, rotation, volume
from itermask3d.files.scans import ScanError
from itermask3d.method.masking import MaskMixture
from itermask3d.preprocessing.grid import AntiAliasd, CheckBrainFitsd
from itermask3d.preprocessing.load import LoadScand, check_scan
from itermask3d.preprocessing.normalise import RobustNormalized
from itermask3d.preprocessing.pipeline import inference_transforms
from itermask3d.training.transforms import training_transforms
from monai.data import MetaTensor, PersistentDataset
from monai.data.utils import pickle_hashing
from monai.transforms import Invertd
from scipy.stats import norm

AFFINE_2MM = np.diag([2.0, 2.0, 2.0, 1.0])


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def _with(value: float) -> np.ndarray:
    image = _noise(48, 48, 48)
    image[3, 4, 5:7] = value
    return image


def _affine(*rows: list[float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = rows
    return affine


PARCELS = np.kron(np.random.default_rng(1).permutation(6**3).reshape(6, 6, 6), np.ones((8, 8, 8)))
"""A label map of 216 regions."""

THICK = np.diag([2.0, 2.0, 25.0, 1.0])

BAD_SCANS = {
    "zero": (np.zeros((48, 48, 48)), AFFINE_2MM, r"is constant \(0 everywhere\); expected an MR scan"),
    "constant": (np.full((48, 48, 48), 7.5), AFFINE_2MM, r"is constant \(7.5 everywhere\)"),
    "nan": (_with(np.nan), AFFINE_2MM, "holds 2 NaN or infinite voxels; expected finite intensities"),
    "all_nan": (np.full((48, 48, 48), np.nan), AFFINE_2MM, "holds 110592 NaN or infinite voxels"),
    "inf": (_with(np.inf), AFFINE_2MM, "holds 2 NaN or infinite voxels"),
    "minus_inf": (_with(-np.inf), AFFINE_2MM, "holds 2 NaN or infinite voxels"),
    "2d": (
        _noise(64, 64),
        AFFINE_2MM,
        r"has (shape \(64, 64\)|the shape 64 x 64); expected (one 3D|three axes)",
    ),
    "one_slice": (_noise(64, 64, 1), AFFINE_2MM, r"has shape \(64, 64, 1\); expected one 3D volume"),
    "4d": (_noise(32, 32, 32, 3), AFFINE_2MM, r"(has shape \(32, 32, 32, 3\); expected one 3D|holds 3 volumes)"),
    "8_voxels": (_noise(8, 8, 8), AFFINE_2MM, "has 8 x 8 x 8 voxels over 16 x 16 x 16 mm; expected a whole head"),
    "8_large_voxels": (_noise(8, 8, 8), np.diag([20.0, 20, 20, 1]), "has 8 x 8 x 8 voxels over 160 x 160 x 160 mm"),
    "no_voxels": (_noise(0, 48, 48), AFFINE_2MM, r"has shape \(0, 48, 48\); expected one 3D volume"),
    "few_slices": (_noise(64, 64, 4), THICK, "has 64 x 64 x 4 voxels over 128 x 128 x 100 mm; expected a whole head"),
    "binary": (
        ball((48, 48, 48), radius=20),
        AFFINE_2MM,
        "holds only 2 different values; expected an MR scan, not a l",
    ),
    "label_map": (np.indices((48, 48, 48)).sum(0) // 10, AFFINE_2MM, "holds only 15 different values"),
    "parcellation": (PARCELS, AFFINE_2MM, "expected an MR scan, not a label map"),
    "singular": (_noise(48, 48, 48), _affine([2, 0, 0], [0, 2, 2], [0, 2, 2]), "has no usable affine; expected finite"),
    "zero_affine": (_noise(48, 48, 48), np.zeros((4, 4)), "has no usable affine"),
    "nan_affine": (_noise(48, 48, 48), np.full((4, 4), np.nan), "has no usable affine"),
}


@pytest.mark.parametrize(("image", "affine", "message"), BAD_SCANS.values(), ids=BAD_SCANS)
def test_what_cannot_be_a_scan_is_refused_in_one_sentence(image, affine, message):
    with pytest.raises(ScanError, match=message) as error:
        check_scan(torch.from_numpy(image.astype(np.float32)), affine, "a.nii.gz")
    assert str(error.value).startswith("'a.nii.gz' ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((48, 48, 48), AFFINE_2MM),
        ((256, 256, 9), np.diag([0.9, 0.9, 16, 1])),
        ((64, 64, 64), _affine(*-np.eye(3)[::-1])),
    ],
    ids=["isotropic", "thick", "flipped"],
)
def test_plausible_scans_pass(shape, affine):
    check_scan(torch.from_numpy(_noise(*shape)), affine, "scan")


def test_coarsely_quantised_scan_on_a_constant_background_passes(phantom):
    noisy = np.where(phantom.brain_mask, phantom.image / 8 + _noise(*phantom.image.shape) / 20, 0)
    quantised = torch.from_numpy(noisy.round())
    assert len(quantised.unique()) < 64
    check_scan(quantised, phantom.affine, "scan")


@pytest.mark.parametrize("name", ["2d", "4d", "constant", "label_map", "8_voxels"])
def test_bad_scans_are_refused_when_loaded_from_a_file(tmp_path, name):
    image, affine, message = BAD_SCANS[name]
    nib.save(nib.Nifti1Image(image.astype(np.float32), affine), tmp_path / "a.nii.gz")
    with pytest.raises(ScanError, match=message):
        LoadScand()({"image": str(tmp_path / "a.nii.gz")})


def _truncated(path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.98])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mgz"])
def test_truncated_file_is_refused_by_name(tmp_path, suffix, keep):
    path = tmp_path / f"cut{suffix}"
    kind = nib.MGHImage if suffix == ".mgz" else nib.Nifti1Image
    nib.save(kind(_noise(48, 48, 48), AFFINE_2MM), path)
    _truncated(path, keep)
    with pytest.raises(ScanError, match=rf"cut{suffix}' (is empty|is (damaged or )?truncated|promises)") as error:
        LoadScand()({"image": str(path)})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(path))


@pytest.mark.parametrize(
    "content", [b"This is not a scan.\n", gzip.compress(b"neither is this"), b""], ids=["text", "gzip", "empty"]
)
def test_text_file_named_like_a_scan_is_refused_by_name(tmp_path, content):
    path = tmp_path / "notes.nii.gz"
    path.write_bytes(content)
    with pytest.raises(ScanError, match=r"notes\.nii\.gz' is (empty|truncated)"):
        LoadScand()({"image": str(path)})


@pytest.mark.parametrize("key", ["image", "brain_mask", "label"])
def test_missing_file_is_refused_by_name(tmp_path, phantom_item, key):
    with pytest.raises(ScanError, match=r"gone\.nii\.gz' does not exist; expected a file or a folder"):
        LoadScand()(phantom_item | {key: str(tmp_path / "gone.nii.gz")})


@pytest.mark.parametrize("item", [{}, {"image": None}, {"image": ""}])
def test_item_without_a_scan_is_refused(item):
    with pytest.raises(ScanError, match="an item names no 'image'"):
        LoadScand()(item)


def test_empty_folder_given_as_a_scan_is_refused(tmp_path):
    with pytest.raises(ScanError, match="holds no DICOM image; expected the files of one series"):
        LoadScand()({"image": str(tmp_path)})


def test_loading_gives_channel_first_float_with_the_scan_s_affine(phantom, phantom_item):
    sample = LoadScand()(phantom_item)
    for key in ("image", "label"):
        assert sample[key].dtype == torch.float32
        assert sample[key].shape == (1, *phantom.image.shape)
        np.testing.assert_allclose(sample[key].affine, phantom.affine, atol=1e-5)
    np.testing.assert_array_equal(sample["image"][0], phantom.image)
    assert sample["path"] == phantom_item["image"]


def _normalised(image: np.ndarray, brain: np.ndarray, clip: float = 1e6) -> np.ndarray:
    sample = {"image": volume(image), "brain_mask": volume(brain)}
    return RobustNormalized("image", clip=clip)(sample)["image"][0].numpy()


SKEWED = np.exp(_noise(24, 24, 24) / 40)
BRAIN = ball((24, 24, 24), radius=10)


@pytest.mark.parametrize("image", [_noise(24, 24, 24), SKEWED, -SKEWED * 1e4, SKEWED * 1e-4], ids=range(4))
def test_normalised_brain_has_median_zero_and_unit_robust_scale(image):
    inside = _normalised(image, BRAIN)[BRAIN]
    low, median, high = np.percentile(inside, (25, 50, 75))
    assert median == pytest.approx(0, abs=1e-4)
    assert high - low == pytest.approx(1.349, rel=1e-4)


def test_normalised_image_is_zero_outside_the_brain():
    assert not _normalised(SKEWED, BRAIN)[~BRAIN].any()


@pytest.mark.parametrize(("slope", "intercept"), [(1, 1000), (0.001, 0), (37, -500), (1e4, 3)])
def test_normalisation_ignores_scale_and_offset_of_the_scanner(slope, intercept):
    changed = slope * SKEWED.astype(np.float64) + intercept
    np.testing.assert_allclose(_normalised(changed, BRAIN), _normalised(SKEWED, BRAIN), atol=2e-3)


def test_normalisation_ignores_what_lies_outside_the_brain():
    loud = np.where(BRAIN, SKEWED, 1e6)
    np.testing.assert_array_equal(_normalised(loud, BRAIN), _normalised(SKEWED, BRAIN))


@pytest.mark.parametrize("intensity", [1e3, 1e5])
def test_lesion_moves_the_normalisation_no_more_than_its_share_of_the_ranks(intensity):
    image = _noise(24, 24, 24)
    lesion = ball(image.shape, radius=4, centre=(15, 12, 12)) & BRAIN
    share = lesion.sum() / BRAIN.sum()
    assert 0.05 < share < 0.10
    healthy = BRAIN & ~lesion
    before, after = _normalised(image, BRAIN)[healthy], _normalised(np.where(lesion, intensity, image), BRAIN)[healthy]
    low, median, high = norm.ppf(np.array([0.25, 0.5, 0.75]) / (1 - share))
    scale = (high - low) / 1.349
    np.testing.assert_allclose(after, (before - median) / scale, atol=0.1)
    assert np.abs(after - before).mean() < 0.15
    classic = (image - np.where(lesion, intensity, image)[BRAIN].mean()) / np.where(lesion, intensity, image)[
        BRAIN
    ].std()
    assert np.abs(classic[healthy] - before).mean() > 0.5


def test_lesion_intensity_itself_does_not_matter_once_it_is_bright():
    lesion = ball((24, 24, 24), radius=4, centre=(15, 12, 12)) & BRAIN
    one, other = (_normalised(np.where(lesion, value, SKEWED), BRAIN)[BRAIN & ~lesion] for value in (1e3, 1e6))
    np.testing.assert_array_equal(one, other)


def test_normalised_image_is_clipped_on_both_sides():
    image = SKEWED.copy()
    image[12, 12, 12], image[12, 12, 13] = 1e9, -1e9
    inside = _normalised(image, BRAIN, clip=5.0)
    assert inside[12, 12, 12] == 5
    assert inside[12, 12, 13] == -5


def test_normalisation_records_centre_and_scale_and_mutates_nothing():
    sample = {"image": volume(SKEWED), "brain_mask": volume(BRAIN)}
    result = RobustNormalized("image", clip=1e6)(sample)
    back = result["image"][0].numpy()[BRAIN] * result["normalisation"]["scale"] + result["normalisation"]["median"]
    np.testing.assert_allclose(back, SKEWED[BRAIN], rtol=1e-4)
    np.testing.assert_array_equal(sample["image"][0], SKEWED)
    assert set(sample) == {"image", "brain_mask"}


def test_brain_without_contrast_is_refused():
    with pytest.raises(ScanError, match=r"the brain has no contrast \(interquartile range 0\)"):
        _normalised(np.full((24, 24, 24), 5.0), BRAIN)


def test_brain_mask_without_a_voxel_is_refused_in_normalisation():
    with pytest.raises(ScanError):
        _normalised(SKEWED, np.zeros((24, 24, 24), dtype=bool))


@pytest.mark.parametrize("clip", [0, -1, float("nan")])
def test_bad_clip_is_named(clip):
    with pytest.raises(ValueError, match=f"clip must be positive, got {clip}"):
        RobustNormalized("image", clip=clip)


@pytest.mark.parametrize("spacing_mm", [(2, 2, 2), (2, 5, 3), (2.5, 2.5, 8)])
def test_anti_aliasing_is_the_identity_where_nothing_is_coarsened(spacing_mm):
    sample = {"image": volume(_noise(12, 12, 12), spacing_mm=spacing_mm)}
    assert torch.equal(AntiAliasd("image", spacing_mm=2)(sample)["image"], sample["image"])


@pytest.mark.parametrize("fine_axis", [0, 1, 2])
def test_anti_aliasing_smooths_only_the_axis_that_is_coarsened_by_the_stated_width(fine_axis):
    spacing_mm = [2.0, 2.0, 2.0]
    spacing_mm[fine_axis] = 0.5
    impulse = np.zeros((33, 33, 33))
    impulse[16, 16, 16] = 1
    smooth = AntiAliasd("image", spacing_mm=2)({"image": volume(impulse, spacing_mm=spacing_mm)})["image"][0].numpy()
    for axis in range(3):
        profile = smooth.sum(axis=tuple({0, 1, 2} - {axis}))
        variance = (profile * (np.arange(33) - 16) ** 2).sum()
        assert variance == pytest.approx(1.5**2 if axis == fine_axis else 0, rel=0.1, abs=1e-3)
    assert smooth.sum() == pytest.approx(1, rel=1e-3)


def test_brain_larger_than_the_grid_is_refused_in_millimetres():
    check = CheckBrainFitsd("brain_mask", spatial_size=(16, 32, 16), spacing_mm=2)
    with pytest.raises(ScanError, match=r"spans 34 x 30 x 30 mm .*; expected at most 32 x 64 x 32 mm"):
        check({"brain_mask": volume(np.pad(np.ones((17, 15, 15)), 3))})


def test_brain_that_just_fits_passes_wherever_it_lies():
    brain = np.zeros((40, 40, 40))
    brain[24:, :16, 5:21] = 1
    sample = {"brain_mask": volume(brain)}
    assert CheckBrainFitsd("brain_mask", spatial_size=(16, 16, 16), spacing_mm=2)(sample) == sample


def test_empty_brain_does_not_fit():
    with pytest.raises(ScanError, match="spans 0 x 0 x 0 mm"):
        CheckBrainFitsd("brain_mask", (16, 16, 16), 2)({"brain_mask": volume(np.zeros((8, 8, 8)))})


GEOMETRIES = {
    "RAS_2mm": ("RAS", (0, 0, 0), (2, 2, 2), 0.97),
    "LPS": ("LPS", (0, 0, 0), (2, 2, 2), 0.97),
    "permuted_PSR": ("PSR", (0, 0, 0), (2, 2, 2), 0.97),
    "permuted_flipped_ILA": ("ILA", (0, 0, 0), (2.2, 1.8, 2), 0.97),
    "oblique": ("RAS", (14, -18, 22), (2, 2, 2), 0.97),
    "oblique_permuted_flipped": ("SLP", (-9, 12, 16), (1.8, 2, 1.5), 0.97),
    "thick_0.7x0.7x5": ("RAS", (0, 0, 0), (0.7, 0.7, 5), 0.90),
    "thick_oblique_sagittal": ("PIR", (6, -4, 8), (0.9, 0.9, 5), 0.90),
    "1mm": ("LAS", (0, 0, 0), (1, 1, 1), 0.97),
}


@pytest.mark.parametrize(("codes", "degrees", "spacing_mm", "least"), GEOMETRIES.values(), ids=GEOMETRIES)
def test_lesion_comes_back_where_it_was(tmp_path, codes, degrees, spacing_mm, least):
    head = head_phantom(axes=rotation(degrees=degrees) @ axes_of(codes), spacing_mm=spacing_mm)
    transforms = inference_transforms(with_label=True, brain_extraction="none")
    sample = transforms(head.save(tmp_path))
    original_affine = nib.load(tmp_path / "scan_image.nii.gz").affine

    sample["pred"] = MetaTensor(sample["label"].clone().as_tensor())
    inverted = Invertd("pred", transforms, orig_keys="image", nearest_interp=False)(sample)["pred"]

    assert inverted.shape == (1, *head.image.shape)
    np.testing.assert_allclose(inverted.affine, original_affine, atol=1e-4)
    assert dice(inverted[0].numpy() > 0.5, head.label) >= least


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ILA"])
def test_network_grid_does_not_depend_on_how_the_scan_was_stored(tmp_path, phantom, codes):
    expected = inference_transforms(with_label=True)(phantom.save(tmp_path, name="ras"))
    stored = head_phantom(axes=axes_of(codes)).save(tmp_path, name="stored")
    sample = inference_transforms(with_label=True)(stored)
    for key in ("image", "brain_mask", "label"):
        torch.testing.assert_close(sample[key].as_tensor(), expected[key].as_tensor(), atol=1e-3, rtol=0)


def test_network_grid_holds_the_right_side_at_the_high_end_of_the_first_axis(phantom_item):
    sample = inference_transforms(with_label=True)(phantom_item)
    voxels = torch.nonzero(sample["label"][0].as_tensor()).double().mean(dim=0)
    brain = torch.nonzero(sample["brain_mask"][0].as_tensor()).double().mean(dim=0)
    assert (voxels - brain > 2).all()


def test_inference_sample_has_the_grid_the_types_and_the_volume_that_are_promised(phantom, phantom_item):
    sample = inference_transforms(spatial_size=(80, 96, 64), with_label=True)(phantom_item)
    for key in ("image", "brain_mask", "label"):
        assert sample[key].shape == (1, 80, 96, 64)
        assert sample[key].dtype == torch.float32
    assert set(sample["brain_mask"].unique().tolist()) == {0.0, 1.0}
    assert sample["brain_mask"].sum().item() * 8e-3 == pytest.approx(phantom.brain_mask.sum() * 8e-3, rel=0.01)
    assert not sample["image"][sample["brain_mask"] < 0.5].any()


def test_brain_too_large_for_the_network_is_refused_for_inference(phantom_item):
    with pytest.raises(RuntimeError) as error:
        inference_transforms(spatial_size=(64, 64, 64))(phantom_item)
    assert isinstance(error.value.__cause__, ScanError)


@pytest.mark.parametrize("augment", [True, False])
def test_training_sample_is_the_same_kind_from_the_file_and_from_the_cache(tmp_path, phantom_item, augment):
    mixture = MaskMixture(blob=0, field=1, full=0) if augment else None
    transforms = training_transforms(spatial_size=(80, 96, 64), augment=augment, mixture=mixture)
    cache = tmp_path / "cache"
    dataset = PersistentDataset([phantom_item], transforms, cache, hash_transform=pickle_hashing)
    samples = [dataset[0], dataset[0]]
    for sample in samples:
        assert set(sample) == {"image", "brain_mask", "high_frequency", "mask"}
        assert all(value.shape == (1, 80, 96, 64) for value in sample.values())
        brain = torch.as_tensor(sample["brain_mask"]) > 0.5
        mask = torch.as_tensor(sample["mask"])
        assert not (mask & ~brain).any()
        assert torch.equal(mask, brain) != augment
        assert np.median(torch.as_tensor(sample["image"])[brain]) == pytest.approx(0, abs=0.05)
        assert not torch.as_tensor(sample["image"])[~brain].any()
