"""Pictures of cases: the scan, the anomaly map, and what was asked for and what was found, hits and misses alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

from itermask3d.evaluation.cases import REAL, MethodResults, artefact_of
from itermask3d.evaluation.plots import COLOURS, Picture, file_name
from itermask3d.evaluation.tables import domain_verdict
from itermask3d.evaluation.text import shown
from itermask3d.preprocessing.load import load_volume

__all__ = ["case_pictures"]

PANELS = ("scan", "anomaly map", "label (solid), mask (dashed)")
N_WORST = 3
MARGIN = 3
"""Voxels shown around the brain."""

N_ARTEFACTS = 4
"""Largest number of artefacts in the picture of hits, and in that of misses."""


@dataclass(frozen=True)
class _Cut:
    """One axial slice, ``(rows, columns)`` with the front up and the patient's left on the right.

    Attributes:
        slices: ``image``, ``anomaly_map``, ``label``, ``mask``.
        window: intensities shown.
        top: of the map.
        aspect: height of a pixel over its width.
    """

    slices: Mapping[str, np.ndarray]
    window: tuple[float, float]
    top: float
    aspect: float


def case_pictures(
    methods: Sequence[MethodResults], *, items: Mapping[str, Mapping[str, Any]], output: Path, level: float
) -> list[Picture]:
    """Draw cases of the first method into ``output / "plots"``: best and median lesion, the worst ones, each real case,
    and artefacts that were flagged and that were not.

    Args:
        methods: the first one is shown; metrics of all stand in the captions of real cases.
        items: of the list, by case.
        output: folder of the evaluation.
        level: nominal rate of false alarms at which a scan is flagged.
    """
    method = methods[0]
    folder = output / "plots"
    folder.mkdir(parents=True, exist_ok=True)

    def draw(rows: Sequence[Mapping[str, Any]], name: str, title: str, section: str) -> Picture:
        cuts = [_cut(method, row["case"], items[row["case"]], output) for row in rows]
        captions = [_caption(method, row) for row in rows]
        return _sheet(cuts, captions, folder / f"{name}.png", title, section)

    rows = [
        row for row in method.rows if row.get("label_ml") and row["group"] != REAL and not artefact_of(row["group"])
    ]
    ranked = sorted(rows, key=lambda row: row["dice"])
    pictures = []
    if len(ranked) > N_WORST:
        of = f"of {len(ranked)} lesions by Dice, {method.name}"
        pictures.append(draw([ranked[-1]], "best", f"The best {of}", "segmentation"))
        pictures.append(draw([ranked[len(ranked) // 2]], "median", f"The median {of}", "segmentation"))
        pictures.append(draw(ranked[:N_WORST], "worst", f"The {N_WORST} worst {of}", "segmentation"))
    for name, title, chosen in _artefact_choice(method, level):
        pictures.append(draw(chosen, name, title, "artefacts"))
    for row in (row for row in method.rows if row["group"] == REAL):
        found = "; ".join(_short(one, row["case"]) for one in methods)
        title = f"{row['case']} ({row.get('contrast') or 'contrast not named'}). {found}"
        pictures.append(draw([row], f"case_{file_name(row['case'])}", title, "real"))
    return pictures


def _artefact_choice(method: MethodResults, level: float) -> list[tuple[str, str, list[Mapping[str, Any]]]]:
    """Scans with an artefact, the strongest severity of each: those whose score flags them, and those that pass."""
    strongest: dict[str, str] = {}
    for row in method.rows:
        artefact = artefact_of(row["group"])
        if artefact:
            strongest[artefact.name] = max(artefact.severity, strongest.get(artefact.name, ""))
    firsts: dict[tuple[bool, str], Mapping[str, Any]] = {}
    for row in method.rows:
        artefact = artefact_of(row["group"])
        if artefact and artefact.severity == strongest[artefact.name]:
            firsts.setdefault((method.is_flagged(row, level), artefact.name), row)
    hits, misses = ([row for (flag, _), row in firsts.items() if flag is kind][:N_ARTEFACTS] for kind in (True, False))
    of = f"by the score of {method.name}, one scan per artefact at its strongest severity"
    chosen = [("artefact_hits", f"Artefacts that are flagged {of}", hits)]
    chosen.append(("artefact_misses", f"Artefacts that are not flagged {of}", misses))
    return [one for one in chosen if one[2]]


def _caption(method: MethodResults, row: Mapping[str, Any]) -> str:
    """Two lines about a case."""
    artefact = artefact_of(row["group"])
    what = f"{artefact.name.replace('_', ' ')}, severity {artefact.severity}" if artefact else row["group"]
    facts = [f"score {shown(row['score'])}"]
    p_value = method.p_value(row)
    facts += [] if p_value is None else [f"p {p_value:.2g}"]
    facts += [] if row.get("dice") is None else [f"Dice {row['dice']:.2f}", f"label {row['label_ml']:.1f} ml"]
    verdict = domain_verdict(row)
    facts += [f"flagged {row['flagged_ml']:.1f} ml", *([] if verdict is None else [f"domain: {verdict}"])]
    return f"{row['case']} · {what}\n{', '.join(facts)}"


def _short(method: MethodResults, case: str) -> str:
    row = next((row for row in method.rows if row["case"] == case), None)
    if row is None:
        return f"{method.name}: no result"
    return f"{method.name}: Dice {shown(row.get('dice'))}, flagged {row['flagged_ml']:.1f} ml"


def _cut(method: MethodResults, case: str, item: Mapping[str, Any], output: Path) -> _Cut:
    """The axial slice with most of the label, without one most of the mask, without both most of the brain."""
    folder = output / "methods" / method.name / "results" / case
    names = ("mask", "anomaly_map", "brain_mask")
    loaded = {name: nib.Nifti1Image.from_filename(folder / f"{case}_{name}.nii.gz") for name in names}
    affine = loaded["mask"].affine
    for name in ("image", "label"):
        if item.get(name):
            loaded[name] = nib.Nifti1Image(load_volume(item[name]).numpy(force=True), affine)
    turned = {name: nib.as_closest_canonical(volume) for name, volume in loaded.items()}
    zooms = turned["mask"].header.get_zooms()
    volumes = {name: np.asarray(volume.dataobj) for name, volume in turned.items()}
    brain = volumes.pop("brain_mask") > 0.5
    volumes["mask"] = volumes["mask"] > 0.5
    volumes["label"] = volumes["label"] > 0.5 if "label" in volumes else np.zeros_like(brain)
    where = next((volumes[name] for name in ("label", "mask") if volumes[name].any()), brain)
    at = int(where.sum(axis=(0, 1)).argmax())
    low, high = np.percentile(volumes["image"][brain], (0.5, 99.5))
    box = tuple(
        slice(max(0, part.start - MARGIN), part.stop + MARGIN)
        for part in ndimage.find_objects(brain.astype(np.uint8))[0][:2]
    )
    return _Cut(
        slices={name: volume[:, :, at][box].T[:, ::-1] for name, volume in volumes.items()},
        window=(float(low), float(high)),
        top=max(float(np.percentile(volumes["anomaly_map"][brain], 99.8)), 1e-6),
        aspect=zooms[1] / zooms[0],
    )


def _sheet(cuts: Sequence[_Cut], captions: Sequence[str], path: Path, title: str, section: str) -> Picture:
    """A row a case: scan, map, outlines."""
    figure = Figure(figsize=(8, 3.3 * len(cuts)), layout="constrained")
    parts = figure.subfigures(len(cuts), 1, squeeze=False)[:, 0]
    for part, cut, caption in zip(parts, cuts, captions, strict=True):
        part.suptitle(caption, fontsize=8)
        panels = part.subplots(1, len(PANELS))
        for axes, heading in zip(panels, PANELS, strict=True):
            axes.set_title(heading, fontsize=8)
            axes.set_axis_off()
            _draw(axes, cut, heading)
    figure.savefig(path, dpi=100, metadata={"Software": None}, pil_kwargs={"optimize": True})
    told = " ".join(caption.replace("\n", ": ") + "." for caption in captions)
    alt = f"{title}. A row a case with an axial slice of the {', of the '.join(PANELS[:2])}, and the outlines. {told}"
    return Picture(path, title, alt, section)


def _draw(axes: Axes, cut: _Cut, heading: str) -> None:
    if heading == "anomaly map":
        shown_slice, look = cut.slices["anomaly_map"], {"cmap": "inferno", "vmin": 0.0, "vmax": cut.top}
    else:
        shown_slice, look = cut.slices["image"], {"cmap": "gray", "vmin": cut.window[0], "vmax": cut.window[1]}
    axes.imshow(shown_slice, origin="lower", aspect=cut.aspect, **look)  # type: ignore[arg-type]
    if heading == PANELS[-1]:
        for name, colour, style in (("label", COLOURS[4], "solid"), ("mask", COLOURS[5], "dashed")):
            if cut.slices[name].any():
                axes.contour(cut.slices[name], levels=[0.5], colors=[colour], linestyles=[style], linewidths=1.2)
