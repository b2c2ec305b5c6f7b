"""Places are named on the right side and in the right lobe, wherever the scan lies; odd brains are told."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from helpers import Phantom, head_phantom, rotation
from itermask3d import anatomy
from itermask3d.anatomy import align, describe, place_names

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
