"""The figures of an evaluation: vector graphics, in colours for the colour-blind and told apart by shape as well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from itermask3d.evaluation.cases import REAL, MethodResults, artefact_of
from itermask3d.evaluation.discrimination import Estimate
from itermask3d.evaluation.rows import NORMAL
from itermask3d.evaluation.text import Table

__all__ = ["COLOURS", "Picture", "all_plots", "file_name"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, without its yellow."""

STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX"


@dataclass(frozen=True)
class Picture:
    """A drawn figure.

    Attributes:
        path: of the file.
        title: heading.
        alt: what it shows, for who cannot see it.
        section: name of the table that it stands under; without that table it stands with the other figures.
    """

    path: Path
    title: str
    alt: str
    section: str = "figures"


def all_plots(
    methods: Sequence[MethodResults],
    tables: Sequence[Table],
    *,
    output: Path,
    curves: Mapping[str, Sequence[float]],
) -> list[Picture]:
    """Draw every figure that has something to show, into ``output / "plots"``.

    Args:
        methods: the curves of the sweep are those of the first one.
        tables: for the map of artefacts.
        output: folder of the evaluation.
        curves: error quantiles of the sweep by case, of the first method.
    """
    folder = output / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [_curves_of_group(methods, group, folder) for group in _abnormal_groups(methods)]
    pictures.append(_dice_by_volume(methods, folder))
    pictures.append(_score_distributions(methods, folder))
    pictures.append(_tau_curves(methods[0], curves, folder))
    pictures.append(_artefact_map(methods, tables, folder))
    return [picture for picture in pictures if picture is not None]


def _curves_of_group(methods: Sequence[MethodResults], group: str, folder: Path) -> Picture | None:
    """ROC and precision-recall curves of one group against the normal scans."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    roc, pr = figure.subplots(1, 2)
    share, drawn = 0.0, []
    for (name, colour, style, _), method in zip(_looks(methods), methods, strict=True):
        normal, abnormal = (_scores(method, one) for one in (NORMAL, group))
        if not len(normal) or not len(abnormal):
            continue
        false, true = _rates(normal, abnormal)
        flagged = false * len(normal) + true * len(abnormal)
        precision = true[1:] * len(abnormal) / flagged[1:]
        share = len(abnormal) / (len(abnormal) + len(normal))
        roc.plot(false, true, color=colour, ls=style, lw=1.8, label=name)
        pr.step(true[1:], precision, color=colour, ls=style, lw=1.8, where="pre", label=name)
        drawn.append(name)
    if not drawn:
        return None
    roc.plot([0, 1], [0, 1], color="#999999", lw=0.8)
    pr.axhline(share, color="#999999", lw=0.8)
    _label(roc, "false-positive rate", "true-positive rate", "ROC")
    _label(pr, "recall", "precision", "Precision and recall")
    for axes in (roc, pr):
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.legend(fontsize=8)
    alt = f"ROC and precision-recall curves of scans of group {group} against normal scans, for {', '.join(drawn)}."
    return _save(figure, folder / f"roc_{file_name(group)}.svg", f"Scan-level curves: {group}", alt, "detection")


def _dice_by_volume(methods: Sequence[MethodResults], folder: Path) -> Picture | None:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    count = 0
    for (name, colour, _, marker), method in zip(_looks(methods), methods, strict=True):
        rows = [row for row in method.rows if row.get("label_ml") and not artefact_of(row["group"])]
        if rows:
            axes.scatter(
                [row["label_ml"] for row in rows],
                [row["dice"] for row in rows],
                s=22, marker=marker, facecolors="none", edgecolors=colour, label=name,
            )  # fmt: skip
        count = max(count, len(rows))
    if not count:
        return None
    axes.set_xscale("log")
    axes.set_ylim(-0.03, 1.03)
    _label(axes, "volume of the lesion (ml)", "Dice at the method's own threshold", "Dice by lesion volume")
    axes.legend(fontsize=8)
    alt = f"Dice of each of {count} scans with a lesion against the lesion's volume, one marker a method."
    return _save(figure, folder / "dice_by_volume.svg", "Dice by lesion volume", alt, "segmentation")


def _score_distributions(methods: Sequence[MethodResults], folder: Path) -> Picture | None:
    groups = [NORMAL, *_abnormal_groups(methods)]
    with_artefacts = any(artefact_of(row["group"]) for method in methods for row in method.rows)
    has_real = any(row["group"] == REAL for method in methods for row in method.rows)
    names = [*groups, *([REAL] if has_real else []), *(["all artefacts"] if with_artefacts else [])]
    names = [name for name in names if any(len(_scores(m, None if name == "all artefacts" else name)) for m in methods)]
    if not names:
        return None
    figure = Figure(figsize=(8, 1.0 + len(methods) * (0.6 + 0.28 * len(names))), layout="constrained")
    panels = figure.subplots(len(methods), 1, squeeze=False)[:, 0]
    for axes, method in zip(panels, methods, strict=True):
        for height, name in enumerate(names):
            scores = _scores(method, None if name == "all artefacts" else name)
            spread = np.random.default_rng(0).uniform(-0.25, 0.25, len(scores))
            colour, marker = COLOURS[height % len(COLOURS)], MARKERS[height % len(MARKERS)]
            axes.scatter(
                scores, height + spread, s=14, marker=marker, facecolors="none", edgecolors=colour, linewidths=0.8
            )
            if len(scores):
                axes.plot([np.median(scores)] * 2, [height - 0.35, height + 0.35], color="black", lw=1.5)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.invert_yaxis()
        axes.set_xscale("symlog", linthresh=1e-3)
        axes.set_xlim(left=-5e-4)
        _label(axes, "score", "", method.name)
    alt = f"Scan-level scores by group ({', '.join(names)}), a panel a method; a black bar is a median."
    return _save(figure, folder / "scores.svg", "Distribution of the scores", alt, "detection")


def _tau_curves(method: MethodResults, curves: Mapping[str, Sequence[float]], folder: Path) -> Picture | None:
    groups = {row["case"]: "normal" if row["group"] == NORMAL else "other" for row in method.rows}
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    looks = {"normal": (COLOURS[0], "-"), "other": (COLOURS[1], "--")}
    seen: dict[str, int] = {}
    tops = []
    for case, curve in curves.items():
        kind = groups.get(case)
        values = np.array([math.nan if value is None else value for value in curve], dtype=float)
        if kind is None or not np.isfinite(values).any():
            continue
        colour, style = looks[kind]
        percent = np.arange(1, len(values) + 1) * 100 / len(values)
        label = ("normal" if kind == "normal" else "with a lesion or artefact") if kind not in seen else None
        axes.plot(percent, values, color=colour, ls=style, lw=0.8, alpha=0.6, label=label)
        seen[kind] = seen.get(kind, 0) + 1
        tops.append(np.nanquantile(values, 0.97))
    if not seen:
        return None
    axes.set_ylim(0, 1.1 * float(np.quantile(tops, 0.9)))
    _label(axes, "share of the brain unmasked in the sweep (%)", "error quantile τ(t)", f"τ curves of {method.name}")
    axes.legend(fontsize=8)
    alt = f"Error quantile over the sweep for {sum(seen.values())} scans; normal scans solid, the others dashed."
    return _save(figure, folder / "curves.svg", "Error curves of the sweep", alt)


def _artefact_map(methods: Sequence[MethodResults], tables: Sequence[Table], folder: Path) -> Picture | None:
    rows = next((table.rows for table in tables if table.name == "artefacts"), [])
    if not rows:
        return None
    names, severities = (sorted({row[key] for row in rows}) for key in ("artefact", "severity"))
    shown = list(dict.fromkeys((row["method"], row["evidence"]) for row in rows))
    size = (1.6 + len(shown) * (0.6 + 0.55 * len(severities)), 1.4 + 0.32 * len(names))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    picture = None
    for axes, (method, evidence) in zip(panels, shown, strict=True):
        values = np.full((len(names), len(severities)), np.nan)
        for row in rows:
            if (row["method"], row["evidence"]) == (method, evidence) and isinstance(row.get("auroc"), Estimate):
                values[names.index(row["artefact"]), severities.index(row["severity"])] = row["auroc"].value
        picture = axes.imshow(values, cmap="cividis", vmin=0.5, vmax=1, aspect="auto")
        for y, x in np.argwhere(np.isfinite(values)):
            colour = "black" if values[y, x] > 0.8 else "white"
            axes.text(x, y, f"{values[y, x]:.2f}", ha="center", va="center", fontsize=7, color=colour)
        axes.set_xticks(range(len(severities)), severities)
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axes.set_title(f"{method}\n{evidence}", fontsize=8)
        axes.set_xlabel("severity")
    if picture is not None:
        figure.colorbar(picture, ax=panels.tolist(), label="AUROC", shrink=0.8, extend="min")
    alt = f"Scan-level AUROC by artefact ({len(names)}) and severity, a panel a method and evidence, as in the table."
    return _save(figure, folder / "artefacts.svg", "Artefacts by severity", alt, "artefact_matrix")


def _abnormal_groups(methods: Sequence[MethodResults]) -> list[str]:
    groups = dict.fromkeys(row["group"] for method in methods for row in method.rows)
    return [group for group in groups if group not in (NORMAL, REAL, "unlabelled") and not artefact_of(group)]


def _scores(method: MethodResults, group: str | None) -> np.ndarray:
    """Finite scores of a group; of all artefacts for ``None``."""
    rows = [row for row in method.rows if (artefact_of(row["group"]) if group is None else row["group"] == group)]
    scores = np.array([math.nan if row["score"] is None else row["score"] for row in rows], dtype=float)
    return scores[np.isfinite(scores)]


def _rates(normal: np.ndarray, abnormal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False- and true-positive rate at every threshold, from none flagged to all."""
    thresholds = np.unique(np.concatenate([normal, abnormal]))[::-1]
    false = [0.0, *((normal >= value).mean() for value in thresholds)]
    true = [0.0, *((abnormal >= value).mean() for value in thresholds)]
    return np.array(false), np.array(true)


def _looks(methods: Sequence[MethodResults]) -> list[tuple[str, str, str, str]]:
    looks = zip(methods, cycle(COLOURS), cycle(STYLES), cycle(MARKERS), strict=False)
    return [(method.name, colour, style, marker) for method, colour, style, marker in looks]


def _label(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=10)
    axes.grid(color="#dddddd", lw=0.5)
    axes.set_axisbelow(True)


def file_name(text: str) -> str:
    """A text as a part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in text)


def _save(figure: Figure, path: Path, title: str, alt: str, section: str = "figures") -> Picture:
    with matplotlib.rc_context({"svg.hashsalt": "itermask3d"}):  # the same bytes for the same figures
        figure.savefig(path, metadata={"Date": None, "Creator": None})
    return Picture(path, title, alt, section)
