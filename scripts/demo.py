"""Segment a real scan as it is and once more with a lesion put in, and show what was found.

python scripts/demo.py [--scan SCAN] [--output out/demo]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from itermask3d import BUNDLE_ROOT
from itermask3d.files.scans import ScanError
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.simulation.demo import LESION_ML, packaged_scan, write_demo


def main() -> None:
    arguments = parse()
    output = Path(arguments.output)
    inputs = output / "input"
    inputs.mkdir(parents=True, exist_ok=True)
    try:
        scan = nib.load(arguments.scan or packaged_scan())
        write_demo(scan, inputs)
    except (ScanError, OSError, nib.filebasedimages.ImageFileError) as error:
        sys.exit(f"error: {error}")
    command = [
        sys.executable, "-m", "monai.bundle", "run",
        "--config_file", f"{BUNDLE_ROOT}/configs/inference.json",
        "--meta_file", f"{BUNDLE_ROOT}/configs/metadata.json",
        "--logging_file", f"{BUNDLE_ROOT}/configs/logging.conf",
        "--dataset_dir", str(inputs / "scans.json"),
        "--output_dir", str(output / "results"),
        "--overwrite", "True",
    ]  # fmt: skip
    status = subprocess.run(command, check=False).returncode
    if status:
        sys.exit(status)
    show(output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=RESEARCH_USE)
    parser.add_argument("--scan", help="a T1 scan in any format that nibabel reads; default: the ICBM152 template")
    parser.add_argument("--output", default="out/demo", help="folder for all files")
    return parser.parse_args()


def show(output: Path) -> None:
    """Print what was found, whether the lesion was hit, and where the files are."""
    lesion = nib.load(output / "input" / "lesion.nii.gz").get_fdata() > 0
    mask = nib.load(output / "results" / "with_lesion" / "with_lesion_mask.nii.gz").get_fdata() > 0
    dice = 2 * np.sum(lesion & mask) / max(1, lesion.sum() + mask.sum())
    print(f"\nA simulated dark lesion of {LESION_ML:.0f} ml was put into the second scan.")
    print(f"The mask covers {100 * np.mean(mask[lesion]):.0f} % of it (Dice of the whole mask {dice:.2f}).")
    untouched = json.loads((output / "results" / "as_it_is" / "result.json").read_text())
    print(f"In the scan as it is, {untouched['volumes_ml']['anomaly']:.0f} ml are flagged.")
    print("\nLook at the pictures first:")
    for case in ("as_it_is", "with_lesion"):
        print(f"  {output / 'results' / case / 'picture.png'}")
    print("Masks, maps and reconstructions on the scan's own grid, and result.json, lie beside them.")


if __name__ == "__main__":
    main()
