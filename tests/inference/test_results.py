"""Files of a scan: whole or not at all, on the scan's own grid, readable by others."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from helpers import ball, rotation
from itermask3d.inference.overview import draw_overview, evidence_told, headline, save_overview, verdict
from itermask3d.inference.results import ScanResult, components, foreign_files, write_result
from itermask3d.method.detection import Findings, Outcome
from itermask3d.method.threshold import estimate_threshold
from report_helpers import EVIDENCE

SHAPE = (30, 34, 28)


def findings(outcome: Outcome = Outcome.ANOMALY, percentile: float | None = None) -> Findings:
    curve = 0.2 * np.tan(0.015 * np.arange(1, 101))
    estimate = estimate_threshold(curve if outcome is not Outcome.FIT_FAILED else [math.nan], gamma=0.01)
    if outcome is Outcome.FIT_FAILED:
        curve = np.full(100, np.nan)
    return Findings(outcome, 0.1, 0.02, 0.2, 1.5, 0.4, estimate, tuple(curve), 4, True, percentile)


def result(outcome: Outcome = Outcome.ANOMALY, *, lesions: bool = True) -> ScanResult:
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees=(10, 20, 5)) * (1.5, 2.0, 3.0)
    affine[:3, 3] = (-20, 30, 7)
    brain = ball(SHAPE, radius=12)
    mask = (ball(SHAPE, radius=4, centre=(11, 15, 12)) | ball(SHAPE, radius=2, centre=(20, 20, 16))) & lesions
    rng = np.random.default_rng(0)
    return ScanResult(
        case="case", path="case.nii.gz", findings=findings(outcome), image=rng.random(SHAPE), mask=mask,
        anomaly_map=(brain * 0.1 + mask).astype(np.float32), reconstruction=brain * 0.5,
        brain_mask=brain, affine=affine,
        preprocessing={"brain_extraction": "none", "median": 1.0, "scale": 2.0}, settings={"gamma": 0.01},
    )  # fmt: skip


def test_components_are_sorted_and_measured_on_the_scans_grid():
    scan = result()
    found = components(scan.mask, scan.anomaly_map, scan.affine)
    assert [component.index for component in found] == [1, 2]
    assert found[0].volume_ml > found[1].volume_ml
    assert sum(component.volume_ml for component in found) == pytest.approx(scan.mask.sum() * 1.5 * 2 * 3 / 1000)
    np.testing.assert_allclose(found[0].centroid_mm, nib.affines.apply_affine(scan.affine, (11, 15, 12)), atol=0.05)
    assert found[0].peak_error == pytest.approx(1.1)
    assert components(np.zeros(SHAPE, bool), scan.anomaly_map, scan.affine) == []


def test_files_lie_on_the_scans_own_grid(tmp_path):
    scan = result()
    folder = write_result(scan, tmp_path / "case", draw=save_overview)
    names = {"mask", "brain_mask", "anomaly_map", "reconstruction"}
    assert {path.name for path in folder.iterdir()} == {f"case_{n}.nii.gz" for n in names} | {
        "result.json",
        "overview.png",
    }
    for name in names:
        image = nib.load(folder / f"case_{name}.nii.gz")
        np.testing.assert_allclose(image.affine, scan.affine, atol=1e-5)
        assert image.header.get_xyzt_units()[0] == "mm"
        assert image.header["qform_code"] == image.header["sform_code"] == 1
        np.testing.assert_allclose(np.asarray(image.dataobj), getattr(scan, name), atol=1e-6)
    assert nib.load(folder / "case_mask.nii.gz").get_data_dtype() == np.uint8


def test_each_kind_of_evidence_is_written_apart_and_belongs_to_the_result(tmp_path):
    maps = {"tissue_deviation": -2.5 * result().mask, "reconstruction_error": 3.0 * result().mask}
    scan = replace(result(), evidence=EVIDENCE, evidence_maps=maps)
    folder = write_result(scan, tmp_path / "case", draw=save_overview)
    for name, voxels in maps.items():
        image = nib.load(folder / f"case_{name}.nii.gz")
        np.testing.assert_allclose(np.asarray(image.dataobj), voxels)
        np.testing.assert_allclose(image.affine, scan.affine, atol=1e-5)
    assert json.loads((folder / "result.json").read_text())["evidence"] == EVIDENCE
    assert foreign_files(folder, "case") == []
    assert result().to_json()["evidence"] is None


@pytest.mark.parametrize(
    ("contrast", "side", "told"),
    [
        ("flair", "bright", "contrast: FLAIR; what is brighter than its tissue counts"),
        ("t1", "both", "contrast: T1; both brighter and darker than the tissue count"),
        ("other", "none", "contrast: neither T1, T2 nor FLAIR; both brighter and darker than the tissue count"),
    ],
)
def test_what_the_tissues_say_is_one_line(contrast, side, told):
    assert evidence_told(EVIDENCE | {"contrast": contrast, "side": side}) == told


@pytest.mark.parametrize("outcome", list(Outcome))
def test_result_json_is_strict_and_complete(tmp_path, outcome):
    folder = write_result(result(outcome, lesions=outcome is Outcome.ANOMALY), tmp_path / "case")
    data = json.loads((folder / "result.json").read_text(), parse_constant=pytest.fail)
    assert data["outcome"] == outcome.value
    assert "research use" in data["note"].lower()
    assert {"score", "threshold", "curve", "estimate", "volumes_ml", "components", "settings", "versions"} <= set(data)
    assert len(data["curve"]) == 100
    assert data["volumes_ml"]["brain"] > 0


def test_a_failure_while_writing_leaves_nothing_behind(tmp_path):
    def broken(scan, path):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_result(result(), tmp_path / "case", draw=broken)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_result_of_before(tmp_path):
    folder = write_result(result(), tmp_path / "case")
    before = (folder / "result.json").read_bytes()

    def broken(scan, path):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_result(result(Outcome.NO_ANOMALY, lesions=False), folder, draw=broken)
    assert (folder / "result.json").read_bytes() == before


def test_writing_twice_gives_the_same_bytes(tmp_path):
    first = write_result(result(), tmp_path / "a", draw=save_overview)
    second = write_result(result(), tmp_path / "b", draw=save_overview)
    for path in sorted(first.iterdir()):
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


@pytest.mark.parametrize("outcome", list(Outcome))
def test_picture_is_drawn_for_every_outcome(outcome):
    scan = result(outcome, lesions=outcome is Outcome.ANOMALY)
    scan = replace(scan, findings=Findings.from_json(scan.findings.to_json()))
    figure = draw_overview(scan)
    assert len(figure.axes) == 3 * 4 + 2
    assert "research use" in " ".join(text.get_text() for text in figure.texts)


def brain_scan(centre_mm: tuple[float, float, float]) -> ScanResult:
    """A brain of usual extent with one ball at a place of the template's space."""
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = (-80, -110, -70)
    points = np.moveaxis(np.indices((41, 52, 42)), 0, -1) * 4.0 + affine[:3, 3]
    brain = (((points - (0, -16, 8)) / (66, 82, 66)) ** 2).sum(-1) <= 1
    mask = ((points - centre_mm) ** 2).sum(-1) <= 10**2
    return replace(
        result(), image=brain * 1.0, brain_mask=brain, mask=mask, anomaly_map=mask * 1.0, reconstruction=brain * 1.0,
        affine=affine,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("centre_mm", "place"), [((-28, 40, 36), "left frontal lobe"), ((28, -78, 4), "right occipital lobe")]
)
def test_the_headline_says_how_large_and_roughly_where(centre_mm, place):
    scan = brain_scan(centre_mm)
    assert headline(scan) == f"One unusual region: {scan.mask.sum() * 0.064:.1f} ml, {place}"
    assert any(headline(scan) == text.get_text() for text in draw_overview(scan).texts)


def test_the_headline_names_no_place_in_a_brain_of_unusual_extent_and_no_health():
    scan = result()
    assert headline(scan) == "2 unusual regions, 2.6 ml; the largest: 2.3 ml"
    assert headline(result(Outcome.NO_ANOMALY, lesions=False)) == "No unusual region marked"
    assert headline(result(Outcome.FIT_FAILED)) == "No statement about this scan is possible"


def test_verdict_is_plain_words():
    assert verdict(findings(percentile=97.0), 12.34) == (
        "12.3 ml flagged (2.0 % of the brain); score above 97 % of the calibration's normal scans"
    )
    assert verdict(findings(Outcome.NO_ANOMALY), 0.0) == "Nothing flagged"
    assert verdict(findings(Outcome.FIT_FAILED), 0.0).startswith("No statement")
