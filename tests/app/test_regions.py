"""What a reader is told first: regions by severity with their place, and plain doubts before figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import Phantom, ball
from itermask3d.inference.conclusion import OUTSIDE
from itermask3d.inference.domain import FEATURES, DomainCheck, Range
from itermask3d.inference.results import ScanResult
from itermask3d.method.detection import Outcome
from report_helpers import findings_for

pytest.importorskip("monailabel")


@pytest.fixture
def scan(phantom: Phantom) -> ScanResult:
    """A large weak region on the left, and a small strong one, bent like a hook, on the right."""
    shape = phantom.image.shape
    centre_x, y, z = (int(value) for value in np.argwhere(phantom.brain_mask).mean(axis=0))
    weak = ball(shape, radius=4, centre=(centre_x - 14, y, z))
    x = centre_x + 10
    hook = np.zeros(shape, dtype=bool)
    hook[x : x + 5, y, z] = hook[x, y : y + 5, z] = hook[x : x + 5, y + 4, z] = True
    error = (1.5 * weak + 5.0 * hook).astype(np.float32)
    return ScanResult(
        "case", "case.nii.gz", replace(findings_for(Outcome.ANOMALY), threshold=1.0), phantom.image, weak | hook, error,
        phantom.image, phantom.brain_mask, phantom.affine, {"brain_extraction": "none"}, {},
    )  # fmt: skip


def told(scan: ScanResult) -> Mapping[str, Any]:
    from lib.results import describe

    return describe(scan)


def test_the_most_severe_region_comes_first_with_its_side(scan: ScanResult) -> None:
    strong, weak = told(scan)["components"]
    assert (strong["severity"], weak["severity"]) == ("severe", "mild")
    assert strong["volume_ml"] < weak["volume_ml"]
    assert strong["place"].startswith("right ")
    assert weak["place"].startswith("left ")


def test_the_way_leads_into_the_region_and_not_into_its_bend(scan: ScanResult) -> None:
    strong = told(scan)["components"][0]
    for point, inside in ((strong["centre_mm"], True), (strong["centroid_mm"], False)):
        voxel = np.linalg.inv(scan.affine) @ (*point, 1)
        assert bool(scan.mask[tuple(np.round(voxel[:3]).astype(int))]) is inside


def test_no_side_is_named_where_the_scan_does_not_tell_it(scan: ScanResult) -> None:
    places = [region["place"] for region in told(replace(scan, known_sides=False))["components"]]
    assert all(place and "left" not in place and "right" not in place for place in places)


def test_no_place_is_named_in_a_brain_of_unusual_extent(scan: ScanResult) -> None:
    small = scan.brain_mask & ball(scan.mask.shape, radius=8)
    assert [region["place"] for region in told(replace(scan, brain_mask=small))["components"]] == ["", ""]


def test_a_scan_unlike_the_training_is_doubted_first_in_words_and_its_figures_come_apart(scan: ScanResult) -> None:
    feature = next(iter(FEATURES))
    domain = DomainCheck({feature: 9.0}, {feature: Range(0.0, 1.0)})
    sentence = domain.deviations[0].sentence
    answer = told(replace(scan, domain=domain, warnings=("It is tilted.", sentence, OUTSIDE)))
    first, *others = answer["warnings"]
    assert first.startswith("Unlike the scans that the model knows (")
    assert others == ["It is tilted."]
    assert answer["deviations"] == [sentence]
