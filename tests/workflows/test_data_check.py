"""Checks of a set of scans: copies, one person under two names, other contrasts, turned and mirrored, outliers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from itermask3d.workflows.site.data_check import (
    Finding,
    Level,
    MeasuredScan,
    check_number,
    check_scans,
    check_split,
    related,
    suggested,
)
from scipy import ndimage

SHAPE = (24, 28, 24)
FEATURES = {"brain_ml": 1400.0, "noise": 0.1, "depth_contrast": 1.2}


def _smooth(rng: np.random.Generator, sigma: float) -> np.ndarray:
    field = ndimage.gaussian_filter(rng.standard_normal(SHAPE), sigma)
    return (field / field.std()).astype(np.float32)


def _brain() -> np.ndarray:
    x, y, z = np.indices(SHAPE) - np.array(SHAPE).reshape(3, 1, 1, 1) / 2 + 0.5
    return (x / 9) ** 2 + (y / 12) ** 2 + (z / 8) ** 2 <= 1


def _scan(number: int, **changes) -> MeasuredScan:
    """A brain with a common pattern that is neither symmetric nor alike from front, side and above, and one's own."""
    brain, common = _brain(), np.random.default_rng(99)
    own = np.random.default_rng(number)
    features = {name: value * (1 + 0.02 * own.standard_normal()) for name, value in FEATURES.items()}
    thumbnail = (1.5 * _smooth(common, 2.5) + 0.5 * _smooth(own, 0.7)) * brain
    case = f"s{number:02d}"
    values = {
        "case": case,
        "subject": case,
        "file_sha256": f"file {number}",
        "voxel_sha256": f"voxels {number}",
        "features": features,
        "thumbnail": thumbnail,
        "spans_mm": (150.0, 190.0, 140.0),
    }
    return MeasuredScan(**(values | changes))


@pytest.fixture(scope="module")
def scans() -> list[MeasuredScan]:
    return [_scan(number) for number in range(14)]


def _about(findings: list[Finding], case: str) -> set[str]:
    return {finding.kind for finding in findings if case in (finding.case, *finding.others)}


def test_different_people_of_one_kind_raise_nothing(scans):
    assert check_scans(scans) == []


def test_copies_are_told_whether_the_bytes_or_only_the_voxels_agree(scans):
    bytes_too = replace(scans[0], case="copy", subject="copy")
    voxels_only = replace(scans[1], case="converted", subject="converted", file_sha256="other")
    found = check_scans([*scans, bytes_too, voxels_only])
    assert {(finding.case, finding.others, finding.kind) for finding in found} == {
        ("copy", ("s00",), "duplicate"),
        ("converted", ("s01",), "duplicate"),
    }
    assert ["byte for byte" in finding.sentence for finding in found] == [True, False]
    assert suggested(found) == ["converted", "copy"]


def test_a_second_scan_of_a_person_is_found_under_another_name_and_expected_under_the_same(scans):
    rng = np.random.default_rng(0)
    noisy = scans[3].thumbnail + 0.15 * rng.standard_normal(SHAPE).astype(np.float32) * _brain()
    again = replace(scans[3], case="again", file_sha256="x", voxel_sha256="x", thumbnail=noisy)
    assert [finding.kind for finding in check_scans([*scans, replace(again, subject="again")])] == ["same_person"]
    assert check_scans([*scans, again]) == []


def test_another_contrast_is_the_odd_one_out(scans):
    brain = _brain()
    other = replace(scans[5], thumbnail=_smooth(np.random.default_rng(5), 2.5) * brain)
    found = check_scans([*scans[:5], other, *scans[6:]])
    assert _about(found, "s05") == {"contrast"}
    assert {finding.case for finding in found} == {"s05"}


@pytest.mark.parametrize(
    ("turned", "words"),
    [
        (lambda x: x[:, ::-1, ::-1], "back-front is turned over and down-up is turned over"),
        (lambda x: x[:, :, ::-1], "down-up is turned over"),
    ],
    ids=["upside_down", "mirrored_up"],
)
def test_a_turned_scan_is_told_in_words_and_not_taken_for_another_contrast(scans, turned, words):
    wrong = replace(scans[2], thumbnail=np.ascontiguousarray(turned(scans[2].thumbnail)))
    found = [finding for finding in check_scans([*scans[:2], wrong, *scans[3:]]) if finding.case == "s02"]
    assert [finding.kind for finding in found] == ["orientation"]
    assert words in found[0].sentence


def test_a_mirrored_scan_is_a_note(scans):
    # The common pattern is made nearly symmetric, as brains are, so that the mirror image is still alike.
    common = _smooth(np.random.default_rng(99), 2.5)
    even, odd = (common + common[::-1]) / 2, (common - common[::-1]) / 2
    brain = _brain()
    alike = [
        replace(scan, thumbnail=((2 * even + 0.4 * odd) * brain + scan.thumbnail - 1.5 * common * brain))
        for scan in scans
    ]
    assert check_scans(alike) == []
    mirrored = replace(alike[4], thumbnail=np.ascontiguousarray(alike[4].thumbnail[::-1]))
    found = check_scans([*alike[:4], mirrored, *alike[5:]])
    assert [(finding.case, finding.kind, finding.level) for finding in found] == [("s04", "mirrored", Level.NOTE)]


def test_an_outlier_is_told_with_its_value_and_that_of_the_others(scans):
    wrong = replace(scans[7], features=scans[7].features | {"brain_ml": 700.0})
    found = check_scans([*scans[:7], wrong, *scans[8:]])
    assert [(finding.case, finding.kind) for finding in found] == [("s07", "outlier")]
    assert "brain's volume is 700 ml, in the others 1.4e+03 ml (brain missing, or a small head)" in found[0].sentence


def test_a_header_without_an_orientation_is_a_note(scans):
    found = check_scans([replace(scans[0], oriented=False), *scans[1:]])
    assert [(finding.kind, finding.level) for finding in found] == [("no_orientation", Level.NOTE)]
    assert suggested(found) == []


@pytest.mark.parametrize("number", [1, 2, 4])
def test_too_few_scans_for_a_comparison_are_said_to_be(scans, number):
    assert [finding.kind for finding in check_scans(scans[:number])] == ["number"]


@pytest.mark.parametrize(
    ("number", "level"),
    [(0, Level.UNUSABLE), (3, Level.UNUSABLE), (4, Level.SUSPECT), (19, Level.SUSPECT), (20, Level.NOTE), (100, None)],
)
def test_the_number_of_people_is_judged(number, level):
    found = check_number(number)
    assert [finding.level for finding in found] == ([] if level is None else [level])


def test_scans_of_one_person_are_grouped_by_name_and_by_likeness(scans):
    some = [replace(scans[0], subject="p"), replace(scans[1], subject="p"), scans[2], scans[3]]
    alike = Finding("same_person", Level.SUSPECT, "", case="s03", others=("s01",))
    assert sorted(map(sorted, related(some, [alike]))) == [["s00", "s01", "s03"], ["s02"]]
    assert check_split({"train": ["s00", "s02"], "test": ["s01"]}, related(some))[0].kind == "split"
    assert check_split({"train": ["s00", "s01"], "test": ["s02"]}, related(some)) == []


def test_findings_become_plain_values(scans):
    found = check_scans([replace(scans[0], oriented=False), *scans[1:]])[0].to_json()
    assert found["level"] == "note"
    assert found["others"] == []


@pytest.mark.filterwarnings("error")
def test_perfectly_symmetric_brains_are_not_called_mirrored(scans):
    even = [replace(scan, thumbnail=scan.thumbnail + scan.thumbnail[::-1]) for scan in scans]
    assert not [finding for finding in check_scans(even) if finding.kind == "mirrored"]
