"""What is wrong with a set of normal scans before a network is trained on it: copies, odd ones out, turned scans.

Pure comparisons of measured scans with each other; nothing is known of any other set. A finding says what was seen and
what was expected, never what is true: every one is for a person to look at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import permutations, product
from typing import Any

import numpy as np
from scipy import ndimage

from itermask3d.inference.domain import FEATURES

__all__ = ["Finding", "Level", "MeasuredScan", "check_number", "check_scans", "check_split", "related", "suggested"]

FAR = 4.5
"""Robust distance of an outlier. Of 100 IXI training scans the furthest lies at 3.2; of 21 scans of other scanners or
contrasts beside them the nearest at 4.6."""

SAME_PERSON = 0.42
"""Correlation of fine structure above which two scans are taken for one person's, see :func:`_fingerprints`. Among 50
people (IXI) no pair exceeds 0.32; of simulated second scans, with noise and tilted by up to 2 degrees, about one in
four stays below this; of those tilted by 4 degrees most do."""

ALIKE = 0.35
"""Correlation with the middle of the set below which a scan is taken for another contrast. Of the same 50 the lowest
is 0.44; FLAIR and T2 of other sources have -0.12 to 0.26, T1 of other sources 0.29 to 0.63."""

TURN_MARGIN = 0.05
"""By how much another orientation must agree better; of 12 of them the right one is better by at least 0.19."""

MIRROR_MARGIN = 0.1
"""Correlation with the set's left-right difference, by its negative, from which a mirrored scan is suspected: among 50
it would find 84 % of mirrored scans and names one that is not."""

MIN_FOR_COMPARISON = 5
"""Below this number of scans there is no middle to be far from."""

MIN_FOR_MIRROR = 12
LEAST, FEW, MODEST = 4, 20, 100


class Level(StrEnum):
    """What a finding does to a run."""

    UNUSABLE = "unusable"
    """The scan cannot be used and is left out."""
    SUSPECT = "suspect"
    """Stops the run until somebody has looked: exclude the scan, or go on all the same."""
    NOTE = "note"
    """Said, and nothing else."""


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    Attributes:
        kind: such as ``duplicate`` or ``contrast``.
        level: see :class:`Level`.
        sentence: what was seen and what was expected.
        case: the scan; empty for the set as a whole.
        others: scans that it is about as well.
        exclude: whether leaving ``case`` out would answer it.
    """

    kind: str
    level: Level
    sentence: str
    case: str = ""
    others: tuple[str, ...] = ()
    exclude: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "level": self.level.value, "others": list(self.others)}


@dataclass(frozen=True)
class MeasuredScan:
    """What the checks know of a scan.

    Attributes:
        case: its name.
        subject: whose it is.
        file_sha256: of the file, or of all files of a series.
        voxel_sha256: of the voxels in canonical axes, whatever the file's format.
        features: of :mod:`itermask3d.preprocessing.scan_features`.
        thumbnail: normalised brain, ``(D, H, W)`` in right-anterior-superior axes, zero outside, its box in the middle.
        spans_mm: of the brain, left-right, back-front, down-up.
        oriented: whether the file's header says how it lies in the scanner.
    """

    case: str
    subject: str
    file_sha256: str
    voxel_sha256: str
    features: Mapping[str, float]
    thumbnail: np.ndarray
    spans_mm: tuple[float, float, float]
    oriented: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)


def check_scans(scans: Sequence[MeasuredScan]) -> list[Finding]:
    """Compare the scans of a set with each other.

    Args:
        scans: in any order.

    Returns:
        Copies first, then the same person under two names, other contrasts, turned and mirrored scans, outliers, and
        headers without an orientation.
    """
    found = [*_copies(scans), *_unoriented(scans)]
    known = {(finding.case, other) for finding in found for other in finding.others}
    if len(scans) >= MIN_FOR_COMPARISON:
        found += [finding for finding in _same_person(scans) if (finding.case, finding.others[0]) not in known]
        turned = _turned(scans)
        found += turned + _other_contrast(scans, {finding.case for finding in turned}) + _outliers(scans)
    else:
        sentence = f"{len(scans)} scans; expected at least {MIN_FOR_COMPARISON} to tell an odd one out"
        found.append(Finding("number", Level.NOTE, sentence))
    return found + (_mirrored(scans) if len(scans) >= MIN_FOR_MIRROR else [])


def check_number(n_subjects: int) -> list[Finding]:
    """Say where there are too few people, and why that matters."""
    if n_subjects < LEAST:
        sentence = (
            f"{n_subjects} people; expected at least {LEAST}: two to train on, one to choose the weights and one to "
            "calibrate"
        )
        return [Finding("number", Level.UNUSABLE, sentence)]
    if n_subjects < FEW:
        sentence = (
            f"{n_subjects} people; expected at least {FEW}: a network learns from so few who they are, not what a "
            "normal brain is, and two calibration scans can give no p-value below one third"
        )
        return [Finding("number", Level.SUSPECT, sentence)]
    if n_subjects < MODEST:
        sentence = (
            f"{n_subjects} people; the shipped weights were trained on {MODEST}, and a p-value of 5 % needs 19 "
            "calibration scans: read what comes out as a trial"
        )
        return [Finding("number", Level.NOTE, sentence)]
    return []


def check_split(splits: Mapping[str, Sequence[str]], groups: Iterable[Sequence[str]]) -> list[Finding]:
    """Say where scans of one person lie in two subsets.

    Args:
        splits: cases by subset.
        groups: cases that belong together, see :func:`related`.
    """
    subset_of = {case: subset for subset, cases in splits.items() for case in cases}
    found = []
    for group in groups:
        where = {case: subset_of[case] for case in group if case in subset_of}
        if len(set(where.values())) > 1:
            told = ", ".join(f"{case} in {subset}" for case, subset in where.items())
            sentence = f"scans of one person lie in two subsets ({told}); expected all of a person in one"
            found.append(Finding("split", Level.SUSPECT, sentence, case=min(where), others=tuple(sorted(where)[1:])))
    return found


def related(scans: Sequence[MeasuredScan], findings: Iterable[Finding] = ()) -> list[list[str]]:
    """Cases grouped by person: the same subject's name, or a copy or likeness that was found."""
    group = {scan.case: scan.case for scan in scans}

    def root(case: str) -> str:
        while group[case] != case:
            case = group[case]
        return case

    first: dict[str, str] = {}
    for scan in scans:
        group[root(scan.case)] = root(first.setdefault(scan.subject, scan.case))
    for finding in findings:
        for other in finding.others if finding.kind in ("duplicate", "same_person") else ():
            if finding.case in group and other in group:
                group[root(finding.case)] = root(other)
    groups: dict[str, list[str]] = {}
    for scan in scans:
        groups.setdefault(root(scan.case), []).append(scan.case)
    return list(groups.values())


def suggested(findings: Iterable[Finding]) -> list[str]:
    """Cases whose exclusion would answer what was found."""
    return sorted({finding.case for finding in findings if finding.level is Level.SUSPECT and finding.exclude})


def _copies(scans: Sequence[MeasuredScan]) -> list[Finding]:
    found = []
    files: dict[str, str] = {}
    voxels: dict[str, str] = {}
    for scan in scans:
        same_file = files.setdefault(scan.file_sha256, scan.case)
        same_voxels = voxels.setdefault(scan.voxel_sha256, scan.case)
        if same_file != scan.case:
            found.append(_copy(scan.case, same_file, "byte for byte"))
        elif same_voxels != scan.case:
            found.append(_copy(scan.case, same_voxels, "voxel for voxel"))
    return found


def _copy(case: str, other: str, how: str) -> Finding:
    sentence = f"'{case}' is '{other}' {how}; expected every scan once"
    return Finding("duplicate", Level.SUSPECT, sentence, case=case, others=(other,), exclude=True)


def _unoriented(scans: Sequence[MeasuredScan]) -> list[Finding]:
    return [
        Finding(
            "no_orientation",
            Level.NOTE,
            f"the file of '{scan.case}' does not say which side is left, so left and right are a guess; expected an "
            "orientation (in NIfTI an sform or qform code above 0)",
            case=scan.case,
        )
        for scan in scans
        if not scan.oriented
    ]


def _same_person(scans: Sequence[MeasuredScan]) -> list[Finding]:
    prints = _fingerprints(scans)
    likeness = prints @ prints.T
    found = []
    for second, first in zip(*np.nonzero(np.tril(likeness, -1) > SAME_PERSON), strict=True):
        a, b, value = scans[second], scans[first], likeness[second, first]
        if a.subject != b.subject:
            sentence = (
                f"'{a.case}' and '{b.case}' agree in their fine structure (correlation {value:.2f}), as two scans of "
                f"one person do; expected at most {SAME_PERSON:.2f} between different people"
            )
            found.append(Finding("same_person", Level.SUSPECT, sentence, case=a.case, others=(b.case,), exclude=True))
    return found


def _fingerprints(scans: Sequence[MeasuredScan]) -> np.ndarray:
    """The fine structure of each brain less what all have in common, as unit vectors ``(N, voxels)``."""
    fine = np.stack([scan.thumbnail - ndimage.gaussian_filter(scan.thumbnail, 1.5) for scan in scans])
    vectors = (fine * np.stack([scan.thumbnail != 0 for scan in scans])).reshape(len(scans), -1)
    vectors = vectors - vectors.mean(axis=0)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def _middle(scans: Sequence[MeasuredScan]) -> np.ndarray:
    return np.median(np.stack([scan.thumbnail for scan in scans]), axis=0)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Over the voxels of ``b`` that are not zero; 0 where there are none."""
    inside = b != 0
    if not inside.any():
        return 0.0
    a, b = a[inside] - a[inside].mean(), b[inside] - b[inside].mean()
    return float((a * b).sum() / max(float(np.sqrt((a * a).sum() * (b * b).sum())), 1e-6))


def _turned(scans: Sequence[MeasuredScan]) -> list[Finding]:
    """Scans that agree better with the middle of the set when their axes are swapped or turned over."""
    middle, found = _middle(scans), []
    for scan in scans:
        own = _correlation(scan.thumbnail, middle)
        best, how = max(
            (_correlation(_turn(scan.thumbnail, order, signs), middle), (order, signs)) for order, signs in _TURNS
        )
        if best > own + TURN_MARGIN and best > ALIKE:
            sentence = (
                f"'{scan.case}' agrees better with the other scans when {_in_words(*how)} (correlation {best:.2f}, as "
                f"it is {own:.2f}); expected a header that says how it lies"
            )
            found.append(Finding("orientation", Level.SUSPECT, sentence, case=scan.case, exclude=True))
    return found


_TURNS = tuple(
    (order, signs)
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3))
    if order != (0, 1, 2) or signs[1:] != (1, 1)
)
"""Ways to lay a volume, but for itself and its mirror image, which is nearly the same."""

_AXES = ("left-right", "back-front", "down-up")


def _turn(volume: np.ndarray, order: Sequence[int], signs: Sequence[int]) -> np.ndarray:
    turned = np.transpose(volume, order)[tuple(slice(None, None, sign) for sign in signs)]
    fitted = np.zeros(volume.shape, dtype=volume.dtype)
    sizes = np.minimum(turned.shape, fitted.shape)
    source, target = (
        tuple(slice((size - keep) // 2, (size - keep) // 2 + keep) for size, keep in zip(shape, sizes, strict=True))
        for shape in (turned.shape, fitted.shape)
    )
    fitted[target] = turned[source]
    return fitted


def _in_words(order: Sequence[int], signs: Sequence[int]) -> str:
    parts = [f"its {_AXES[axis]} axis is taken for {_AXES[i]}" for i, axis in enumerate(order) if i != axis]
    parts += [f"{_AXES[i]} is turned over" for i, sign in enumerate(signs) if sign < 0]
    return " and ".join(parts)


def _other_contrast(scans: Sequence[MeasuredScan], turned: set[str]) -> list[Finding]:
    middle, found = _middle(scans), []
    for scan in scans:
        value = _correlation(scan.thumbnail, middle)
        if value < ALIKE and scan.case not in turned:
            sentence = (
                f"'{scan.case}' looks unlike the other scans (correlation {value:.2f} with the middle of the set), as "
                f"another contrast does; expected at least {ALIKE:.2f}"
            )
            found.append(Finding("contrast", Level.SUSPECT, sentence, case=scan.case, exclude=True))
    return found


def _outliers(scans: Sequence[MeasuredScan]) -> list[Finding]:
    """Features far from those of the set, the furthest of each scan in words."""
    far: dict[str, list[tuple[float, str]]] = {}
    for name, about in FEATURES.items():
        values = {scan.case: scan.features[name] for scan in scans if name in scan.features}
        if len(values) < MIN_FOR_COMPARISON:
            continue
        centre = float(np.median(list(values.values())))
        scale = max(1.4826 * float(np.median(np.abs(np.array(list(values.values())) - centre))), about.tolerance)
        for case, value in values.items():
            hint = about.low_means if value < centre else about.high_means
            distance = abs(value - centre) / scale
            if hint is not None and distance > FAR:
                unit = f" {about.unit}" if about.unit else ""
                told = f"{about.what.rstrip(',')} is {value:.3g}{unit}, in the others {centre:.3g}{unit} ({hint})"
                far.setdefault(case, []).append((distance, told))
    found = []
    for case, reasons in far.items():
        told = "; ".join(reason for _, reason in sorted(reasons, reverse=True)[:3])
        sentence = f"'{case}' lies apart from the other scans: {told}"
        found.append(Finding("outlier", Level.SUSPECT, sentence, case=case, exclude=True))
    return found


def _mirrored(scans: Sequence[MeasuredScan]) -> list[Finding]:
    """Scans whose left-right difference is opposite to what the others have in common."""
    difference = np.stack([_smooth_difference(scan.thumbnail) for scan in scans])
    total, found = difference.sum(axis=0), []
    for scan, own in zip(scans, difference, strict=True):
        value = _correlation(own, total - own)
        if value < -MIRROR_MARGIN:
            sentence = (
                f"left and right of '{scan.case}' may be swapped: what differs between the sides is opposite to the "
                f"other scans (correlation {value:.2f}); a normal brain rarely is"
            )
            found.append(Finding("mirrored", Level.NOTE, sentence, case=scan.case))
    return found


def _smooth_difference(thumbnail: np.ndarray) -> np.ndarray:
    both = (thumbnail != 0) & (thumbnail[::-1] != 0)
    return ndimage.gaussian_filter(np.where(both, thumbnail - thumbnail[::-1], 0), 1.0)
