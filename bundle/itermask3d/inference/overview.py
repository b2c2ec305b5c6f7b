"""One overview that a person understands at a glance: the scan, what the network expected, the difference, the mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from scipy import ndimage

from itermask3d.inference.results import ScanResult, bounding_box
from itermask3d.method.detection import Findings, Outcome
from itermask3d.preprocessing.anatomy import describe, place_names

__all__ = ["draw_overview", "evidence_told", "headline", "of_the_loop", "save_overview", "verdict"]

PLANES = (("sagittal", 0), ("coronal", 1), ("axial", 2))
COLUMNS = ("scan", "expected by the network", "difference (anomaly map)", "flagged region")
INK, DIM, PAPER, ACCENT = "#e8e8e8", "#a8adb8", "#111318", "#ff6b57"
SMALL = 8
"""Size of the small print."""

SAMPLED_VOXELS = 2000
"""Of a region, at most, to name its place."""


def verdict(findings: Findings, anomaly_ml: float, *, in_distribution: bool | None = None) -> str:
    """One sentence about a scan, in plain words, such as "12.3 ml flagged (0.9 % of the brain)".

    Args:
        findings: what the loop found.
        anomaly_ml: volume of the mask.
        in_distribution: ``False`` for a scan unlike the training's, which is said first; ``None`` if not checked.
    """
    if in_distribution is False:
        said = verdict(findings, anomaly_ml)
        return f"Out-of-distribution, not comparable with normal scans: {said[0].lower()}{said[1:]}"
    if findings.outcome is Outcome.FIT_FAILED:
        return "No statement: the error curve could not be used"
    if findings.outcome is Outcome.NO_ANOMALY:
        return "Nothing flagged"
    text = f"{anomaly_ml:.1f} ml flagged ({100 * findings.flagged_share:.1f} % of the brain)"
    if findings.percentile_among_normals is None:
        return text
    return f"{text}; score above {findings.percentile_among_normals:.0f} % of the calibration's normal scans"


def headline(result: ScanResult) -> str:
    """What a reader would say of a scan: whether something is unusual, how large it is, and roughly where.

    Such as "One unusual region: 24.6 ml, right frontal lobe". It names no disease, and nothing unusual is no health.
    """
    findings = result.findings
    if findings.outcome is Outcome.FIT_FAILED:
        return "No statement about this scan is possible"
    if findings.outcome is Outcome.NO_ANOMALY or not result.mask.any():
        said = "No unusual region marked"
    else:
        found = result.components
        largest = f"{found[0].volume_ml:.1f} ml{_place(result)}"
        said = f"One unusual region: {largest}"
        if len(found) > 1:
            said = f"{len(found)} unusual regions, {_anomaly_ml(result):.1f} ml; the largest: {largest}"
    if result.in_distribution is False:
        return f"Doubtful, as the scan is unlike the training's. {said}"
    return said


def of_the_loop(result: ScanResult) -> Findings:
    """The findings as the curve of the error shows them: a threshold of the fused map is none of the curve."""
    return result.findings if result.evidence is None else replace(result.findings, threshold=None)


def evidence_told(evidence: Mapping[str, Any]) -> str:
    """What the tissues said of a scan, such as "contrast: FLAIR; what is brighter than its tissue counts"."""
    name = {"other": "neither T1, T2 nor FLAIR"}.get(evidence["contrast"], str(evidence["contrast"]).upper())
    counted = {"bright": "what is brighter than its tissue counts", "dark": "what is darker than its tissue counts"}
    return f"contrast: {name}; {counted.get(evidence['side'], 'both brighter and darker than the tissue count')}"


def save_overview(result: ScanResult, path: Path | IO[bytes]) -> None:
    """Write :func:`draw_overview` as a PNG of 1650 x 1430 pixels without time stamps."""
    draw_overview(result).savefig(path, dpi=110, facecolor=PAPER, metadata={"Software": None})


def draw_overview(result: ScanResult) -> Figure:
    """Draw three planes through the strongest region (or the brain's centre); the error curve is small print.

    Left is the patient's left on the page's right, as in radiology.
    """
    figure = Figure(figsize=(15, 13), facecolor=PAPER)
    grid = GridSpec(
        4, 4, figure=figure, height_ratios=(1, 1, 1, 0.42), left=0.04, right=0.98, top=0.875, bottom=0.06,
        hspace=0.06, wspace=0.04,
    )  # fmt: skip
    volumes, spacing = _canonical(result)
    brain = volumes["brain"] > 0
    window = np.percentile(volumes["image"][brain], (0.5, 99.5))
    top = max(float(np.percentile(volumes["anomaly_map"][brain], 99.8)), 1e-6)
    focus = _focus(volumes)
    for row, (plane, axis) in enumerate(PLANES):
        for column, title in enumerate(COLUMNS):
            axes = figure.add_subplot(grid[row, column])
            cut = {name: _slice(array, axis, focus[axis]) for name, array in volumes.items()}
            across, up = (other for other in range(3) if other != axis)
            _draw_panel(axes, cut, column, aspect=spacing[up] / spacing[across], window=window, top=top)
            if row == 0:
                axes.set_title(title, color=INK, fontsize=13)
            if column == 0:
                axes.set_ylabel(plane, color=INK, fontsize=12)
            if axis != 0 and column == 0:
                doubt = "" if result.known_sides else "?"
                axes.text(0.02, 0.5, f"R{doubt}", color=INK, transform=axes.transAxes, va="center")
                axes.text(0.98, 0.5, f"L{doubt}", color=INK, transform=axes.transAxes, va="center", ha="right")
    _draw_curve(figure.add_subplot(grid[3, :2]), of_the_loop(result))
    _draw_facts(figure.add_subplot(grid[3, 2:]), result)
    _draw_title(figure, result)
    return figure


def _draw_title(figure: Figure, result: ScanResult) -> None:
    said = headline(result)
    figure.text(0.04, 0.975, said, color=INK, fontsize=min(24, 1450 / len(said)), va="top", weight="bold")
    told = verdict(result.findings, _anomaly_ml(result))
    figure.text(0.04, 0.932, f"{result.case}: {told}", color=DIM, fontsize=min(12, 2000 / len(told)), va="top")
    figure.text(0.5, 0.012, "For research use only, not for diagnosis", color=INK, ha="center", fontsize=10)


def _place(result: ScanResult) -> str:
    """Where the largest region lies, after a comma; nothing where the brain is of no usual extent."""
    alignment = result.alignment
    if alignment is None or not alignment.usual:
        return ""
    box = bounding_box(result.mask)
    labels, _ = ndimage.label(result.mask[box], np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    voxels = np.argwhere(labels == sizes.argmax()) + [cut.start for cut in box]
    voxels = voxels[:: 1 + len(voxels) // SAMPLED_VOXELS]
    names = place_names(alignment.to_template(nib.affines.apply_affine(result.affine, voxels)))
    names = [name.split(", ")[0] for name in names]
    return f", {describe(names, mentioned_share=1, known_sides=result.known_sides)}"


def _groups(result: ScanResult) -> str:
    """What is unusual, in few words: the picture has no room for the sentences, which are in ``result.json``."""
    return ", ".join(result.domain.groups) if result.domain is not None else ""


def _anomaly_ml(result: ScanResult) -> float:
    return float(result.mask.sum()) * result.voxel_ml


def _canonical(result: ScanResult) -> tuple[dict[str, np.ndarray], np.ndarray]:
    arrays = {
        "image": result.image,
        "reconstruction": result.reconstruction,
        "anomaly_map": result.anomaly_map,
        "mask": result.mask.astype(np.uint8),
        "brain": result.brain_mask.astype(np.uint8),
    }
    images = {name: nib.as_closest_canonical(nib.Nifti1Image(array, result.affine)) for name, array in arrays.items()}
    spacing = np.asarray(images["image"].header.get_zooms()[:3], dtype=float)
    return {name: np.asarray(image.dataobj) for name, image in images.items()}, spacing


def _focus(volumes: dict[str, np.ndarray]) -> tuple[int, int, int]:
    weight = np.where(volumes["mask"] > 0, volumes["anomaly_map"], 0)
    region = weight if weight.any() else volumes["brain"]
    best = []
    for axis in range(3):
        profile = region.sum(axis=tuple(other for other in range(3) if other != axis))
        best.append(int(profile.argmax() if weight.any() else np.average(np.arange(profile.size), weights=profile)))
    return best[0], best[1], best[2]


def _draw_panel(
    axes: Axes, cut: dict[str, np.ndarray], column: int, *, aspect: float, window: np.ndarray, top: float
) -> None:
    background = cut["reconstruction"] if column == 1 else cut["image"]
    axes.imshow(background, cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect, origin="lower")
    if column == 2:
        shown = np.ma.masked_less(cut["anomaly_map"], 0.1 * top)
        axes.imshow(shown, cmap="inferno", vmin=0, vmax=top, aspect=aspect, origin="lower", alpha=0.85)
    if column == 3 and cut["mask"].any():
        shown = np.ma.masked_equal(cut["mask"], 0)
        axes.imshow(shown, cmap="autumn", vmin=0, vmax=1.5, aspect=aspect, origin="lower", alpha=0.35)
        axes.contour(cut["mask"], levels=[0.5], colors=[ACCENT], linewidths=1.2)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("black")
    for spine in axes.spines.values():
        spine.set_visible(False)


def _slice(array: np.ndarray, axis: int, index: int) -> np.ndarray:
    plane = np.moveaxis(array, axis, 0)[index].T  # a view: np.take would copy the whole of a turned volume
    return plane if axis == 0 else plane[:, ::-1]


def _draw_curve(axes: Axes, findings: Findings) -> None:
    percent = np.arange(1, len(findings.curve) + 1) * (100 / len(findings.curve))
    axes.set_facecolor(PAPER)
    axes.plot(percent, findings.curve, color="#7fb2ff", lw=1.2, label="error quantile τ(t) of this scan")
    fit = findings.estimate.fit
    if np.isfinite(fit.a) and np.isfinite(fit.b):
        used = findings.estimate.slope_source.value == "fit"
        label = f"fit a·tan(b·t), R² {fit.r_squared:.2f}" + ("" if used else " (not used: poor)")
        values = fit.value(percent)
        axes.plot(percent, np.where((values >= 0), values, np.nan), "--", color="#9a9a9a", lw=1.5, label=label)
    if findings.threshold is not None:
        axes.axhline(findings.threshold, color=ACCENT, lw=1.2, label=f"threshold {findings.threshold:.3g}")
    if findings.estimate.step is not None:
        axes.axvline(percent[findings.estimate.step - 1], color=ACCENT, lw=0.8, ls=":")
    finite = [value for value in findings.curve[:97] if np.isfinite(value)]
    axes.set_ylim(0, 1.1 * max([*finite, findings.threshold or 0, 1e-3]))
    axes.set_xlabel("share of the brain unmasked in the sweep (%)", color=DIM, fontsize=SMALL)
    axes.set_ylabel("error", color=DIM, fontsize=SMALL)
    axes.tick_params(colors=DIM, labelsize=SMALL)
    axes.legend(facecolor=PAPER, labelcolor=DIM, edgecolor="#444444", loc="upper left", fontsize=SMALL)


def _draw_facts(axes: Axes, result: ScanResult) -> None:
    findings = result.findings
    percentile = findings.percentile_among_normals
    told = [] if result.domain is None else [deviation.sentence for deviation in result.domain.deviations]
    lines = [
        f"outcome: {findings.outcome.value}",
        f"score: {findings.score:.4f}",
        "not calibrated" if percentile is None else f"percentile among normals: {percentile:.0f}",
        *([] if result.p_value is None else [f"p-value among normals: {result.p_value:.2g}"]),
        f"flagged: {_anomaly_ml(result):.2f} ml",
        f"brain: {float(result.brain_mask.sum()) * result.voxel_ml:.0f} ml",
        f"brain mask: {result.preprocessing.get('brain_extraction', '')}",
        f"slope from: {findings.estimate.slope_source.value}",
        *([] if result.evidence is None else [evidence_told(result.evidence)]),
        *([] if result.domain is None or result.in_distribution else [f"! out-of-distribution: {_groups(result)}"]),
        *(f"! {warning}" for warning in result.warnings if warning not in told),
    ]
    axes.axis("off")
    axes.text(
        0.05, 0.98, "\n".join(lines), color=DIM, va="top", fontsize=SMALL + 1, transform=axes.transAxes, wrap=True
    )
