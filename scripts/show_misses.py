"""Show where a judged method fails: the lesions it outlines worst, and the normal scans in which it flags most.

    python scripts/show_misses.py OUT/judge OUT/cache [--method loop] [--write docs/benchmarks/misses.md]

OUT is the output of scripts/judge.py. Draws a picture and writes a page with a table: what the reconstruction repeated
of each lesion, how well the map alone ranks its voxels, and what the method's own mask made of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from itermask3d.files.scans import ScanError
from itermask3d.files.writing import write_atomically
from itermask3d.inference.results import RESEARCH_USE
from matplotlib.figure import Figure

PANELS = ("scan, lesion and mask", "reconstruction", "anomaly map")
WINDOW = (-2.8, 2.8)
MAP_TOP = 6.0
"""Of the colours of the map, in multiples of the predicted variance."""


def main() -> None:
    arguments = parse()
    try:
        results = json.loads((arguments.judged / "results.json").read_text())
        maps = maps_of(arguments.cache, arguments.method)
    except (OSError, ValueError, ScanError) as error:
        sys.exit(f"error: {error}")
    rows = worst_lesions(results, arguments.method, arguments.least_ml, arguments.lesions)
    alarms = worst_alarms(results, arguments.method, arguments.normals)
    page = Path(arguments.write)
    picture = page.with_suffix(".png")
    page.parent.mkdir(parents=True, exist_ok=True)
    draw([*rows, *alarms], arguments.cache, maps, picture)
    write_atomically(text_of(results["about"], arguments, rows, alarms, picture.name), page)
    print(f"{len(rows)} lesions and {len(alarms)} normal scans in {page}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("judged", type=Path, help="folder with the judge's results.json")
    parser.add_argument("cache", type=Path, help="the judge's cache")
    parser.add_argument("--method", default="loop")
    parser.add_argument("--lesions", type=int, default=10, metavar="N", help="how many (default 10)")
    parser.add_argument("--normals", type=int, default=3, metavar="N", help="how many (default 3)")
    parser.add_argument("--least-ml", type=float, default=10.0, metavar="ML", help="smallest lesion (default 10)")
    parser.add_argument("--write", default="out/misses.md", help="page; its picture lies beside it")
    return parser.parse_args()


def maps_of(cache: Path, method: str) -> Path:
    """The newest folder of a method's maps.

    Raises:
        ScanError: if there is none.
    """
    found = sorted((cache / "maps").glob(f"{method}-*"), key=lambda folder: folder.stat().st_mtime)
    if not found:
        raise ScanError(f"'{cache}' holds no maps of '{method}'; expected the cache of scripts/judge.py")
    return found[-1]


def worst_lesions(results: Mapping[str, Any], method: str, least_ml: float, number: int) -> list[dict[str, Any]]:
    """Records and rankings of the lesions with the lowest Dice, worst first."""
    ranked = {row["case"]: row for row in results["rankings"] if row["method"] == method}
    records = [
        row
        for row in results["records"]
        if row["method"] == method and row["case"] in ranked and ranked[row["case"]]["label_ml"] >= least_ml
    ]
    return [{**ranked[row["case"]], **row} for row in sorted(records, key=lambda row: row["dice"])[:number]]


def worst_alarms(results: Mapping[str, Any], method: str, number: int) -> list[dict[str, Any]]:
    """Records of the normal scans with most flagged, as far as anything is."""
    normal = [row for row in results["records"] if row["method"] == method and row["kind"] == "normal"]
    return [row for row in sorted(normal, key=lambda row: -row["flagged_ml"])[:number] if row["flagged_ml"] > 0]


def draw(rows: Sequence[Mapping[str, Any]], cache: Path, maps: Path, path: Path) -> None:
    """A row per case, an axial slice through most of the lesion or of the mask."""
    figure = Figure(figsize=(6.6, 2.5 * len(rows)), layout="constrained")
    for part, row in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        part.suptitle(caption(row), fontsize=8)
        truth, mask, panels = slices(row["case"], cache, maps)
        for axes, name, shown in zip(part.subplots(1, 3), PANELS, panels, strict=True):
            axes.set_axis_off()
            axes.set_title(name, fontsize=7)
            look = {"cmap": "inferno", "vmin": 0, "vmax": MAP_TOP} if name == PANELS[2] else {"cmap": "gray"}
            axes.imshow(shown, origin="lower", **({"vmin": WINDOW[0], "vmax": WINDOW[1]} | look))
            for outline, colour in ((truth, "cyan"), (mask, "red")):
                if name == PANELS[0] and outline.any():
                    axes.contour(outline, levels=[0.5], colors=colour, linewidths=0.8)
    figure.savefig(path, dpi=80, metadata={"Software": None}, pil_kwargs={"optimize": True})


def slices(case: str, cache: Path, maps: Path) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Lesion, mask and the three panels in one axial plane, each ``(H, W)``, anterior up."""
    site, subject = case.split("__")[:2]
    prepared = np.load(cache / "prepared" / f"{site}__{subject}.npz")
    brain, source = prepared["brain"], prepared
    lesioned = cache / "lesioned" / f"{case}.npz"
    if lesioned.exists():
        source = np.load(lesioned)
    truth = source["truth"] if "truth" in source.files else np.zeros_like(brain)
    seen = np.load(maps / f"{case}.npz")
    filled = {}
    for name in ("mask", "reconstruction", "anomaly_map"):
        filled[name] = np.zeros(brain.shape, dtype=np.float32)
        filled[name][brain] = seen[name]
    where = next(part for part in (truth, filled["mask"] > 0, brain) if part.any())
    at = int(where.sum(axis=(0, 1)).argmax())
    cut = {name: volume[:, :, at].T for name, volume in {**filled, "image": source["image"], "truth": truth}.items()}
    return cut["truth"], cut["mask"] > 0, [cut["image"], cut["reconstruction"], cut["anomaly_map"]]


def caption(row: Mapping[str, Any]) -> str:
    """What a row is, in a line."""
    if row["kind"] == "normal":
        return f"{row['site']}, normal scan: {row['flagged_ml']:.1f} ml flagged"
    return f"{row['site']}, {row['kind']}, {row['label_ml']:.1f} ml: Dice {row['dice']:.2f}"


def text_of(
    about: Mapping[str, Any],
    arguments: argparse.Namespace,
    rows: Sequence[Mapping[str, Any]],
    alarms: Sequence[Mapping[str, Any]],
    picture: str,
) -> str:
    """The page as Markdown."""
    table = [
        "| Case | Lesion | Volume, ml | Dice | Flagged, ml | Average precision of the map | Reconstructed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {row['case']} | {row['kind']} | {row['label_ml']:.1f} | {row['dice']:.2f} | {row['flagged_ml']:.1f} "
            f"| {row['average_precision']:.2f} | {row['reconstructed_share']:.2f} |"
            for row in rows
        ),
    ]
    normal = "".join(f"- {row['case']}: {row['flagged_ml']:.1f} ml\n" for row in alarms) or "- none\n"
    head = (
        f"# Where the {arguments.method} fails\n\n{RESEARCH_USE}\n\n"
        f"The {len(rows)} worst of the judge's lesions of at least {arguments.least_ml:g} ml, by Dice at the method's "
        f"own threshold. Weights `{about['weights']}` ({about['weights_sha256']}), seed {about['seed']}. "
        "*Reconstructed* is the share of the lesion's change that the reconstruction repeats: near 1, no threshold can "
        "find it.\n\n"
    )
    alt = "Scan with the lesion outlined in cyan and the mask in red, reconstruction, anomaly map; a row per case"
    tail = f"\n\nNormal scans in which most is flagged:\n\n{normal}\n![{alt}]({picture})\n"
    return head + "\n".join(table) + tail


if __name__ == "__main__":
    main()
