"""Places are named on the right side and in the right lobe, wherever the scan lies; odd brains are told."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from helpers import Phantom, head_phantom, rotation
from itermask3d.preprocessing import anatomy, registration
from itermask3d.preprocessing.anatomy import align, describe, place_names
from scipy import ndimage

KNOWN = {
    (-30, 45, 20): "left frontal lobe",
    (30, 45, 20): "right frontal lobe",
    (35, -55, 48): "right parietal lobe",
    (-12, -90, 5): "left occipital lobe",
    (55, -15, -20): "right temporal lobe",
    (-25, -65, -40): "left cerebellum",
    (25, -65, -40): "right cerebellum",
    (0, -28, -35): "brainstem",
    (-10, -18, 7): "left thalamus",
    (25, 2, 2): "right basal ganglia",
    (-38, 4, 2): "left insular region",
    (27, -20, -15): "right hippocampus and amygdala",
}
"""Points of the ICBM152 space, from atlases' published coordinates of these structures."""


@pytest.mark.parametrize(("point", "name"), KNOWN.items(), ids=KNOWN.values())
def test_known_points_have_their_names(point: tuple[int, int, int], name: str) -> None:
    assert place_names(np.array([point]))[0].split(",")[0] == name


@pytest.mark.parametrize(("point", "name"), KNOWN.items(), ids=KNOWN.values())
def test_names_need_no_template(point: tuple[int, int, int], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anatomy, "_tissue_maps", lambda: None)
    assert place_names(np.array([point]))[0] == name


def test_sides_are_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anatomy, "_tissue_maps", lambda: None)  # the template's voxels are not quite symmetric
    points = np.random.default_rng(0).uniform((-60, -90, -50), (60, 60, 65), (500, 3))
    points[:, 0] += np.sign(points[:, 0]) * 6
    swap = {"left": "right", "right": "left"}
    for name, other in zip(place_names(points), place_names(points * (-1, 1, 1)), strict=True):
        side, _, rest = name.partition(" ")
        assert other == f"{swap.get(side, side)} {rest}".strip()


def test_tissue_is_named_with_the_template() -> None:
    pytest.importorskip("nilearn", reason="tissue maps come with nilearn")
    assert place_names(np.array([[27, 5, 30]])) == ["right frontal lobe, deep white matter"]


@pytest.mark.parametrize("degrees", [(0, 0, 0), (0, 0, 90), (12, -20, 30)])
def test_alignment_goes_by_scanner_coordinates(degrees: tuple[int, ...]) -> None:
    phantom = head_phantom(axes=rotation(degrees=degrees))
    found = align(phantom.brain_mask, phantom.affine)
    assert found is not None
    assert found.usual
    lesion = found.to_template(nib.affines.apply_affine(phantom.affine, np.argwhere(phantom.label)))
    assert describe(place_names(lesion)).startswith("right frontal lobe")


def template_brain(turn: np.ndarray, shape: tuple[int, int, int] = (70, 80, 70)) -> tuple[np.ndarray, ...]:
    """The packaged template on a turned and scaled grid of 3 mm: image, brain mask, affine of the grid."""
    datasets = pytest.importorskip("nilearn.datasets", reason="the template comes with nilearn")
    template = datasets.load_mni152_template(resolution=2)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -np.asarray(shape) * 1.5 + (0, -18, 8)
    to_voxel = np.linalg.inv(template.affine) @ turn @ affine
    image = ndimage.affine_transform(
        template.get_fdata(), to_voxel[:3, :3], to_voxel[:3, 3], output_shape=shape, order=1
    )
    return image.astype(np.float32), image > 0.1 * image.max(), affine


def test_registration_finds_a_tilt_that_the_extent_cannot_see() -> None:
    turn = np.eye(4)
    turn[:3, :3] = rotation(degrees=(14, -6, 9)) * (1.05, 0.94, 1.08)
    turn[:3, 3] = 6, -9, 4
    image, brain, affine = template_brain(turn)
    points = np.array([(x, y, z) for x in (-50, 50) for y in (-60, 30) for z in (-30, 50)], dtype=float)
    by_extent, by_intensity = align(brain, affine), align(brain, affine, image=image)
    assert by_extent is not None
    assert by_intensity is not None
    assert by_intensity.registered
    truth = nib.affines.apply_affine(turn, points)
    apart = [np.linalg.norm(found.to_template(points) - truth, axis=1).max() for found in (by_extent, by_intensity)]
    assert apart[1] < 4
    assert apart[1] < apart[0] / 2
    again = align(brain, affine, image=image)
    np.testing.assert_array_equal(again.matrix, by_intensity.matrix)
    dark = align(brain, affine, image=image.max() - image)
    assert np.linalg.norm(dark.to_template(points) - truth, axis=1).max() < 4


def test_without_template_or_contrast_the_extent_has_to_do(phantom: Phantom, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = align(phantom.brain_mask, phantom.affine, image=np.ones_like(phantom.image))
    monkeypatch.setattr(registration, "_template", lambda: None)
    plain = align(phantom.brain_mask, phantom.affine, image=phantom.image)
    for found in (flat, plain):
        assert not found.registered
        assert "by its extent" in found.coarseness
        np.testing.assert_array_equal(found.matrix, align(phantom.brain_mask, phantom.affine).matrix)


def test_registration_that_leaves_the_brain_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    image, brain, affine = template_brain(np.eye(4))
    away = np.eye(4)
    away[:3, 3] = 40
    monkeypatch.setattr(registration, "_optimise", lambda *_: away)
    assert not align(brain, affine, image=image).registered


def test_brain_of_odd_size_is_told(phantom: Phantom) -> None:
    half = phantom.brain_mask.copy()
    half[:, :, : half.shape[2] // 2] = False
    found = align(half, phantom.affine)
    assert found is not None
    assert not found.usual
    assert align(np.zeros_like(half), phantom.affine) is None


def test_description_adds_what_holds_a_share() -> None:
    names = ["left frontal lobe, cortex"] * 7 + ["left insular region"] * 3
    assert describe(names) == "left frontal lobe, cortex; also left insular region"
    assert describe(names[:7]) == "left frontal lobe, cortex"
    assert describe([]) == "unknown"


def test_no_side_is_named_where_the_scan_knows_none():
    names = ["left frontal lobe, cortex"] * 3 + ["right frontal lobe, cortex"] * 2
    assert describe(names, known_sides=False) == "frontal lobe, cortex"
