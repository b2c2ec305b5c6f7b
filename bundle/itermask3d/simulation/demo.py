"""The demo's scans: a real one as it is, and the same with a lesion put in."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from itermask3d.files.scans import ScanError
from itermask3d.files.writing import save_nifti
from itermask3d.simulation.lesions import LesionLook, generated_shape, insert_lesion
from itermask3d.simulation.subjects import brain_of_head

__all__ = ["LESION_ML", "packaged_scan", "write_demo"]

LESION_ML = 25.0
SEED = 7


def packaged_scan() -> Path:
    """The ICBM152 2009a symmetric T1 template that nilearn ships."""
    import nilearn.datasets

    return Path(nilearn.datasets.__file__).parent / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


def write_demo(scan: nib.Nifti1Image, folder: Path) -> None:
    """Write the scan, the scan with a lesion, the lesion itself and the list of both scans."""
    image, affine = scan.get_fdata(dtype=np.float32), scan.affine
    if image.ndim != 3:
        raise ScanError(f"the scan has shape {image.shape}; expected one 3D volume")
    brain = brain_of_head(image, affine)
    rng = np.random.default_rng(SEED)
    region = generated_shape(brain, affine, volume_ml=LESION_ML, rng=rng)
    changed = insert_lesion(image, region, brain, affine, look=LesionLook(contrast=-2.0), rng=rng)
    save_nifti(image, affine, folder / "as_it_is.nii.gz")
    save_nifti(changed, affine, folder / "with_lesion.nii.gz")
    save_nifti(region.astype(np.uint8), affine, folder / "lesion.nii.gz")
    names = ["as_it_is.nii.gz", "with_lesion.nii.gz"]
    (folder / "scans.json").write_text(json.dumps(names))
