"""Scores of scans by networks that did not see them: the cross-fitting behind a calibration from few scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from itermask3d.files.scans import ScanError
from itermask3d.method.detection import Outcome
from itermask3d.workflows.site.base_model import BaseModel
from itermask3d.workflows.site.normal_scans import ScanScore

__all__ = ["GUARANTEE", "folds_of", "score_scan"]

GUARANTEE = (
    "The scores are cross-fitted: each scan was scored by a network that was adapted without it. Later scans are "
    "scored by the network adapted with all of them, which has seen a little more of the site, so that its scores of "
    "normal scans tend to be lower, if anything: a p-value then errs to the safe side, but its promise is an "
    "approximation, not exact as from scans that no adaptation used. It needs scans of this scanner, protocol and "
    "kind of people, and nothing is promised about finding anomalies."
)
"""What a p-value from cross-fitted scores promises, in words."""


def folds_of(groups: Sequence[Sequence[str]], n_folds: int, *, seed: int) -> list[list[str]]:
    """Divide people, with all their scans, into folds whose sizes differ by at most one person.

    Args:
        groups: cases of one person each.
        n_folds: at least 2.
        seed: of the order; the same people and seed give the same folds, in whatever order they come.

    Returns:
        Sorted cases of each fold.

    Raises:
        ScanError: if there are fewer people than folds, or fewer than two folds.
    """
    if not 2 <= n_folds <= len(groups):
        raise ScanError(f"{n_folds} folds of {len(groups)} people; expected 2 folds up to one for each person")
    ordered = sorted(sorted(group) for group in groups)
    order = np.random.default_rng(seed).permutation(len(ordered))
    return [sorted(case for index in order[fold::n_folds] for case in ordered[index]) for fold in range(n_folds)]


def score_scan(base: BaseModel, network: nn.Module, scan: Mapping[str, torch.Tensor]) -> ScanScore:
    """Score one prepared scan.

    Args:
        base: whose settings hold.
        network: in evaluation mode.
        scan: ``image`` and ``brain_mask``, ``(1, D, H, W)``.
    """
    found = base.findings(network, scan["image"], scan["brain_mask"])
    brain_ml = float((scan["brain_mask"] > 0.5).sum()) * float(base.value("spacing_mm")) ** 3 / 1000
    return ScanScore(
        found.score, found.flagged_share, found.flagged_share * brain_ml, found.outcome is not Outcome.FIT_FAILED
    )
