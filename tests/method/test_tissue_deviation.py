"""The deviation from a scan's own tissues: closed forms on a brain of three tissues."""

from __future__ import annotations

import pytest
import torch
from itermask3d.method.tissue_deviation import (
    ContrastKind,
    Estimator,
    Side,
    TissueSettings,
    contrast_kind,
    side_of,
    suspicion,
    tissue_deviation,
)
from itermask3d.method.tissue_network import CLASSES

GRID = (24, 24, 24)
FLUID, WHITE, CORTEX = (CLASSES.index(name) for name in ("fluid", "white", "cortex"))
LEVELS = {
    ContrastKind.T1: (-2.0, 1.0, 0.0),
    ContrastKind.T2: (3.0, -1.0, 0.5),
    ContrastKind.FLAIR: (-3.0, -0.3, 0.8),
}
"""Of fluid, white matter and cortex."""

KINDS = list(LEVELS)


def brain() -> torch.Tensor:
    mask = torch.zeros((1, *GRID))
    mask[:, 2:-2, 2:-2, 2:-2] = 1
    return mask


def shares(sure: float = 0.98) -> torch.Tensor:
    """White matter left, cortex in the middle, fluid right."""
    found = torch.full((len(CLASSES), *GRID), (1 - sure) / (len(CLASSES) - 1))
    for index, part in ((WHITE, slice(0, 10)), (CORTEX, slice(10, 18)), (FLUID, slice(18, 24))):
        found[index, part] = sure
    return found * brain()


def scan(kind: ContrastKind, noise: float = 0.2) -> torch.Tensor:
    fluid, white, cortex = LEVELS[kind]
    image = torch.empty((1, *GRID))
    image[:, :10], image[:, 10:18], image[:, 18:] = white, cortex, fluid
    drawn = torch.randn(image.shape, generator=torch.Generator().manual_seed(5))
    return (image + noise * drawn) * brain()


@pytest.mark.parametrize("estimator", list(Estimator))
@pytest.mark.parametrize("kind", KINDS)
def test_a_normal_scan_deviates_by_its_own_noise_whatever_the_contrast(kind, estimator):
    found = tissue_deviation(scan(kind), brain(), shares(), TissueSettings(estimator=estimator))
    inside = found.z[brain() > 0.5]
    assert inside.median().abs() < 0.1
    assert inside.std() == pytest.approx(1, abs=0.15)
    assert not found.z[brain() < 0.5].any()
    assert torch.allclose(found.means[[FLUID, WHITE, CORTEX]], torch.tensor(LEVELS[kind]), atol=0.1)
    assert torch.allclose(found.sds[[FLUID, WHITE, CORTEX]], torch.tensor(0.2), atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_contrast_is_told_from_the_tissues(kind):
    assert contrast_kind(tissue_deviation(scan(kind), brain(), shares()).means) is kind


@pytest.mark.parametrize(
    ("fluid", "white", "cortex", "kind"),
    [
        (-2.5, 0.15, 0.1, ContrastKind.FLAIR),  # white matter a little brighter than the cortex, as with many lesions
        (-2.0, 0.6, 0.0, ContrastKind.T1),
        (2.0, 0.3, 0.2, ContrastKind.T2),
        (0.1, 0.3, -0.2, ContrastKind.OTHER),
        (float("nan"), 0.3, -0.2, ContrastKind.OTHER),
    ],
)
def test_the_kind_of_contrast_is_told_from_how_far_the_tissues_are_apart(fluid, white, cortex, kind):
    means = torch.zeros(len(CLASSES))
    means[[FLUID, WHITE, CORTEX]] = torch.tensor([fluid, white, cortex])
    assert contrast_kind(means) is kind


def test_a_white_matter_lesion_as_bright_as_cortex_deviates_by_its_own_sign():
    image = scan(ContrastKind.FLAIR)
    lesion = torch.zeros_like(image, dtype=torch.bool)
    lesion[:, 4:7, 8:12, 8:12] = True
    cortex = LEVELS[ContrastKind.FLAIR][2]
    image[lesion] = cortex
    found = tissue_deviation(image, brain(), shares(sure=0.999), TissueSettings(iterations=0))
    assert found.z[lesion].min() > 3
    assert found.z[:, 10:18][brain()[:, 10:18] > 0.5].median().abs() < 0.2
    assert found.expected[lesion].mean() == pytest.approx(LEVELS[ContrastKind.FLAIR][1], abs=0.1)
    image[lesion] = 2 * LEVELS[ContrastKind.FLAIR][1] - cortex
    assert tissue_deviation(image, brain(), shares(sure=0.999), TissueSettings(iterations=0)).z[lesion].max() < -3


def test_a_field_is_no_deviation_and_a_lesion_is_no_field():
    ramp = torch.linspace(-0.6, 0.6, GRID[1]).reshape(1, 1, -1, 1) * brain()
    image = scan(ContrastKind.T1) + ramp
    lesion = torch.zeros_like(image, dtype=torch.bool)
    lesion[:, 3:9, 10:16, 10:16] = True
    image[lesion] -= 4
    found = tissue_deviation(image, brain(), shares())
    without = tissue_deviation(image, brain(), shares(), TissueSettings(field_order=0))
    assert found.sds[WHITE] < 0.25 < 0.35 < without.sds[WHITE]
    with_field, normal = found.z, (brain() > 0.5) & ~lesion
    ends = with_field[:, :10, 3:6][normal[:, :10, 3:6]].mean() - with_field[:, :10, -6:-3][normal[:, :10, -6:-3]].mean()
    assert ends.abs() < 0.5
    assert with_field[lesion].max() < -4


def test_a_tissue_that_is_missing_has_no_intensity_and_takes_no_part():
    found = tissue_deviation(scan(ContrastKind.T1), brain(), shares(sure=1.0), TissueSettings(iterations=0))
    absent = [index for index in range(len(CLASSES)) if index not in (FLUID, WHITE, CORTEX)]
    assert torch.isnan(found.means[absent]).all()
    assert torch.isfinite(found.z).all()


def test_an_argument_is_not_changed_and_a_unit_of_intensity_does_not_matter():
    image = scan(ContrastKind.T2)
    before = image.clone()
    plain = tissue_deviation(image, brain(), shares()).z
    assert torch.equal(image, before)
    strict = TissueSettings(outlier=0.02 / 3, least_sd=0.3)
    assert torch.allclose(tissue_deviation(3 * image, brain(), shares(), strict).z, plain, atol=1e-2)


def test_the_prior_of_sides_is_declared_and_can_be_switched_off():
    z = torch.tensor([-2.0, 0.0, 3.0])
    assert [side_of(kind) for kind in (ContrastKind.FLAIR, ContrastKind.T2)] == [Side.BRIGHT] * 2
    assert [side_of(kind) for kind in (ContrastKind.T1, ContrastKind.OTHER)] == [Side.BOTH] * 2
    assert suspicion(z, Side.BRIGHT).tolist() == [0, 0, 3]
    assert suspicion(z, Side.DARK).tolist() == [2, 0, 0]
    assert suspicion(z, Side.BOTH).tolist() == suspicion(z, Side.NONE).tolist() == [2, 0, 3]


@pytest.mark.parametrize("values", [{"iterations": -1}, {"trust": 0.5}, {"outlier": 0}, {"field_order": 3}])
def test_settings_outside_their_range_are_refused(values):
    with pytest.raises(ValueError, match="outside its range"):
        TissueSettings(**values)


def test_volumes_of_another_grid_and_an_empty_brain_are_refused():
    image = scan(ContrastKind.T1)
    with pytest.raises(ValueError, match="expected one grid, and a brain"):
        tissue_deviation(image, torch.zeros_like(image), shares())
    with pytest.raises(ValueError, match="expected one grid, and a brain"):
        tissue_deviation(image[:, :20], brain(), shares())


def test_the_shortest_half_stays_with_the_normal_part_of_a_tissue_that_is_a_good_part_lesion():
    """A lesion of three eighths of the white matter, spread over what lies above it."""
    image = scan(ContrastKind.FLAIR)
    above = torch.rand(image[:, 7:10].shape, generator=torch.Generator().manual_seed(6))
    image[:, 7:10] += brain()[:, 7:10] * (0.5 + 2 * above)
    by = {
        estimator: tissue_deviation(image, brain(), shares(), TissueSettings(field_order=0, estimator=estimator))
        for estimator in Estimator
    }
    true = LEVELS[ContrastKind.FLAIR][1]
    half, median = (by[name] for name in (Estimator.SHORTEST_HALF, Estimator.MEDIAN))
    assert abs(half.means[WHITE] - true) < 0.15 < abs(median.means[WHITE] - true)
    assert half.sds[WHITE] < 0.8 * median.sds[WHITE]
    lesion = brain() > 0.5
    lesion[:, :7] = lesion[:, 10:] = False
    assert half.z[lesion].median() > 1.25 * median.z[lesion].median()


@pytest.mark.parametrize("estimator", list(Estimator))
def test_a_tissue_that_hardly_is_there_has_no_intensity(estimator):
    given = shares(sure=1.0)
    found = tissue_deviation(scan(ContrastKind.T1), brain(), given, TissueSettings(iterations=0, estimator=estimator))
    assert torch.isfinite(found.means).tolist() == [name in ("fluid", "white", "cortex") for name in CLASSES]
