"""Signals of tissues: orders that every reader of scans knows, ranges, repeatability."""

from __future__ import annotations

import json

import numpy as np
import pytest
from itermask3d.simulation.generator.contrasts import CONTRASTS, SMALLEST_STEP, draw_contrast
from itermask3d.simulation.generator.tissues import Tissue

ORDERS = {
    "t1": (Tissue.WHITE, Tissue.CORTEX, Tissue.VENTRICLE),
    "t1c": (Tissue.VESSEL, Tissue.WHITE, Tissue.CORTEX, Tissue.VENTRICLE),
    "t2": (Tissue.VENTRICLE, Tissue.CORTEX, Tissue.WHITE, Tissue.VESSEL),
    "flair": (Tissue.WHITE, Tissue.VENTRICLE),
    "white_nulled": (Tissue.VENTRICLE, Tissue.CORTEX, Tissue.WHITE),
}


def draws(name: str, n: int = 200) -> np.ndarray:
    return np.array([draw_contrast(name, np.random.RandomState(seed)).signals for seed in range(n)])


@pytest.mark.parametrize("name", ORDERS)
def test_tissues_are_in_the_order_of_the_contrast(name):
    signals = draws(name)
    for brighter, darker in zip(ORDERS[name], ORDERS[name][1:], strict=False):
        assert (signals[:, brighter] > signals[:, darker]).mean() > 0.97, (brighter.name, darker.name)


def test_cortex_is_as_a_rule_brighter_than_white_matter_in_flair():
    signals = draws("flair")
    assert (signals[:, Tissue.CORTEX] > signals[:, Tissue.WHITE]).mean() > 0.8


@pytest.mark.parametrize("name", CONTRASTS)
def test_signals_are_scaled_and_never_negative(name):
    signals = draws(name)
    assert np.isfinite(signals).all()
    assert (signals >= 0).all()
    own = [tissue for tissue in Tissue if tissue not in (Tissue.BACKGROUND, Tissue.VESSEL)]
    assert signals[:, own].max(axis=1) == pytest.approx(np.ones(len(signals)))


def test_free_draws_take_either_order_and_keep_cortex_and_white_matter_apart():
    signals = draws("random")
    step = signals[:, Tissue.CORTEX] - signals[:, Tissue.WHITE]
    assert np.abs(step).min() > 0.99 * SMALLEST_STEP
    assert 0.3 < (step > 0).mean() < 0.7


@pytest.mark.parametrize("name", CONTRASTS)
def test_one_state_gives_one_contrast_and_the_global_state_is_left_alone(name):
    before = np.random.get_state()[1].copy()
    first, second, other = (draw_contrast(name, np.random.RandomState(seed)) for seed in (3, 3, 4))
    assert first == second
    assert first != other
    assert np.array_equal(np.random.get_state()[1], before)
    assert json.loads(json.dumps(first.to_json()))["name"] == name


def test_an_unknown_contrast_is_named():
    with pytest.raises(ValueError, match="contrast = 'swi'"):
        draw_contrast("swi", np.random.RandomState(0))
