"""What a score means among the scores of normal scans: conformal p-values, and exact intervals for false alarms.

A calibration is a file of scores; the rest is pure functions of numbers. A calibration score must come from a scan that
took no part in training or in any choice of a setting, processed exactly as the scan in question.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from itermask3d.method.detection import percentile_among
from itermask3d.method.tissue_deviation import Estimator

__all__ = [
    "Calibration",
    "attainable_level",
    "cohort_guarantee",
    "conformal_p_value",
    "decisive",
    "false_alarm_interval",
    "false_alarm_range",
    "flag_at_level",
    "flag_threshold",
    "p_value_guarantee",
]

UNDECISIVE = (
    "calibration_sha256",
    "domain_sha256",
    "seed",
    "brain_extraction_method",
    "mixed_precision",
    "schedule",
)
"""Settings under which a score keeps its meaning."""

_EPSILON = 1e-12
"""Lets 1 / 20 reach a level of 0.05, whatever the rounding."""


@dataclass(frozen=True)
class Calibration:
    """Scores of held-out normal scans, and the settings under which they mean something.

    Attributes:
        normal_scores: ascending or not.
        settings: of the run that made them.
        cross_fitted: whether each came from a network adapted without that scan, not from the one whose settings
            these are.
        cohort: whether they are the other scans of a cohort, of which not all need be normal.
    """

    normal_scores: tuple[float, ...]
    settings: Mapping[str, Any]
    cross_fitted: bool = False
    cohort: bool = False

    @classmethod
    def read(cls, path: str | Path) -> Calibration:
        """Read what ``itermask3d calibrate`` wrote, in its first version too; other keys are for people.

        Raises:
            ValueError: if the file is no calibration.
        """
        try:
            data = json.loads(Path(path).read_text())
            scores = tuple(float(value) for value in data["normal_scores"])
            of_others, of_cohort = (bool(data.get(name, False)) for name in ("cross_fitted", "cohort"))
            return cls(scores, dict(data["settings"]), of_others, of_cohort)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"calibration file {path} holds no 'normal_scores' and 'settings'") from error

    @property
    def guarantee(self) -> str:
        """What a p-value of this calibration promises, in one sentence for a reader."""
        if self.cohort:
            return cohort_guarantee(len(self.normal_scores))
        return p_value_guarantee(len(self.normal_scores), cross_fitted=self.cross_fitted)

    def percentile(self, score: float) -> float | None:
        """Percentile of a score among the normal scans; ``None`` without any."""
        return percentile_among(score, self.normal_scores)

    def p_value(self, score: float) -> float | None:
        """:func:`conformal_p_value` of a score; ``None`` without a normal score: 1 would say something."""
        return conformal_p_value(score, self.normal_scores) if self.normal_scores else None


CROSS_FITTED = (
    " The calibration scores come from networks adapted without the scan, and this scan's from one adapted with all: "
    "so the rate holds approximately, not exactly."
)


def p_value_guarantee(n_normal: int, *, cross_fitted: bool = False) -> str:
    """What a p-value from n normal scans promises, and what not; ``cross_fitted`` as in :class:`Calibration`."""
    return (
        f"Valid if the scan is exchangeable with the {n_normal} calibration scans (same scanner, protocol and kind of "
        "people): then a normal scan has a p-value of at most a with a probability of at most a; the smallest possible "
        f"is 1/{n_normal + 1}, and nothing is promised about finding anomalies."
    ) + (CROSS_FITTED if cross_fitted else "")


def cohort_guarantee(n_others: int, *, abnormal_share: float = 0.25) -> str:
    r"""What a p-value among the other scans of a cohort promises, and what not.

    With a share :math:`e` of abnormal ones among them, the worst case is that all of these score below the normal ones:
    a normal scan then ranks among :math:`(1 - e) n` scans, so :math:`P(p \le a) \le a / (1 - e)`, up to rounding.
    Abnormal scans with higher scores only make its p-value larger.
    """
    return (
        f"Among {n_others} other scans of the cohort, scored by networks adapted without the fold of the scan: if the "
        "normal scans of the cohort are exchangeable (same scanner, protocol and kind of people), a normal scan has a "
        "p-value of at most a with a probability of about a at most, and of about "
        f"{1 / (1 - abnormal_share):.2f} a if {100 * abnormal_share:.0f} % of the scans are abnormal and score lower. "
        f"The smallest possible is 1/{n_others + 1}. Scans are compared with each other: at most about the share a of "
        "a cohort can be flagged at a, however many are abnormal."
    )


def conformal_p_value(score: float, normal_scores: Sequence[float]) -> float:
    r"""Share of the normal scores, the scan's own counted in, that are at least as high.

    .. math:: p = \frac{1 + \#\{i : s_i \ge s\}}{n + 1}

    If the scan is normal and its score exchangeable with the n calibration scores (drawn alike: same scanner, protocol,
    population), then :math:`P(p \le \alpha) \le \alpha` for every level: a flag at :math:`p \le \alpha` raises false
    alarms at a rate of at most :math:`\alpha`. The guarantee is marginal: it holds on average over calibrations, not
    for the one at hand (see :func:`false_alarm_range`), and not within a subgroup. It says nothing about sensitivity,
    and nothing at all about a scan of another kind. Ties count against the scan, which keeps the guarantee.

    Source: Vovk, Gammerman, Shafer 2005, DOI 10.1007/b106715; as outlier test Bates et al. 2023, DOI
    10.1214/22-AOS2244.

    Args:
        score: of the scan; higher is more anomalous.
        normal_scores: of the calibration; none gives 1.

    Returns:
        A value from 1 / (n + 1) to 1.

    Raises:
        ValueError: if a score is NaN.

    >>> conformal_p_value(3.0, [1.0, 2.0, 3.0, 4.0])
    0.6
    """
    normal = _checked(normal_scores)
    if math.isnan(score):
        raise ValueError("score must be a number, got NaN")
    return (1 + int((normal >= score).sum())) / (normal.size + 1)


def attainable_level(n_normal: int) -> float:
    """The smallest level at which anything can be flagged with n calibration scans: 1 / (n + 1).

    Five per cent need 19 scans, one per cent 99.
    """
    if n_normal < 0:
        raise ValueError(f"n_normal must not be negative, got {n_normal}")
    return 1 / (n_normal + 1)


def flag_at_level(score: float, normal_scores: Sequence[float], *, level: float) -> bool:
    """Whether a score is flagged at a level: its p-value is at most that. Never below :func:`attainable_level`.

    Raises:
        ValueError: if a score is NaN or the level not between 0 and 1.
    """
    return conformal_p_value(score, normal_scores) <= _share("level", level) + _EPSILON


def flag_threshold(normal_scores: Sequence[float], *, level: float) -> float:
    r"""The calibration score that a flagged score must exceed; infinite where no score can be flagged.

    The flag of :func:`flag_at_level` is exactly ``score > flag_threshold``. With :math:`k = \lfloor \alpha (n + 1)
    \rfloor`, it is the k-th largest calibration score.

    Raises:
        ValueError: if a score is NaN or the level not between 0 and 1.
    """
    normal = np.sort(_checked(normal_scores))
    rank = _rank(normal.size, level)
    if rank == 0:
        return math.inf
    return float(normal[-rank]) if rank <= normal.size else -math.inf


def false_alarm_range(n_normal: int, *, level: float, confidence: float = 0.95) -> tuple[float, float]:
    r"""Where the false-alarm rate of *one* calibration lies: central quantiles over calibrations.

    Given the calibration, the rate at which further normal scans are flagged is a draw from
    :math:`\mathrm{Beta}(k, n + 1 - k)`, :math:`k = \lfloor \alpha (n + 1) \rfloor` (scores without ties; with ties it
    is lower). Its mean is at most :math:`\alpha`, but with few scans it may lie well above.

    Source: Vovk 2012, http://proceedings.mlr.press/v25/vovk12.html; Angelopoulos and Bates 2023, DOI
    10.1561/2200000101, section 3.2.

    Raises:
        ValueError: if the number is negative or level or confidence not between 0 and 1.

    >>> [round(value, 3) for value in false_alarm_range(19, level=0.05)]
    [0.001, 0.176]
    """
    rank = _rank(n_normal, level)
    if rank == 0:
        return 0.0, 0.0
    if rank > n_normal:
        return 1.0, 1.0
    tail = (1 - _share("confidence", confidence)) / 2
    low, high = stats.beta.ppf([tail, 1 - tail], rank, n_normal + 1 - rank)
    return float(low), float(high)


def false_alarm_interval(flagged: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval for a rate of which ``flagged`` of ``total`` independent scans were seen.

    It covers the true rate with at least the confidence, whatever the rate. Source: Clopper and Pearson 1934, DOI
    10.1093/biomet/26.4.404. Scans of one person are not independent.

    Raises:
        ValueError: if the counts are no counts, ``flagged`` exceeds ``total`` or ``total`` is 0.

    >>> [round(value, 3) for value in false_alarm_interval(0, 30)]
    [0.0, 0.116]
    """
    if not 0 <= flagged <= total or total == 0:
        raise ValueError(f"flagged must lie between 0 and a positive total, got {flagged} of {total}")
    interval = stats.binomtest(flagged, total).proportion_ci(_share("confidence", confidence), method="exact")
    return float(interval.low), float(interval.high)


def _rank(n_normal: int, level: float) -> int:
    attainable_level(n_normal)
    return math.floor((_share("level", level) + _EPSILON) * (n_normal + 1))


def _checked(normal_scores: Sequence[float]) -> np.ndarray:
    normal = np.asarray(normal_scores, dtype=float)
    if np.isnan(normal).any():
        raise ValueError(f"normal_scores must be numbers, got {int(np.isnan(normal).sum())} NaN of {normal.size}")
    return normal


def _share(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value}")
    return value


def decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without what changes no score; no evidence of tissues is the same as none that is named.

    What evidence did not know before, and does not use, is left out too: older calibrations stay valid.
    """
    kept = {key: value for key, value in settings.items() if key not in UNDECISIVE and (key, value) != ("evidence", {})}
    return kept if "evidence" not in kept else {**kept, "evidence": _without_unused(kept["evidence"])}


def _without_unused(value: Any) -> Any:
    """Mappings without values that are ``None``, and without the estimator that serves where none is named."""
    if not isinstance(value, Mapping):
        return value
    unused = (("estimator", Estimator.MEDIAN.value),)
    return {key: _without_unused(part) for key, part in value.items() if part is not None and (key, part) not in unused}
