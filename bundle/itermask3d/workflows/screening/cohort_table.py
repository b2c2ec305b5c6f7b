"""A cohort as a table: one row a scan, and a dictionary that says what every column means."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from itermask3d.files.writing import write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.workflows.screening.journal import Journal, Record, Status

__all__ = ["COLUMNS", "Row", "found_in", "rows_of", "write_cohort_table"]

Row = Mapping[str, Any]
"""Values by column; ``None`` where there is none."""

NOT_AVAILABLE = "n/a"
"""How BIDS writes a missing value in a table."""

COLUMNS: dict[str, dict[str, Any]] = {
    "case": {"Description": "Name of the scan; every file of its result begins with it."},
    "status": {
        "Description": "What became of the scan.",
        "Levels": {
            "done": "there is a result",
            "failed": "it cannot be used; see reason",
            "no_room": "the disk was full; the next run does it",
        },
    },
    "outcome": {
        "Description": "What the algorithm says.",
        "Levels": {
            "anomaly": "some region is flagged; normal scans may be flagged too",
            "no_anomaly": "nothing is flagged; that does not rule a lesion out",
            "fit_failed": "nothing can be said, the error curve was unusable",
        },
    },
    "score": {
        "Description": "Mean over the brain of the error inside the flagged region (squared, and in multiples of the "
        "one that the network expected, where settings say relative_error); a number to sort by, 0 where nothing is "
        "flagged.",
    },
    "percentile_among_normals": {
        "Description": "Share of the calibration's normal scans with a lower score; n/a without a calibration for "
        "these weights and settings.",
        "Units": "percent",
    },
    "p_value": {
        "Description": "Conformal p-value of the score, (1 + number of the calibration's normal scans with a score at "
        "least as high) / (their number + 1); n/a without a calibration for these weights and settings, after a failed "
        "fit, and for a scan unlike those of the training.",
    },
    "in_distribution": {
        "Description": "Whether the scan is of the training's kind; n/a where that was not checked.",
        "Levels": {"true": "yes", "false": "no, its score cannot be compared with normal scans; see warnings"},
    },
    "model": {
        "Description": "Which model of the bundle was used; n/a where weights were named instead, and in results of "
        "older versions."
    },
    "anomaly_ml": {"Description": "Volume of the flagged region on the scan's own grid.", "Units": "ml"},
    "flagged_percent": {"Description": "Share of the brain that is flagged.", "Units": "percent"},
    "components": {"Description": "Number of connected regions (26 neighbours) of the mask."},
    "largest_ml": {"Description": "Volume of the largest of them.", "Units": "ml"},
    "mean_error": {"Description": "Mean over the brain of the error, in the unit of the score."},
    "brain_ml": {"Description": "Volume of the brain mask; far from 900 to 1900 it deserves a look.", "Units": "ml"},
    "brain_extraction": {"Description": "How the brain was found."},
    "warnings": {"Description": "Sentences of the run about this scan, parted by ' | '."},
    "reason": {"Description": "Why there is no result."},
    "folder": {"Description": "Of the result, relative to this table."},
    "image": {"Description": "The scan's file or folder as it was read."},
    "seconds": {"Description": "Spent on the scan by its worker; 0 if it was done by another run.", "Units": "s"},
    "finished": {"Description": "When it ended, UTC, ISO 8601."},
}
"""Every column of ``scans.tsv``, in its order, as the data dictionary has it."""


def rows_of(journal: Journal) -> list[Row]:
    """Collect what is known about every scan of an output folder, the highest score first, failures last.

    Results of this run are in the journal's memory; those of earlier ones are read. Scans with an unusable curve stand
    before those with nothing flagged: nobody knows what they hold.
    """
    rows = [_row(journal.path.parent, record) for record in journal.latest().values()]
    return sorted(rows, key=_rank)


def write_cohort_table(rows: Iterable[Row], output: Path) -> None:
    """Write ``scans.tsv`` and its data dictionary ``scans.json``, each whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(COLUMNS), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(row[name]) for name in COLUMNS})
    write_atomically(text.getvalue(), output / "scans.tsv")
    dictionary = {"GeneratedBy": "itermask3d", "Note": RESEARCH_USE, **COLUMNS}
    write_atomically(json.dumps(dictionary, indent=1) + "\n", output / "scans.json")


def _row(output: Path, record: Record) -> Row:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    for name in ("case", "reason", "folder", "image", "seconds", "finished"):
        row[name] = getattr(record, name)
    row["status"] = record.status.value
    if record.status is Status.DONE:
        path = output / record.folder / "result.json"
        try:
            row.update(record.found or found_in(json.loads(path.read_text())))
        except (OSError, ValueError, KeyError, TypeError):
            row.update(status=Status.FAILED.value, reason="its result is gone or damaged; the next run does it again")
    return row


def found_in(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the table says of a result, by column.

    Args:
        result: as in ``result.json``.

    Raises:
        KeyError, TypeError: if it is no such result.
    """
    regions: Sequence[Mapping[str, Any]] = result["components"]
    return {
        "outcome": result["outcome"],
        "score": result["score"],
        "percentile_among_normals": result["percentile_among_normals"],
        "p_value": result.get("p_value"),
        "in_distribution": None if result.get("in_distribution") is None else str(result["in_distribution"]).lower(),
        "model": (result.get("model") or {}).get("name"),
        "anomaly_ml": result["volumes_ml"]["anomaly"],
        "flagged_percent": None if result["flagged_share"] is None else 100 * result["flagged_share"],
        "components": len(regions),
        "largest_ml": regions[0]["volume_ml"] if regions else 0.0,
        "mean_error": result["mean_error"],
        "brain_ml": result["volumes_ml"]["brain"],
        "brain_extraction": result["preprocessing"].get("brain_extraction"),
        "warnings": " | ".join(result["warnings"]),
    }


def _rank(row: Row) -> tuple[int, float, float, str]:
    group = {"anomaly": 0, "fit_failed": 1, "no_anomaly": 2}.get(row["outcome"], 3)
    return group, -(row["score"] or 0.0), -(row["mean_error"] or 0.0), str(row["case"])


def _cell(value: Any) -> str:
    if value is None or value == "":
        return NOT_AVAILABLE
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split())
