"""What a training on one's own scans came to, on one page; and what the checks of the scans found, as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from itermask3d.evaluation.page import evaluation_page
from itermask3d.evaluation.plots import Picture
from itermask3d.evaluation.text import Table, to_markdown
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.workflows.site.data_check import Finding, MeasuredScan
from itermask3d.workflows.site.normal_scans import ScanScore, flagged_table

__all__ = ["check_page", "read_results", "site_page"]

N_PICTURES = 4
NOTE = "The weights were chosen on the validation scans; the calibration and test scans took no part."


def check_page(scans: Sequence[MeasuredScan], findings: Sequence[Finding], excluded: Mapping[str, str]) -> str:
    """Markdown: every finding as a sentence, and a row a scan.

    Args:
        scans: those that could be measured.
        findings: about them and about those that could not.
        excluded: reason by case.
    """
    tables = (_findings_table(findings), _excluded_table(excluded), _scans_table(scans, findings))
    return "# Checks of the scans\n\n" + "\n".join(to_markdown(table) for table in tables if table.rows)


def site_page(
    *,
    findings: Sequence[Finding],
    excluded: Mapping[str, str],
    splits: Mapping[str, Sequence[str]],
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    folders: Mapping[str, Path],
    curve: Path,
    facts: Mapping[str, Any],
) -> str:
    """The report as one HTML file.

    Args:
        findings, excluded: see :func:`check_page`.
        splits: cases by subset.
        results: ``result.json`` of the scans of each subset that was segmented.
        folders: where their pictures lie.
        curve: picture of the training.
        facts: recipe, command and versions by name.
    """
    tables = [
        flagged_table(
            {subset: map(ScanScore.of, found) for subset, found in results.items()},
            title="How much of normal scans is flagged",
            note=NOTE,
        ),
        _split_table(splits),
        _findings_table(findings),
        _excluded_table(excluded),
    ]
    pictures = [Picture(curve, "Training loss and validation error", "Curves of the training loss and the validation")]
    pictures += _pictures(results.get("validation", []), folders.get("validation"))
    title = "Training on scans of one's own"
    return evaluation_page(title, [table for table in tables if table.rows], pictures, facts=facts)


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Every ``result.json`` of a run, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]


def _findings_table(findings: Sequence[Finding]) -> Table:
    rows = [{"level": finding.level.value, "kind": finding.kind, "what": finding.sentence} for finding in findings]
    columns = {"level": "level", "kind": "kind", "what": "what was seen"}
    note = "Unusable scans are left out. Suspects are for a person to look at; a note changes nothing."
    return Table("findings", "What the checks found", note, columns, rows)


def _excluded_table(excluded: Mapping[str, str]) -> Table:
    rows = [{"case": case, "why": why} for case, why in excluded.items()]
    return Table("excluded", "Left out", "Scans that took no part.", {"case": "case", "why": "why"}, rows)


def _split_table(splits: Mapping[str, Sequence[str]]) -> Table:
    rows = [{"subset": subset, "scans": len(cases), "cases": ", ".join(cases)} for subset, cases in splits.items()]
    columns = {"subset": "subset", "scans": "scans", "cases": "cases"}
    return Table("split", "The split", "All scans of one person lie in one subset.", columns, rows)


def _scans_table(scans: Sequence[MeasuredScan], findings: Sequence[Finding]) -> Table:
    rows = []
    for scan in scans:
        kinds = dict.fromkeys(finding.kind for finding in findings if scan.case in (finding.case, *finding.others))
        rows.append(
            {
                "case": scan.case,
                "subject": scan.subject,
                "voxels": " × ".join(f"{edge:.2g}" for edge in scan.extra.get("voxels_mm", ())),
                "brain": f"{scan.features.get('brain_ml', float('nan')):.0f}",
                "mask": scan.extra.get("brain_extraction"),
                "found": ", ".join(kinds) or "nothing",
            }
        )
    columns = {
        "case": "case",
        "subject": "person",
        "voxels": "voxels (mm)",
        "brain": "brain (ml)",
        "mask": "brain mask",
        "found": "found",
    }
    note = f"{len(scans)} scans could be measured. {RESEARCH_USE}"
    return Table("scans", "Scans", note, columns, rows)


def _pictures(results: Sequence[Mapping[str, Any]], folder: Path | None) -> list[Picture]:
    """Of the scans with the least to the most flagged."""
    ordered = sorted(results, key=lambda result: result["flagged_share"])
    chosen = {round(index) for index in np.linspace(0, len(ordered) - 1, min(N_PICTURES, len(ordered)))}
    pictures = []
    for index in sorted(chosen):
        case = ordered[index]["case"]
        path = (folder or Path()) / case / "overview.png"
        if path.is_file():
            share = 100 * ordered[index]["flagged_share"]
            title = f"{case} (validation, normal): {share:.2f} % of the brain flagged"
            pictures.append(Picture(path, title, "Three planes: scan, reconstruction, difference and flagged region"))
    return pictures
