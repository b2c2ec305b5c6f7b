"""The domain check: its ranges, its sentences, and what it withholds from a result, from file to file."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fast_bundle import write_fast_bundle
from helpers import Phantom
from itermask3d import BUNDLE_ROOT
from itermask3d.inference.conclusion import OUTSIDE
from itermask3d.inference.domain import FEATURES, Domain, Range, fit_domain
from itermask3d.inference.model import load_model
from itermask3d.inference.overview import draw_overview, verdict
from itermask3d.inference.prompts import Prompts
from itermask3d.inference.segmenter import Segmenter
from itermask3d.preprocessing.measure import ScanFeatures
from monai.bundle import ConfigWorkflow
from scipy import ndimage


def features(rng: np.random.Generator, n: int) -> list[dict[str, float]]:
    return [{name: 10 + feature.tolerance * rng.normal() for name, feature in FEATURES.items()} for _ in range(n)]


def domain_of(rows: dict) -> Domain:
    return Domain({name: Range(row["low"], row["high"]) for name, row in rows.items()}, {})


def test_ranges_have_their_closed_form():
    train = [{"noise": value, "voxel_mm": 2.0} for value in np.arange(0.0, 101.0)]
    rows, width = fit_domain(train, [{"noise": 50 + 3 * 45 / 1.645, "voxel_mm": 2.0}])
    assert width == pytest.approx(3, abs=0.06)
    assert rows["noise"]["centre"] == 50
    assert rows["noise"]["scale_low"] == rows["noise"]["scale_high"] == pytest.approx(45 / 1.645, rel=0.01)
    assert rows["noise"]["high"] == pytest.approx(50 + width * 45 / 1.645, rel=0.01)
    assert rows["voxel_mm"]["scale_high"] == FEATURES["voxel_mm"].tolerance
    assert rows["voxel_mm"]["low"] is None


def test_all_held_out_scans_and_the_share_of_the_training_scans_pass():
    rng = np.random.default_rng(0)
    train, held_out = features(rng, 100), features(rng, 15)
    domain = domain_of(fit_domain(train, held_out)[0])
    assert all(domain.check(scan).in_distribution for scan in held_out)
    assert sum(domain.check(scan).in_distribution for scan in train) >= 99


def test_most_further_normal_scans_pass():
    rng = np.random.default_rng(1)
    domain = domain_of(fit_domain(features(rng, 100), features(rng, 15))[0])
    assert np.mean([domain.check(scan).in_distribution for scan in features(rng, 2000)]) > 0.94


def test_fitting_needs_scans():
    with pytest.raises(ValueError, match="two training scans"):
        fit_domain([{"noise": 1.0}], [{"noise": 1.0}])
    with pytest.raises(ValueError, match="held-out"):
        fit_domain([{"noise": 1.0}] * 3, [])


def test_sentence_says_what_its_value_and_what_was_expected():
    domain = Domain({"voxel_mm": Range(None, 2.3), "depth_contrast": Range(0.9, 1.9)}, {})
    found = domain.check({"voxel_mm": 5.0, "depth_contrast": -0.5, "brain_ml": 1.0})
    assert [deviation.sentence for deviation in found.deviations] == [
        "Out-of-distribution (contrast): the most frequent intensity 14 to 26 mm below the brain's surface, "
        "less the middle one at 2 to 8 mm, is -0.5 units; expected 0.9 to 1.9 units (another contrast: deep white "
        "matter does not stand out from the cortex).",
        "Out-of-distribution (resolution): the largest voxel edge is 5 mm; expected at most 2.3 mm (voxels "
        "larger than the training's).",
    ]
    assert found.groups == ("contrast", "resolution")
    assert [(row["feature"], row["within"]) for row in found.to_json()] == [
        ("depth_contrast", False),
        ("voxel_mm", False),
    ]


def test_every_possible_deviation_has_a_reason():
    for name, feature in FEATURES.items():
        assert feature.low_means or feature.high_means, name
        assert feature.tolerance > 0, name


def test_nan_is_outside_and_a_missing_figure_is_left_aside():
    domain = Domain({"noise": Range(0.0, 1.0)}, {})
    assert not domain.check({"noise": float("nan")}).in_distribution
    assert domain.check({"noise": float("nan")}).to_json()[0]["value"] is None
    assert domain.check({}).in_distribution


def test_limits_belong_to_their_range():
    assert Range(1.0, 2.0).holds(1.0)
    assert Range(1.0, 2.0).holds(2.0)
    assert not Range(None, 2.0).holds(2.1)
    assert Range(1.0, None).holds(1e9)


def test_the_distance_of_the_worst_figure_is_in_half_widths_of_its_side():
    ranges = {"noise": Range(0.0, 4.0, centre=1.0), "voxel_mm": Range(None, 3.0, centre=2.0)}
    domain = Domain(ranges, {})
    for features, distance in (
        ({"noise": 1.0, "voxel_mm": 2.0}, 0.0),
        ({"noise": 0.5, "voxel_mm": 2.0}, 0.5),
        ({"noise": 2.5, "voxel_mm": 0.1}, 0.5),
        ({"noise": 4.0, "voxel_mm": 3.0}, 1.0),
        ({"noise": 2.5, "voxel_mm": 5.0}, 3.0),
        ({"noise": -3.0}, 4.0),
        ({}, 0.0),
    ):
        assert domain.check(features).distance == pytest.approx(distance)
        assert (distance <= 1) == domain.check(features).in_distribution
    assert Range(0.0, 4.0).distance(3.0) == 0.5, "without a centre the middle"
    assert (Range(None, 4.0).distance(3.0), Range(None, 4.0).distance(5.0)) == (0.0, np.inf)
    assert Range(0.0, 4.0).distance(float("nan")) == np.inf


def test_the_shipped_ranges_put_their_centre_at_no_distance_and_their_limits_at_one():
    domain = Domain.read(Path(BUNDLE_ROOT) / "models" / "domain.json")
    for name, limits in domain.ranges.items():
        assert limits.distance(limits.centre) == 0, name
        assert all(limits.distance(side) == 1 for side in (limits.low, limits.high) if side is not None), name


def test_what_is_no_domain_is_named(tmp_path):
    path = tmp_path / "domain.json"
    for text in ("{}", "[]", "no json", '{"features": {"noise": 1}, "settings": {}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="holds no 'features' and 'settings'"):
            Domain.read(path)
    row = {"low": 0, "high": 1}
    path.write_text(json.dumps({"features": {"smell": row}, "settings": {"spacing_mm": 2, "bias_correction": "none"}}))
    with pytest.raises(ValueError, match="smell"):
        Domain.read(path)


def test_the_shipped_domain_names_its_source_and_every_figure():
    path = Path(BUNDLE_ROOT) / "models" / "domain.json"
    data = json.loads(path.read_text())
    assert "CC BY-SA" in data["attribution"]
    assert Domain.read(path).ranges.keys() == FEATURES.keys()
    for name, row in data["features"].items():
        sides = [value for value in (row["low"], row["high"]) if value is not None]
        assert sides, name
        assert min(sides) - 1e-9 <= row["centre"] <= max(sides) or len(sides) == 1, name


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_fast_bundle(tmp_path_factory.mktemp("bundle"))


def t1(phantom: Phantom) -> np.ndarray:
    """The phantom with a bright inside, as white matter is."""
    return phantom.image + 60 * ndimage.binary_erosion(phantom.brain_mask, iterations=5)


def t2(phantom: Phantom) -> np.ndarray:
    return 400 - t1(phantom)


def noisy(phantom: Phantom) -> np.ndarray:
    return t1(phantom) + 40 * np.random.default_rng(0).standard_normal(phantom.image.shape)


def save(phantom: Phantom, folder: Path, kind=t1) -> str:
    image = np.where(phantom.brain_mask, kind(phantom), 0).astype(np.float32)
    path = folder / "scan.nii.gz"
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(image, phantom.affine), path)
    return str(path)


@pytest.fixture(scope="module")
def fitted(bundle, phantom, tmp_path_factory) -> Path:
    """The bundle with a domain around the phantom and a calibration of its settings."""
    folder = tmp_path_factory.mktemp("phantom")
    features = Segmenter(bundle).prepare({"image": save(phantom, folder), "case": "scan"}).features
    own = dict(features.values)
    rows, _ = fit_domain([own, own], [own])
    wide = {name: row | {"low": row["centre"] - 5 * row["scale_low"]} for name, row in rows.items()}
    wide = {name: row | {"high": row["centre"] + 5 * row["scale_high"]} for name, row in wide.items()}
    content = {"features": wide, "settings": features.grid}
    (bundle / "models" / "domain.json").write_text(json.dumps(content))
    scores = {"normal_scores": list(range(1, 20)), "settings": load_model(bundle).variant("t1").settings}
    (bundle / "models" / "calibration.json").write_text(json.dumps(scores))
    return bundle


@pytest.mark.parametrize(("kind", "group"), [(t1, None), (t2, "contrast"), (noisy, "noise")])
def test_a_scan_outside_is_segmented_and_named_and_its_score_compared_with_nothing(
    fitted, phantom, tmp_path, kind, group
):
    inside = group is None
    save(phantom, tmp_path / "in", kind)
    workflow = ConfigWorkflow(
        config_file=str(fitted / "configs" / "inference.json"),
        meta_file=str(fitted / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(fitted),
        dataset_dir=str(tmp_path / "in"),
        output_dir=str(tmp_path / "out"),
        overview=False,
        progress=False,
    )
    workflow.initialize()
    workflow.run()
    data = json.loads((tmp_path / "out" / "scan" / "result.json").read_text())
    assert data["in_distribution"] is inside
    assert (data["domain_distance"] <= 1) is inside
    assert {"feature", "group", "value", "low", "high", "within"} == set(data["domain"][0])
    assert (tmp_path / "out" / "scan" / "scan_mask.nii.gz").exists()
    told = [sentence for sentence in data["warnings"] if sentence.startswith("Out-of-distribution")]
    if inside:
        assert told == []
        assert data["p_value"] == (1 + sum(score >= data["score"] for score in range(1, 20))) / 20
        assert "19 calibration scans" in data["p_value_note"]
    else:
        assert any(f"({group})" in sentence for sentence in told)
        assert OUTSIDE in data["warnings"]
        assert data["p_value"] is data["p_value_note"] is data["percentile_among_normals"] is None


def test_the_segmenter_says_the_same_and_the_verdict_and_picture_tell(fitted, phantom, tmp_path):
    segmenter = Segmenter(fitted)
    prepared = segmenter.prepare({"image": save(phantom, tmp_path, t2), "case": "scan"})
    result, _ = segmenter.segment(prepared)
    again, _ = segmenter.segment(prepared)
    assert result.in_distribution is False
    assert result.to_json() == again.to_json()
    texts = [text.get_text() for axes in draw_overview(result).axes for text in axes.texts]
    assert any("out-of-distribution: contrast" in text for text in texts)
    told = verdict(result.findings, 1.0, in_distribution=result.in_distribution)
    assert told.startswith("Out-of-distribution, not comparable with normal scans: ")


def test_a_prompted_result_keeps_the_domain_and_loses_the_p_value(fitted, phantom, tmp_path):
    segmenter = Segmenter(fitted)
    prepared = segmenter.prepare({"image": save(phantom, tmp_path), "case": "scan"})
    automatic, _ = segmenter.segment(prepared)
    prompted, _ = segmenter.segment(prepared, prompts=Prompts(threshold=1.0), earlier=automatic.findings)
    assert automatic.p_value is not None
    assert prompted.p_value is prompted.p_value_note is None
    assert prompted.in_distribution is True


def test_the_verdict_of_a_scan_inside_is_as_without_a_check(fitted, phantom, tmp_path):
    segmenter = Segmenter(fitted)
    result, _ = segmenter.segment(segmenter.prepare({"image": save(phantom, tmp_path), "case": "scan"}))
    findings = replace(result.findings, percentile_among_normals=None)
    assert verdict(findings, 2.0, in_distribution=True) == verdict(findings, 2.0)


def test_without_a_domain_nothing_is_checked_and_only_the_log_says_so(fitted, phantom, tmp_path, caplog):
    segmenter = Segmenter(fitted, {"domain": str(tmp_path / "none.json")})
    prepared = segmenter.prepare({"image": save(phantom, tmp_path, t2), "case": "scan"})
    with caplog.at_level(logging.INFO, logger="itermask3d.inference.model"):
        result, _ = segmenter.segment(prepared)
    assert result.in_distribution is result.to_json()["domain"] is result.to_json()["domain_distance"] is None
    assert result.p_value is not None
    assert not any("domain" in sentence for sentence in result.warnings)
    assert "no scan is compared with the training scans" in caplog.text


def test_a_domain_of_another_preprocessing_is_not_used(fitted, caplog):
    used = load_model(fitted).variant("t1")
    assert used.check_domain(ScanFeatures({"noise": 1e9}, spacing_mm=1.0, bias_correction="none")) is None
    assert "not compared with the training scans" in caplog.text
