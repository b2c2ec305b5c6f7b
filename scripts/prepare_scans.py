"""Prepare scans for training once, and keep each in one small file: for a GPU, or to carry to another machine.

    python scripts/prepare_scans.py SCANS prepared --brain-masks masks
    python scripts/prepare_scans.py SCANS prepared_maps --brain-masks masks --label-maps LABELS   # label maps instead

Writes a file <case>.npz for each, on the grid of bundle/configs/train.json. Train with them under
configs/prepared.json, which needs neither the raw scans nor the tools that prepared them. With --label-maps the tissues
of label maps are kept, which configs/prepared_agnostic.json makes scans from; SCANS then give the maps their sulci.
Give scans and maps a folder each. Files that exist are kept; a scan that cannot be used is named and left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from itermask3d import BUNDLE_ROOT
from itermask3d.files.scans import ScanError, bare_scan_errors, list_scans
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.preprocessing.pipeline import BIAS_CORRECTIONS
from itermask3d.simulation.generator.label_maps import label_items, tissue_transforms
from itermask3d.training.prepared import SUFFIX, PreparedDataset, save_prepared
from itermask3d.training.transforms import training_transforms
from monai.bundle import ConfigParser
from monai.transforms import Compose, RandomizableTrait
from tqdm import tqdm


def main() -> None:
    arguments = parse()
    config = ConfigParser(ConfigParser.load_config_file(f"{BUNDLE_ROOT}/configs/train.json"))
    spacing_mm = arguments.spacing_mm or float(config["spacing_mm"])
    grid: dict[str, Any] = {"spacing_mm": spacing_mm, "spatial_size": arguments.size or config["spatial_size"]}
    grid["bias_correction"] = arguments.bias_correction or config["bias_correction"]
    try:
        items = list_scans(arguments.scans, brain_mask_dir=arguments.brain_masks)
        if arguments.label_maps:
            items = label_items(arguments.label_maps, subset=None, scans=items)
            prepare: Callable[..., Any] = tissue_transforms(**grid)
        else:
            prepare = before_chance(training_transforms(**grid, brain_extraction=arguments.brain_extraction))
    except ScanError as error:
        sys.exit(f"error: {error}")
    volume = "tissues" if arguments.label_maps else "image"
    kept = {"spacing_mm": spacing_mm, "bias_correction": grid["bias_correction"]}
    sys.exit(1 if prepare_all(items, prepare, arguments.output, volume, kept) else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scans", help="normal scans: a folder or a list")
    parser.add_argument("output", type=Path)
    parser.add_argument("--brain-masks", help="folder with a brain mask of the same file name for every scan")
    parser.add_argument("--brain-extraction", default="auto", help="where no mask is given (default: auto)")
    parser.add_argument("--label-maps", help="folder of label maps: prepare their tissues instead of the scans")
    parser.add_argument("--bias-correction", choices=BIAS_CORRECTIONS, help="default: that of train.json")
    parser.add_argument("--spacing-mm", type=float, help="edge of a voxel (default: that of train.json)")
    parser.add_argument("--size", type=int, nargs=3, metavar="N", help="voxels of the grid (default: as above)")
    return parser.parse_args()


def before_chance(transforms: Compose) -> Compose:
    """What comes before the first random transform."""
    chance = transforms.get_index_of_first(lambda transform: isinstance(transform, RandomizableTrait))
    return Compose(transforms.transforms[:chance])


def prepare_all(
    items: list[dict[str, Any]], prepare: Callable[..., Any], output: Path, volume: str, kept: dict[str, Any]
) -> int:
    """Prepare what is not prepared yet; returns how many failed, which a file of another kind or recipe is too."""
    output.mkdir(parents=True, exist_ok=True)
    failures = 0
    for item in tqdm(items, unit="scan"):
        path = output / f"{item['case']}{SUFFIX}"
        try:
            with bare_scan_errors():
                if path.exists():
                    PreparedDataset([{"prepared": str(path), "case": item["case"]}], volume=volume, **kept).prepared(0)
                else:
                    save_prepared(prepare(item), path, **kept)
        except ScanError as reason:
            failures += 1
            tqdm.write(f"failed: {item['case']}: {reason}")
    return failures


if __name__ == "__main__":
    main()
