"""The bundle that an adaptation ends with: the one it began with, and weights, domain and calibration of the site."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from itermask3d import __version__
from itermask3d.files.literals import as_literals
from itermask3d.files.writing import replaced_folder, write_atomically
from itermask3d.inference.calibration import cohort_guarantee, p_value_guarantee
from itermask3d.inference.domain import fit_domain
from itermask3d.inference.model import load_model
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.workflows.site.base_model import BaseModel
from itermask3d.workflows.site.bundle import DATA_LICENCE, copy_bundle, set_values
from itermask3d.workflows.site.normal_scans import ScanScore

__all__ = ["MODEL", "cross_fitted_calibration", "widened_domain", "write_adapted_bundle"]

MODEL = "own"
"""Name of the one model of an adapted bundle, as of a trained one."""


def write_adapted_bundle(
    folder: Path,
    base: BaseModel,
    weights: Path,
    *,
    domain: Mapping[str, Any],
    scores: Mapping[str, ScanScore],
    brain_extraction: str,
    told: str,
    cohort: bool = False,
) -> None:
    """Write the bundle, complete or not at all; one that lies there already gives way.

    Args:
        folder: of the bundle.
        base: whose configs and settings are kept.
        weights: adapted with all scans.
        domain: see :func:`widened_domain`.
        scores: cross-fitted, by case.
        brain_extraction: for scans that come later.
        told: what the weights were adapted with, in one sentence.
        cohort: whether the scores are those of the other scans of a cohort.
    """
    with replaced_folder(folder) as partial:
        copy_bundle(base.bundle, partial)
        models = partial / "models"
        shutil.copyfile(weights, models / "model.pt")
        write_atomically(json.dumps(dict(domain), indent=1) + "\n", models / "domain.json")
        values = {f"settings::{name}": value for name, value in base.settings.items()}
        values |= {"model": MODEL, "models::names": [MODEL], "models::settings": {}}
        values |= {"brain_extraction": brain_extraction, "evidence": base.evidence_under(MODEL)}
        set_values(partial / "configs" / "inference.json", values)
        set_values(partial / "configs" / "metadata.json", _metadata(told))
        write_atomically(DATA_LICENCE, partial / "docs" / "data_license.txt")
        model = load_model(partial, overrides=as_literals({"device": "cpu"}))
        settings = dict(model.variant(model.fixed_name).settings)
        calibration = cross_fitted_calibration(scores, settings, cohort=cohort)
        write_atomically(json.dumps(calibration, indent=1) + "\n", models / "calibration.json")


def cross_fitted_calibration(
    scores: Mapping[str, ScanScore], settings: Mapping[str, Any], *, cohort: bool = False
) -> dict[str, Any]:
    """What ``calibration.json`` holds: a score of each scan by a network that was adapted without it."""
    usable = {case: score for case, score in scores.items() if score.usable}
    ordered = sorted(usable, key=lambda case: (usable[case].score, case))
    return {
        "schema_version": "1.1",
        "note": f"Scores of {'a cohort' if cohort else 'normal scans'}, each by a network adapted without the scan.",
        "guarantee": cohort_guarantee(len(ordered)) if cohort else p_value_guarantee(len(ordered), cross_fitted=True),
        "cross_fitted": True,
        "cohort": cohort,
        "normal_scores": [usable[case].score for case in ordered],
        "flagged_shares": [usable[case].flagged_share for case in ordered],
        "cases": ordered,
        "left_out": dict.fromkeys(sorted(scores.keys() - usable.keys()), "its error curve could not be used"),
        "settings": dict(settings),
    }


def widened_domain(
    base: BaseModel, measured: Mapping[str, Mapping[str, float]], folds: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """The base's ranges, each as wide as the site's scans need.

    The site's ranges are fitted on all of its scans, as wide as each fold needs where the others alone are fitted. A
    range of both reaches from the lower limit to the upper; its usual value is the site's.

    Args:
        base: whose ranges are kept; without any those of the site are all.
        measured: of every scan.
        folds: cases, see :func:`itermask3d.workflows.site.crossfit.folds_of`.
    """
    widths = [
        fit_domain([measured[case] for case in measured if case not in fold], [measured[case] for case in fold])[1]
        for fold in folds
    ]
    rows, least = fit_domain(list(measured.values()), list(measured.values()))
    width = max(least, *widths)
    for row in rows.values():
        for end, sign, scale in (("low", -1, "scale_low"), ("high", 1, "scale_high")):
            if row[end] is not None:
                row[end] = float(f"{_number(row['centre']) + sign * width * _number(row[scale]):.4g}")
    content = json.loads(base.model.domain.read_text()) if base.model.domain.is_file() else _empty_domain(base)
    shipped = content["features"]
    features = {name: _union(shipped[name], rows[name]) if name in rows else shipped[name] for name in shipped}
    features |= {name: row for name, row in rows.items() if name not in shipped}
    return {
        **content,
        "note": f"{content['note']} Widened to the {len(measured)} scans of a site.",
        "site": {"n_scans": len(measured), "width": width},
        "features": features,
    }


def _empty_domain(base: BaseModel) -> dict[str, Any]:
    settings = {name: base.value(name) for name in ("spacing_mm", "bias_correction")}
    note = "Ranges of plain features of normal scans; outside them a score is compared with nothing."
    return {"schema_version": "1.0", "note": note, "settings": settings, "features": {}}


def _union(shipped: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    lows, highs = ([row[end] for row in (shipped, own)] for end in ("low", "high"))
    return {
        **own,
        "low": None if None in lows else min(lows),
        "high": None if None in highs else max(highs),
    }


def _number(value: float | None) -> float:
    return 0.0 if value is None else value


def _metadata(told: str) -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "changelog": {"0.1.0": f"adapted to a site with itermask3d {__version__}"},
        "data_source": f"{told}; see docs/data_license.txt",
        "intended_use": f"{RESEARCH_USE} The weights are for scans of the site that they were adapted to.",
    }
