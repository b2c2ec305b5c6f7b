"""Show normal scans as a virtual scanner would: another site, of the same people.

    python scripts/simulate_scanner.py SCANS OUT --scanner soft [--brain-masks FOLDER]

SCANS is a folder or a list. Writes OUT/images, OUT/brain_masks and OUT/scans.json, the list that segment, adapt and
train take. Without --brain-masks each brain is extracted first. A virtual scanner is no real one: name it as such.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from itermask3d.files.scans import ScanError, bare_scan_errors, list_scans
from itermask3d.files.writing import save_nifti, write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.preprocessing.brain_extraction import BrainMaskd
from itermask3d.preprocessing.load import LoadScand
from itermask3d.simulation.virtual_scanners import VIRTUAL_SCANNERS, show_with
from tqdm import tqdm


def main() -> None:
    arguments = parse()
    output = Path(arguments.output)
    for folder in ("images", "brain_masks"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    try:
        items = list_scans(arguments.scans, brain_mask_dir=arguments.brain_masks)
    except ScanError as error:
        sys.exit(f"error: {error}")
    listed, failures = [], 0
    for item in tqdm(items, unit="scan"):
        try:
            with bare_scan_errors():
                listed.append(show(item, arguments.scanner, output))
        except ScanError as error:
            failures += 1
            tqdm.write(f"failed: {item['case']}: {error}")
    write_atomically(json.dumps(listed, indent=1) + "\n", output / "scans.json")
    sys.exit(1 if failures else 0)


def show(item: Mapping[str, Any], name: str, output: Path) -> dict[str, str]:
    """Write one scan and its brain mask, unless they are there; its entry of the list."""
    entry = {
        "case": item["case"],
        "image": str((output / "images" / f"{item['case']}.nii.gz").absolute()),
        "brain_mask": str((output / "brain_masks" / f"{item['case']}.nii.gz").absolute()),
    }
    if all(Path(entry[kind]).exists() for kind in ("image", "brain_mask")):
        return entry
    sample = BrainMaskd()(LoadScand()({**item}))
    image, mask = sample["image"], sample["brain_mask"]
    edges = image.pixdim.tolist()[:3]
    if max(edges) > 1.05 * min(edges):
        told = " x ".join(f"{edge:.3g}" for edge in edges)
        raise ScanError(f"'{item['image']}' has voxels of {told} mm; expected the same edge along all axes")
    shown = show_with(
        VIRTUAL_SCANNERS[name],
        image[0].numpy(force=True),
        mask[0].numpy(force=True) > 0.5,
        spacing_mm=float(np.mean(edges)),
        subject=item["case"],
    )
    affine = np.asarray(image.affine, dtype=float)
    save_nifti(shown.brain_mask.astype(np.uint8), affine, Path(entry["brain_mask"]))
    save_nifti(shown.image, affine, Path(entry["image"]))
    return entry


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scans", help="a folder or a list of normal scans with the same voxel edge along all axes")
    parser.add_argument("output", help="folder; made if absent")
    parser.add_argument("--scanner", choices=list(VIRTUAL_SCANNERS), required=True)
    parser.add_argument("--brain-masks", help="folder with a brain mask of the same file name for every scan")
    return parser.parse_args()


if __name__ == "__main__":
    main()
