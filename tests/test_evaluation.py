"""Figures against a ground truth: closed forms and the treatment of empty masks."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from helpers import volume
from ignite.engine import Engine, Events
from itermask3d.evaluation import COLUMNS, CaseMetrics, case_metrics, summarise


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


def row(label_ml: float, score: float | None, **figures: float) -> dict[str, float | None]:
    return {"label_ml": label_ml, "flagged_ml": 0.0, "flagged_share": 0.0, "dice": 0.0, "score": score, **figures}


def test_a_missed_lesion_is_the_worst_distance_in_the_median_not_absent():
    distances = [1.0, 2.0, math.inf]
    assert summarise([row(5, 1, hd95_mm=distance) for distance in distances])["hd95_mm_median"] == 2
    assert summarise([row(5, 1, hd95_mm=distance) for distance in (1.0, math.inf, math.inf)])["hd95_mm_median"] is None


def test_scans_are_ranked_by_their_score_and_those_without_one_left_out():
    rows = [row(0, 0.1), row(0, 0.2), row(0, None), row(5, 0.3), row(9, 0.4)]
    figures = summarise(rows)["scan_level"]
    assert figures["auroc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert figures["fpr_at_tpr_95"]["value"] == 0
    assert summarise(rows[:3])["scan_level"] == {}
    assert "scan_level" not in summarise(rows, scan_level=False)


def test_lesions_are_pooled_and_false_alarms_have_an_exact_interval():
    rows = [row(5, 1, lesions=9, lesions_found=2), row(5, 1, lesions=1, lesions_found=1), row(0, 0)]
    summary = summarise(rows)
    assert summary["lesions_found_share"] == pytest.approx(0.3)
    assert summary["normal_scans_flagged_interval"] == pytest.approx([0, 0.975])


def run(directory: Path, mask: torch.Tensor, label: torch.Tensor) -> list[dict[str, str]]:
    """Pass one case through the handler; the rows of its table."""
    findings = {"outcome": "anomaly", "score": 0.5, "percentile_among_normals": None, "flagged_share": 0.5}
    found = {"mask": mask.float(), "anomaly_map": mask.float(), "findings": json.dumps(findings)}
    item = {"case": "one", "label": volume(label[0], spacing_mm=(2, 1, 1)), "brain_mask": torch.ones_like(mask)}
    engine = Engine(lambda engine, batch: None)
    CaseMetrics(directory).attach(engine)
    engine.state.batch, engine.state.output = [item], [found]
    engine.fire_event(Events.STARTED)
    engine.fire_event(Events.ITERATION_COMPLETED)
    engine.fire_event(Events.COMPLETED)
    with (directory / "metrics.csv").open() as table:
        return list(csv.DictReader(table))


def test_a_case_has_every_column_in_the_scans_own_millimetres(tmp_path):
    (figures,) = run(tmp_path, block(0, 4), block(0, 6))
    assert tuple(figures) == COLUMNS
    assert float(figures["label_ml"]) == pytest.approx(6 * 64 * 2 / 1000)
    assert float(figures["volume_difference_share"]) == pytest.approx(-1 / 3)
    assert float(figures["iou"]) == pytest.approx(4 / 6)
    assert float(figures["hd95_mm"]) == pytest.approx(4.0)
    assert (figures["lesions"], figures["lesions_found"], figures["true_regions"]) == ("1", "1", "1")
    assert float(figures["voxel_auroc"]) == pytest.approx(0.5 + 0.5 * 4 / 6)


@pytest.mark.parametrize(("mask", "label"), [(block(0, 0), block(0, 2)), (block(0, 2), block(0, 0))])
def test_the_summary_of_empty_masks_is_valid_json(tmp_path, mask, label):
    run(tmp_path, mask, label)
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
