"""Refining stays local: without an edit nothing changes, with one nothing far from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from itermask3d.inference.prompts import balls, grown

pytest.importorskip("monailabel")

Refine = Callable[..., tuple[np.ndarray, dict[str, Any]]]


@pytest.fixture
def started(blur_bundle, phantom, tmp_path) -> tuple[np.ndarray, Refine]:
    """The bands that an automatic run found, and how to refine a drawing from there."""
    from lib.monitor import Monitor
    from lib.results import Results
    from lib.tasks import AutomaticTask, RefineTask
    from lib.workbench import Workbench

    workbench = Workbench(blur_bundle, Results(tmp_path / "results"), Monitor(), weights={"shipped": None})
    scan = {"image": phantom.save(tmp_path, keys=("image",))["image"], "image_id": "scan"}
    file, _ = AutomaticTask(workbench)({**scan, "brain_extraction": "none"})

    def refine(drawn: np.ndarray, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        label = tmp_path / "drawn.nii.gz"
        nib.save(nib.Nifti1Image(drawn.astype(np.uint8), phantom.affine), label)
        answer, params = RefineTask(workbench)({**scan, "label": str(label), "bands": "on", **options})
        return np.asarray(nib.load(answer).dataobj), params

    return np.asarray(nib.load(file).dataobj), refine


def test_without_an_edit_nothing_changes_and_that_is_said(started: tuple[np.ndarray, Refine]) -> None:
    before, refine = started
    assert before.any()
    after, said = refine(before > 0)
    np.testing.assert_array_equal(after, before)
    assert said["change"] == {"added_ml": 0, "removed_ml": 0, "drawn_ml": 0, "kept_ml": 0}
    assert "Nothing was drawn or erased" in said["warnings"][0]


def test_nothing_changes_further_from_the_edit_than_stated(started: tuple[np.ndarray, Refine], phantom) -> None:
    before, refine = started
    inside = np.argwhere(phantom.brain_mask)
    spot = balls([inside[len(inside) // 3]], before.shape, phantom.affine, radius_mm=4) & phantom.brain_mask
    after, said = refine((before > 0) | spot, keep_drawn="on")
    near = grown(spot & (before == 0), phantom.affine, by_mm=15)
    np.testing.assert_array_equal((after > 0)[~near], (before > 0)[~near])
    assert after[spot].all()
    assert said["change"]["kept_ml"] == said["change"]["drawn_ml"] > 0
    assert "Nothing was drawn" not in " ".join(said["warnings"])
