"""Metrics against a ground truth: closed forms and the treatment of empty masks."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import volume
from ignite.engine import Engine, Events
from itermask3d.evaluation.cases import collect_all
from itermask3d.evaluation.handler import CaseMetrics
from itermask3d.evaluation.rows import (
    COLUMNS,
    CaseVolumes,
    case_metrics,
    case_row,
    domain_facts,
    oracle_dice,
    read_case,
)
from itermask3d.evaluation.summary import summarise
from itermask3d.files.writing import save_nifti
from itermask3d.inference.domain import Domain, Range
from itermask3d.inference.results import ScanResult
from screening_helpers import findings as some_findings


def block(start: int, stop: int) -> torch.Tensor:
    mask = torch.zeros((1, 8, 8, 8), dtype=torch.bool)
    mask[:, start:stop] = True
    return mask


def test_overlap_has_its_closed_form():
    metrics = case_metrics(block(0, 4), block(2, 8))
    assert metrics["dice"] == pytest.approx(2 * 2 / (4 + 6))
    assert metrics["sensitivity"] == pytest.approx(2 / 6)
    assert metrics["precision"] == pytest.approx(2 / 4)


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


def test_summary_of_nothing_has_no_metrics():
    assert summarise([])["dice_mean"] is None


def row(label_ml: float, score: float | None, **metrics: float) -> dict[str, float | None]:
    return {"label_ml": label_ml, "flagged_ml": 0.0, "flagged_share": 0.0, "dice": 0.0, "score": score, **metrics}


def test_a_missed_lesion_is_the_worst_distance_in_the_median_not_absent():
    distances = [1.0, 2.0, math.inf]
    assert summarise([row(5, 1, hd95_mm=distance) for distance in distances])["hd95_mm_median"] == 2
    assert summarise([row(5, 1, hd95_mm=distance) for distance in (1.0, math.inf, math.inf)])["hd95_mm_median"] is None


def test_scans_are_ranked_by_their_score_and_those_without_one_left_out():
    rows = [row(0, 0.1), row(0, 0.2), row(0, None), row(5, 0.3), row(9, 0.4)]
    metrics = summarise(rows)["scan_level"]
    assert metrics["auroc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert metrics["fpr_at_tpr_95"]["value"] == 0
    assert summarise(rows[:3])["scan_level"] == {}
    assert "scan_level" not in summarise(rows, scan_level=False)


def test_lesions_are_pooled_and_false_alarms_have_an_exact_interval():
    rows = [row(5, 1, lesions=9, lesions_found=2), row(5, 1, lesions=1, lesions_found=1), row(0, 0)]
    summary = summarise(rows)
    assert summary["lesions_found_share"] == pytest.approx(0.3)
    assert summary["normal_scans_flagged_interval"] == pytest.approx([0, 0.975])


def run(directory: Path, mask: torch.Tensor, label: torch.Tensor) -> list[dict[str, str]]:
    """Pass one case through the handler; the rows of its table."""
    voxels = mask[0].numpy()
    truth = volume(label[0], spacing_mm=(2, 1, 1))
    scan = SimpleNamespace(case="one", label=truth)
    result = ScanResult(
        case="one",
        path="one.nii.gz",
        findings=some_findings(0.5, flagged=True),
        image=np.zeros(voxels.shape, dtype=np.float32),
        mask=voxels,
        anomaly_map=voxels.astype(np.float32),
        reconstruction=np.zeros(voxels.shape, dtype=np.float32),
        brain_mask=np.ones_like(voxels),
        affine=np.asarray(truth.affine),
        preprocessing={},
        settings={},
    )
    engine = Engine(lambda engine, batch: None)
    CaseMetrics(directory).attach(engine)
    engine.state.batch, engine.state.output = [scan], [result]
    engine.fire_event(Events.STARTED)
    engine.fire_event(Events.ITERATION_COMPLETED)
    engine.fire_event(Events.COMPLETED)
    with (directory / "metrics.csv").open() as table:
        return list(csv.DictReader(table))


def test_a_case_has_every_column_in_the_scans_own_millimetres(tmp_path):
    (metrics,) = run(tmp_path, block(0, 4), block(0, 6))
    assert tuple(metrics) == COLUMNS
    assert float(metrics["label_ml"]) == pytest.approx(6 * 64 * 2 / 1000)
    assert float(metrics["volume_difference_share"]) == pytest.approx(-1 / 3)
    assert float(metrics["iou"]) == pytest.approx(4 / 6)
    assert float(metrics["hd95_mm"]) == pytest.approx(4.0)
    assert (metrics["lesions"], metrics["lesions_found"], metrics["true_regions"]) == ("1", "1", "1")
    assert float(metrics["voxel_auroc"]) == pytest.approx(0.5 + 0.5 * 4 / 6)


@pytest.mark.parametrize(("mask", "label"), [(block(0, 0), block(0, 2)), (block(0, 2), block(0, 0))])
def test_the_summary_of_empty_masks_is_valid_json(tmp_path, mask, label):
    run(tmp_path, mask, label)
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def volumes_of(mask: torch.Tensor, label: torch.Tensor | None, anomaly_map: torch.Tensor | None = None) -> CaseVolumes:
    brain = torch.ones_like(mask)
    return CaseVolumes(mask, mask.float() if anomaly_map is None else anomaly_map, brain, np.eye(4), label)


FINDINGS = {"outcome": "anomaly", "score": 0.5, "flagged_share": 0.5}


def test_the_oracle_is_the_best_point_of_the_precision_recall_curve():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    label = torch.rand((6, 7, 8), generator=generator) > 0.8
    anomaly_map = (torch.rand((6, 7, 8), generator=generator) + 0.5 * label).mul(20).round()  # with ties
    precision, recall, _ = metrics.precision_recall_curve(label.flatten(), anomaly_map.flatten())
    best = np.nanmax(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    brain = torch.ones_like(label)
    assert oracle_dice(anomaly_map, label, brain_mask=brain) == pytest.approx(best)
    assert oracle_dice(anomaly_map, torch.zeros_like(label), brain_mask=brain) == 1


def test_a_constant_map_gets_the_scores_of_chance():
    label = block(0, 2)[0]
    row = case_row({"case": "c"}, FINDINGS, volumes_of(torch.ones_like(label), label, torch.full(label.shape, 3.0)))
    share = float(label.float().mean())
    assert row["voxel_auroc"] == pytest.approx(0.5)
    assert row["voxel_ap"] == pytest.approx(share)
    assert row["oracle_dice"] == pytest.approx(2 * share / (1 + share))
    assert row["dice"] == pytest.approx(row["oracle_dice"])


def test_a_random_mask_gets_the_scores_of_chance():
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros((40, 40, 40), dtype=torch.bool)
    label[:10] = True
    noise = torch.rand(label.shape, generator=generator)
    row = case_row({"case": "c"}, FINDINGS, volumes_of(noise > 0.9, label, noise))
    assert row["dice"] == pytest.approx(2 * 0.25 * 0.1 / (0.25 + 0.1), abs=0.01)
    assert row["voxel_auroc"] == pytest.approx(0.5, abs=0.01)
    assert row["precision"] == pytest.approx(0.25, abs=0.02)


def test_a_scan_without_label_has_a_score_and_no_overlap_and_a_normal_one_has_an_empty_label():
    mask = block(0, 2)[0]
    row = case_row({"case": "c"}, FINDINGS, volumes_of(mask, None))
    assert (row["group"], row["score"], row["subject"]) == ("unlabelled", 0.5, "c")
    assert "dice" not in row
    normal = case_row({"case": "c", "group": "normal", "subject": "s"}, FINDINGS, volumes_of(mask, None))
    assert (normal["dice"], normal["label_ml"], normal["subject"]) == (0, 0, "s")


def test_fidelity_is_taken_outside_the_label_and_has_its_closed_form():
    label = block(0, 4)[0]
    image = torch.rand(label.shape, generator=torch.Generator().manual_seed(0))
    expected = torch.where(label, image + 3, image + 0.5)
    found = replace(volumes_of(label, label), image=image, reconstruction=expected)
    assert case_row({"case": "c"}, FINDINGS, found)["psnr_db"] == pytest.approx(10 * math.log10(100 / 0.25), rel=1e-4)


def test_a_case_on_disk_gives_the_row_that_it_gave_in_memory(tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    mask, label = block(0, 4), block(0, 6)
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    for name in ("mask", "anomaly_map", "brain_mask", "reconstruction"):
        voxels = torch.ones_like(mask) if name == "brain_mask" else mask
        save_nifti(voxels[0].numpy().astype(np.float32), affine, folder / f"one_{name}.nii.gz")
    save_nifti(label[0].numpy().astype(np.uint8), affine, tmp_path / "label.nii.gz")
    assert read_case({"case": "one"}, folder) is None
    (folder / "result.json").write_text(json.dumps(some_findings(0.5, flagged=True).to_json()))
    again = read_case({"case": "one", "label": str(tmp_path / "label.nii.gz")}, folder)
    (first,) = run(tmp_path / "memory", mask, label)
    assert {name: str("" if again.get(name) is None else again[name]) for name in COLUMNS} == first

    class Store:
        def folder(self, case: str) -> Path:
            return tmp_path / case

    class Done:
        finished = ("one",)

        def items(self) -> list[dict[str, str]]:
            return [{"case": "one", "label": str(tmp_path / "label.nii.gz")}]

    engine = Engine(lambda engine, batch: None)
    CaseMetrics(tmp_path / "resumed", Done(), Store()).attach(engine)  # type: ignore[arg-type]
    engine.fire_event(Events.STARTED)
    engine.fire_event(Events.COMPLETED)
    assert (tmp_path / "resumed" / "metrics.csv").read_text() == (tmp_path / "memory" / "metrics.csv").read_text()


def test_the_domains_distance_of_an_older_result_is_taken_from_its_features():
    domain = Domain({"noise": Range(0.0, 2.0, centre=1.0)}, {})
    rows = [{"feature": "noise", "group": "noise", "value": 4.0, "low": 0.0, "high": 2.0, "within": False}]
    older = {"in_distribution": False, "domain": rows}
    assert domain_facts(older, domain) == {"in_distribution": False, "domain_distance": 3.0, "outside": "noise"}
    assert domain_facts(older | {"domain_distance": 2.5}, domain)["domain_distance"] == 2.5
    assert set(domain_facts({}, domain).values()) == {None}


def test_what_the_domain_check_found_of_a_scan_goes_to_every_method(tmp_path):
    facts = {"in_distribution": False, "domain": [], "domain_distance": 2.0}
    for method, found in (("baseline", {}), ("bundle", facts)):
        folder = tmp_path / "methods" / method / "results" / "one"
        folder.mkdir(parents=True)
        for name in ("mask", "anomaly_map", "brain_mask", "reconstruction"):
            save_nifti(block(0, 4)[0].numpy().astype(np.float32), np.eye(4), folder / f"one_{name}.nii.gz")
        (folder / "result.json").write_text(json.dumps(FINDINGS | found))
        metrics = {"metrics": {"c": {"score": 0.1}}}
        (tmp_path / "methods" / method / "calibration.json").write_text(json.dumps(metrics))
    calibrated = tmp_path / "methods" / "bundle" / "calibration" / "c"
    calibrated.mkdir(parents=True)
    (calibrated / "result.json").write_text(json.dumps({"domain_distance": 0.5}))
    item = {"case": "one", "group": "real", "contrast": "T2"}
    for method in collect_all([item], tmp_path, ["baseline", "bundle"]):
        (row,) = method.rows
        assert (row["in_distribution"], row["domain_distance"], row["contrast"]) == (False, 2.0, "T2")
        assert method.normal_scores("domain_distance") == [0.5]
        assert method.p_value(row, "domain") == 0.5
        assert method.level(0.05) == 0.5
        assert method.p_value(row, "both") == method.level(0.05, "both") == 1.0
