"""Virtual scanners: a scanner of no strength changes nothing, each of the five is its own, and a subject repeats."""

from __future__ import annotations

import numpy as np
import pytest
from itermask3d.simulation.virtual_scanners import VIRTUAL_SCANNERS, VirtualScanner, show_with

SHAPE = (48, 56, 48)


@pytest.fixture(scope="module")
def brain() -> np.ndarray:
    axes = np.meshgrid(*(np.linspace(-1.3, 1.3, n) for n in SHAPE), indexing="ij")
    return sum(axis**2 for axis in axes) < 1


@pytest.fixture(scope="module")
def head(brain: np.ndarray) -> np.ndarray:
    """A brain of 80 to 120 with detail, tissue of 60 around it and nothing beyond."""
    rng = np.random.default_rng(4)
    axes = np.meshgrid(*(np.linspace(-1.1, 1.1, n) for n in SHAPE), indexing="ij")
    around = sum(axis**2 for axis in axes) < 1
    values = np.where(brain, 100 + 12 * rng.standard_normal(SHAPE), 60.0)
    return (np.where(around, values, 0)).astype(np.float32)


def show(name: str, head: np.ndarray, brain: np.ndarray, subject: str = "a") -> tuple[np.ndarray, np.ndarray]:
    return show_with(VIRTUAL_SCANNERS[name], head, brain, spacing_mm=2.0, subject=subject)


def test_a_scanner_without_effects_leaves_the_scan_as_it_is(head: np.ndarray, brain: np.ndarray) -> None:
    shown = show_with(VirtualScanner(), head, brain, spacing_mm=2.0, subject="a")
    np.testing.assert_allclose(shown.image, head, atol=1e-3)
    assert np.array_equal(shown.brain_mask, brain)


def test_there_are_five_scanners_and_no_two_show_the_same(head: np.ndarray, brain: np.ndarray) -> None:
    assert len(VIRTUAL_SCANNERS) == 5
    images = [show(name, head, brain)[0][brain] for name in VIRTUAL_SCANNERS]
    for index, one in enumerate(images):
        for other in images[index + 1 :]:
            assert np.abs(one - other).mean() > 1


@pytest.mark.parametrize("name", VIRTUAL_SCANNERS)
def test_a_subject_repeats_and_another_has_noise_of_its_own(name: str, head: np.ndarray, brain: np.ndarray) -> None:
    before = head.copy()
    once, again, other = (show(name, head, brain, subject) for subject in ("a", "a", "b"))
    assert np.array_equal(once[0], again[0])
    assert np.array_equal(once[1], again[1])
    assert not np.array_equal(once[0], other[0])
    assert np.array_equal(head, before)
    # What belongs to the scanner stays: both differ by their noise alone.
    assert np.corrcoef(once[0][brain], other[0][brain])[0, 1] > 0.5


@pytest.mark.parametrize("name", VIRTUAL_SCANNERS)
def test_the_background_stays_empty_and_the_brain_a_brain(name: str, head: np.ndarray, brain: np.ndarray) -> None:
    image, mask = show(name, head, brain)
    assert image.min() >= 0
    assert not image[head == 0].any()
    assert (mask & brain).sum() > 0.6 * brain.sum()
    assert mask.sum() < 1.6 * brain.sum()


def test_the_shaded_scanner_has_one_pattern_for_all(head: np.ndarray, brain: np.ndarray) -> None:
    smooth = [show("shaded", head, brain, subject)[0][brain].reshape(-1)[:8000] for subject in ("a", "b")]
    blocks = [values.reshape(40, -1).mean(axis=1) for values in smooth]
    assert np.corrcoef(*blocks)[0, 1] > 0.95


def test_what_cannot_be_shown_is_refused(head: np.ndarray, brain: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected one 3D shape and a brain"):
        show("soft", head, np.zeros_like(brain))
    with pytest.raises(ValueError, match="median of the brain"):
        show("soft", head - 500, brain)
