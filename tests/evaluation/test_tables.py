"""The report's tables on made-up lists with a known answer."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from itermask3d.evaluation.cases import MethodResults, artefact_of
from itermask3d.evaluation.discrimination import Estimate
from itermask3d.evaluation.page import evaluation_page
from itermask3d.evaluation.plots import all_plots
from itermask3d.evaluation.tables import all_tables, bootstrap_mean, paired_difference
from itermask3d.evaluation.text import Table, shown, to_csv, to_markdown


def row(case: str, group: str, score: float, **metrics: Any) -> dict[str, Any]:
    label = 0.0 if group == "normal" else 5.0
    return {
        "case": case, "group": group, "subject": case[-1], "score": score, "label_ml": label, "flagged_ml": 1.0,
        "flagged_share": 0.01, "mean_error": 0.0, "error_p99": 0.0, "dice": 0.0, "oracle_dice": 0.9,
    } | metrics  # fmt: skip


def method(name: str, dice: tuple[float, ...], **options: Any) -> MethodResults:
    rows = [row(f"n{i}", "normal", score=i / 10) for i in range(4)]
    rows += [row(f"l{i}", "lesion", score=0.25 + i, dice=value) for i, value in enumerate(dice)]
    return MethodResults(name, rows, calibration={f"c{i}": {"score": i / 10} for i in range(4)}, **options)


def tables_of(*methods: MethodResults, level: float = 0.2) -> dict[str, Table]:
    return {table.name: table for table in all_tables(methods, level=level)}


def test_the_segmentation_row_has_its_closed_form_and_the_oracle_stands_last():
    table = tables_of(method("a", (0.2, 0.4, 0.9)))["segmentation"]
    (found,) = table.rows
    assert found["n"] == 3
    assert found["dice"].value == pytest.approx(0.5)
    assert found["dice"].low <= 0.5 <= found["dice"].high
    assert found["dice_median"] == pytest.approx(0.4)
    assert list(table.columns)[-1] == "oracle_dice"
    assert table.columns["oracle_dice"].startswith("oracle")


def test_detection_and_specificity_follow_from_the_scores():
    tables = tables_of(method("a", (0.2, 0.4)))
    (found,) = tables["detection"].rows  # normals 0, 0.1, 0.2, 0.3; lesions 0.25, 1.25
    assert found["auroc"].value == pytest.approx(7 / 8)
    assert found["fpr_at_tpr_80"].value == pytest.approx(1 / 4)
    assert found["flagged"].value == pytest.approx(1 / 2), "above the largest of four calibration scores, 0.3"
    (normal,) = tables["specificity"].rows
    assert normal["flagged"] == Estimate(0.0, 0.0, pytest.approx(1 - 0.025 ** (1 / 4)))
    assert normal["agrees"] == "yes"
    assert normal["any_voxel"] == 1


def test_too_few_calibration_scans_for_a_level_take_the_smallest_that_can_be_had_and_say_so():
    tables = tables_of(method("a", (0.2, 0.4)), level=0.05)
    for name in ("specificity", "detection"):
        assert tables[name].rows[0]["level"] == pytest.approx(1 / 5)
        assert (
            tables[name].rows[0]["flagged"].value == tables_of(method("a", (0.2, 0.4)))[name].rows[0]["flagged"].value
        )
        assert "5 %; so low a rate cannot be had everywhere from 4 calibration scans" in tables[name].note
        assert "20 %" in tables[name].note
    without = tables_of(MethodResults("a", method("a", (0.2,)).rows), level=0.05)
    assert "flagged" not in without["detection"].rows[0]
    assert "Without calibration scans nothing can be flagged" in without["detection"].note


def test_methods_are_compared_on_the_scans_that_both_have():
    other = method("b", (0.3, 0.4))
    (found,) = tables_of(method("a", (0.2, 0.4, 0.9)), other)["paired"].rows
    assert (found["n"], found["better"], found["equal"], found["worse"]) == (2, 1, 1, 0)
    assert found["difference"].value == pytest.approx(0.05)


def test_artefacts_have_a_row_each_and_real_cases_no_mean():
    rows = [row("n1", "normal", 0.1), row("f1", "artefact:noise:1", 0.0), row("f2", "artefact:noise:3", 0.9)]
    rows.append(row("r", "real", 0.5, dice=0.3, contrast="FLAIR", in_distribution=False, outside="contrast, noise"))
    tables = tables_of(MethodResults("a", rows))
    artefacts = {found["severity"]: found["auroc"].value for found in tables["artefacts"].rows}
    assert artefacts == {"1": 0.0, "3": 1.0}
    assert "segmentation" not in tables
    assert "detection" not in tables
    (real,) = tables["real"].rows
    assert (real["case"], real["dice"], real["contrast"]) == ("r", 0.3, "FLAIR")
    assert real["domain"] == "outside: contrast, noise"
    assert artefact_of("artefact:noise") is None


def faulty_method() -> MethodResults:
    """Four normal scans; noise that the score misses and the domain sees, a ball that only the score sees."""
    rows = [row(f"n{i}", "normal", score=i / 10, domain_distance=0.2 + i / 10, in_distribution=True) for i in range(4)]
    rows += [
        row(f"f{i}", "artefact:noise:2", 0.0, domain_distance=3.0, in_distribution=False, outside="noise")
        for i in range(4)
    ]
    rows += [row(f"g{i}", "artefact:inversion:2", 9.0, domain_distance=0.3, in_distribution=True) for i in range(4)]
    calibration = {f"c{i}": {"score": i / 10, "domain_distance": 0.2 + i / 10} for i in range(9)}
    return MethodResults("a", rows, calibration=calibration)


def test_a_artefact_is_ranked_and_flagged_by_score_by_distance_and_by_both():
    tables = tables_of(faulty_method(), level=0.1)
    found = {(one["artefact"], one["evidence"]): one for one in tables["artefacts"].rows}
    flagged = {key: one["flagged"].value for key, one in found.items()}
    assert flagged == {
        ("noise", "own score"): 0, ("noise", "domain distance"): 1, ("noise", "both"): 1,
        ("inversion", "own score"): 1, ("inversion", "domain distance"): 0, ("inversion", "both"): 1,
    }  # fmt: skip
    assert {round(one["level"], 6) for one in found.values()} == {0.1, 0.2}
    (noise,) = (one for one in tables["artefact_matrix"].rows if one["artefact"] == "noise")
    assert (noise["score_2"], noise["domain_2"], noise["both_2"]) == (pytest.approx(1 / 8), 1, 1)
    assert tables["artefact_matrix"].columns["both_2"] == "2: both"
    by = {one["evidence"]: one for one in tables["specificity"].rows}
    assert by["both"]["level"] == pytest.approx(0.2)
    assert by["domain distance"]["flagged"].value == 0


def test_both_p_values_together_are_bonferronis_and_keep_the_promise_on_normal_scans():
    rng = np.random.default_rng(0)
    promised, drawn = 0.2, []
    for _ in range(300):
        pairs = rng.standard_normal((20, 2))
        pairs[:, 1] += pairs[:, 0]  # the two depend on each other
        names = ("score", "domain_distance")
        metrics = {str(i): dict(zip(names, pair, strict=True)) for i, pair in enumerate(pairs.tolist())}
        method = MethodResults("a", [], calibration={name: metrics[name] for name in list(metrics)[1:]})
        p_value = method.p_value(metrics["0"], "both")
        assert p_value == min(1, 2 * min(method.p_value(metrics["0"], kind) for kind in ("score", "domain")))
        drawn.append(p_value)
    assert np.mean(np.array(drawn) <= promised + 1e-9) <= promised + 3 * math.sqrt(promised * (1 - promised) / 300)
    assert method.p_value({"score": 1.0}, "both") is None
    assert method.p_value({"score": math.nan}) is None


def test_a_score_that_knows_nothing_is_worth_nothing_in_every_table():
    rng = np.random.default_rng(2)
    rows = [row(f"n{i}", "normal", score=float(rng.random()), subject=f"n{i}") for i in range(60)]
    rows += [row(f"l{i}", "lesion", score=float(rng.random()), subject=f"l{i}") for i in range(60)]
    rows += [row(f"f{i}", "artefact:blur:1", score=float(rng.random()), subject=f"f{i}") for i in range(60)]
    calibration = {f"c{i}": {"score": float(rng.random())} for i in range(199)}
    tables = tables_of(MethodResults("random", rows, calibration=calibration), level=0.1)
    for name in ("detection", "artefacts"):
        (found,) = tables[name].rows
        assert found["auroc"].low < 0.5 < found["auroc"].high
        assert found["flagged"].low < 0.1 < found["flagged"].high
    (normal,) = tables["specificity"].rows
    assert normal["agrees"] == "yes"


def test_a_missed_lesion_is_infinitely_far_in_the_median_and_a_case_without_figures_is_named():
    rows = [row(f"l{i}", "lesion", 1.0, hd95_mm=distance) for i, distance in enumerate((2.0, math.inf, math.inf))]
    tables = tables_of(MethodResults("a", rows, failures={"x": "no brain"}))
    assert shown(tables["segmentation"].rows[0]["hd95_mm"]) == "∞"
    assert tables["failures"].rows[0]["reason"] == "no brain"


def test_the_bootstrap_draws_subjects_with_all_their_scans():
    point = paired_difference([("a", 1.0), ("a", 3.0)])
    assert point == Estimate(2.0, 2.0, 2.0)
    spread = paired_difference([("a", 1.0), ("b", 3.0)])
    assert spread is not None
    assert (spread.low, spread.high) == (1.0, 3.0)
    assert paired_difference([]) is None
    assert bootstrap_mean([{"subject": "a", "dice": math.nan}], "dice") is None


def test_every_form_of_a_table_has_every_row():
    table = Table(
        "t", "T", "A note.", {"a": "A | B", "b": "B"}, [{"a": "x", "b": Estimate(0.5, 0.25, 0.75)}, {"a": None}]
    )
    first, second = csv.DictReader(io.StringIO(to_csv(table)))
    assert first == {"a": "x", "b": "0.5", "b_low": "0.25", "b_high": "0.75"}
    assert second == {"a": "", "b": "", "b_low": "", "b_high": ""}
    assert to_markdown(table).splitlines()[4:] == [
        "| A \\| B | B |",
        "| --- | --- |",
        "| x | 0.500 [0.250, 0.750] |",
        "| – | – |",
    ]


def test_a_picture_stands_under_its_table_and_every_evidence_has_a_panel(tmp_path):
    tables = all_tables([faulty_method()], level=0.1)
    pictures = all_plots([faulty_method()], tables, output=tmp_path, curves={})
    (artefact_map,) = (picture for picture in pictures if picture.section == "artefact_matrix")
    assert all(f">{evidence}<" in svg_text(artefact_map.path) for evidence in ("own score", "domain distance", "both"))
    page = evaluation_page("E", tables, [artefact_map], facts={})
    assert page.index('id="artefact_matrix"') < page.index(artefact_map.alt) < page.index('id="artefacts"')
    assert 'id="figures"' not in page
    assert 'id="figures"' in evaluation_page("E", tables[:1], [artefact_map], facts={}), "its table is not there"


def svg_text(path: Path) -> str:
    """Matplotlib draws letters as paths and names their words in comments."""
    return re.sub(r"<!-- (.*?) -->", r">\1<", path.read_text())


def test_the_page_escapes_what_it_is_given_and_says_what_it_is_for():
    table = Table("t", "T", "A note.", {"a": "A"}, [{"a": "<script>alert(1)</script>"}])
    page = evaluation_page("An <em>evaluation</em>", [table], [], facts={"Command": "a & b"})
    assert "<script" not in page
    assert "<em>" not in page
    assert "research use only" in page
