"""The choice of the loop's settings: one row a combination, each what the loop itself gives, and the rule of choice."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from helpers import ball
from itermask3d.evaluation.tuning import Grid, TuningRow, choose, evaluate_grid, summarise_rows
from itermask3d.method.detection import remove_small_components
from itermask3d.method.refinement import refine
from itermask3d.method.settings import RefinementSettings

SHAPE = (16, 16, 16)
SPACING_MM = (4.0, 4.0, 4.0)
GRID = Grid(
    gamma=(0.05, 0.2),
    error_window=(1, 3),
    predicted_variance_floor=(0.0, 0.1),
    error_saturation=(None, 4.0),
    threshold_floor=(0.0, 0.3),
    nested=(True,),
    min_volume_ml=(0.0, 1.0),
)
BASE = RefinementSettings(n_steps=10, min_r_squared=0.0, nested=True, relative_error=True, noise=0.0)


@pytest.fixture(scope="module")
def scan() -> dict[str, torch.Tensor]:
    """A ball of texture with a bright lump: image, brain, guide and label, each ``(1, 1, D, H, W)``."""
    brain = torch.from_numpy(ball(SHAPE, radius=6.5))[None, None]
    label = torch.from_numpy(ball(SHAPE, radius=2.5, centre=(9, 7, 7)))[None, None] & brain
    texture = 0.3 * torch.randn((1, 1, *SHAPE), generator=torch.Generator().manual_seed(0))
    image = torch.where(brain, texture + 3.0 * label, torch.zeros(()))
    return {"image": image, "brain_mask": brain.float(), "high_frequency": torch.zeros_like(image), "label": label}


def expects_nothing(corrupted: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
    """Half of what is shown, and a variance of one twentieth."""
    return torch.cat((0.5 * corrupted, torch.full_like(corrupted, -3.0)), dim=1)


@pytest.fixture(scope="module")
def rows(scan) -> list[TuningRow]:
    label = scan["label"].float()
    volumes = (scan["image"], scan["brain_mask"], scan["high_frequency"], label)
    return list(evaluate_grid("scan", *volumes, expects_nothing, grid=GRID, spacing_mm=SPACING_MM, base=BASE))


def test_every_combination_has_one_row(rows):
    tried = {tuple(getattr(row, name) for name in asdict(GRID)) for row in rows}
    assert len(rows) == len(tried) == 2**6
    assert {row.case for row in rows} == {"scan"}


def test_a_row_says_what_the_loop_with_these_settings_gives(rows, scan):
    label = scan["label"]
    for row in rows[::7]:
        values = {name: getattr(row, name) for name in asdict(GRID) if name != "min_volume_ml"}
        settings = replace(BASE, **values)
        found = refine(scan["image"], scan["brain_mask"], scan["high_frequency"], expects_nothing, settings=settings)
        mask = remove_small_components(found.mask, min_volume_ml=row.min_volume_ml, spacing_mm=SPACING_MM)
        assert row.threshold == pytest.approx(found.thresholds[0])
        assert row.iterations == found.iterations[0]
        assert row.flagged_share == pytest.approx(float(mask.sum() / scan["brain_mask"].sum()))
        overlap = 2 * float((mask & label).sum()) / float(mask.sum() + label.sum())
        assert row.dice == pytest.approx(overlap)
        assert row.label_ml == pytest.approx(float(label.sum()) * 0.064)


def test_some_combination_finds_the_lump_and_they_differ(rows):
    assert max(row.dice for row in rows) > 0.5
    assert len({row.dice for row in rows}) > 1


def row(gamma: float, *, dice: float = 0.0, share: float = 0.0, label_ml: float = 0.0) -> TuningRow:
    return TuningRow(
        case="c", error_window=1, predicted_variance_floor=0.0, error_saturation=None, nested=True, gamma=gamma,
        threshold_floor=0.0, min_volume_ml=0.0, threshold=1.0, iterations=3, label_ml=label_ml, flagged_share=share,
        dice=dice,
    )  # fmt: skip


def test_lesions_give_the_dice_and_normal_scans_the_share():
    (summary,) = summarise_rows(
        [row(0.1, dice=0.2, label_ml=5), row(0.1, dice=0.6, label_ml=5), row(0.1, share=0.01), row(0.1, share=0.03)]
    )
    assert summary["gamma"] == 0.1
    assert (summary["dice_mean"], summary["dice_min"]) == (pytest.approx(0.4), 0.2)
    assert (summary["normal_share_median"], summary["normal_share_max"]) == (pytest.approx(0.02), 0.03)
    assert summary["iterations_mean"] == 3


def test_the_best_dice_is_chosen_among_those_that_leave_normal_scans_alone():
    rows = [
        *(row(0.1, dice=0.9, label_ml=5), row(0.1, share=0.2)),
        *(row(0.2, dice=0.5, label_ml=5), row(0.2, share=0.001)),
        *(row(0.3, dice=0.6, label_ml=5), row(0.3, share=0.004)),
    ]
    summaries = summarise_rows(rows)
    assert choose(summaries, max_normal_share=0.005)["gamma"] == 0.3
    assert choose(summaries, max_normal_share=1.0)["gamma"] == 0.1
    assert choose(summaries, max_normal_share=0.0001)["gamma"] == 0.2, "where none is quiet enough, the quietest"


def test_without_normal_scans_the_best_dice_is_chosen():
    summaries = summarise_rows([row(0.1, dice=0.3, label_ml=5), row(0.2, dice=0.4, label_ml=5)])
    assert choose(summaries, max_normal_share=0.005)["gamma"] == 0.2
