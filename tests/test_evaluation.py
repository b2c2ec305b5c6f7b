"""Figures against a ground truth: closed forms and the treatment of empty masks."""

from __future__ import annotations

import math

import pytest
import torch
from itermask3d.evaluation import case_metrics, summarise


def block(start: int, stop: int) -> torch.Tensor:
    mask = torch.zeros((1, 8, 8, 8), dtype=torch.bool)
    mask[:, start:stop] = True
    return mask


def test_overlap_has_its_closed_form():
    figures = case_metrics(block(0, 4), block(2, 8))
    assert figures["dice"] == pytest.approx(2 * 2 / (4 + 6))
    assert figures["sensitivity"] == pytest.approx(2 / 6)
    assert figures["precision"] == pytest.approx(2 / 4)


@pytest.mark.parametrize(
    ("mask", "label", "dice"),
    [(block(0, 0), block(0, 0), 1.0), (block(0, 2), block(0, 0), 0.0), (block(0, 0), block(0, 2), 0.0)],
)
def test_empty_masks_are_counted_not_dropped(mask, label, dice):
    assert case_metrics(mask, label)["dice"] == dice


def test_precision_of_an_empty_mask_and_sensitivity_of_an_empty_label_are_undefined():
    assert math.isnan(case_metrics(block(0, 0), block(0, 2))["precision"])
    assert math.isnan(case_metrics(block(0, 2), block(0, 0))["sensitivity"])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        case_metrics(block(0, 1), block(0, 1)[:, :4])


def test_summary_keeps_normal_scans_apart():
    nan = math.nan
    columns = ("label_ml", "dice", "sensitivity", "precision", "flagged_share", "flagged_ml")
    lesions = [(5.0, 0.8, 0.7, 0.9, 0.01, 4.0), (9.0, 0.6, 0.5, nan, 0.0, 0.0)]
    normals = [(0.0, 1.0, nan, nan, 0.0, 0.0), (0.0, 0.0, nan, 0.0, 0.02, 9.0)]
    rows = [dict(zip(columns, values, strict=True)) for values in (*lesions, *normals)]
    summary = summarise(rows)
    assert (summary["lesion_cases"], summary["normal_cases"]) == (2, 2)
    assert summary["dice_mean"] == pytest.approx(0.7)
    assert summary["precision_mean"] == pytest.approx(0.9)
    assert summary["normal_flagged_share_median"] == pytest.approx(0.01)
    assert summary["normal_scans_flagged"] == 0.5


def test_summary_of_nothing_has_no_figures():
    assert summarise([])["dice_mean"] is None
