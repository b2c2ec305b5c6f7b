"""The run behind ``itermask3d demo``: a real scan as it is, and once more with a lesion put in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np

from itermask3d.files.scans import ScanError, voxel_volume_ml
from itermask3d.files.writing import save_nifti
from itermask3d.preprocessing.brain_extraction import extract_brain, foreground, is_skull_stripped
from itermask3d.simulation.lesions import LesionLook, generated_shape, insert_lesion

LESION_ML = 25.0
SEED = 7


def demonstrate(source: Path | None, output: Path) -> int:
    """Make the two scans, segment them and say what was found; the exit status.

    Raises:
        ScanError, OSError, nibabel.filebasedimages.ImageFileError: if the scan cannot be used.
    """
    inputs = output / "input"
    inputs.mkdir(parents=True, exist_ok=True)
    prepare(volume(source or packaged_scan()), inputs)
    command = [sys.executable, "-m", "itermask3d", "segment", str(inputs / "scans.json"), str(output / "results")]
    status = subprocess.run([*command, "--overwrite"], check=False).returncode
    if status == 0:
        show(output, packaged=source is None)
    return status


def volume(path: Path) -> nib.Nifti1Image:
    """What nibabel reads there; all its images with voxels have what is used here of NIfTI."""
    return cast(nib.Nifti1Image, nib.load(path))


def packaged_scan() -> Path:
    """The ICBM152 2009a symmetric T1 template that nilearn ships."""
    import nilearn.datasets

    return Path(nilearn.datasets.__file__).parent / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


def prepare(scan: nib.Nifti1Image, folder: Path) -> None:
    """Write the scan, the scan with a lesion, the lesion itself and the list of both scans."""
    image, affine = scan.get_fdata(dtype=np.float32), scan.affine
    if image.ndim != 3:
        raise ScanError(f"the scan has shape {image.shape}; expected one 3D volume")
    stripped = is_skull_stripped(image, voxel_ml=voxel_volume_ml(affine))
    brain = foreground(image) if stripped else extract_brain(image, affine, "deepbet")
    rng = np.random.default_rng(SEED)
    region = generated_shape(brain, affine, volume_ml=LESION_ML, rng=rng)
    changed = insert_lesion(image, region, brain, affine, look=LesionLook(contrast=-2.0), rng=rng)
    save_nifti(image, affine, folder / "as_it_is.nii.gz")
    save_nifti(changed, affine, folder / "with_lesion.nii.gz")
    save_nifti(region.astype(np.uint8), affine, folder / "lesion.nii.gz")
    names = ["as_it_is.nii.gz", "with_lesion.nii.gz"]
    (folder / "scans.json").write_text(json.dumps(names))


def show(output: Path, *, packaged: bool) -> None:
    """Print what was found, whether the lesion was hit, and where the files are."""
    lesion = volume(output / "input" / "lesion.nii.gz").get_fdata() > 0
    mask = volume(output / "results" / "with_lesion" / "with_lesion_mask.nii.gz").get_fdata() > 0
    dice = 2 * np.sum(lesion & mask) / max(1, lesion.sum() + mask.sum())
    print(f"\nA simulated dark lesion of {LESION_ML:.0f} ml was put into the second scan.")
    print(f"The mask covers {100 * np.mean(mask[lesion]):.0f} % of it (Dice of the whole mask {dice:.2f}).")
    untouched = json.loads((output / "results" / "as_it_is" / "result.json").read_text())
    print(f"In the scan as it is, {untouched['volumes_ml']['anomaly']:.0f} ml are flagged.")
    if packaged:
        print(
            "False alarms: the weights have seen one scanner only, and a template averaged over many brains,\n"
            "without a scanner's bias field, is unusual to them (bundle/docs/README.md, What it fails on)."
        )
    print("\nLook at the pictures first:")
    for case in ("as_it_is", "with_lesion"):
        print(f"  {output / 'results' / case / 'picture.png'}")
    print("Masks, maps and reconstructions on the scan's own grid, and result.json, lie beside them.")
