"""Screening a cohort whose own scans are the reference: each scan by a network that did not see it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from itermask3d.files.discovery import discover
from itermask3d.files.scans import ScanError
from itermask3d.inference.models import AUTO
from itermask3d.workflows.screening.journal import Record
from itermask3d.workflows.screening.options import Options
from itermask3d.workflows.screening.run import End, Screened, Watch, screen_scans
from itermask3d.workflows.screening.screener import Report
from itermask3d.workflows.site.adaptation_options import AdaptationOptions, model_for
from itermask3d.workflows.site.cohort_reference import CohortReference

__all__ = ["REFERENCE", "screen_by_itself"]

REFERENCE = "reference"
"""Folder in the output that holds the checks, the networks and the bundle of each fold."""

CONTRASTS = {("T1w",): "T1", ("T2w",): "T2", ("FLAIR",): "FLAIR"}
"""Of the scans, by the suffix in a BIDS dataset."""


def screen_by_itself(options: Options, watch: Watch, *, report: Report, epochs: int = 10, folds: int = 4) -> Screened:
    """Make the cohort its own reference, then screen each fold with the bundle that did not see it.

    Args:
        options, watch, report: see :func:`itermask3d.workflows.screening.run.screen_scans`.
        epochs, folds: see :class:`itermask3d.workflows.site.adaptation_options.AdaptationOptions`.

    Raises:
        ScanError: if there are too few usable scans, scans of several contrasts, or as in :func:`screen_scans`.
    """
    found = discover(options.data, suffixes=options.suffix, brain_mask_dir=options.brain_masks, ignore=options.output)
    if options.suffix not in CONTRASTS:
        raise ScanError(
            f"--suffix {' '.join(options.suffix)}; expected one of T1w, T2w and FLAIR for --reference cohort"
        )
    contrast = CONTRASTS[options.suffix]
    asked = AdaptationOptions(
        scans=str(options.data),
        output=options.output / REFERENCE,
        bundle=options.bundle,
        model=_model_of(options, contrast),
        contrast=contrast,
        brain_masks=options.brain_masks,
        brain_extraction=options.brain_extraction or "auto",
        epochs=epochs,
        folds=folds,
        workers=options.workers or 1,
    )
    parts = CohortReference(asked, watch.say).run()
    unusable = {scan.case for scan in found.scans}.difference(*(part.cases for part in parts))
    done, screened = 0, None
    failed: list[Record] = []
    for part in parts:
        cases = {*part.cases, *unusable}  # what could not be prepared is tried once more, and listed with its reason
        unusable = set()
        judged = replace(options, bundle=part.bundle, model=None, only=frozenset(cases))
        screened = screen_scans(judged, watch, report=report)
        done, failed = done + screened.done, [*failed, *screened.failed]
        if screened.end is not End.WHOLE:
            break
    if screened is None:
        raise RuntimeError("a reference came without a fold")
    return replace(screened, found=found, done=done, failed=tuple(failed), throughput=None)


def _model_of(options: Options, contrast: str) -> str:
    """The model that was named, else the bundle's first for T1, and its last, which is the widest, for other contrasts.

    Raises:
        ScanError: if the bundle has no such model.
    """
    names = json.loads(Path(options.bundle, "configs", "inference.json").read_text())["models"]["names"]
    if options.model not in (None, AUTO, *names):
        raise ScanError(f"--model {options.model}; expected one of {', '.join((AUTO, *names))}")
    if options.model in names:
        return str(options.model)
    return model_for(contrast, names)
