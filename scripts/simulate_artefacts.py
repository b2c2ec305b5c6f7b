"""Put simulated acquisition artefacts into scans, over a scale of severity.

    python scripts/simulate_artefacts.py SCANS OUT [--brain-masks FOLDER] [--artefacts noise motion] [--severities 1 3
    5] python scripts/simulate_artefacts.py SCANS OUT --severities 2 4 --subjects 5
    python scripts/simulate_artefacts.py SCANS OUT --sheet docs/artefacts.png

Of a list that names groups the normal scans alone are taken. Writes OUT/<artefact>_<severity>/ with images,
brain_masks, labels (none for an artefact of the whole image), scans.json, which inference and evaluation take as it is,
and records.json, from which every artefact can be made again; OUT/simulation.json says by which command.
`itermask3d evaluate --artefacts
OUT` takes all of it: every artefact at two severities in five subjects makes 170 scans. With --sheet a picture of the
first scan with all artefacts is drawn instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from itermask3d import BUNDLE_ROOT
from itermask3d.evaluation.docs import public_command
from itermask3d.files.scans import ScanError, list_scans, split_scans
from itermask3d.files.writing import save_nifti, write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.simulation.artefacts.image import axis_towards
from itermask3d.simulation.artefacts.registry import ARTEFACTS, SEVERITIES, ArtefactScan, Reach, apply, draw
from itermask3d.simulation.subjects import load_subject, stream_of
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm


def main() -> None:
    arguments = parse()
    try:
        items = list_scans(arguments.scans, brain_mask_dir=arguments.brain_masks)
        if arguments.subset:
            items = split_scans(items, arguments.split_file, arguments.subset)
        items = [item for item in items if item.get("group", "normal") == "normal"][: arguments.subjects]
        if not items:
            raise ScanError(f"'{arguments.scans}' holds no scan of the group 'normal'; expected normal scans")
        if arguments.sheet:
            draw_sheet(
                *load_subject(items[0]), names=arguments.artefacts, seed=arguments.seed, path=Path(arguments.sheet)
            )
            print(f"the sheet is {arguments.sheet}")
            return
        simulate(items, arguments)
    except ScanError as error:
        sys.exit(f"error: {error}")
    print(f"{len(items)} scans, {len(arguments.artefacts)} artefacts in {arguments.output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scans", help="normal scans that nibabel reads: a file, a folder or a list")
    parser.add_argument("output")
    parser.add_argument("--artefacts", nargs="+", choices=list(ARTEFACTS), default=list(ARTEFACTS), metavar="ARTEFACT")
    parser.add_argument("--severities", nargs="+", type=int, choices=range(len(SEVERITIES)), default=[1, 2, 3, 4, 5])
    parser.add_argument("--subjects", type=int, metavar="N", help="only the first N normal scans")
    parser.add_argument("--subset", help="use only this subset of the split file")
    parser.add_argument("--split-file", default=f"{BUNDLE_ROOT}/configs/split_ixi_t1_2mm.json")
    parser.add_argument("--brain-masks", help="folder of brain masks; without it deepbet is run on scans with the head")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--sheet", help="draw the first scan with all artefacts into this picture, and write nothing else"
    )
    return parser.parse_args()


def simulate(items: Sequence[dict], arguments: argparse.Namespace) -> None:
    """Write a folder per artefact and severity; a scan meets the same artefact, only stronger, at every severity."""
    entries: dict[Path, list[dict]] = {}
    records: dict[Path, dict[str, dict]] = {}
    for item in tqdm(items, unit="scan"):
        image, brain, affine = load_subject(item)
        for name in arguments.artefacts:
            for severity in arguments.severities:
                rng = stream_of(arguments.seed, item["case"], name)
                record = draw(name, severity, brain, affine, rng=rng)
                folder = Path(arguments.output) / f"{name}_{severity}"
                saved = save(apply(record, image, brain, affine), affine, folder, item["case"])
                entries.setdefault(folder, []).append({**saved, "subject": str(item.get("subject", item["case"]))})
                records.setdefault(folder, {})[item["case"]] = record.to_json()
    for folder in entries:
        write_atomically(json.dumps(entries[folder], indent=1) + "\n", folder / "scans.json")
        write_atomically(json.dumps(records[folder], indent=1) + "\n", folder / "records.json")
    facts = {"command": public_command(["python", "scripts/simulate_artefacts.py", *sys.argv[1:]])}
    facts |= {"scans": sum(map(len, entries.values())), "subset": arguments.subset, "seed": arguments.seed}
    write_atomically(json.dumps(facts, indent=1) + "\n", Path(arguments.output) / "simulation.json")


def save(altered: ArtefactScan, affine: np.ndarray, folder: Path, case: str) -> dict[str, str]:
    """Write the volumes of one scan; return its list entry."""
    volumes = {"image": altered.image, "brain_mask": altered.brain_mask, "label": altered.label}
    written = {key: voxels for key, voxels in volumes.items() if voxels is not None}
    for key, voxels in written.items():
        (folder / f"{key}s").mkdir(parents=True, exist_ok=True)
        dtype = np.float32 if key == "image" else np.uint8
        save_nifti(voxels.astype(dtype), affine, folder / f"{key}s" / f"{case}.nii.gz")
    return {"case": case} | {key: f"{key}s/{case}.nii.gz" for key in written}


def draw_sheet(
    image: np.ndarray, brain: np.ndarray, affine: np.ndarray, *, names: Sequence[str], seed: int, path: Path
) -> None:
    """Draw a row per artefact and a column per severity; labels are outlined, what a faulty mask leaves out is dark."""
    rows = (len(names) + 1) // 2
    columns = len(SEVERITIES)
    figure = Figure(figsize=(2 * columns * 1.05 + 0.6, rows * 1.3 + 0.5), facecolor="black")
    axes = figure.subplots(rows, 2 * columns + 1, squeeze=False, width_ratios=[1] * columns + [0.25] + [1] * columns)
    figure.subplots_adjust(left=0.03, right=0.995, bottom=0.005, top=0.955, wspace=0.03, hspace=0.03)
    for panel in axes.flat:
        panel.set_axis_off()
    window = (0.0, 1.25 * float(np.percentile(image[brain], 99)))
    for index, name in enumerate(names):
        row, first = index % rows, index // rows * (columns + 1)
        plane = choose_plane(name, brain, image, affine, seed)
        for severity in range(columns):
            record = draw(name, severity, brain, affine, rng=stream_of(seed, name))
            altered = apply(record, image, brain, affine)
            if ARTEFACTS[name].reach is Reach.MASK:
                altered = replace(altered, image=np.where(altered.brain_mask, image, 0.3 * image))
            draw_panel(axes[row, first + severity], altered, affine, plane=plane, window=window)
            if row == 0:
                axes[row, first + severity].set_title(f"{severity} {SEVERITIES[severity]}", color="white", fontsize=7)
        axes[row, first].text(
            -0.06, 0.5, name.replace("_", " "), color="white", fontsize=8, rotation=90, va="center", ha="right",
            transform=axes[row, first].transAxes,
        )  # fmt: skip
    figure.savefig(path, dpi=90, facecolor="black", metadata={"Software": None}, pil_kwargs={"optimize": True})


def choose_plane(name: str, brain: np.ndarray, image: np.ndarray, affine: np.ndarray, seed: int) -> tuple[int, int]:
    """Voxel axis and index of the plane that shows an artefact best at its most severe."""
    record = draw(name, len(SEVERITIES) - 1, brain, affine, rng=stream_of(seed, name))
    label = apply(record, image, brain, affine).label
    sideways = name == "bias_field" or record.parameters.get("axis") == axis_towards(affine, "S")[0]
    across = axis_towards(affine, "R" if sideways else "S")[0]
    if sideways or label is None or not label.any():
        return across, int(np.percentile(np.argwhere(brain)[:, across], 60))
    return across, int(label.sum(axis=tuple({0, 1, 2} - {across})).argmax())


def draw_panel(
    axes: Axes, altered: ArtefactScan, affine: np.ndarray, *, plane: tuple[int, int], window: tuple[float, float]
) -> None:
    """Draw one plane; the label is outlined."""
    axes.imshow(
        upright(altered.image, affine, plane), cmap="gray", vmin=window[0], vmax=window[1], interpolation="bilinear"
    )
    if altered.label is not None and (label := upright(altered.label, affine, plane)).any():
        axes.contour(label, levels=[0.5], colors="#ff6b57", linewidths=0.6)


def upright(array: np.ndarray, affine: np.ndarray, plane: tuple[int, int]) -> np.ndarray:
    """One plane with up (or front) at the top and the patient's left on the right."""
    across, index = plane
    order = nib.io_orientation(affine)
    turned = nib.orientations.apply_orientation(array.astype(np.float32), order)
    axis, direction = int(order[across, 0]), order[across, 1]
    cut = np.take(turned, index if direction > 0 else array.shape[across] - 1 - index, axis=axis).T[::-1]
    return cut if axis == 0 else cut[:, ::-1]


if __name__ == "__main__":
    main()
