"""What several methods found, gathered from disk: a row a case and method, kept so that nothing is computed twice."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from itermask3d.evaluation.rows import NORMAL, domain_facts, read_case
from itermask3d.evaluation.run import read_normalised
from itermask3d.files.writing import write_atomically
from itermask3d.inference.calibration import attainable_level, conformal_p_value, flag_threshold
from itermask3d.inference.domain import Domain

__all__ = [
    "EVIDENCE",
    "REAL",
    "Artefact",
    "MethodResults",
    "artefact_of",
    "collect",
    "collect_all",
    "finite_values",
    "groups_of",
    "is_pooled",
    "mean_of",
    "median_of",
    "normals_of",
]

FIGURES_VERSION = 1
"""Raised whenever a metric is defined anew: kept rows of an older version are computed again."""

EVIDENCE = {"score": "own score", "domain": "domain distance", "both": "both"}
"""What a scan can be flagged by: the method's score, the distance from the training's kind of scan, or either."""

_COLUMN = {"score": "score", "domain": "domain_distance"}
_EPSILON = 1e-12


@dataclass(frozen=True)
class MethodResults:
    """One method's metrics.

    Attributes:
        name: of the method.
        rows: by the columns of :data:`itermask3d.evaluation.rows.COLUMNS`, in the order of the list.
        calibration: metrics of normal calibration scans by case; empty without any.
        info: what the method is.
        failures: a sentence by case, of the scans without a result.
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    calibration: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    def normal_scores(self, column: str = "score") -> list[float]:
        """Of the calibration scans."""
        return [metrics[column] for metrics in self.calibration.values() if metrics.get(column) is not None]

    def p_value(self, row: Mapping[str, Any], evidence: str = "score") -> float | None:
        r"""Conformal p-value of a scan among the method's own calibration scans.

        With both kinds of evidence Bonferroni's :math:`\min(1, 2 \min(p_1, p_2))`: if each of two p-values of a normal
        scan is at most a with a probability of at most a, so is this one, however the two depend on each other.

        Args:
            row: of the scan.
            evidence: a key of :data:`EVIDENCE`.

        Returns:
            ``None`` where scan or calibration has no such metric.
        """
        if evidence == "both":
            parts = [self.p_value(row, part) for part in _COLUMN]
            known = [part for part in parts if part is not None]
            return min(1.0, 2 * min(known)) if len(known) == len(parts) else None
        value, normal = row.get(_COLUMN[evidence]), self.normal_scores(_COLUMN[evidence])
        return conformal_p_value(value, normal) if normal and value is not None and not math.isnan(value) else None

    def ranks_by(self, row: Mapping[str, Any], evidence: str = "score") -> float | None:
        """The number by which scans are ranked, higher for more anomalous; for both kinds the p-value, negative."""
        if evidence == "both":
            p_value = self.p_value(row, evidence)
            return None if p_value is None else -p_value
        value = row.get(_COLUMN[evidence])
        return float(value) if value is not None and math.isfinite(value) else None

    def level(self, nominal: float, evidence: str = "score") -> float | None:
        """The nominal rate of false alarms, or the smallest that so few calibration scans allow where that is larger.

        That is 1 / (n + 1), and twice as much for both kinds of evidence together; ``None`` without a calibration.
        """
        counts = [len(self.normal_scores(_COLUMN[part])) for part in (_COLUMN if evidence == "both" else (evidence,))]
        if not min(counts):
            return None
        smallest = len(counts) * attainable_level(min(counts))
        return nominal if smallest <= nominal + _EPSILON else smallest

    def is_flagged(self, row: Mapping[str, Any], nominal: float, evidence: str = "score") -> bool:
        """Whether the p-value is at most :meth:`level`; a scan without one is not flagged."""
        p_value, level = self.p_value(row, evidence), self.level(nominal, evidence)
        return p_value is not None and level is not None and p_value <= level + _EPSILON

    def flags_above(self, nominal: float) -> float | None:
        """The score that a scan must exceed to be flagged at :meth:`level`; ``None`` without a calibration."""
        level = self.level(nominal)
        return None if level is None else flag_threshold(self.normal_scores(), level=level)


@dataclass(frozen=True)
class Artefact:
    """A simulated acquisition artefact, from a group ``artefact:<name>:<severity>``."""

    name: str
    severity: str


def artefact_of(group: str) -> Artefact | None:
    """The artefact that a group stands for; ``None`` for any other group.

    >>> artefact_of("artefact:noise:3")
    Artefact(name='noise', severity='3')
    """
    parts = group.split(":")
    return Artefact(parts[1], parts[2]) if len(parts) == 3 and parts[0] == "artefact" else None


def collect_all(
    items: Sequence[Mapping[str, Any]], output: Path, names: Sequence[str], *, domain: Domain | None = None
) -> list[MethodResults]:
    """Gather every method; what the domain check found is a matter of the scan, and all methods get it.

    Args:
        items: of the list.
        output: folder of the evaluation.
        names: of the methods.
        domain: see :func:`itermask3d.evaluation.rows.domain_facts`.

    Raises:
        ScanError: see :func:`collect`.
    """
    methods = [collect(items, output, name, domain=domain) for name in names]
    source = next((method for method in methods if method.normal_scores("domain_distance")), None)
    checked = source or next(
        (m for m in methods if any(row.get("in_distribution") is not None for row in m.rows)), None
    )
    if checked is None:
        return methods
    names_of_facts = tuple(domain_facts({}))
    facts = {row["case"]: {name: row.get(name) for name in names_of_facts} for row in checked.rows}
    distances = {case: metrics.get("domain_distance") for case, metrics in checked.calibration.items()}
    return [method if method is checked else _with_domain(method, facts, distances) for method in methods]


def _with_domain(
    method: MethodResults, facts: Mapping[str, Mapping[str, Any]], distances: Mapping[str, float | None]
) -> MethodResults:
    rows = [
        {**row, **(facts.get(row["case"], {}) if row.get("in_distribution") is None else {})} for row in method.rows
    ]
    known = {case: {"domain_distance": distance} for case, distance in distances.items() if distance is not None}
    calibration = {case: {**metrics, **known.get(case, {})} for case, metrics in method.calibration.items()}
    return replace(method, rows=rows, calibration=calibration)


def collect(
    items: Sequence[Mapping[str, Any]], output: Path, name: str, *, domain: Domain | None = None
) -> MethodResults:
    """Gather one method's rows from ``output / "methods" / name``, computing those that are new or have changed.

    Raises:
        ScanError: if a label cannot be read or lies on another grid than its scan.
    """
    method = output / "methods" / name
    rows, failures = [], _read_json(method / "results" / "failures.json")
    for item in items:
        row = _row(item, method, output / "scans" / f"{item['case']}.nii.gz", domain)
        if row is None:
            failures.setdefault(item["case"], "no result yet")
        else:
            failures.pop(item["case"], None)
            rows.append(row)
    listed = {item["case"] for item in items}
    return MethodResults(
        name=name,
        rows=rows,
        calibration=_calibration(method, domain),
        info=_read_json(method / "method.json"),
        failures={case: reason for case, reason in failures.items() if case in listed},
    )


def _calibration(method: Path, domain: Domain | None) -> dict[str, dict[str, float]]:
    """Metrics of the calibration scans; where the domain was checked, also their distance."""
    metrics = _read_json(method / "calibration.json").get("metrics", {})
    for case in metrics:
        result = _read_json(method / "calibration" / case / "result.json")
        distance = domain_facts(result, domain)["domain_distance"]
        metrics[case] |= {} if distance is None else {"domain_distance": distance}
    return metrics


def _row(item: Mapping[str, Any], method: Path, normalised: Path, domain: Domain | None) -> dict[str, Any] | None:
    """The row of a case, from what was kept where it still holds; what costs nothing is always taken anew."""
    row = _kept_row(item, method, normalised)
    if row is None:
        return None
    result = _read_json(method / "results" / item["case"] / "result.json")
    return row | {"contrast": item.get("contrast")} | domain_facts(result, domain)


def _kept_row(item: Mapping[str, Any], method: Path, normalised: Path) -> dict[str, Any] | None:
    folder, kept = method / "results" / item["case"], method / "metrics" / f"{item['case']}.json"
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


REAL = "real"
"""Group of the real cases."""


def groups_of(methods: Sequence[MethodResults], wanted: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """Groups of the rows that are wanted, in the order of the list."""
    return list(dict.fromkeys(row["group"] for method in methods for row in method.rows if wanted(row)))


def is_pooled(group: str) -> bool:
    """Whether a group's scans are taken together: real ones stand alone, artefacts have their own table."""
    return group != REAL and artefact_of(group) is None


def normals_of(method: MethodResults) -> list[Mapping[str, Any]]:
    return [row for row in method.rows if row["group"] == NORMAL]


def finite_values(rows: Sequence[Mapping[str, Any]], column: str) -> list[float]:
    return [float(row[column]) for row in rows if row.get(column) is not None and math.isfinite(row[column])]


def mean_of(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    values = finite_values(rows, column)
    return float(np.mean(values)) if values else None


def median_of(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    values = [float(row[column]) for row in rows if row.get(column) is not None and not math.isnan(row[column])]
    with np.errstate(invalid="ignore"):  # the mean of two infinite distances
        return float(np.median(values)) if values else None
