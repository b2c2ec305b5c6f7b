r"""Metrics by the size of a lesion, which a mean over lesions hides.

Dice is of whole scans, by the volume of all that is marked in them. Recall and precision are of single lesions, with
a rule that a large mask cannot meet by covering everything: a lesion is found when the regions that touch it, without
what they share with other lesions, have an intersection over union with it of at least :data:`MIN_IOU`. A region of the
mask is true when it touches a found lesion; any other is a false one, and counts in the class of its own volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, stats

from itermask3d.evaluation.discrimination import Estimate

__all__ = [
    "MIN_IOU",
    "SIZE_CLASSES",
    "LesionRecord",
    "ScanRecord",
    "SizeMetrics",
    "bootstrap_mean",
    "by_size",
    "false_positives",
    "measure_scan",
    "metrics_of",
    "size_class",
    "wilson",
]

MIN_IOU = 0.1

SIZE_CLASSES = ("< 1 ml", "1–5 ml", "5–10 ml", "10–50 ml", "> 50 ml")
_BOUNDS_ML = (1.0, 5.0, 10.0, 50.0)

_CONNECTIVITY = np.ones((3, 3, 3))


@dataclass(frozen=True)
class LesionRecord:
    """One connected region (26 neighbours) of a truth.

    Attributes:
        volume_ml: of the lesion.
        iou: intersection over union with the regions that touch it, 0 to 1.
    """

    volume_ml: float
    iou: float

    @property
    def found(self) -> bool:
        """Whether the mask agrees with it well enough."""
        return self.iou >= MIN_IOU


@dataclass(frozen=True)
class ScanRecord:
    """What one method's mask is worth on one scan. JSON-ready through :func:`dataclasses.asdict`.

    Attributes:
        case, subject, site, method: names.
        kind: of the lesions, ``"normal"`` where there is none.
        label_ml: volume of all lesions; 0 for a normal scan.
        flagged_ml: volume of the mask.
        dice: of mask and truth; NaN for an empty truth, where a false alarm is no matter of overlap.
        lesions: of the truth.
        false_regions_ml: volumes of the mask's regions that touch no found lesion.
    """

    case: str
    subject: str
    site: str
    method: str
    kind: str
    label_ml: float
    flagged_ml: float
    dice: float
    lesions: tuple[LesionRecord, ...]
    false_regions_ml: tuple[float, ...]


@dataclass(frozen=True)
class SizeMetrics:
    """Metrics of some scans and one class.

    Attributes:
        scans: whose truth has a volume of this class.
        lesions, found: single lesions of this class, and those found.
        false_regions: false ones of this class in scans with a lesion.
        dice: mean over the scans; ``None`` without one.
        recall, precision, f1: of single lesions; ``None`` where undefined.
    """

    scans: int
    lesions: int
    found: int
    false_regions: int
    dice: Estimate | None
    recall: Estimate | None
    precision: Estimate | None
    f1: Estimate | None


def size_class(volume_ml: float) -> str:
    """The class of a volume; a bound belongs to the larger class.

    Raises:
        ValueError: if the volume is not positive.

    >>> size_class(1.0)
    '1–5 ml'
    """
    if not volume_ml > 0:
        raise ValueError(f"volume_ml must be positive, got {volume_ml}")
    return SIZE_CLASSES[int(np.searchsorted(_BOUNDS_ML, volume_ml, side="right"))]


def measure_scan(
    mask: np.ndarray, truth: np.ndarray, *, voxel_ml: float, case: str, subject: str, site: str, method: str, kind: str
) -> ScanRecord:
    """Compare a mask with the truth.

    Args:
        mask, truth: boolean ``(D, H, W)``.
        voxel_ml: volume of a voxel.
        case, subject, site, method, kind: see :class:`ScanRecord`.

    Raises:
        ValueError: if the shapes differ.
    """
    if mask.shape != truth.shape:
        raise ValueError(f"mask and truth must have one shape, got {mask.shape} and {truth.shape}")
    predicted, truth = mask > 0, truth > 0
    lesions, n_lesions = ndimage.label(truth, structure=_CONNECTIVITY)
    regions, n_regions = ndimage.label(predicted, structure=_CONNECTIVITY)
    # One count for every pair of a lesion and a region, 0 being outside of both.
    counts = np.bincount((lesions * (n_regions + 1) + regions).ravel(), minlength=(n_lesions + 1) * (n_regions + 1))
    table = counts.reshape(n_lesions + 1, n_regions + 1)
    sizes = table.sum(axis=1)[1:]
    touching = table[1:, 1:] > 0
    # What a region shares with other lesions is no fault of this one.
    outside = touching @ table[0, 1:]
    common = table[1:, 1:].sum(axis=1)
    iou = common / (sizes + outside)
    true = touching[iou >= MIN_IOU].any(axis=0)
    false_ml = table[:, 1:].sum(axis=0)[~true] * voxel_ml
    total = int(predicted.sum()) + int(truth.sum())
    return ScanRecord(
        case=case,
        subject=subject,
        site=site,
        method=method,
        kind=kind,
        label_ml=float(truth.sum()) * voxel_ml,
        flagged_ml=float(predicted.sum()) * voxel_ml,
        dice=2 * float((predicted & truth).sum()) / total if truth.any() else math.nan,
        lesions=tuple(LesionRecord(float(n) * voxel_ml, float(v)) for n, v in zip(sizes, iou, strict=True)),
        false_regions_ml=tuple(float(value) for value in false_ml),
    )


def by_size(records: Sequence[ScanRecord], *, seed: int = 0) -> dict[str, SizeMetrics]:
    """Metrics of every class, and of ``"all"`` sizes together; normal scans take no part.

    Args:
        records: of one method; group them before by what is to be compared (site, kind).
        seed: of the bootstrap.
    """
    return {name: metrics_of(records, name, seed=seed) for name in (*SIZE_CLASSES, "all")}


def metrics_of(records: Sequence[ScanRecord], name: str = "all", *, seed: int = 0) -> SizeMetrics:
    """Metrics of one class, or of ``"all"``.

    Intervals: 95 %. Wilson for recall and precision, as if lesions were independent, which those of one scan are not;
    bootstrap over subjects, each with all its scans, for Dice and F1.

    Raises:
        ValueError: for an unknown class.
    """
    if name not in (*SIZE_CLASSES, "all"):
        raise ValueError(f"a size class must be one of {', '.join((*SIZE_CLASSES, 'all'))}, got '{name}'")
    abnormal = [record for record in records if record.label_ml > 0]
    counts = np.array([_counts(record, name) for record in abnormal]).reshape(-1, 3)
    n_lesions, n_found, n_false = (int(value) for value in counts.sum(axis=0))
    scored = [record for record in abnormal if name in ("all", size_class(record.label_ml))]
    subjects = [record.subject for record in abnormal]
    return SizeMetrics(
        scans=len(scored),
        lesions=n_lesions,
        found=n_found,
        false_regions=n_false,
        dice=bootstrap_mean([record.dice for record in scored], [record.subject for record in scored], seed=seed),
        recall=wilson(n_found, n_lesions),
        precision=wilson(n_found, n_found + n_false),
        f1=_bootstrap(lambda weights: _f1(weights @ counts), subjects, seed=seed) if n_lesions else None,
    )


def false_positives(records: Sequence[ScanRecord], *, seed: int = 0) -> Estimate | None:
    """Millilitres flagged per normal scan, in the mean, with a bootstrap interval; ``None`` without a normal scan."""
    normal = [record for record in records if record.label_ml == 0]
    return bootstrap_mean([record.flagged_ml for record in normal], [record.subject for record in normal], seed=seed)


def wilson(count: int, total: int, *, confidence: float = 0.95) -> Estimate | None:
    """A rate with Wilson's score interval (1927, doi:10.1080/01621459.1927.10502953); ``None`` of nothing.

    Raises:
        ValueError: if the count exceeds the total or either is negative.
    """
    if not 0 <= count <= total:
        raise ValueError(f"count must lie from 0 to the total, got {count} of {total}")
    if total == 0:
        return None
    interval = stats.binomtest(count, total).proportion_ci(confidence, method="wilson")
    return Estimate(count / total, float(interval.low), float(interval.high))


def bootstrap_mean(
    values: Sequence[float], subjects: Sequence[str], *, seed: int = 0, n_resamples: int = 1000
) -> Estimate | None:
    """Mean of the finite values with a percentile interval; subjects are drawn with all their values.

    ``None`` where no value is finite.
    """
    finite = [(value, subject) for value, subject in zip(values, subjects, strict=True) if math.isfinite(value)]
    if not finite:
        return None
    numbers = np.array([value for value, _ in finite])

    def mean(weights: np.ndarray) -> np.ndarray:
        return np.asarray((weights @ numbers) / weights.sum(axis=1))

    return _bootstrap(mean, [subject for _, subject in finite], seed=seed, n_resamples=n_resamples)


def _bootstrap(
    metric: Callable[[np.ndarray], np.ndarray], subjects: Sequence[str], *, seed: int, n_resamples: int = 1000
) -> Estimate:
    """A metric of weights ``(n, scans)``, of the whole set and of sets of subjects that were drawn with replacement."""
    names, owner = np.unique(np.asarray(subjects), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_resamples)
    values = metric(drawn[:, owner].astype(float))
    low, high = np.nanpercentile(values, (2.5, 97.5)) if np.isfinite(values).any() else (math.nan, math.nan)
    whole = float(metric(np.ones((1, len(subjects))))[0])
    return Estimate(whole, float(low), float(high))


def _counts(record: ScanRecord, name: str) -> tuple[int, int, int]:
    lesions = [lesion for lesion in record.lesions if _is_in(lesion.volume_ml, name)]
    return len(lesions), sum(lesion.found for lesion in lesions), sum(_in_all(record.false_regions_ml, name))


def _in_all(volumes_ml: Iterable[float], name: str) -> list[bool]:
    return [_is_in(volume, name) for volume in volumes_ml]


def _is_in(volume_ml: float, name: str) -> bool:
    return name in ("all", size_class(volume_ml))


def _f1(counts: np.ndarray) -> np.ndarray:
    """Of lesions, found ones and false regions ``(n, 3)``; NaN where a draw holds neither."""
    lesions, found, false = counts.T
    both = lesions + found + false
    return np.divide(2 * found, both, out=np.full(len(counts), math.nan), where=both > 0)
