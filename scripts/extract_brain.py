"""Make brain masks for a folder or a list of scans, once, for training and for a look at them.

    python scripts/extract_brain.py SCANS OUT [--method deepbet]

Each mask gets its scan's name, as .nii.gz; masks that exist are kept. Give OUT to training as --brain_mask_dir.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from itermask3d.files.scans import ScanError, list_scans
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.preprocessing.brain_extraction import METHODS
from itermask3d.workflows.site.data import keep_brain_mask
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
            keep_brain_mask(item, arguments.method, target)
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


if __name__ == "__main__":
    main()
