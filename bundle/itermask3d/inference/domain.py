"""Whether a scan is of the kind that the weights were trained on, feature by feature, with the range that was expected.

The ranges are fitted on normal training scans by ``scripts/fit_domain.py``. They say that a scan is unusual, not that
it is ill: outside them, a score has nothing to be compared with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

__all__ = ["CONTRAST", "FEATURES", "Deviation", "Domain", "DomainCheck", "Feature", "Range", "fit_domain"]


@dataclass(frozen=True)
class Feature:
    """One feature of :mod:`itermask3d.preprocessing.scan_features` in words.

    Attributes:
        group: what about the scan it tells of.
        what: the feature in words, with a verb's subject in the singular.
        tolerance: smallest scale that is fitted, so that no spread of a homogeneous training set is taken for a law,
            and no lesion of a tenth of the brain for another contrast.
        unit: printed behind values.
        low_means, high_means: what a value below or above the range points to; ``None`` leaves that side open.
    """

    group: str
    what: str
    tolerance: float
    unit: str = ""
    low_means: str | None = None
    high_means: str | None = None


CONTRAST = "contrast"
"""Group of the features that tell one kind of sequence from another."""

_OTHER = "another contrast"

FEATURES: Mapping[str, Feature] = MappingProxyType({
    "dark_tail": Feature(
        CONTRAST, "the intensity below which 2 % of the brain lie", 0.25, "units",
        low_means=f"{_OTHER}, or lost signal", high_means=f"{_OTHER}, or no fluid in the brain mask",
    ),
    "bright_tail": Feature(
        CONTRAST, "the intensity above which 2 % of the brain lie", 0.9, "units",
        low_means=_OTHER, high_means=f"{_OTHER}, contrast agent or bright non-brain",
    ),
    "quartile_skewness": Feature(
        CONTRAST, "the skewness of the middle half of the intensities", 0.12,
        low_means=_OTHER, high_means=_OTHER,
    ),
    "depth_contrast": Feature(
        CONTRAST, "the most frequent intensity 14 to 26 mm below the brain's surface, less the middle one at 2 to "
        "8 mm,", 0.16, "units",
        low_means=f"{_OTHER}: deep white matter does not stand out from the cortex", high_means=_OTHER,
    ),
    "sharpness": Feature(
        "resolution", "the strength of neighbours' differences", 0.04,
        low_means="blur, or voxels that were larger", high_means="another contrast, noise or a sharpened scan",
    ),
    "sharpness_balance": Feature(
        "resolution", "the sharpness along the least sharp axis, against the mean,", 0.02,
        low_means="thick slices, or blur along one axis",
    ),
    "noise": Feature(
        "noise", "the noise in uniform tissue", 0.02, "units",
        low_means="a smoothed or denoised scan, or one averaged down from smaller voxels",
        high_means="a noisy scan",
    ),
    "slice_jump": Feature(
        "noise", "the largest step of a slice's mean against its neighbours", 0.06, "units",
        high_means="lost, interleaved or damaged slices",
    ),
    "flat_cut_percent": Feature(
        "coverage", "the largest step of the brain's area from slice to slice", 2.0, "%",
        high_means="a brain that is cut off",
    ),
    "brain_ml": Feature(
        "coverage", "the brain's volume", 100.0, "ml",
        low_means="brain missing, or a small head", high_means="non-brain in the mask, or a large head",
    ),
    "width_mm": Feature(
        "coverage", "the brain's width", 6.0, "mm",
        low_means="a side missing, or a small head", high_means="non-brain in the mask, or a large head",
    ),
    "length_mm": Feature(
        "coverage", "the brain's length from front to back", 8.0, "mm",
        low_means="front or back missing, or a small head", high_means="non-brain in the mask, or a large head",
    ),
    "height_mm": Feature(
        "coverage", "the brain's height", 6.0, "mm",
        low_means="top or bottom missing, or a small head", high_means="neck in the mask, or a large head",
    ),
    "asymmetry_percent": Feature(
        "brain mask", "the share of the brain mask without a mirror image", 1.5, "%",
        high_means="one side missing or with non-brain",
    ),
    "surface_ratio": Feature(
        "brain mask", "the brain mask's surface for its volume", 0.08,
        low_means="a mask smoother than the training's", high_means="a ragged or hollow mask, or another tool",
    ),
    "left_out_mm": Feature(
        "brain mask", "the thickness of brain-like tissue beside the brain mask", 0.5, "mm",
        high_means="a piece of brain that the mask lacks",
    ),
    "bias_log_sd": Feature(
        "noise", "the strength of the bias field (standard deviation of its logarithm)", 0.03,
        high_means="strong shading",
    ),
    "voxel_mm": Feature(
        "resolution", "the largest voxel edge", 0.1, "mm", high_means="voxels larger than the training's",
    ),
    "voxel_ratio": Feature(
        "resolution", "the largest voxel edge over the smallest", 0.25, high_means="thick slices",
    ),
    "border_percent": Feature(
        "coverage", "the area where the brain meets the border of the field of view, for its volume,", 0.5, "%",
        high_means="a brain that is cut off",
    ),
})  # fmt: skip
"""Every feature that is checked, by name, in the order in which deviations are told."""


@dataclass(frozen=True)
class Range:
    """What is expected of one feature; ``None`` is an open side.

    Attributes:
        low, high: limits.
        centre: the feature's usual value; ``None`` takes the middle between two limits.
    """

    low: float | None
    high: float | None
    centre: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a value lies within; NaN does not."""
        above = self.low is None or value >= self.low
        return above and (self.high is None or value <= self.high) and not math.isnan(value)

    def distance(self, value: float) -> float:
        """How far a value lies from the centre, in half-widths of its side: at most 1 within, 0 towards an open side.

        NaN is infinitely far, and so is what lies outside a range that has neither two limits nor a centre.

        >>> [Range(0.0, 4.0, centre=1.0).distance(value) for value in (0.5, 1.0, 4.0, 7.0)]
        [0.5, 0.0, 1.0, 2.0]
        """
        centre = self.centre
        if centre is None and self.low is not None and self.high is not None:
            centre = (self.low + self.high) / 2
        limit = self.high if centre is None or value > centre else self.low
        if math.isnan(value) or centre is None:
            return 0.0 if self.holds(value) else math.inf
        if limit is None or value == centre:
            return 0.0
        return (value - centre) / (limit - centre) if limit != centre else math.inf


@dataclass(frozen=True)
class Deviation:
    """One feature outside its range."""

    feature: str
    value: float
    expected: Range

    @property
    def sentence(self) -> str:
        """What, its value, what was expected, and what this points to."""
        about = FEATURES[self.feature]
        low, high = self.expected.low, self.expected.high
        unit = f" {about.unit}" if about.unit else ""
        if low is None or high is None:
            expected = f"at least {low:.3g}{unit}" if low is not None else f"at most {high:.3g}{unit}"
        else:
            expected = f"{low:.3g} to {high:.3g}{unit}"
        hint = about.low_means if low is not None and self.value < low else about.high_means
        return (
            f"Out-of-distribution ({about.group}): {about.what} is {self.value:.3g}{unit}; expected {expected} "
            f"({hint})."
        )


@dataclass(frozen=True)
class DomainCheck:
    """What a check found about one scan.

    Attributes:
        values: every feature that was measured and has a range.
        ranges: expected, by the same names.
    """

    values: Mapping[str, float]
    ranges: Mapping[str, Range]

    @property
    def deviations(self) -> tuple[Deviation, ...]:
        """The features outside their range, in the order of :data:`FEATURES`."""
        return tuple(
            Deviation(name, self.values[name], self.ranges[name])
            for name in FEATURES
            if name in self.values and not self.ranges[name].holds(self.values[name])
        )

    @property
    def in_distribution(self) -> bool:
        """Whether no feature is outside its range."""
        return not self.deviations

    @property
    def distance(self) -> float:
        """How far the worst feature lies from its usual value, in half-widths of its range; 0 without a feature.

        Above 1 the scan is outside. A score for artefacts: it needs no weights and no mask, and knows no place.
        """
        return max((self.ranges[name].distance(value) for name, value in self.values.items()), default=0.0)

    @property
    def groups(self) -> tuple[str, ...]:
        """What about the scan is unusual, such as ``("contrast", "noise")``."""
        return tuple(dict.fromkeys(FEATURES[deviation.feature].group for deviation in self.deviations))

    def to_json(self) -> list[dict[str, Any]]:
        """Plain values: a row a feature."""
        return [
            {
                "feature": name,
                "group": FEATURES[name].group,
                "value": float(f"{self.values[name]:.6g}") if math.isfinite(self.values[name]) else None,
                "low": self.ranges[name].low,
                "high": self.ranges[name].high,
                "within": self.ranges[name].holds(self.values[name]),
            }
            for name in FEATURES
            if name in self.values
        ]

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, Any]]) -> DomainCheck:
        """Inverse of :meth:`to_json`, to six digits; features that are unknown here are left out."""
        known = [row for row in rows if row["feature"] in FEATURES]
        values = {row["feature"]: math.nan if row["value"] is None else float(row["value"]) for row in known}
        return cls(values, {row["feature"]: Range(row["low"], row["high"]) for row in known})


@dataclass(frozen=True)
class Domain:
    """The ranges of the training scans, and the preprocessing under which they mean something.

    Attributes:
        ranges: by name of the feature.
        settings: ``spacing_mm`` and ``bias_correction`` (``"n4"`` or ``"none"``) of the network's grid.
    """

    ranges: Mapping[str, Range]
    settings: Mapping[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> Domain:
        """Read what ``scripts/fit_domain.py`` wrote.

        Raises:
            ValueError: if the file is no domain, or has a feature that is unknown here.
        """
        try:
            data = json.loads(Path(path).read_text())
            ranges = {name: Range(row["low"], row["high"], row.get("centre")) for name, row in data["features"].items()}
            settings = {key: data["settings"][key] for key in ("spacing_mm", "bias_correction")}
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"domain file {path} holds no 'features' and 'settings'") from error
        unknown = ranges.keys() - FEATURES.keys()
        if unknown:
            raise ValueError(f"domain file {path} has unknown features {sorted(unknown)}; fit it anew")
        return cls(ranges, settings)

    def applies(self, grid: Mapping[str, Any]) -> bool:
        """Whether the training scans were prepared as those of a grid with these settings."""
        return all(value == grid[key] for key, value in self.settings.items())

    def check(self, features: Mapping[str, float]) -> DomainCheck:
        """Compare the features of a scan; those without a range are left aside."""
        values = {name: float(features[name]) for name in FEATURES if name in features and name in self.ranges}
        return DomainCheck(values, {name: self.ranges[name] for name in values})


def fit_domain(
    train: Sequence[Mapping[str, float]], held_out: Sequence[Mapping[str, float]], *, pass_share: float = 0.99
) -> tuple[dict[str, dict[str, float | None]], float]:
    r"""Fit a range for every feature on training scans, as wide as held-out scans need.

    .. math:: [\,c - k\,s_-,\; c + k\,s_+\,],\quad s_- = \max\left(\frac{c - q_{5}}{1.645},\ \text{tolerance}\right)

    with the median :math:`c` and the 5th and 95th percentile of the training scans: for a normal distribution
    :math:`s` is its standard deviation. One :math:`k` serves all features: the smallest with which all held-out scans
    pass every feature, or the given share of the training scans where that needs more. A few held-out scans cannot
    prove a share of 99 %: what came out is to be measured on further scans.

    Args:
        train: features of each training scan. One that half of them lack, as stripped scans lack what lies beside the
            brain mask, has no range.
        held_out: features of scans that no weight was fitted to.
        pass_share: of training scans that lie within all ranges at once.

    Returns:
        Rows ``low``, ``high``, ``centre``, ``scale_low``, ``scale_high`` by name, and :math:`k`.

    Raises:
        ValueError: if there are fewer than two training scans, no held-out ones, or the share is not between 0 and 1.
    """
    if len(train) < 2 or not held_out or not 0 < pass_share <= 1:
        raise ValueError(
            f"expected two training scans, a held-out one and a share of at most 1, got {len(train)}, {len(held_out)} "
            f"and {pass_share}"
        )
    measured = {name: [features[name] for features in train if name in features] for name in FEATURES}
    names = [name for name, values in measured.items() if 2 * len(values) >= len(train)]
    spreads = {name: _spread(name, measured[name]) for name in names}
    furthest = [max(_distance(features, name, spreads[name]) for name in names) for features in train]
    needed = max(max(_distance(features, name, spreads[name]) for name in names) for features in held_out)
    width = _up(max(float(np.quantile(furthest, pass_share, method="higher")), needed))
    rows = {}
    for name, (centre, low, high) in spreads.items():
        about = FEATURES[name]
        rows[name] = {
            "low": None if about.low_means is None else float(f"{centre - width * low:.4g}"),
            "high": None if about.high_means is None else float(f"{centre + width * high:.4g}"),
            "centre": float(f"{centre:.4g}"),
            "scale_low": float(f"{low:.3g}"),
            "scale_high": float(f"{high:.3g}"),
        }
    return rows, width


def _spread(name: str, values: Sequence[float]) -> tuple[float, float, float]:
    low, centre, high = np.percentile(values, (5, 50, 95))
    least = FEATURES[name].tolerance
    return float(centre), max(float(centre - low) / 1.645, least), max(float(high - centre) / 1.645, least)


def _distance(features: Mapping[str, float], name: str, spread: tuple[float, float, float]) -> float:
    centre, low, high = spread
    away = features.get(name, centre) - centre
    if away < 0:
        return 0.0 if FEATURES[name].low_means is None else -away / low
    return 0.0 if FEATURES[name].high_means is None else away / high


def _up(width: float) -> float:
    return math.ceil(width * 20 + 0.2) / 20  # rounding of the written limits must put no scan outside them
