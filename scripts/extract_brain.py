"""Make brain masks for a folder or a list of scans, once, for training and for a look at them.

    python scripts/extract_brain.py SCANS OUT [--method deepbet]

Each mask gets its scan's name, as .nii.gz; masks that exist are kept. Give OUT to training as --brain_mask_dir.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from itermask3d.brain_extraction import METHODS, BrainMaskd
from itermask3d.preprocessing import LoadScand
from itermask3d.results import RESEARCH_USE, save_nifti
from itermask3d.scans import ScanError, list_scans
from tqdm import tqdm


def main() -> None:
    arguments = parse()
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    try:
        items = list_scans(arguments.scans)
    except ScanError as error:
        sys.exit(f"error: {error}")
    failures = 0
    for item in tqdm(items, unit="scan"):
        target = output / f"{item['case']}.nii.gz"
        if target.exists():
            continue
        try:
            extract(item, arguments.method, target)
        except ScanError as error:
            failures += 1
            tqdm.write(f"failed: {item['case']}: {error}")
    sys.exit(1 if failures else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scans", help="a scan, a folder or a list")
    parser.add_argument("output", help="folder for the masks")
    parser.add_argument("--method", default="auto", choices=[m for m in METHODS if m != "provided"])
    return parser.parse_args()


def extract(item: dict, method: str, target: Path) -> None:
    """Write one mask on the scan's own grid, whole or not at all."""
    sample = BrainMaskd(method=method)(LoadScand()(item))
    mask = sample["brain_mask"]
    partial = target.with_name(f".partial_{target.name}")
    save_nifti(np.asarray(mask[0] > 0.5).astype(np.uint8), np.asarray(mask.affine, dtype=float), partial)
    os.replace(partial, target)


if __name__ == "__main__":
    main()
