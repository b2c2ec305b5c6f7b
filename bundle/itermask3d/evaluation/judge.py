"""A judge that cannot be flattered: every method over the same scans, at thresholds that one rule sets for all.

It knows neither how scans are found nor how lesions are made: it takes cases, normal and lesioned, and methods, and
gives records. Thresholds come from normal scans that take no other part. Each method is judged at its own mask, where
it has one, and at matched thresholds (:mod:`itermask3d.evaluation.matched`) for one or more smallest volumes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from itermask3d.evaluation.aupimo import SharedRate, aupimo, reconstructed_share, shared_rate, voxel_average_precision
from itermask3d.evaluation.by_size import ScanRecord, measure_scan
from itermask3d.evaluation.judge_cache import array_digest, kept
from itermask3d.evaluation.matched import (
    FalseAlarms,
    MatchedThreshold,
    critical_value,
    false_alarms,
    flagged_mask,
    matched_threshold,
)

__all__ = ["NORMAL", "POOLED", "Case", "Judgement", "Method", "Ranking", "Seen", "judge", "see", "to_json"]

NORMAL, POOLED = "normal", "pooled"


@dataclass(frozen=True)
class Case:
    """One prepared scan. Arrays are ``(D, H, W)`` on one grid.

    Attributes:
        name: unique.
        subject, site: whose scan, of which scanner.
        kind: of the lesion, such as ``"blended: dark"``, or :data:`NORMAL`.
        image: normalised, float32.
        brain: boolean.
        truth: boolean; empty for a normal scan.
        healthy: the same scan without its lesion in the unit of ``image``; ``None`` for a normal scan.
    """

    name: str
    subject: str
    site: str
    kind: str
    image: np.ndarray
    brain: np.ndarray
    truth: np.ndarray
    healthy: np.ndarray | None = None


class Seen(NamedTuple):
    """What a method says about a scan, each ``(D, H, W)``.

    Attributes:
        anomaly_map: larger where more anomalous.
        mask: boolean, the method's own decision; ``None`` where it has none.
        reconstruction: what it expected; ``None`` where it expects nothing.
    """

    anomaly_map: np.ndarray
    mask: np.ndarray | None = None
    reconstruction: np.ndarray | None = None


@dataclass(frozen=True)
class Method:
    """One way to a map.

    Attributes:
        name: in the tables.
        see: maps image and brain mask, ``(1, 1, D, H, W)``, to what is seen.
        key: what its results depend on, if they are worth keeping on disk; ``None`` where they are made in a moment.
    """

    name: str
    see: Callable[[torch.Tensor, torch.Tensor], Seen]
    key: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Ranking:
    """Metrics of one method on one lesioned scan that need no threshold; NaN where undefined.

    Attributes:
        case, subject, site, method, kind, label_ml: as of :class:`itermask3d.evaluation.by_size.ScanRecord`.
        average_precision: of the brain's voxels.
        aupimo: against the normal scans of the site.
        aupimo_pooled: against those of all sites.
        reconstructed_share: share of the lesion that the reconstruction repeats.
    """

    case: str
    subject: str
    site: str
    method: str
    kind: str
    label_ml: float
    average_precision: float
    aupimo: float
    aupimo_pooled: float
    reconstructed_share: float


@dataclass(frozen=True)
class Judgement:
    """All that was found out about some methods. JSON-ready through :func:`dataclasses.asdict`.

    Attributes:
        records: a scan, method and way to a mask each; ``method`` names both, as in ``"loop, matched, 1 ml"``.
        rankings: a lesioned scan and method each.
        thresholds: by way to a mask, those that were matched.
        alarms: by way to a mask and site, of the normal scans.
    """

    records: tuple[ScanRecord, ...]
    rankings: tuple[Ranking, ...]
    thresholds: Mapping[str, MatchedThreshold]
    alarms: Mapping[str, Mapping[str, FalseAlarms]]


def see(method: Method, case: Case, folder: Path | None = None) -> Seen:
    """What a method says about a case, from the disk if it was asked before.

    Args:
        method: asked where the disk does not know.
        case: the scan.
        folder: of what is kept; ``None`` keeps nothing.
    """
    if folder is None or method.key is None:
        return _ask(method, case)
    key = {"method": dict(method.key), "scan": array_digest(case.image, case.brain)}

    def make() -> dict[str, np.ndarray]:
        seen = _ask(method, case)
        arrays = {"anomaly_map": seen.anomaly_map[case.brain].astype(np.float32)}
        if seen.mask is not None:
            arrays["mask"] = seen.mask[case.brain]
        if seen.reconstruction is not None:
            arrays["reconstruction"] = seen.reconstruction[case.brain].astype(np.float16)
        return arrays

    parts = {name: _filled(values, case.brain) for name, values in kept(folder / f"{case.name}.npz", key, make).items()}
    return Seen(parts["anomaly_map"], parts.get("mask"), parts.get("reconstruction"))


def judge(
    method: Method,
    *,
    calibration: Iterable[Case],
    cases: Callable[[], Iterable[Case]],
    spacing_mm: Sequence[float],
    min_volumes_ml: Sequence[float],
    level: float = 0.05,
    folder: Path | None = None,
) -> Judgement:
    """Judge one method.

    Args:
        method: whose maps are judged.
        calibration: normal scans that set the thresholds and enter nothing else.
        cases: gives all other scans, normal ones first of each site or in any order; called twice.
        spacing_mm: edges of a voxel.
        min_volumes_ml: each smallest volume of a region gives a way to a mask; 0 is any voxel.
        level: share of the calibration scans that may be flagged.
        folder: where maps of methods with a key are kept.

    Raises:
        ValueError: without a calibration scan, or if a map is not finite.
    """
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    ways = {f"{method.name}, matched, {ml:g} ml": max(1, math.ceil(ml / voxel_ml - 1e-6)) for ml in min_volumes_ml}
    critical: dict[str, list[float]] = {way: [] for way in ways}
    for case in calibration:
        seen = see(method, case, folder)
        for way, n in ways.items():
            critical[way].append(critical_value(seen.anomaly_map, case.brain, min_voxels=n))
    thresholds = {way: matched_threshold(values, level=level) for way, values in critical.items()}
    normal_maps: dict[str, list[np.ndarray]] = {}
    records: list[ScanRecord] = []
    for case in cases():
        seen = see(method, case, folder)
        masks = {way: _mask(seen, case, thresholds[way].threshold, n) for way, n in ways.items()}
        if seen.mask is not None:
            masks = {method.name: seen.mask & case.brain} | masks
        records += [_record(mask, case, way, voxel_ml) for way, mask in masks.items()]
        if case.kind == NORMAL:
            normal_maps.setdefault(case.site, []).append(seen.anomaly_map[case.brain])
    rankings = _rankings(method, cases(), normal_maps, voxel_ml, folder)
    return Judgement(tuple(records), tuple(rankings), thresholds, _alarms(records))


def _ask(method: Method, case: Case) -> Seen:
    image, brain = (torch.from_numpy(np.array(part))[None, None] for part in (case.image, case.brain))
    return method.see(image, brain)


def _filled(values: np.ndarray, brain: np.ndarray) -> np.ndarray:
    volume = np.zeros(brain.shape, dtype=bool if values.dtype == bool else np.float32)
    volume[brain] = values
    return volume


def _mask(seen: Seen, case: Case, threshold: float, min_voxels: int) -> np.ndarray:
    return flagged_mask(seen.anomaly_map, case.brain, threshold=threshold, min_voxels=min_voxels)


def _record(mask: np.ndarray, case: Case, way: str, voxel_ml: float) -> ScanRecord:
    names = {"case": case.name, "subject": case.subject, "site": case.site, "method": way, "kind": case.kind}
    return measure_scan(mask, case.truth, voxel_ml=voxel_ml, **names)


def _rankings(
    method: Method,
    cases: Iterable[Case],
    normal_maps: Mapping[str, Sequence[np.ndarray]],
    voxel_ml: float,
    folder: Path | None,
) -> list[Ranking]:
    shared = {site: shared_rate(maps) for site, maps in normal_maps.items()}
    if normal_maps:
        shared[POOLED] = shared_rate([one for maps in normal_maps.values() for one in maps])
    return [
        _ranking(method.name, see(method, case, folder), case, shared, voxel_ml) for case in cases if case.truth.any()
    ]


def _ranking(name: str, seen: Seen, case: Case, shared: Mapping[str, SharedRate], voxel_ml: float) -> Ranking:
    lesion = seen.anomaly_map[case.truth]
    areas = [aupimo(lesion, shared[site]) if site in shared else math.nan for site in (case.site, POOLED)]
    painted = math.nan
    if seen.reconstruction is not None and case.healthy is not None:
        painted = reconstructed_share(seen.reconstruction, case.image, case.healthy, case.truth)
    return Ranking(
        case=case.name,
        subject=case.subject,
        site=case.site,
        method=name,
        kind=case.kind,
        label_ml=float(case.truth.sum()) * voxel_ml,
        average_precision=voxel_average_precision(seen.anomaly_map[case.brain], case.truth[case.brain]),
        aupimo=areas[0],
        aupimo_pooled=areas[1],
        reconstructed_share=painted,
    )


def _alarms(records: Sequence[ScanRecord]) -> dict[str, dict[str, FalseAlarms]]:
    """Every way to a mask flags a normal scan where its mask, cleaned already, holds a voxel."""
    found = {}
    for way in dict.fromkeys(record.method for record in records):
        normal = [record for record in records if record.method == way and record.kind == NORMAL]
        sites = dict.fromkeys(record.site for record in normal)
        volumes = {site: [record.flagged_ml for record in normal if record.site == site] for site in sites}
        found[way] = false_alarms(volumes, 0.0)
    return found


def to_json(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Plain values; what is undefined is ``None``."""
    return {
        "thresholds": {way: asdict(one) for part in judgements for way, one in part.thresholds.items()},
        "false_alarms": {way: _plain(sites) for part in judgements for way, sites in part.alarms.items()},
        "records": [_plain(asdict(record)) for part in judgements for record in part.records],
        "rankings": [_plain(asdict(ranking)) for part in judgements for ranking in part.rankings],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, FalseAlarms):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
