"""How much of normal scans is flagged: a scan's statistics, and the one table of groups of scans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from itermask3d.evaluation.text import Table
from itermask3d.method.detection import Outcome

__all__ = ["ScanScore", "flagged_statistics", "flagged_table"]

NOTE = "All scans here are meant to be normal, so less is better; it says nothing of what is found on ill ones."

COLUMNS = {
    "group": "",
    "scans": "normal scans",
    "median_ml": "median flagged (ml)",
    "p90_ml": "90th percentile (ml)",
    "median_percent": "median share of brain flagged (%)",
    "largest_percent": "largest (%)",
    "flagged": "scans with anything flagged",
    "median_score": "median score",
    "unusable": "unusable error curve",
    "outside": "out-of-distribution",
}


@dataclass(frozen=True)
class ScanScore:
    """What a network says about one scan, in few statistics.

    Attributes:
        score: see :class:`itermask3d.method.detection.Findings`.
        flagged_share: of the brain, 0 to 1.
        flagged_ml: the same as a volume.
        usable: whether the error curve could be used.
        in_distribution: whether the scan is of the training's kind; ``None`` where that was not checked.
    """

    score: float
    flagged_share: float
    flagged_ml: float
    usable: bool
    in_distribution: bool | None = None

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> ScanScore:
        """Those of a ``result.json``."""
        return cls(
            score=result["score"],
            flagged_share=result["flagged_share"],
            flagged_ml=result["volumes_ml"]["anomaly"],
            usable=result["outcome"] != Outcome.FIT_FAILED.value,
            in_distribution=result.get("in_distribution"),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def flagged_statistics(scores: Iterable[ScanScore]) -> dict[str, float | int]:
    """How much of some normal scans is flagged, in few statistics.

    Args:
        scores: of at least one scan.
    """
    found = list(scores)
    volumes = np.array([one.flagged_ml for one in found])
    percent = np.array([100 * one.flagged_share for one in found])
    return {
        "scans": len(found),
        "median_ml": round(float(np.median(volumes)), 3),
        "p90_ml": round(float(np.percentile(volumes, 90)), 3),
        "median_percent": round(float(np.median(percent)), 3),
        "largest_percent": round(float(percent.max()), 3),
        "flagged": int((percent > 0).sum()),
        "median_score": round(float(np.median([one.score for one in found])), 4),
        "unusable": sum(not one.usable for one in found),
        "outside": sum(one.in_distribution is False for one in found),
    }


def flagged_table(groups: Mapping[str, Iterable[ScanScore]], *, title: str, note: str) -> Table:
    """A row a group of normal scans; groups without a scan are left out.

    Args:
        groups: scores by name.
        title: of the table.
        note: how the scans were chosen and scored.
    """
    found = {name: list(scores) for name, scores in groups.items()}
    rows = [{"group": name, **flagged_statistics(scores)} for name, scores in found.items() if scores]
    return Table("flagged", title, f"{NOTE} {note}", COLUMNS, rows)
