"""The second lesion simulator: identities, volumes, places, and what the two ways of blending promise."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from helpers import ball
from itermask3d.files.scans import ScanError
from itermask3d.simulation.blended_lesions import (
    BLENDINGS,
    KINDS,
    BlendedLesion,
    blend_lesion,
    draw_blended_lesion,
    tissue_levels,
)
from itermask3d.simulation.blending import harmonic_continuation
from itermask3d.simulation.lesion_shapes import (
    LesionShape,
    Pose,
    fitting_centres,
    load_shapes,
    posed_to_volume,
    read_shapes,
    render,
    save_shapes,
)

SPACING = (2.0, 2.0, 2.0)
SIZE = (48, 52, 48)


@pytest.fixture(scope="module")
def brain() -> np.ndarray:
    return ball(SIZE, radius=22)


@pytest.fixture(scope="module")
def scan(brain) -> np.ndarray:
    """Fluid in the middle, white matter around it, grey matter outside; a little noise."""
    image = np.where(ball(SIZE, radius=16), 1.0, 0.0)
    image[ball(SIZE, radius=5)] = -2.0
    return ((image + 0.1 * np.random.default_rng(0).standard_normal(SIZE)) * brain).astype(np.float32)


@pytest.fixture(scope="module")
def shapes() -> dict[str, LesionShape]:
    bent = np.zeros((14, 12, 10), dtype=bool)
    bent[:10, 2:8, 2:8] = bent[6:, 2:11, 3:7] = True
    parts = {"bent": bent, "round": ball((21, 21, 21), radius=10)}
    return {name: LesionShape(name, mask, (1.0, 1.0, 1.0)) for name, mask in parts.items()}


def drawn(scan, brain, shapes, *, volume_ml=3.0, kind="dark", seed=0) -> BlendedLesion:
    rng = np.random.default_rng(seed)
    return draw_blended_lesion(scan, brain, shapes, spacing_mm=SPACING, volume_ml=volume_ml, kind=kind, rng=rng)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blending", BLENDINGS)
def test_strength_zero_is_the_identity(scan, brain, shapes, kind, blending):
    lesion = replace(drawn(scan, brain, shapes, kind=kind), blending=blending, strength=0.0)
    found = blend_lesion(scan, brain, lesion, shapes[lesion.shape], spacing_mm=SPACING)
    np.testing.assert_array_equal(found.image, scan)
    assert found.truth.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blending", BLENDINGS)
@pytest.mark.parametrize("volume_ml", [0.5, 3.0, 20.0])
def test_a_lesion_has_its_volume_and_level_inside_the_brain_and_changes_nothing_else(
    scan, brain, shapes, kind, blending, volume_ml
):
    lesion = replace(drawn(scan, brain, shapes, volume_ml=volume_ml, kind=kind), blending=blending, contrast=1.0)
    found = blend_lesion(scan, brain, lesion, shapes[lesion.shape], spacing_mm=SPACING)
    assert found.truth.sum() * 0.008 == pytest.approx(volume_ml, rel=0.05, abs=0.008)
    np.testing.assert_array_equal(found.truth, found.alpha >= 0.5)
    assert not (found.alpha[~brain] > 0).any()
    np.testing.assert_array_equal(found.image[found.alpha == 0], scan[found.alpha == 0])
    levels = tissue_levels(scan, brain)
    wanted = {"dark": levels.fluid, "grey": levels.grey, "bright": levels.white + 1.5 * (levels.white - levels.grey)}
    reached = (found.image[found.truth].mean() - scan[found.truth].mean()) / (wanted[kind] - scan[found.truth].mean())
    assert reached > 0.75  # in a partial volume the scan itself shows
    if blending == "poisson":
        assert reached == pytest.approx(1, abs=0.01)


def test_half_strength_is_half_the_change(scan, brain, shapes):
    for blending in BLENDINGS:
        lesion = replace(drawn(scan, brain, shapes), blending=blending)
        full, half = (
            blend_lesion(scan, brain, replace(lesion, strength=s), shapes[lesion.shape], spacing_mm=SPACING).image
            for s in (1.0, 0.5)
        )
        np.testing.assert_allclose(half - scan, (full - scan) / 2, atol=1e-5)


def test_grey_lesions_lie_in_white_matter(scan, brain, shapes):
    for seed in range(5):
        lesion = drawn(scan, brain, shapes, volume_ml=1.0, kind="grey", seed=seed)
        truth = blend_lesion(scan, brain, lesion, shapes[lesion.shape], spacing_mm=SPACING).truth
        assert (scan[truth] > 0.5).mean() > 0.8


def test_same_seed_same_lesion_and_nothing_global_is_touched(scan, brain, shapes):
    before, kept = np.random.get_state()[1].copy(), scan.copy()
    one, same, other = (drawn(scan, brain, shapes, seed=seed) for seed in (3, 3, 4))
    assert one == same != other
    first, second = (blend_lesion(scan, brain, one, shapes[one.shape], spacing_mm=SPACING) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_array_equal(scan, kept)


def test_the_texture_is_the_donors(scan, brain, shapes):
    lesion = replace(drawn(scan, brain, shapes, volume_ml=10.0), blending="alpha", texture=1.0)
    donor = np.random.default_rng(1).standard_normal(SIZE) * brain
    shape = shapes[lesion.shape]
    found = blend_lesion(scan, brain, lesion, shape, spacing_mm=SPACING, donor=donor)
    core = found.alpha == 1
    shift = np.subtract(lesion.donor_centre, lesion.centre)
    given = donor[tuple((np.argwhere(core) + shift).T)]
    assert np.corrcoef(found.image[core], np.clip(given, -3, 3))[0, 1] > 0.99


def test_a_flat_donor_gives_a_flat_lesion(scan, brain, shapes):
    lesion = replace(drawn(scan, brain, shapes, volume_ml=10.0), blending="alpha")
    found = blend_lesion(scan, brain, lesion, shapes[lesion.shape], spacing_mm=SPACING, donor=np.zeros(SIZE))
    assert found.image[found.alpha == 1].std() < 1e-6


def test_a_lesion_larger_than_the_brain_is_refused_with_its_volume(scan, brain, shapes):
    with pytest.raises(ScanError, match=r"500\.0 ml"):
        drawn(scan, brain, shapes, volume_ml=500.0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "pink"}, "pink"),
        ({"blending": "glue"}, "glue"),
        ({"strength": 1.5}, "strength"),
        ({"border_mm": 0}, "border_mm"),
    ],
)
def test_wrong_parameters_are_named(scan, brain, shapes, change, named):
    with pytest.raises(ValueError, match=named):
        replace(drawn(scan, brain, shapes), **change)


def test_rendering_keeps_volume_under_rotation_and_flip(shapes):
    for pose in (Pose(), Pose(rotation_deg=(20, -10, 25)), Pose(flipped=True), Pose(scale=2.0)):
        volume = float(render(shapes["bent"], pose, spacing_mm=(1.0,) * 3).sum()) / 1000
        assert volume == pytest.approx(shapes["bent"].volume_ml * pose.scale**3, rel=0.06)


def test_a_plane_through_voxels_gives_half_of_them(shapes):
    block = LesionShape("block", np.ones((3, 3, 3), dtype=bool), (2.0,) * 3)  # 6 mm, over voxels of 4 mm
    share = render(block, Pose(), spacing_mm=(4.0,) * 3)
    assert share.max() == 1
    assert share[share.shape[0] // 2 + 1, share.shape[1] // 2, share.shape[2] // 2] == pytest.approx(1 / 4, abs=0.1)


def test_a_shape_thinner_than_a_voxel_grows_until_it_is_seen():
    thread = LesionShape("thread", np.ones((1, 1, 40), dtype=bool), (0.2, 0.2, 0.5))
    pose = posed_to_volume(thread, volume_ml=0.2, rotation_deg=(0, 0, 0), flipped=False, spacing_mm=SPACING)
    assert (render(thread, pose, spacing_mm=SPACING) >= 0.5).any()


def test_a_footprint_fits_where_all_of_it_is_inside():
    region = np.zeros((9, 9, 9), dtype=bool)
    region[2:7, 2:7, 2:7] = True
    expected = np.zeros_like(region)
    expected[3:6, 3:6, 3:6] = True
    np.testing.assert_array_equal(fitting_centres(region, np.ones((3, 3, 3), dtype=bool)), expected)
    assert not fitting_centres(region, np.ones((11, 11, 11), dtype=bool)).any()


def test_a_linear_scan_continues_linearly():
    linear = np.broadcast_to(np.arange(16.0)[:, None, None], (16, 16, 16)).copy()
    region, brain = ball((16, 16, 16), radius=4), np.ones((16, 16, 16), dtype=bool)
    spoiled = np.where(region, 99.0, linear)
    np.testing.assert_allclose(harmonic_continuation(spoiled, region, brain), linear, atol=1e-3)


def test_a_region_without_surroundings_is_left_alone():
    brain = ball((16, 16, 16), radius=4)
    image = np.random.default_rng(0).random((16, 16, 16))
    np.testing.assert_array_equal(harmonic_continuation(image, brain, brain), image)


def test_shapes_are_read_from_files_and_come_back_saved(tmp_path):
    mask = np.zeros((20, 20, 20), dtype=np.uint8)
    mask[3:9, 4:8, 5:15] = 1
    for name, array in (("one", mask), ("empty", 0 * mask)):
        nib.save(nib.Nifti1Image(array, np.diag([-1.0, 1, 1, 1])), tmp_path / f"{name}.nii.gz")
    shapes = read_shapes([tmp_path])
    assert list(shapes) == ["one.nii.gz"]
    assert shapes["one.nii.gz"].volume_ml == pytest.approx(0.24)
    save_shapes(shapes, tmp_path / "shapes.npz")
    again = load_shapes(tmp_path / "shapes.npz")["one.nii.gz"]
    np.testing.assert_array_equal(again.mask, shapes["one.nii.gz"].mask)
    assert again.spacing_mm == (1.0, 1.0, 1.0)
    with pytest.raises(ScanError, match="no lesion shape"):
        read_shapes([tmp_path / "nowhere"])
