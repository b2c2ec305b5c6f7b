"""Make a semi-synthetic test set: normal scans as they are, and the same with a lesion put in.

    python scripts/simulate_lesions.py SCANS OUT [--subset test] [--shapes FOLDER] [--brain-masks FOLDER]
    python scripts/simulate_lesions.py SCANS OUT --kinds hypo iso hyper --mass-effect 4 --subjects 10

Writes OUT/images, OUT/labels, OUT/brain_masks, OUT/lesions.json (what was drawn), OUT/simulation.json (by which
command) and OUT/scans.json, which evaluation takes as it is: every item has a subject and a group, which is "normal",
or for a lesion "strong lesion" (its contrast is at least 1.5 robust standard deviations of the brain), "weak lesion"
(0.8 to 1.5) or "iso-intense lesion" (at most 0.2, told by its texture). Lesion shapes are generated, or drawn from a
folder of masks in MNI-like space; borders are soft. All of it is semi-synthetic.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from itermask3d import BUNDLE_ROOT
from itermask3d.evaluation.docs import public_command
from itermask3d.files.scans import ScanError, list_scans, split_scans, voxel_volume_ml
from itermask3d.files.writing import save_nifti, write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.preprocessing.brain_extraction import extract_brain
from itermask3d.simulation.lesions import (
    KINDS,
    MASS_DECAY_MM,
    draw_look,
    draw_region,
    insert_lesion,
    push_aside,
)
from tqdm import tqdm


def main() -> None:
    arguments = parse()
    output = Path(arguments.output)
    try:
        items = list_scans(arguments.scans, brain_mask_dir=arguments.brain_masks)
        if arguments.subset:
            items = split_scans(items, arguments.split_file, arguments.subset)
        if arguments.shapes and not list(Path(arguments.shapes).glob("*.nii.gz")):
            raise ScanError(f"'{arguments.shapes}' holds no lesion shape; expected *.nii.gz")
    except ScanError as error:
        sys.exit(f"error: {error}")
    items = items[: arguments.subjects]
    shapes = sorted(Path(arguments.shapes).glob("*.nii.gz")) if arguments.shapes else []
    for folder in ("images", "labels", "brain_masks"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    entries, log = [], {}
    for number, item in enumerate(tqdm(items, unit="scan")):
        rng = np.random.default_rng([arguments.seed, number])
        pair, log[item["case"]] = simulate(item, shapes, output, rng, arguments)
        entries += pair
    write_atomically(json.dumps(entries, indent=1) + "\n", output / "scans.json")
    write_atomically(json.dumps(log, indent=1) + "\n", output / "lesions.json")
    facts = {"command": public_command(["python", "scripts/simulate_lesions.py", *sys.argv[1:]]), "scans": len(entries)}
    facts |= {"subset": arguments.subset, "seed": arguments.seed}
    write_atomically(json.dumps(facts, indent=1) + "\n", output / "simulation.json")
    print(f"{len(entries)} scans in {output / 'scans.json'}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scans", help="normal scans: a folder or a list")
    parser.add_argument("output")
    parser.add_argument("--subset", help="use only this subset of the split file")
    parser.add_argument("--split-file", default=f"{BUNDLE_ROOT}/configs/split_ixi_t1_2mm.json")
    parser.add_argument("--shapes", help="folder of lesion masks in MNI-like space (*.nii.gz)")
    parser.add_argument("--brain-masks", help="folder of brain masks; without it deepbet is run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=list(KINDS),
        default=["hypo", "hyper"],
        metavar="KIND",
        help="contrasts that are drawn: hypo (darker), iso (texture alone), hyper (brighter); default: hypo hyper",
    )
    parser.add_argument(
        "--mass-effect", type=mass_effect, default=0.0, metavar="MM", help="push tissue aside; default 0"
    )
    parser.add_argument("--subjects", type=positive, metavar="N", help="only the first N scans")
    return parser.parse_args()


def positive(text: str) -> int:
    """A number of subjects."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} subjects; expected at least 1")
    return int(text)


def mass_effect(text: str) -> float:
    """Millimetres that do not fold the tissue."""
    if not 0 <= float(text) < MASS_DECAY_MM:
        raise argparse.ArgumentTypeError(f"{text} mm; expected from 0 to below {MASS_DECAY_MM:g}")
    return float(text)


def simulate(
    item: dict, shapes: list[Path], output: Path, rng: np.random.Generator, arguments: argparse.Namespace
) -> tuple[list[dict], dict]:
    """Write the normal scan and its lesioned twin; return their list entries and what was drawn."""
    scan = nib.load(item["image"])
    image, affine = scan.get_fdata(dtype=np.float32), scan.affine
    if "brain_mask" in item:
        brain = nib.load(item["brain_mask"]).get_fdata() > 0
    else:
        brain = extract_brain(image, affine, "deepbet")
    region, origin = draw_region(shapes, brain, affine, rng)
    look = draw_look(rng, arguments.kinds)
    pushed = push_aside(image, region, brain, affine, mass_effect_mm=arguments.mass_effect)
    changed = insert_lesion(pushed, region, brain, affine, look=look, rng=rng)
    case = item["case"]
    save_nifti(brain.astype(np.uint8), affine, output / "brain_masks" / f"{case}.nii.gz")
    entries = []
    empty = np.zeros_like(region)
    for suffix, group, voxels, label in (("normal", "normal", image, empty), ("lesion", look.group, changed, region)):
        name = f"{case}_{suffix}"
        save_nifti(voxels.astype(np.float32), affine, output / "images" / f"{name}.nii.gz")
        save_nifti(label.astype(np.uint8), affine, output / "labels" / f"{name}.nii.gz")
        files = {"image": f"images/{name}", "label": f"labels/{name}", "brain_mask": f"brain_masks/{case}"}
        facts = {"case": name, "subject": str(item.get("subject", case)), "group": group}
        entries.append(facts | {key: f"{path}.nii.gz" for key, path in files.items()})
    volume = float(region.sum()) * voxel_volume_ml(affine)
    drawn = {"contrast": look.contrast, "keep": look.keep, "texture": look.texture, "border_mm": look.border_mm}
    drawn |= {"mass_effect_mm": arguments.mass_effect, "group": look.group}
    return entries, {"shape": origin, "volume_ml": volume, **drawn}


if __name__ == "__main__":
    main()
