"""Label maps to tissues: schemes, brain masks, mixtures, and what a scan adds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import ball
from itermask3d.files.scans import ScanError
from itermask3d.simulation.generator.tissues import (
    SCHEMES,
    Tissue,
    brain_of,
    guess_scheme,
    refine,
    tissues_of,
    two_tissues,
)
from synthesis_helpers import SIDES, label_phantom, mixture_of, t1_phantom

LEFT_RIGHT = {
    "dlmuse": [
        (23, 30),
        *((right, right + 1) for right in (31, 36, 38, 40, 47, 49, 51, 55, 57, 59, 61, 75)),
        *((right, right + 1) for right in (*range(81, 94, 2), *range(100, 207, 2))),
    ],
    "synthseg": [
        *((left, left + 39) for left in (2, 3, 4, 5, 7, 8, 10, 11, 12, 13)),
        *((17, 53), (18, 54), (25, 57), (26, 58), (28, 60), (30, 62)),
    ],
}


@pytest.mark.parametrize("scheme", ["dlmuse", "synthseg"])
def test_left_and_right_structures_are_of_one_tissue(scheme):
    pairs = np.array(LEFT_RIGHT[scheme])
    left, right = tissues_of(pairs[:, 0], scheme), tissues_of(pairs[:, 1], scheme)
    assert np.array_equal(left, right)
    assert (left > 0).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_label_is_of_two_tissues(scheme):
    codes = [code for group in SCHEMES[scheme].values() for code in group]
    assert len(codes) == len(set(codes))


def test_mirrored_labels_give_mirrored_tissues():
    labels, _ = label_phantom()
    exchange = np.arange(600)
    for left, right in SIDES.values():
        exchange[[left, right]] = right, left
    assert not np.array_equal(labels[::-1], labels)
    assert np.array_equal(exchange[labels[::-1]], labels)
    assert np.array_equal(tissues_of(labels[::-1], "dlmuse"), tissues_of(labels, "dlmuse")[::-1])


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [((0, 1, 81, 100), "dlmuse"), ((0, 2, 41, 24, 515), "synthseg"), ((0, 1, 2, 7), "tissues")],
)
def test_the_scheme_is_told_by_the_labels(labels, scheme):
    assert guess_scheme(np.array(labels)) == scheme


@pytest.mark.parametrize(("labels", "told"), [((0, 1, 431), r"\[431\]"), ((0, 0, 0), "no label")])
def test_labels_of_no_scheme_are_named(labels, told):
    with pytest.raises(ScanError, match=told):
        guess_scheme(np.array(labels))
    with pytest.raises(ScanError, match="scheme = 'other'"):
        tissues_of(np.array(labels), "other")


def test_brain_mask_closes_sulci_and_fills_ventricles():
    solid = ball((40, 40, 40), radius=16)
    tissues = np.where(solid, int(Tissue.CORTEX), 0)
    tissues[19:21, 30:, :] = 0
    tissues[ball((40, 40, 40), radius=4)] = Tissue.OUTER_FLUID
    brain = brain_of(tissues, spacing_mm=(2.0, 2.0, 2.0))
    assert brain[20, 20, 20]
    assert brain[20, 32, 20]
    assert (brain & ~solid).sum() < 0.02 * solid.sum()
    with pytest.raises(ScanError, match="no brain tissue"):
        brain_of(np.zeros((8, 8, 8), dtype=np.uint8), spacing_mm=(2.0, 2.0, 2.0))


def test_the_two_largest_shares_are_kept():
    shares = torch.zeros(len(Tissue), 1, 1, 2)
    shares[[1, 2, 7], 0, 0, 0] = torch.tensor([0.3, 0.6, 0.1])
    first, second, share = two_tissues(shares)
    assert (first[0, 0, 0], second[0, 0, 0]) == (2, 1)
    assert share[0, 0, 0] == pytest.approx(0.6 / 0.9)
    assert (first[0, 0, 1], second[0, 0, 1], share[0, 0, 1]) == (0, 0, 1)


@pytest.mark.parametrize(("code", "cortex"), [(104, Tissue.CORTEX), (102, Tissue.LIMBIC_CORTEX)])
def test_a_scan_tells_the_share_of_fluid_in_the_cortex(code, cortex):
    labels, _ = label_phantom()
    image = t1_phantom(labels)
    sulcus = (labels == 104) & (np.indices(labels.shape)[2] % 5 == 0)
    image[sulcus] = 35  # half way from fluid to cortex
    mixture, brain = mixture_of(np.where(labels == 104, code, labels))  # of one side
    refined = refine(mixture.numpy(), image, brain[0].numpy() > 0.5)
    assert set(np.unique(refined[0][sulcus])) == {float(cortex)}
    assert set(np.unique(refined[1][sulcus])) == {float(Tissue.OUTER_FLUID)}
    assert refined[2][sulcus].mean() == pytest.approx(0.5, abs=0.1)
    elsewhere = (labels == 104) & ~sulcus
    grey = np.where(refined[0] == cortex, refined[2], 1 - refined[2])[elsewhere]
    assert np.median(grey) > 0.9


def test_dark_spots_deep_in_white_matter_stay_white_matter():
    labels, _ = label_phantom()
    image = t1_phantom(labels)
    mixture, brain = mixture_of(labels)
    deep = (labels == 81) & ball(
        labels.shape, radius=3, centre=[c + o for c, o in zip([19, 23, 18], (7, 0, 0), strict=True)]
    )
    image[deep] = 60
    refined = refine(mixture.numpy(), image, brain[0].numpy() > 0.5)
    core = deep & (labels == 81)
    assert core.any()
    assert (refined[0][core] == Tissue.WHITE).mean() > 0.9


def test_a_scan_of_another_contrast_refines_nothing():
    labels, _ = label_phantom()
    mixture, brain = mixture_of(labels)
    upside_down = 110 - t1_phantom(labels)
    assert np.array_equal(refine(mixture.numpy(), upside_down, brain[0].numpy() > 0.5), mixture.numpy())
