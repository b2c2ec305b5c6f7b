"""Mix a cohort from normal scans: half as they are, a quarter with a lesion put in, a quarter with an artefact.

    python scripts/simulate_cohort.py SCANS OUT [--scans 40] [--subsets test validation] [--brain-masks FOLDER]

Writes OUT/images, OUT/brain_masks, OUT/labels and OUT/scans.json, which screening takes as it is; OUT/truth.tsv with
its dictionary truth.json, which says what was done to which scan; and OUT/records.json, from which every artefact can
be made again. Names tell nothing. Artefacts are of severity 2 or 3, and none is of the brain mask, so that OUT/images
can also be screened without the masks. The same scans, number and seed give the same cohort. All lesions and artefacts
are simulated: call them so.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from itermask3d import BUNDLE_ROOT
from itermask3d.files.scans import ScanError, list_scans, split_scans, voxel_volume_ml
from itermask3d.files.writing import save_nifti, write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.simulation.artefacts.registry import ARTEFACTS, Reach, apply, draw
from itermask3d.simulation.lesions import draw_look, draw_region, insert_lesion
from itermask3d.simulation.subjects import load_subject, stream_of
from tqdm import tqdm

ARTEFACT_SEVERITIES = (2, 3)
LESION_KINDS = ("hypo", "hyper")
MIXED_ARTEFACTS = [name for name, artefact in ARTEFACTS.items() if artefact.reach is not Reach.MASK]

COLUMNS: dict[str, dict[str, Any]] = {
    "case": {"Description": "Name of the scan in this cohort."},
    "kind": {
        "Description": "What was done to it.",
        "Levels": {
            "normal": "nothing",
            "lesion": "a lesion was put in",
            "artefact": "an acquisition artefact was put in",
        },
    },
    "source": {"Description": "Case of the normal scan that it was made from."},
    "subset": {"Description": "Of the split file that the normal scan belongs to."},
    "artefact": {"Description": "Kind of artefact; see itermask3d.simulation.artefacts.registry.ARTEFACTS."},
    "severity": {"Description": "Of the artefact, 1 to 5; 2 is mild and 3 clearly visible."},
    "shape": {"Description": "Where the lesion's shape comes from: a file's name, or generated."},
    "contrast": {"Description": "Of the lesion, in units of the brain's robust SD; negative is darker."},
    "label_ml": {"Description": "Volume of the label: lesion, or place of an artefact that has one.", "Units": "ml"},
}
"""Every column of ``truth.tsv``, in its order."""


@dataclass(frozen=True)
class Mixed:
    """A scan of the cohort: volumes of one grid, its row of the table, and what makes it again.

    Attributes:
        label: boolean; ``None`` where a whole image is changed, empty where nothing is.
    """

    image: np.ndarray
    brain_mask: np.ndarray
    label: np.ndarray | None
    row: dict[str, Any]
    record: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    arguments = parse()
    try:
        items = choose(arguments)
    except ScanError as error:
        sys.exit(f"error: {error}")
    output = Path(arguments.output)
    if (output / "truth.tsv").exists():
        sys.exit(f"error: '{output}' holds a cohort already; expected a new folder")
    shapes = sorted(Path(arguments.shapes).glob("*.nii.gz")) if arguments.shapes else []
    kinds = draw_kinds(len(items), stream_of(arguments.seed, "kinds"))
    entries, rows, records = [], [], {}
    for number, (item, kind) in enumerate(zip(tqdm(items, unit="scan"), kinds, strict=True), start=1):
        case = f"scan-{number:03d}"
        image, brain, affine = load_subject(item)
        mixed = mix(image, brain, affine, kind=kind, shapes=shapes, rng=stream_of(arguments.seed, case))
        entries.append(save(mixed, affine, output, case))
        rows.append({"case": case, "source": item["case"], "subset": item.get("subset"), **mixed.row})
        records[case] = mixed.record
    write_atomically(json.dumps(entries, indent=1) + "\n", output / "scans.json")
    write_atomically(json.dumps(records, indent=1) + "\n", output / "records.json")
    write_truth(rows, output, arguments.seed)
    print(f"{len(items)} scans in {output / 'scans.json'}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SCANS", help="normal scans that nibabel reads: a folder or a list")
    parser.add_argument("output", metavar="OUT")
    parser.add_argument("--scans", type=int, default=40, help="how many (default: 40), one a subject")
    parser.add_argument("--subsets", nargs="+", help="of the split file, used up in this order; default: all scans")
    parser.add_argument("--split-file", default=f"{BUNDLE_ROOT}/configs/split_ixi_t1_2mm.json")
    parser.add_argument("--brain-masks", help="folder of brain masks; without it deepbet is run on scans with the head")
    parser.add_argument("--shapes", help="folder of lesion masks in MNI-like space (*.nii.gz)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def choose(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The normal scans of the cohort, in an order that tells nothing of their subset.

    Raises:
        ScanError: if there are fewer than wanted, or a subset is unknown.
    """
    if arguments.scans < 1:
        raise ScanError(f"a cohort needs at least one scan, got --scans {arguments.scans}")
    items = list_scans(arguments.source, brain_mask_dir=arguments.brain_masks)
    if arguments.subsets:
        items = [
            item | {"subset": subset}
            for subset in arguments.subsets
            for item in split_scans(items, arguments.split_file, subset)
        ]
    if len(items) < arguments.scans:
        raise ScanError(f"there are {len(items)} normal scans; expected at least the {arguments.scans} of --scans")
    order = stream_of(arguments.seed, "order").permutation(arguments.scans)
    return [items[index] for index in order]


def draw_kinds(n_scans: int, rng: np.random.Generator) -> list[str]:
    """A quarter lesions, a quarter artefacts, the rest normal, shuffled."""
    quarter = round(n_scans / 4)
    kinds = ["lesion"] * quarter + ["artefact"] * quarter + ["normal"] * (n_scans - 2 * quarter)
    return [kinds[index] for index in rng.permutation(n_scans)]


def mix(
    image: np.ndarray,
    brain: np.ndarray,
    affine: np.ndarray,
    *,
    kind: str,
    shapes: Sequence[Path],
    rng: np.random.Generator,
) -> Mixed:
    """Make one scan of the cohort of a normal one ``(D, H, W)``."""
    if kind == "artefact":
        name = str(rng.choice(MIXED_ARTEFACTS))
        artefact = draw(name, int(rng.choice(ARTEFACT_SEVERITIES)), brain, affine, rng=rng)
        altered = apply(artefact, image, brain, affine)
        row = {"kind": kind, "artefact": name, "severity": artefact.severity, "label_ml": volume(altered.label, affine)}
        return Mixed(altered.image, brain, altered.label, row, artefact.to_json())
    if kind == "lesion":
        region, origin = draw_region(list(shapes), brain, affine, rng)
        look = draw_look(rng, LESION_KINDS)
        changed = insert_lesion(image, region, brain, affine, look=look, rng=rng)
        row = {"kind": kind, "shape": origin, "contrast": look.contrast, "label_ml": volume(region, affine)}
        return Mixed(changed, brain, region, row, {"shape": origin, **asdict(look)})
    return Mixed(image, brain, np.zeros_like(brain), {"kind": kind})


def volume(label: np.ndarray | None, affine: np.ndarray) -> float | None:
    return None if label is None else float(label.sum()) * voxel_volume_ml(affine)


def save(mixed: Mixed, affine: np.ndarray, output: Path, case: str) -> dict[str, str]:
    """Write the volumes of one scan; its entry of the list, which leaves the truth out."""
    volumes = {"images": mixed.image, "brain_masks": mixed.brain_mask, "labels": mixed.label}
    for folder, voxels in volumes.items():
        if voxels is not None:
            (output / folder).mkdir(parents=True, exist_ok=True)
            dtype = np.float32 if folder == "images" else np.uint8
            save_nifti(voxels.astype(dtype), affine, output / folder / f"{case}.nii.gz")
    return {"case": case, "image": f"images/{case}.nii.gz", "brain_mask": f"brain_masks/{case}.nii.gz"}


def write_truth(rows: Sequence[dict[str, Any]], output: Path, seed: int) -> None:
    """Write ``truth.tsv`` and its dictionary; the table comes last and so marks a whole cohort."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(COLUMNS), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(row.get(name)) for name in COLUMNS} for row in rows)
    about = {"Note": "All lesions and artefacts are simulated.", "Seed": seed, **COLUMNS}
    write_atomically(json.dumps(about, indent=1) + "\n", output / "truth.json")
    write_atomically(text.getvalue(), output / "truth.tsv")


def cell(value: Any) -> str:
    if value is None:
        return "n/a"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
