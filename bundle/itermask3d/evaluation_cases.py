"""What several methods found, gathered from disk: a row a case and method, kept so that nothing is computed twice."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itermask3d.calibration import attainable_level, flag_threshold
from itermask3d.evaluation import read_case
from itermask3d.evaluation_run import read_normalised
from itermask3d.results import write_atomically

__all__ = ["Fault", "MethodResults", "collect", "fault_of", "is_flagged"]

FIGURES_VERSION = 1
"""Raised whenever a figure is defined anew: kept rows of an older version are computed again."""


@dataclass(frozen=True)
class MethodResults:
    """One method's figures.

    Attributes:
        name: of the method.
        rows: by the columns of :data:`itermask3d.evaluation.COLUMNS`, in the order of the list.
        calibration: figures of normal calibration scans by case; empty without any.
        info: what the method is.
        failures: a sentence by case, of the scans without a result.
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    calibration: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    def normal_scores(self, score: str = "score") -> list[float]:
        """Of the calibration scans."""
        return [figures[score] for figures in self.calibration.values()]

    def flags_above(self, level: float) -> float | None:
        """The score that a scan must exceed to be flagged at a level; ``None`` where too few scans allow no flag."""
        normal = self.normal_scores()
        return flag_threshold(normal, level=level) if attainable_level(len(normal)) <= level + 1e-12 else None


@dataclass(frozen=True)
class Fault:
    """A simulated acquisition fault, from a group ``fault:<name>:<severity>``."""

    name: str
    severity: str


def fault_of(group: str) -> Fault | None:
    """The fault that a group stands for; ``None`` for any other group.

    >>> fault_of("fault:noise:3")
    Fault(name='noise', severity='3')
    """
    parts = group.split(":")
    return Fault(parts[1], parts[2]) if len(parts) == 3 and parts[0] == "fault" else None


def is_flagged(row: Mapping[str, Any], above: float) -> bool:
    """Whether a scan's score exceeds the calibrated one; a scan without a score is not flagged."""
    score = row.get("score")
    return score is not None and math.isfinite(score) and bool(score > above)


def collect(items: Sequence[Mapping[str, Any]], output: Path, name: str) -> MethodResults:
    """Gather one method's rows from ``output / "methods" / name``, computing those that are new or have changed.

    Raises:
        ScanError: if a label cannot be read or lies on another grid than its scan.
    """
    method = output / "methods" / name
    rows, failures = [], _read_json(method / "results" / "failures.json")
    for item in items:
        row = _row(item, method, output / "scans" / f"{item['case']}.nii.gz")
        if row is None:
            failures.setdefault(item["case"], "no result yet")
        else:
            failures.pop(item["case"], None)
            rows.append(row)
    listed = {item["case"] for item in items}
    return MethodResults(
        name=name,
        rows=rows,
        calibration=_read_json(method / "calibration.json").get("figures", {}),
        info=_read_json(method / "method.json"),
        failures={case: reason for case, reason in failures.items() if case in listed},
    )


def _row(item: Mapping[str, Any], method: Path, normalised: Path) -> dict[str, Any] | None:
    folder, kept = method / "results" / item["case"], method / "figures" / f"{item['case']}.json"
    result = folder / "result.json"
    if not result.exists():
        return None
    key = _key(item, result, normalised)
    known = _read_json(kept)
    if known.get("key") == key:
        return dict(known["row"])
    row = read_case(item, folder, image=read_normalised(normalised))
    if row is None:
        return None
    kept.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
    write_atomically(json.dumps({"key": key, "row": plain}, indent=1) + "\n", kept)
    return plain


def _key(item: Mapping[str, Any], result: Path, normalised: Path) -> str:
    """What a row depends on, as a digest."""
    files = [Path(str(item["label"]))] if item.get("label") else []
    state = [
        [str(path), path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else [str(path)]
        for path in (*files, normalised)
    ]
    facts = [FIGURES_VERSION, item.get("group"), item.get("subject"), state, result.read_text()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}
