"""The run behind ``itermask3d demo``: a real scan as it is, and once more with a lesion put in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np

from itermask3d.simulation.demo import LESION_ML, packaged_scan, write_demo
from itermask3d.workflows.site.commands import own_output

CASES = ("as_it_is", "with_lesion")


def demonstrate(source: Path | None, output: Path) -> int:
    """Make the two scans, segment them and say what was found; the exit status.

    Raises:
        ScanError, OSError, nibabel.filebasedimages.ImageFileError: if the scan cannot be used.
    """
    inputs = output / "input"
    inputs.mkdir(parents=True, exist_ok=True)
    write_demo(volume(source or packaged_scan()), inputs)
    command = [sys.executable, "-m", "itermask3d", "segment", str(inputs / "scans.json"), str(output / "results")]
    status = subprocess.run([*command, "--overwrite"], check=False, stdout=own_output()).returncode
    if status == 0:
        show(output, template=source is None)
    return status


def results(output: Path) -> list[dict[str, Any]]:
    """What was found in the scan as it is and in the one with the lesion; empty where nothing was."""
    files = [output / "results" / case / "result.json" for case in CASES]
    return [json.loads(path.read_text()) for path in files if path.is_file()]


def volume(path: Path) -> nib.Nifti1Image:
    """What nibabel reads there; all its images with voxels have what is used here of NIfTI."""
    return cast(nib.Nifti1Image, nib.load(path))


def show(output: Path, *, template: bool) -> None:
    """Print what was found, whether the lesion was hit, and where the files are."""
    lesion = volume(output / "input" / "lesion.nii.gz").get_fdata() > 0
    mask = volume(output / "results" / "with_lesion" / "with_lesion_mask.nii.gz").get_fdata() > 0
    dice = 2 * np.sum(lesion & mask) / max(1, lesion.sum() + mask.sum())
    print(f"\nA simulated dark lesion of {LESION_ML:.0f} ml was put into the second scan.")
    print(f"The mask covers {100 * np.mean(mask[lesion]):.0f} % of it (Dice of the whole mask {dice:.2f}).")
    untouched = json.loads((output / "results" / "as_it_is" / "result.json").read_text())
    print(f"In the scan as it is, {untouched['volumes_ml']['anomaly']:.0f} ml are flagged.")
    if template and untouched["in_distribution"] is False:
        print("Both scans are called unusual by the distribution check. The template is the average of many brains,")
        print("smoother than any scan; so the check is right, and the score gets no p-value.")
    print("\nLook at the pictures first:")
    for case in CASES:
        print(f"  {output / 'results' / case / 'overview.png'}")
    print("Masks, maps and reconstructions on the scan's own grid, and result.json, lie beside them.")
