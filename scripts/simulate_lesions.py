"""Make a semi-synthetic test set: normal scans as they are, and the same with a lesion put in.

    python scripts/simulate_lesions.py SCANS OUT [--subset test] [--shapes FOLDER] [--brain-masks FOLDER]

Writes OUT/images, OUT/labels, OUT/brain_masks and OUT/scans.json, which evaluation takes as it is. Lesion shapes are
generated, or drawn from a folder of masks in MNI-like space. Contrast is drawn from darker to brighter.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from itermask3d import BUNDLE_ROOT
from itermask3d.brain_extraction import extract_brain
from itermask3d.lesions import LesionLook, generated_shape, insert_lesion, placed_shape
from itermask3d.results import RESEARCH_USE, save_nifti, write_atomically
from itermask3d.scans import ScanError, list_scans, split_scans, voxel_volume_ml
from tqdm import tqdm

COLIN27_BRAIN_MM = np.array([[-71.0, -105.0, -68.0], [71.0, 72.0, 82.0]])
MIN_ML = 1.0


def main() -> None:
    arguments = parse()
    output = Path(arguments.output)
    try:
        items = list_scans(arguments.scans, brain_mask_dir=arguments.brain_masks)
        if arguments.subset:
            items = split_scans(items, arguments.split_file, arguments.subset)
    except ScanError as error:
        sys.exit(f"error: {error}")
    shapes = sorted(Path(arguments.shapes).glob("*.nii.gz")) if arguments.shapes else []
    for folder in ("images", "labels", "brain_masks"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    entries, log = [], {}
    for number, item in enumerate(tqdm(items, unit="scan")):
        rng = np.random.default_rng([arguments.seed, number])
        pair, log[item["case"]] = simulate(item, shapes, output, rng)
        entries += pair
    write_atomically(json.dumps(entries, indent=1) + "\n", output / "scans.json")
    write_atomically(json.dumps(log, indent=1) + "\n", output / "lesions.json")
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
    return parser.parse_args()


def simulate(item: dict, shapes: list[Path], output: Path, rng: np.random.Generator) -> tuple[list[dict], dict]:
    """Write the normal scan and its lesioned twin; return their list entries and what was drawn."""
    scan = nib.load(item["image"])
    image, affine = scan.get_fdata(dtype=np.float32), scan.affine
    if "brain_mask" in item:
        brain = nib.load(item["brain_mask"]).get_fdata() > 0
    else:
        brain = extract_brain(image, affine, "deepbet")
    region, origin = draw_region(shapes, brain, affine, rng)
    sign = rng.choice((-1.0, 1.0), p=(0.7, 0.3))
    look = LesionLook(contrast=float(sign * rng.uniform(0.8, 2.5)), texture=0.25, keep=float(rng.uniform(0.1, 0.5)))
    changed = insert_lesion(image, region, brain, affine, look=look, rng=rng)
    case = item["case"]
    save_nifti(brain.astype(np.uint8), affine, output / "brain_masks" / f"{case}.nii.gz")
    entries = []
    for suffix, voxels, label in (("normal", image, np.zeros_like(region)), ("lesion", changed, region)):
        name = f"{case}_{suffix}"
        save_nifti(voxels.astype(np.float32), affine, output / "images" / f"{name}.nii.gz")
        save_nifti(label.astype(np.uint8), affine, output / "labels" / f"{name}.nii.gz")
        files = {"image": f"images/{name}", "label": f"labels/{name}", "brain_mask": f"brain_masks/{case}"}
        entries.append({"case": name} | {key: f"{path}.nii.gz" for key, path in files.items()})
    volume = float(region.sum()) * voxel_volume_ml(affine)
    return entries, {"shape": origin, "volume_ml": volume, "contrast": look.contrast, "keep": look.keep}


def draw_region(
    shapes: list[Path], brain: np.ndarray, affine: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, str]:
    """Take a real shape of at least 1 ml in the brain, or generate one of 1 to 100 ml (log-uniform)."""
    for index in rng.permutation(len(shapes)):
        region = placed_shape(nib.load(shapes[index]), brain, affine, template=COLIN27_BRAIN_MM)
        if region.sum() * voxel_volume_ml(affine) >= MIN_ML:
            return region, shapes[index].name
    volume = float(np.exp(rng.uniform(np.log(1), np.log(100))))
    return generated_shape(brain, affine, volume_ml=volume, rng=rng), "generated"


if __name__ == "__main__":
    main()
