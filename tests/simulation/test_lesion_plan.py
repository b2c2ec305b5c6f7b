"""The plan of lesions: balanced, seeded, and the same whatever is done of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from helpers import ball
from itermask3d.simulation.lesion_plan import SIMULATORS, VOLUMES_ML, Donor, plan_lesions, simulate
from itermask3d.simulation.lesion_shapes import LesionShape

SUBJECTS = [f"s{number:02d}" for number in range(30)]
SPACING = (2.0, 2.0, 2.0)


def test_ranges_and_kinds_are_drawn_equally_often():
    for simulator, kinds in SIMULATORS.items():
        planned = plan_lesions(SUBJECTS, simulators=[simulator])
        ranges = Counter(int(np.searchsorted([high for _, high in VOLUMES_ML], one.volume_ml)) for one in planned)
        assert set(ranges.values()) == {len(SUBJECTS) // len(VOLUMES_ML)}
        assert set(Counter(one.kind for one in planned).values()) == {len(SUBJECTS) // len(kinds)}
        assert [one.subject for one in planned] == SUBJECTS


def test_the_same_seed_plans_the_same_and_another_seed_something_else():
    before = np.random.get_state()[1].copy()
    assert plan_lesions(SUBJECTS) == plan_lesions(SUBJECTS) != plan_lesions(SUBJECTS, seed=1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_cases_have_names_of_their_own_and_no_scan_is_its_own_donor():
    planned = plan_lesions(SUBJECTS, per_scan=2)
    assert len({one.case for one in planned}) == len(planned) == 4 * len(SUBJECTS)
    assert len({one.seed for one in planned}) == len(planned)
    assert any(one.donor for one in planned)
    assert not any(one.donor == one.subject for one in planned)
    assert not any(one.donor for one in planned if one.simulator == "field")


def test_a_single_scan_is_planned_without_a_donor():
    assert all(one.donor is None for seed in range(5) for one in plan_lesions(["only"], seed=seed))


@pytest.mark.parametrize("wrong", [{"per_scan": 0}, {"simulators": ["oracle"]}])
def test_a_plan_of_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="per_scan"):
        plan_lesions(SUBJECTS, **wrong)


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_a_plan_is_carried_out_the_same_way_every_time(simulator):
    brain = ball((40, 40, 40), radius=18)
    layers = np.select([ball((40, 40, 40), radius=5), ball((40, 40, 40), radius=13)], [-2.0, 1.0], 0.0)
    image = (layers + 0.1 * np.random.default_rng(0).standard_normal(brain.shape)) * brain
    shapes = {"round": LesionShape("round", ball((21, 21, 21), radius=10), (1.0, 1.0, 1.0))}
    planned = replace(plan_lesions(["a", "b"], simulators=[simulator])[0], volume_ml=2.0, donor=None)
    one, two = (simulate(planned, image, brain, spacing_mm=SPACING, shapes=shapes) for _ in range(2))
    np.testing.assert_array_equal(one.image, two.image)
    assert one.about == two.about
    assert one.truth.sum() * 0.008 == pytest.approx(2.0, rel=0.15)
    assert np.abs(one.image - image)[one.truth].mean() > 0.1
    if simulator == "blended":
        named = replace(planned, donor="b")
        with pytest.raises(ValueError, match="'b'"):
            simulate(named, image, brain, spacing_mm=SPACING, shapes=shapes)
        other = simulate(named, image, brain, spacing_mm=SPACING, shapes=shapes, donor=Donor(image[::-1], brain))
        assert (other.image != one.image).any()
