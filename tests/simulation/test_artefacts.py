"""Simulated artefacts: exact replay, severity zero is nothing, severities rise, places are where the label says."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from helpers import CENTRE_MM, axes_of, head_phantom, world_coordinates
from itermask3d.simulation.artefacts.image import robust_scale
from itermask3d.simulation.artefacts.kspace import KSPACE_ARTEFACTS
from itermask3d.simulation.artefacts.registry import (
    ARTEFACTS,
    SEVERITIES,
    ArtefactRecord,
    ArtefactScan,
    Reach,
    apply,
    draw,
)
from scipy import ndimage
from scipy.spatial.transform import Rotation

REGIONAL = [name for name, artefact in ARTEFACTS.items() if artefact.reach is Reach.REGION]
OF_THE_MASK = [name for name, artefact in ARTEFACTS.items() if artefact.reach is Reach.MASK]
WHOLE = [name for name, artefact in ARTEFACTS.items() if artefact.reach is Reach.WHOLE]


class Head:
    """A phantom with a scalp around its brain, 4 mm voxels unless told."""

    def __init__(self, codes: str = "LPS", spacing_mm: tuple[float, float, float] = (4, 4, 4)) -> None:
        phantom = head_phantom(axes=axes_of(codes), spacing_mm=spacing_mm, margin_mm=24)
        self.affine, self.brain = phantom.affine, phantom.brain_mask
        x, y, z = world_coordinates(self.brain.shape, self.affine) - np.reshape(CENTRE_MM, (3, 1, 1, 1))
        inside = (x / 82) ** 2 + (y / 98) ** 2 + (z / 78) ** 2 <= 1
        self.image = np.where(self.brain, phantom.image, np.where(inside, 60 + 0.1 * z, 0)).astype(np.float32)

    def artefact(self, name: str, severity: int, seed: int = 0) -> ArtefactScan:
        return apply(self.record(name, severity, seed), self.image, self.brain, self.affine)

    def record(self, name: str, severity: int, seed: int = 0) -> ArtefactRecord:
        return draw(name, severity, self.brain, self.affine, rng=np.random.default_rng(seed))


@pytest.fixture(scope="module")
def head() -> Head:
    return Head()


@pytest.mark.parametrize("name", ARTEFACTS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
def test_severity_zero_is_the_exact_identity(head, name, dtype):
    image = head.image.astype(dtype)
    altered = apply(head.record(name, 0), image, head.brain, head.affine)
    assert np.array_equal(altered.image, image)
    assert np.array_equal(altered.brain_mask, head.brain)
    assert not np.shares_memory(altered.image, image)
    assert altered.image.dtype == (np.float32 if dtype is np.int16 else dtype)
    assert altered.label is None or not altered.label.any()


@pytest.mark.parametrize("name", ARTEFACTS)
def test_a_record_that_went_through_json_makes_the_same_voxels(head, name):
    record = head.record(name, 3)
    again = ArtefactRecord.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))
    assert again == record
    first, second = (apply(which, head.image, head.brain, head.affine) for which in (record, again))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.brain_mask, second.brain_mask)
    assert (first.label is None) == (second.label is None)
    assert first.label is None or np.array_equal(first.label, second.label)


@pytest.mark.parametrize("name", ARTEFACTS)
def test_neither_the_scan_nor_the_global_random_state_is_touched(head, name):
    image, brain, affine = head.image.copy(), head.brain.copy(), head.affine.copy()
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    head.artefact(name, 4)
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    assert np.array_equal(head.image, image)
    assert np.array_equal(head.brain, brain)
    assert np.array_equal(head.affine, affine)


@pytest.mark.parametrize("name", ARTEFACTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_severities_rise(head, name, seed):
    change = []
    for severity in range(len(SEVERITIES)):
        altered = head.artefact(name, severity, seed)
        if ARTEFACTS[name].reach is Reach.MASK:
            change.append(float((altered.brain_mask != head.brain).sum()))
        else:
            change.append(float(np.abs(altered.image - head.image).mean()))
    # The mildest levels of these are below the 4 mm of a voxel.
    start = 2 if name in ("gibbs", "thick_slices", "remnants") else 0
    assert all(before < after for before, after in zip(change[start:], change[start + 1 :], strict=False)), change


@pytest.mark.parametrize("name", [name for name in ARTEFACTS if name not in ("blur", "gibbs", "missing_top")])
def test_another_seed_makes_another_artefact(head, name):
    parameters = [head.record(name, 4, seed).to_json() for seed in range(5)]
    assert any(other != parameters[0] for other in parameters[1:])


@pytest.mark.parametrize("name", WHOLE)
def test_a_artefact_of_the_whole_image_has_no_label_and_leaves_the_mask(head, name):
    altered = head.artefact(name, 3)
    assert altered.label is None
    assert np.array_equal(altered.brain_mask, head.brain)


@pytest.mark.parametrize("name", REGIONAL)
def test_the_label_of_a_regional_artefact_is_where_the_brain_changed(head, name):
    altered = head.artefact(name, 3)
    assert altered.label is not None
    assert altered.label.any()
    assert not (altered.label & ~head.brain).any()
    if name == "drop_out":
        loss = 1 - altered.image / np.maximum(head.image, 1e-6)
        assert np.array_equal((loss > 0.475) & head.brain, altered.label)
    else:
        changed = altered.image != head.image
        assert not (changed & head.brain & ~ndimage.binary_dilation(altered.label)).any()
        assert changed[altered.label].mean() > 0.95


@pytest.mark.parametrize("name", OF_THE_MASK)
def test_the_label_of_a_artefact_of_the_mask_is_what_changed_in_it(head, name):
    altered = head.artefact(name, 3)
    assert np.array_equal(altered.image, head.image)
    assert np.array_equal(altered.label, altered.brain_mask != head.brain)
    assert (altered.label & head.brain).any() == (name == "missing_brain")


@pytest.mark.parametrize("codes", ["RAS", "LPI", "PSR"])
@pytest.mark.parametrize("spacing_mm", [(4, 4, 4), (3, 5, 4)])
def test_the_top_is_missing_by_millimetres_in_every_orientation(codes, spacing_mm):
    head = Head(codes, spacing_mm)
    label = head.artefact("missing_top", 4).label
    height = world_coordinates(label.shape, head.affine)[2]
    top = height[head.brain].max()
    assert height[label].min() == pytest.approx(top - 35, abs=5)
    assert (height[head.brain & ~label] < height[label].min()).all()


def test_noise_in_air_has_the_rayleigh_mean(head):
    altered = head.artefact("noise", 3)
    deviation = ARTEFACTS["noise"].levels[2] * robust_scale(head.image, head.brain)
    air = head.image == 0
    assert altered.image[air].mean() == pytest.approx(deviation * np.sqrt(np.pi / 2), rel=0.02)
    assert np.std((altered.image - head.image)[head.brain]) == pytest.approx(deviation, rel=0.02)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_the_gain_varies_in_the_brain_by_its_level_and_is_one_on_average(head, severity):
    gain = (head.artefact("bias_field", severity).image / np.maximum(head.image, 1e-6))[head.brain]
    assert gain.max() / gain.min() == pytest.approx(ARTEFACTS["bias_field"].levels[severity - 1], rel=1e-3)
    assert gain.mean() == pytest.approx(1, rel=1e-3)


def test_a_spike_is_one_wave_of_its_amplitude(head):
    record = head.record("spike", 3)
    signed = head.image + 1000  # so high that the magnitude changes no sign
    wave = apply(record, signed, head.brain, head.affine).image - signed
    spectrum = np.abs(np.fft.fftn(wave)) / wave.size
    bins = tuple(np.asarray(record.parameters["bins"]) % wave.shape)
    amplitude = ARTEFACTS["spike"].levels[2] * robust_scale(head.image, head.brain)
    mirrored = tuple(-np.asarray(bins) % wave.shape)
    assert spectrum.argmax() in [np.ravel_multi_index(where, wave.shape) for where in (bins, mirrored)]
    assert 2 * spectrum.max() == pytest.approx(amplitude, rel=0.1)


def test_a_zipper_lies_on_its_lines_only(head):
    record = head.record("zipper", 3)
    changed = np.moveaxis(head.artefact("zipper", 3).image != head.image, record.parameters["axis"], 0)
    assert set(np.flatnonzero(changed.any(axis=(1, 2)))) == set(record.parameters["lines"])


@pytest.mark.parametrize("size", [36, 38])
def test_every_second_line_lost_makes_one_ghost_half_a_field_of_view_away(head, size):
    image, brain, half = head.image[:size], head.brain[:size], size // 2
    ghosted = KSPACE_ARTEFACTS["ghosting"][1](image, brain, head.affine, loss=0.4, axis=0, every=2)
    ghost = (-1) ** half * np.roll(image, half, axis=0)
    central_line = image.mean(axis=0) * (half % 2 == 0)  # it is among the even ones, and kept
    np.testing.assert_allclose(ghosted, np.abs(image - 0.2 * (image + ghost) + 0.4 * central_line), atol=1e-3)


def test_what_lies_outside_the_field_of_view_is_folded_and_not_lost(head):
    altered = head.artefact("wrap_around", 4)
    assert altered.image.sum() == pytest.approx(head.image.sum(), rel=1e-5)


@pytest.mark.parametrize("thickness_mm", [6.0, 8.0, 13.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_keep_a_linear_ramp(head, thickness_mm, axis):
    ramp = np.moveaxis(np.broadcast_to(np.arange(40.0)[:, None, None], (40, 8, 8)), 0, axis)
    record = ArtefactRecord("thick_slices", 3, ramp.shape, {"thickness_mm": thickness_mm, "axis": axis})
    thick = apply(record, ramp, np.ones(ramp.shape), head.affine).image
    inner = np.moveaxis(thick - ramp, axis, 0)[4:-8]
    np.testing.assert_allclose(inner, 0, atol=1e-6 if thickness_mm == 8 else 0.06)  # a voxel is a box, a ramp is not


def test_blur_has_its_width_in_millimetres():
    image = np.zeros((41, 41, 41), dtype=np.float32)
    image[20, 20, 20] = 1
    affine = np.diag([1.0, 2.0, 1.0, 1.0])
    record = draw("blur", 5, np.ones(image.shape), affine, rng=np.random.default_rng(0))
    blurred = apply(record, image, np.ones(image.shape), affine).image
    assert blurred.sum() == pytest.approx(1, rel=1e-3)
    for axis, spacing in enumerate((1, 2, 1)):
        profile = blurred.sum(axis=tuple({0, 1, 2} - {axis}))
        width = np.sqrt((profile * ((np.arange(41) - 20) * spacing) ** 2).sum())
        assert width * 2.3548 == pytest.approx(9.0, rel=0.03)


@pytest.mark.parametrize("severity", [3, 5])
def test_ringing_overshoots_beside_an_edge(severity):
    image = np.zeros((65, 65, 65), dtype=np.float32)
    image[:, :, 32:] = 100
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    record = draw("gibbs", severity, np.ones(image.shape), affine, rng=np.random.default_rng(0))
    ringing = apply(record, image, np.ones(image.shape), affine).image
    assert ringing.max() == pytest.approx(109, abs=3)  # Gibbs' 9 % of the step


def test_a_head_that_does_not_move_is_reconstructed_as_it_is(head):
    still = np.zeros((2, 3)).tolist()
    record = ArtefactRecord(
        "motion", 1, head.brain.shape, {"axis": 1, "times": [0.2, 0.7], "degrees": still, "shifts_mm": still}
    )
    np.testing.assert_allclose(apply(record, head.image, head.brain, head.affine).image, head.image, atol=1e-3)


def test_a_movement_after_the_last_line_changes_nothing_and_one_before_the_first_does_not_move_the_head(head):
    for times, changed in (([1.0], False), ([0.3], True)):
        parameters = {"axis": 0, "times": times, "degrees": [[0, 0, 0]], "shifts_mm": [[0, 0, 20]]}
        record = ArtefactRecord("motion", 1, head.brain.shape, parameters)
        moved = apply(record, head.image, head.brain, head.affine).image
        assert np.allclose(moved, head.image, atol=1e-2) != changed
        assert np.corrcoef(moved.ravel(), head.image.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("name", ARTEFACTS)
@pytest.mark.parametrize("scan", ["constant", "one_voxel", "thin", "negative"])
def test_awkward_scans_give_finite_voxels(head, name, scan):
    image, brain = head.image[::2, ::2, ::2], head.brain[::2, ::2, ::2]
    if scan == "constant":
        image = np.full_like(image, 7)
    elif scan == "one_voxel":
        brain = np.zeros_like(brain)
        brain[5, 6, 7] = True
    elif scan == "thin":
        image, brain = image[:, :, 8:10], brain[:, :, 8:10]
    else:
        image = image - 50
    for severity in (1, 5):
        record = draw(name, severity, brain, head.affine, rng=np.random.default_rng(0))
        altered = apply(record, image, brain, head.affine)
        assert altered.image.shape == image.shape
        assert np.isfinite(altered.image).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"artefact": "scratch"}, "got 'scratch'"),
        ({"severity": 6}, "severity .* got 6"),
        ({"severity": 2.5}, "severity .* got 2.5"),
        ({"severity": -1}, "severity .* got -1"),
        ({"brain_mask": np.zeros((8, 8, 8))}, "brain_mask .* with 0"),
        ({"brain_mask": np.ones((8, 8))}, "brain_mask .*8, 8"),
        ({"affine": np.zeros((4, 4))}, "affine must"),
        ({"affine": np.eye(3)}, "affine must"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(change, words):
    arguments = {"artefact": "noise", "severity": 1, "brain_mask": np.ones((8, 8, 8)), "affine": np.eye(4)} | change
    with pytest.raises(ValueError, match=words):
        draw(**arguments, rng=np.random.default_rng(0))


def test_a_record_fits_its_own_scan_only(head):
    record = head.record("noise", 2)
    with pytest.raises(ValueError, match="one shape"):
        apply(record, head.image[:-1], head.brain[:-1], head.affine)
    holed = head.image.copy()
    holed[3, 4, 5] = np.nan
    with pytest.raises(ValueError, match="1 NaN"):
        apply(record, holed, head.brain, head.affine)
    with pytest.raises(ValueError, match="got 'scratch'"):
        ArtefactRecord.from_json(record.to_json() | {"artefact": "scratch"})


def test_torchio_makes_the_same_ghosts(head):
    tio = pytest.importorskip("torchio", minversion="1.2", reason="needs torchio 1 as a second implementation")
    signed = head.image - 10  # so that the real part is taken, as TorchIO always does
    theirs = tio.Ghosting(num_ghosts=3, axis=1, intensity=0.6, restore=None)(torch.from_numpy(signed)[None])[0].numpy()
    ours = KSPACE_ARTEFACTS["ghosting"][1](signed, head.brain, head.affine, loss=0.6, axis=1, every=3)
    np.testing.assert_allclose(ours, theirs, atol=1e-2)


def test_torchio_makes_the_same_motion(head):
    tio = pytest.importorskip("torchio", minversion="1.2", reason="needs torchio 1 as a second implementation")
    # TorchIO turns about the scanner's origin, in left-posterior-superior axes, and leaves the centre of k-space to the
    # head at rest by giving its stretch of lines to the first movement.
    affine = head.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.argwhere(head.brain).mean(axis=0) + affine[:3, 3]
    signed = head.image - 10
    times = (np.array([8, 30]) / signed.shape[2] + 1e-6).tolist()
    degrees, shifts_mm = np.array([[0, 0, 6.0], [4.0, 0, 0]]), np.array([[0, 3.0, 0], [2.0, 0, 5.0]])
    to_lps = np.array([-1, -1, 1])
    back = [Rotation.from_euler("xyz", -angles, degrees=True) for angles in degrees]
    translation = np.array([-turn.apply(shift) * to_lps for turn, shift in zip(back, shifts_mm, strict=True)])
    motion = tio.Motion(
        degrees=-degrees * to_lps, translation=translation, times=np.array(times), image_interpolation="linear"
    )
    theirs = motion(tio.ScalarImage(tensor=torch.from_numpy(signed)[None], affine=affine)).data[0].numpy()
    ours = KSPACE_ARTEFACTS["motion"][1](
        signed, head.brain, affine, axis=2, times=times, degrees=degrees, shifts_mm=shifts_mm
    )
    assert np.abs(ours - signed).max() > 10
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
