"""What holds for every grid and every scan's intensities, on inputs that Hypothesis makes up."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from helpers import rotation
from hypothesis import given, settings
from hypothesis import strategies as st
from itermask3d.preprocessing.grid import ScannerGridd, scanner_grid
from itermask3d.preprocessing.normalise import brain_quartiles, quartiles_by_sorting, robust_normalised
from monai.data import MetaTensor

FEW = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of a grid: any angle, voxels of 0.5 to 5 mm, axes turned round or not."""
    shape = tuple(draw(st.integers(8, 24)) for _ in range(3))
    spacing = np.array([draw(st.floats(0.5, 5.0)) for _ in range(3)])
    turned = rotation(degrees=[draw(st.floats(-180, 180)) for _ in range(3)])
    flipped = np.array([draw(st.sampled_from([-1.0, 1.0])) for _ in range(3)])
    affine = np.eye(4)
    affine[:3, :3] = turned * (spacing * flipped)
    affine[:3, 3] = [draw(st.floats(-200, 200)) for _ in range(3)]
    return shape, affine  # type: ignore[return-value]


@FEW
@given(grids(), st.floats(1.0, 4.0))
def test_the_scanners_grid_covers_the_field_of_view_around_one_centre(grid, spacing_mm):
    shape, affine = grid
    made, size = scanner_grid(shape, affine, spacing_mm=spacing_mm)
    corners = np.array(list(product(*((-0.5, edge - 0.5) for edge in shape))))  # the outer faces of the voxels
    world = corners @ affine[:3, :3].T + affine[:3, 3]
    voxels = (world - made[:3, 3]) / spacing_mm
    assert (voxels >= -0.5 - 1e-3).all()
    assert (voxels <= np.array(size) - 0.5 + 1e-3).all()
    centre = made[:3, 3] + spacing_mm * (np.array(size) - 1) / 2
    np.testing.assert_allclose(centre, (world.min(0) + world.max(0)) / 2, atol=1e-6)


@FEW
@given(grids())
def test_a_volume_comes_back_on_the_grid_that_it_came_from(grid):
    shape, affine = grid
    volume = MetaTensor(torch.ones((1, *shape)), affine=torch.from_numpy(affine))
    transform = ScannerGridd("image", spacing_mm=2.0)
    there = transform({"image": volume})
    back = transform.inverse(there)["image"]
    assert back.shape == volume.shape
    np.testing.assert_allclose(np.asarray(back.affine), affine, atol=1e-6)
    assert float(back.max()) <= 1 + 1e-5


@st.composite
def brains(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Two scans of whole-number intensities and their brains, none of them empty."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    image = rng.integers(0, draw(st.integers(2, 4000)), (2, 1, 5, 6, 7)).astype(np.float32)
    brain = rng.random(image.shape) < draw(st.floats(0.1, 1.0))
    brain[..., :2, 0, 0] = True
    return torch.from_numpy(image), torch.from_numpy(brain)


@FEW
@given(brains())
def test_both_ways_to_the_quartiles_agree_and_are_numpys(scans):
    image, brain = scans
    found = brain_quartiles(image, brain)
    torch.testing.assert_close(quartiles_by_sorting(image, brain), found)
    expected = [np.percentile(scan[inside], (25, 50, 75)) for scan, inside in zip(image, brain, strict=True)]
    np.testing.assert_allclose(found.numpy(), expected)


@FEW
@given(brains(), st.sampled_from([0.5, 2.0, 16.0]), st.sampled_from([-512.0, 0.0, 64.0]))
def test_the_normalised_scan_knows_neither_unit_nor_zero_of_the_intensities(scans, unit, offset):
    image, brain = scans
    (plain,), (changed,) = robust_normalised(image, brain), robust_normalised(image * unit + offset, brain)
    low, _, high = brain_quartiles(image, brain).T
    usable = (high > low).reshape(-1, 1, 1, 1, 1)  # a flat brain has no scale to lose
    torch.testing.assert_close(changed * usable, plain * usable, atol=1e-4, rtol=1e-4)
    assert not plain[~brain].any()
    assert float(plain.abs().max()) <= 5.0
