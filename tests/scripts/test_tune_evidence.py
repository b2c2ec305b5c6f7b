"""The script that chooses what is marked in a kind of contrast: its lesions, its regions, and what counts as best."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from helpers import SCRIPTS, load_script

SHAPE = (12, 12, 12)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return load_script("tune_evidence")


def seen(script):
    """A lesion of 27 voxels at 4 SD, a spot of 8 elsewhere at 2 SD; the error is 1 throughout."""
    suspicious, label = np.zeros(SHAPE), np.zeros(SHAPE, dtype=bool)
    suspicious[2:5, 2:5, 2:5], label[2:5, 2:5, 2:5] = 4, True
    suspicious[8:10, 8:10, 8:10] = 2
    return script.Seen("large", suspicious, np.ones(SHAPE), np.ones(SHAPE, dtype=bool), label)


def test_a_high_peak_drops_the_weak_spot_and_a_large_volume_drops_both(script):
    found = dict(script.combinations(seen(script)))
    assert found[0.5, 1.5, 3.0, 0.06] == (1.0, 0.0)
    dice, false_ml = found[0.5, 1.5, 2.0, 0.06]
    assert (dice, false_ml) == (1.0, 0.0), "a value equal to the peak does not exceed it"
    dice, false_ml = found[0.65, 1.5, 2.0, 0.06]
    assert dice == pytest.approx(54 / 62)
    assert false_ml == pytest.approx(0.064)
    assert found[0.5, 1.5, 3.0, 0.24] == (0.0, 0.0)


def test_a_row_has_the_mean_of_each_group_and_the_worst_healthy_scan(script):
    groups = {
        "large": [(0.4, 9.0), (0.8, 9.0)],
        "small": [(0.2, 9.0)],
        "normal": [(1.0, 0.0), (0.0, 3.0)],
        "healthy": [(1.0, 0.0), (0.0, 2.0)],
    }
    row = script.row_of((0.5, 1.5, 3.0, 0.06), groups)
    assert (row.dice, row.generated_ml, row.healthy_ml) == (pytest.approx(0.4), 1.5, 2.0)
    without = script.row_of((0.5, 1.5, 3.0, 0.06), {name: groups[name] for name in ("large", "normal")})
    assert (without.small, without.dice, without.healthy_ml) == (None, pytest.approx(0.6), 0.0)


def test_only_rows_within_the_limits_are_ranked_and_the_best_is_first(script):
    rows = [script.Row((float(number),), large, None, ml, healthy) for number, (large, ml, healthy) in enumerate(
        [(0.5, 0.0, 0.0), (0.7, 1.0, 3.0), (0.9, 1.1, 0.0), (0.9, 0.0, 3.1)]
    )]  # fmt: skip
    assert [row.settings for row in script.Limits(1.0, 3.0).best_first(rows)] == [(1.0,), (0.0,)]


def test_growth_takes_the_rim_of_a_large_region_and_nothing_far_away(script):
    """A lesion of 4 ml whose rim of 1 SD is half of it, and a normal scan in which nothing is marked."""
    suspicious, label = np.zeros((24, 24, 24)), np.zeros((24, 24, 24), dtype=bool)
    suspicious[4:12, 4:12, 4:20] = 1.1
    suspicious[4:12, 4:12, 4:12], label[4:12, 4:12, 4:16] = 4, True
    ones = np.ones((24, 24, 24))
    scan = script.Seen("large", suspicious, ones, ones > 0, label)
    normal = script.Seen("normal", suspicious * 0, ones, ones > 0, label & False)
    chosen = (0.5, 1.5, 3.0, 0.06)
    tried = script.tune([scan, normal], partial(script.growths, settings=chosen))
    rows = {row.settings[4:]: row for row in tried}
    assert {row.settings[:4] for row in rows.values()} == {chosen}
    marked = 8 * 8 * 8
    assert rows[1.2, 1.0, 8.0].large == pytest.approx(2 * marked / (marked + label.sum())), "1.1 is below 1.2"
    assert rows[0.6, 1.0, 8.0].large == 1.0
    assert rows[0.6, 4.0, 8.0].large == 1.0
    assert rows[0.6, 1.0, 16.0].large < 1.0, "the whole rim, of which the outer half is no lesion"
    assert {row.generated_ml for row in rows.values()} == {0.0}


def test_lesions_are_those_of_their_kind_and_repeat_with_their_seed(script):
    brain, white = np.ones(SHAPE, dtype=bool), np.zeros(SHAPE, dtype=bool)

    def drawn(kind: str) -> list:
        rng = np.random.default_rng([1, 2])
        return [(volume_ml, look(), place) for volume_ml, look, place in script.lesions(kind, rng, brain, white)]

    assert drawn("normal") == []
    ((volume_ml, look, place),) = drawn("large")
    assert 5 <= volume_ml <= 250
    assert look.contrast > 0
    assert place is brain
    small = drawn("small")
    assert 4 <= len(small) <= 14
    assert all(0.06 <= volume_ml <= 2 and place is white for volume_ml, _, place in small)
    assert [one[:2] for one in small] == [one[:2] for one in drawn("small")]
