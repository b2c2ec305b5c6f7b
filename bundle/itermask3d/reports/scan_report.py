"""A report of one scan: a single page that opens from disk without a network, and the same as JSON."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from itermask3d import BUNDLE_ROOT
from itermask3d.files.writing import write_atomically
from itermask3d.inference.overview import of_the_loop
from itermask3d.inference.results import REPORT_FILES, ScanResult
from itermask3d.reports.data import FinishedScan, finished_now, read_finished, report_data
from itermask3d.reports.images import comparison, embedded, focus, mosaic, show
from itermask3d.reports.plots import curve_drawing, normal_scores, score_drawing

__all__ = ["render_report", "report_schema", "write_scan_report"]

FIRST_ROWS = 12
"""Regions that the table shows at once; the others are folded away."""

_STILL_MM = 1.0


def write_scan_report(folder: Path, *, scan: str | Path | None = None, result: ScanResult | None = None) -> Path:
    """Write ``report.html`` and ``report.json`` into a scan's result folder, each whole or not at all.

    Args:
        folder: as :func:`itermask3d.inference.results.write_result` wrote it.
        scan: where the scan lies now; default: the path in ``result.json``.
        result: what lies in the folder, where it is in memory; default: it is read.

    Returns:
        The page.

    Raises:
        ScanError: if the folder holds no complete result, or the scan is missing or on another grid.
    """
    finished = read_finished(folder, scan=scan) if result is None else finished_now(folder, result)
    data = report_data(finished)
    page = Path(folder) / REPORT_FILES[0]
    write_atomically(json.dumps(data, indent=1, allow_nan=False) + "\n", Path(folder) / REPORT_FILES[1])
    write_atomically(render_report(finished, data), page)
    return page


def render_report(finished: FinishedScan, data: dict[str, Any]) -> str:
    """The page as text.

    Args:
        finished: the scan with its volumes.
        data: from :func:`itermask3d.reports.data.report_data`.
    """
    still = show(finished.result, spacing_mm=_STILL_MM)
    viewer = embedded(finished.result)
    normal = normal_scores(data["provenance"]["settings"], Path(BUNDLE_ROOT) / "models" / "calibration.json")
    script = _text("report.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=data,
            empty=finished.empty,
            first_rows=FIRST_ROWS,
            mosaic=mosaic(still),
            planes=comparison(still, focus(still)),
            curve=curve_drawing(of_the_loop(finished.result)),
            scores=score_drawing(data["score"], normal),
            viewer=viewer | {"case": data["case"], "rating_key": _rating_key(data), "components": data["components"]},
            style=Markup(_text("report.css")),
            script=Markup(script),
            script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def report_schema() -> dict[str, Any]:
    """The JSON schema (draft 7) of ``report.json``."""
    return dict(json.loads((resources.files("itermask3d.reports") / "schemas" / "report.schema.json").read_text()))


def _rating_key(data: dict[str, Any]) -> str:
    """One key a result: a scan that is segmented anew is rated anew."""
    told = [data["case"], data["scan"], data["score"], data["provenance"]["weights_sha256"], data["volumes_ml"]]
    return "itermask3d.rating." + hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("itermask3d.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    return environment


def _text(name: str) -> str:
    return (resources.files("itermask3d.reports") / "templates" / name).read_text(encoding="utf-8")


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"
