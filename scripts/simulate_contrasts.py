"""Make a test set of generated scans: normal brains in several contrasts, and the same with a lesion put in.

    python scripts/simulate_contrasts.py OUT --labels FOLDER --scans FOLDER [--subset test] [--contrasts t2 flair pd]

Writes OUT/images, OUT/labels, OUT/brain_masks, one list a contrast (OUT/t2.json, …) and OUT/scans.json with all of
them, as the verb evaluate reads them: group "normal" or "t2 lesion", subject the label map. OUT/recipes.json says how
each scan was made. Neither brain nor contrast nor lesion is a patient's: call them generated wherever results are
shown. Label maps must be of people whom training never saw; their T1 scans refine them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from itermask3d import BUNDLE_ROOT
from itermask3d.files.scans import ScanError, list_scans, voxel_volume_ml
from itermask3d.files.writing import save_nifti, write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.simulation.generator.contrasts import CONTRASTS
from itermask3d.simulation.generator.label_maps import TEMPLATE, label_items, tissue_transforms
from itermask3d.simulation.generator.synthesis import Ingredients, draw_recipe, render
from itermask3d.simulation.lesions import LesionLook, generated_shape, insert_lesion
from tqdm import tqdm

SPACING_MM = 2.0
SIZE = (96, 112, 96)
BRIGHT_SHARE = {"t1": 0.3, "t1c": 0.5, "t2": 0.8, "flair": 0.9, "pd": 0.8, "white_nulled": 0.8, "random": 0.5}
"""How often a lesion is brighter than its surroundings."""

VOLUME_ML = (1.0, 100.0)
SCALING = 0.03
"""Less than in training, so that nearly all brains fit into the grid of inference."""

UNITS = 1000.0
"""Signal of the brightest tissue in the written files."""


def main() -> None:
    arguments = parse()
    output = Path(arguments.output)
    try:
        items = held_out(arguments)
        for folder in ("images", "labels", "brain_masks"):
            (output / folder).mkdir(parents=True, exist_ok=True)
        entries, recipes = simulate_all(items, arguments, output)
    except ScanError as error:
        sys.exit(f"error: {error}")
    for name in arguments.contrasts:
        chosen = [entry for entry in entries if entry["contrast"] == name]
        write_atomically(json.dumps(chosen, indent=1) + "\n", output / f"{name}.json")
    write_atomically(json.dumps(entries, indent=1) + "\n", output / "scans.json")
    write_atomically(json.dumps(recipes, indent=1) + "\n", output / "recipes.json")
    print(f"{len(entries)} scans in {output / 'scans.json'}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output")
    parser.add_argument("--labels", default=TEMPLATE, help="folder or list of label maps (default: a template)")
    parser.add_argument("--scans", help="T1 scans of the same names, which refine the maps")
    parser.add_argument("--brain-masks", help="folder with a brain mask of the same file name for every scan")
    parser.add_argument("--subset", default="test")
    parser.add_argument("--split-file", default=f"{BUNDLE_ROOT}/configs/split_ixi_t1_2mm.json")
    parser.add_argument("--contrasts", nargs="+", default=list(CONTRASTS), choices=list(CONTRASTS))
    parser.add_argument("--cases", type=int, help="use only the first so many label maps")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def held_out(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    scans = list_scans(arguments.scans, brain_mask_dir=arguments.brain_masks) if arguments.scans else []
    items = label_items(arguments.labels, split_file=arguments.split_file, subset=arguments.subset, scans=scans)
    return items[: arguments.cases]


def simulate_all(
    items: list[dict[str, Any]], arguments: argparse.Namespace, output: Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every label map in every contrast, twice; what was drawn depends on the seed, the map and the contrast alone."""
    prepare = tissue_transforms(spacing_mm=SPACING_MM, spatial_size=SIZE)
    entries, recipes = [], {}
    for number, item in enumerate(tqdm(items, unit="label map")):
        tissues = prepare(item)
        for name in arguments.contrasts:
            seed = [arguments.seed, number, list(CONTRASTS).index(name)]
            pair, recipes[f"{item['case']}_{name}"] = simulate(tissues, name, seed, output)
            entries += pair
    return entries, recipes


def simulate(
    tissues: dict[str, Any], contrast: str, seed: list[int], output: Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Write a normal scan and its lesioned twin; return their list entries and what was drawn."""
    ingredients = Ingredients({contrast: 1.0}, scaling=SCALING)
    recipe = draw_recipe(ingredients, np.random.RandomState(seed))
    affine = tissues["tissues"].affine.numpy()
    mixture, brain_mask = (tissues[key].as_tensor() for key in ("tissues", "brain_mask"))
    scan = render(mixture, brain_mask, recipe, spacing_mm=SPACING_MM)
    image, brain = UNITS * scan.image[0].numpy(), scan.brain_mask[0].numpy() > 0.5
    rng = np.random.default_rng(seed)
    volume_ml = float(np.exp(rng.uniform(*np.log(VOLUME_ML))))
    region = generated_shape(brain, affine, volume_ml=volume_ml, rng=rng)
    sign = 1 if rng.random() < BRIGHT_SHARE[contrast] else -1
    look = LesionLook(contrast=float(sign * rng.uniform(0.8, 2.5)), keep=float(rng.uniform(0.1, 0.5)))
    changed = insert_lesion(image, region, brain, affine, look=look, rng=rng).clip(min=0) * brain
    stem = f"{tissues['case']}_{contrast}"
    save_nifti(brain.astype(np.uint8), affine, output / "brain_masks" / f"{stem}.nii.gz")
    entries = []
    for kind, voxels, label in (("normal", image, np.zeros_like(region)), ("lesion", changed, region)):
        name = f"{stem}_{kind}"
        save_nifti(voxels.astype(np.float32), affine, output / "images" / f"{name}.nii.gz")
        save_nifti(label.astype(np.uint8), affine, output / "labels" / f"{name}.nii.gz")
        facts = {"case": name, "subject": tissues["case"], "contrast": contrast}
        facts["group"] = "normal" if kind == "normal" else f"{contrast} lesion"
        files = {"image": f"images/{name}", "label": f"labels/{name}", "brain_mask": f"brain_masks/{stem}"}
        entries.append(facts | {key: f"{path}.nii.gz" for key, path in files.items()})
    drawn = {"volume_ml": float(region.sum()) * voxel_volume_ml(affine), "contrast": look.contrast, "keep": look.keep}
    return entries, {"recipe": recipe.to_json(), "lesion": drawn}


if __name__ == "__main__":
    main()
