"""Metrics against a truth: closed forms, a second implementation of each, and what empty masks give."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from helpers import ball
from itermask3d.evaluation.metrics import count_lesions, masked_psnr, masked_ssim, overlap, surface_distances, volumes
from scipy import ndimage

ISO = (1.0, 1.0, 1.0)


def box(*spans: tuple[int, int], shape: tuple[int, int, int] = (24, 24, 24)) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[tuple(slice(*span) for span in spans)] = True
    return mask


def blobs(seed: int, shape: tuple[int, int, int] = (20, 24, 18)) -> torch.Tensor:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return torch.from_numpy(field > 0.06)


def as_itk(mask: torch.Tensor, spacing_mm: tuple[float, float, float] = ISO) -> sitk.Image:
    image = sitk.GetImageFromArray(mask.numpy().astype(np.uint8))
    image.SetSpacing(spacing_mm[::-1])
    return image


EMPTY = box((0, 0), (0, 0), (0, 0))
BOX = box((4, 14), (4, 14), (4, 14))


@pytest.mark.parametrize("shift", range(11))
def test_overlap_of_shifted_boxes_has_its_closed_form(shift):
    moved = box((4 + shift, 14 + shift), (4, 14), (4, 14))
    common = (10 - shift) / 10
    metrics = overlap(moved, BOX)
    assert metrics["dice"] == pytest.approx(common)
    assert metrics["iou"] == pytest.approx(common / (2 - common))
    assert metrics["sensitivity"] == pytest.approx(common)
    assert metrics["precision"] == pytest.approx(common)


@pytest.mark.parametrize("seed", range(3))
def test_overlap_agrees_with_simpleitk(seed):
    mask, label = blobs(seed), blobs(seed + 10)
    theirs = sitk.LabelOverlapMeasuresImageFilter()
    theirs.Execute(as_itk(mask), as_itk(label))  # source, target
    metrics = overlap(mask, label)
    assert metrics["dice"] == pytest.approx(theirs.GetDiceCoefficient())
    assert metrics["iou"] == pytest.approx(theirs.GetJaccardCoefficient())
    assert metrics["sensitivity"] == pytest.approx(1 - theirs.GetFalseNegativeError())
    assert metrics["precision"] == pytest.approx(1 - theirs.GetFalseDiscoveryRate())


def test_empty_masks_have_their_stated_overlap():
    both, missed, invented = overlap(EMPTY, EMPTY), overlap(EMPTY, BOX), overlap(BOX, EMPTY)
    assert (both["dice"], both["iou"]) == (1, 1)
    assert (missed["dice"], missed["iou"], missed["sensitivity"]) == (0, 0, 0)
    assert (invented["dice"], invented["iou"], invented["precision"]) == (0, 0, 0)
    assert math.isnan(missed["precision"])
    assert math.isnan(invented["sensitivity"])
    assert math.isnan(both["precision"])
    assert math.isnan(both["sensitivity"])


def test_a_mask_equal_to_its_label_has_no_distance():
    assert surface_distances(BOX, BOX, spacing_mm=ISO) == {"surface_dice": 1.0, "assd_mm": 0.0, "hd95_mm": 0.0}


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 1.0, 0.5)])
def test_distance_of_parallel_planes_is_in_millimetres(spacing_mm):
    near, far = (box((place, place + 1), (0, 24), (0, 24)) for place in (4, 9))
    metrics = surface_distances(near, far, spacing_mm=spacing_mm)
    assert metrics["assd_mm"] == pytest.approx(5 * spacing_mm[0])
    assert metrics["hd95_mm"] == pytest.approx(5 * spacing_mm[0])
    assert metrics["surface_dice"] == 0
    tolerant = surface_distances(near, far, spacing_mm=spacing_mm, tolerance_mm=5 * spacing_mm[0])
    assert tolerant["surface_dice"] == 1


def test_concentric_balls_are_their_difference_of_radius_apart():
    inner, outer = (torch.from_numpy(ball((48, 48, 48), radius=radius)) for radius in (12, 18))
    metrics = surface_distances(inner, outer, spacing_mm=ISO)
    assert metrics["assd_mm"] == pytest.approx(6, abs=0.3)
    assert metrics["hd95_mm"] == pytest.approx(6, abs=0.8)
    assert surface_distances(inner, outer, spacing_mm=ISO, tolerance_mm=7)["surface_dice"] == 1
    assert surface_distances(inner, outer, spacing_mm=ISO, tolerance_mm=5)["surface_dice"] < 0.05


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing_mm", [ISO, (1.0, 2.0, 3.0)])
def test_distances_agree_with_distance_transforms(seed, spacing_mm):
    mask, label = blobs(seed), blobs(seed + 10)
    surfaces = [volume.numpy() & ~ndimage.binary_erosion(volume.numpy()) for volume in (mask, label)]
    to_other = [
        ndimage.distance_transform_edt(~other, sampling=spacing_mm)[own] for own, other in (surfaces, surfaces[::-1])
    ]
    everything = np.concatenate(to_other)
    metrics = surface_distances(mask, label, spacing_mm=spacing_mm)
    assert metrics["assd_mm"] == pytest.approx(everything.mean(), rel=1e-5)
    assert metrics["hd95_mm"] == pytest.approx(max(np.percentile(way, 95) for way in to_other), rel=1e-5)
    assert metrics["surface_dice"] == pytest.approx(np.mean(everything <= 2), rel=1e-5)


def test_no_distance_exceeds_the_hausdorff_distance_of_simpleitk():
    mask, label = blobs(0), blobs(10)
    theirs = sitk.HausdorffDistanceImageFilter()
    theirs.Execute(as_itk(mask, (1.0, 2.0, 3.0)), as_itk(label, (1.0, 2.0, 3.0)))
    metrics = surface_distances(mask, label, spacing_mm=(1.0, 2.0, 3.0))
    # SimpleITK measures from every voxel of one mask to the other, surfaces lie up to a voxel deeper.
    assert metrics["assd_mm"] < metrics["hd95_mm"] <= theirs.GetHausdorffDistance() + 3


def test_masks_that_touch_the_border_have_a_surface_there():
    everything = torch.ones((8, 8, 8), dtype=torch.bool)
    assert surface_distances(everything, everything, spacing_mm=ISO)["assd_mm"] == 0


def test_empty_masks_have_their_stated_distances():
    both = surface_distances(EMPTY, EMPTY, spacing_mm=ISO)
    assert both["surface_dice"] == 1
    assert math.isnan(both["hd95_mm"])
    assert math.isnan(both["assd_mm"])
    for pair in ((EMPTY, BOX), (BOX, EMPTY)):
        assert surface_distances(*pair, spacing_mm=ISO) == {
            "surface_dice": 0.0, "assd_mm": math.inf, "hd95_mm": math.inf,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"spacing_mm": (1, 1)}, "spacing_mm .*1, 1"),
        ({"spacing_mm": (1, 0, 1)}, "spacing_mm .*1, 0, 1"),
        ({"spacing_mm": ISO, "tolerance_mm": -1}, "tolerance_mm .* -1"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(arguments, words):
    with pytest.raises(ValueError, match=words):
        surface_distances(BOX, BOX, **arguments)


@pytest.mark.parametrize("metric", [overlap, count_lesions])
def test_shapes_must_agree(metric):
    with pytest.raises(ValueError, match="one 3D shape"):
        metric(BOX, BOX[:5])
    with pytest.raises(ValueError, match="one 3D shape"):
        metric(BOX[None], BOX[None])


def test_lesions_are_counted_by_one_voxel_in_common():
    label = box((2, 5), (2, 5), (2, 5)) | box((10, 13), (2, 5), (2, 5)) | box((18, 21), (2, 5), (2, 5))
    mask = box((4, 6), (4, 6), (4, 6)) | box((10, 13), (2, 5), (2, 5)) | box((2, 5), (18, 21), (2, 5))
    counts = count_lesions(mask, label)
    assert (counts.lesions, counts.found, counts.regions, counts.true_regions) == (3, 2, 3, 2)
    assert counts.sensitivity == counts.precision == counts.f1 == pytest.approx(2 / 3)


def test_corners_that_touch_belong_to_one_lesion():
    assert count_lesions(EMPTY, box((2, 4), (2, 4), (2, 4)) | box((4, 6), (4, 6), (4, 6))).lesions == 1


def test_one_region_over_two_lesions_finds_both_and_counts_once():
    label = box((2, 5), (2, 5), (2, 5)) | box((10, 13), (2, 5), (2, 5))
    counts = count_lesions(torch.ones_like(label), label)
    assert (counts.found, counts.regions, counts.true_regions) == (2, 1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_lesions_agree_with_simpleitk(seed):
    mask, label = blobs(seed), blobs(seed + 10)
    parts = sitk.ConnectedComponent(as_itk(label), True)
    found = np.unique(sitk.GetArrayFromImage(parts)[mask.numpy()])
    counts = count_lesions(mask, label)
    assert counts.lesions == int(sitk.GetArrayFromImage(parts).max())
    assert counts.found == np.count_nonzero(found)


def test_lesion_metrics_of_empty_masks():
    both, missed, invented = count_lesions(EMPTY, EMPTY), count_lesions(EMPTY, BOX), count_lesions(BOX, EMPTY)
    assert math.isnan(both.f1)
    assert (missed.sensitivity, missed.f1) == (0, 0)
    assert math.isnan(missed.precision)
    assert (invented.precision, invented.f1) == (0, 0)
    assert math.isnan(invented.sensitivity)


def test_volume_difference_is_signed_and_relative_to_the_label():
    metrics = volumes(box((4, 14), (4, 14), (4, 9)), BOX, voxel_ml=0.008)
    assert metrics["label_ml"] == pytest.approx(8)
    assert metrics["volume_difference_ml"] == pytest.approx(-4)
    assert metrics["volume_difference_share"] == pytest.approx(-0.5)
    assert math.isnan(volumes(BOX, EMPTY, voxel_ml=1)["volume_difference_share"])


def test_a_random_mask_gets_the_dice_it_deserves():
    random = torch.from_numpy(np.random.default_rng(0).random((24, 24, 24)) < 0.3)
    prevalence = BOX.float().mean().item()
    assert overlap(random, BOX)["dice"] == pytest.approx(2 * 0.3 * prevalence / (0.3 + prevalence), abs=0.02)


@pytest.mark.parametrize("offset", [0.1, 2.0])
def test_psnr_of_a_constant_error_has_its_closed_form_and_sees_normal_tissue_only(offset):
    image = torch.rand((16, 16, 16), generator=torch.Generator().manual_seed(0))
    normal = box((2, 10), (2, 10), (2, 10), shape=(16, 16, 16))
    wrong = torch.where(normal, image + offset, image + 100)
    expected = 20 * math.log10(10 / offset)
    assert masked_psnr(wrong, image, normal=normal, data_range=10) == pytest.approx(expected, rel=1e-4)
    assert masked_psnr(image, image, normal=normal, data_range=10) == math.inf


def test_ssim_is_one_for_equal_volumes_and_agrees_with_a_second_implementation():
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.standard_normal((24, 24, 24)), 1.5)
    other = image + 0.05 * rng.standard_normal(image.shape)
    normal = box((6, 18), (6, 18), (6, 18))
    ours = masked_ssim(torch.from_numpy(other), torch.from_numpy(image), normal=normal, data_range=2)
    assert ours == pytest.approx(_ssim(other, image, data_range=2)[normal.numpy()].mean(), abs=1e-4)
    same = torch.from_numpy(image)
    assert masked_ssim(same, same, normal=normal, data_range=2) == pytest.approx(1)


def _ssim(a: np.ndarray, b: np.ndarray, *, data_range: float) -> np.ndarray:
    """Wang et al. 2004 by scipy: a Gaussian of sigma 1.5, cut at five voxels."""

    def mean(volume: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(volume, 1.5, radius=5)

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b, cov = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2, mean(a * b) - mean_a * mean_b
    return (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def test_ssim_is_undefined_where_its_window_fits_nowhere():
    small = torch.rand((8, 24, 24))
    assert math.isnan(masked_ssim(small, small, normal=small > -1, data_range=1))
    rim = box((0, 2), (0, 24), (0, 24))
    image = torch.rand((24, 24, 24))
    assert math.isnan(masked_ssim(image, image, normal=rim, data_range=1))


@pytest.mark.parametrize("metric", [masked_psnr, masked_ssim])
def test_a_reconstruction_needs_normal_tissue_and_a_range(metric):
    image = torch.rand((24, 24, 24))
    with pytest.raises(ValueError, match="empty mask"):
        metric(image, image, normal=EMPTY, data_range=1)
    with pytest.raises(ValueError, match="data_range must be positive, got 0"):
        metric(image, image, normal=BOX, data_range=0)
    with pytest.raises(ValueError, match="one shape"):
        metric(image, image[:5], normal=BOX, data_range=1)
