"""A mark made on the network's grid lies where the lesion lies in millimetres, whatever the file's geometry."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from faulty import again, brighter, decimals, gzipped, meta_text, mr_slices, nifti_bytes, nrrd_text, save
from helpers import axes_of, rotation, world_coordinates
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from itermask3d.files.scans import ScanError, bare_scan_errors
from itermask3d.files.writing import save_nifti
from itermask3d.preprocessing.load import load_volume
from itermask3d.preprocessing.pipeline import inference_transforms
from monai.transforms import Invertd

RADII_MM, LESION_MM, LESION_RADIUS_MM = (46, 56, 44), (18, -20, 12), 11
REACH_MM = 64
PLACE_MM = 2.5
"""The lesion's centre of mass after two interpolations at 4 mm."""

PREPARE = inference_transforms(spacing_mm=4.0, spatial_size=(48, 56, 48), brain_extraction="none")


@st.composite
def affines(draw: Any, *, shear: bool) -> np.ndarray:
    """Any orientation, either handedness, unequal voxels, any origin."""
    angles = [draw(st.floats(-180, 180)) for _ in range(3)]
    turn = rotation(degrees=angles) if draw(st.booleans()) else np.eye(3)
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes_of(draw(st.sampled_from(["RAS", "LPS", "LAS", "PIR", "PIL", "AIR", "SRA", "ILP"])))
    affine[:3, :3] *= [draw(st.floats(2.5, 5)) for _ in range(3)]
    if shear:
        affine[:3, 2] += affine[:3, 0] * draw(st.floats(-0.25, 0.25))
    affine[:3, 3] = [draw(st.floats(-200, 200)) for _ in range(3)]
    return affine


def head(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A brain with a bright lesion, on a grid that holds it; the image and the lesion's place in millimetres."""
    reach = np.abs(np.linalg.inv(affine[:3, :3])).sum(axis=1) * REACH_MM
    shape = np.ceil(2 * reach).astype(int) + 1
    middle = affine[:3, :3] @ ((shape - 1) / 2) + affine[:3, 3]
    x, y, z = world_coordinates(shape, affine) - middle.reshape(3, 1, 1, 1)
    brain = sum((axis / radius) ** 2 for axis, radius in zip((x, y, z), RADII_MM, strict=True)) <= 1
    away = sum((axis - place) ** 2 for axis, place in zip((x, y, z), LESION_MM, strict=True))
    texture = 400 + 30 * np.sin(x / 9) * np.cos(y / 11) + 20 * np.sin(z / 7) + 900 * (away <= LESION_RADIUS_MM**2)
    return np.where(brain, texture, 0).round().astype(np.int16), middle + LESION_MM


def as_nifti(draw: Any, values: np.ndarray, affine: np.ndarray, folder: Path) -> Path:
    codes = draw(st.sampled_from([(1, 0), (2, 1), (4, 4), (0, 1), (1, 3)]))
    kind = draw(st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]))
    elsewhere = affine if codes[0] == 0 else draw(affines(shear=False))
    content = nifti_bytes(values, affine, codes=codes, qform=elsewhere, kind=kind, big_endian=draw(st.booleans()))
    path = folder / ("scan.nii.gz" if draw(st.booleans()) else "scan.nii")
    path.write_bytes(gzipped(content) if path.suffix == ".gz" else content)
    return path


def as_dicom(draw: Any, values: np.ndarray, affine: np.ndarray, folder: Path) -> Path:
    slices = mr_slices(values, affine)
    fault = draw(st.sampled_from(["none", "none", "lost", "doubled", "other", "moved"]))
    index = draw(st.integers(1, len(slices) - 2))
    if fault == "lost":
        slices.pop(index)
    elif fault == "doubled":
        slices += again(slices[index : index + 3])
    elif fault == "other":
        slices += brighter(slices[index : index + 2])
    elif fault == "moved":
        place = np.array(slices[index].ImagePositionPatient, float)
        slices[index].ImagePositionPatient = decimals(place + [draw(st.floats(-4, 4)) for _ in range(3)])
    names = draw(st.permutations([f"IM{number:03d}" for number in range(len(slices))]))
    return save(slices, folder / "series", names)


def as_text_header(draw: Any, values: np.ndarray, affine: np.ndarray, folder: Path) -> Path:
    write = draw(st.sampled_from([nrrd_text, meta_text]))
    path = folder / ("scan.nrrd" if write is nrrd_text else "scan.mha")
    path.write_bytes(write(affine, shape=values.shape).encode() + values.astype("<i2").tobytes(order="F"))
    return path


FORMATS = {"nifti": as_nifti, "dicom": as_dicom, "text header": as_text_header}


def marked(source: Path, folder: Path) -> np.ndarray:
    """Where other software finds, in millimetres, what was bright on the network's grid."""
    sample = PREPARE({"image": str(source), "case": "scan"})
    sample["mask"] = (sample["image"] > 4).float()
    back = Invertd("mask", transform=PREPARE, orig_keys="image", nearest_interp=False, to_tensor=True)
    mask = back(sample)["mask"][0].numpy() > 0.5
    scan = load_volume(source)
    assert mask.shape == tuple(scan.shape)
    save_nifti(mask.astype(np.uint8), np.asarray(scan.affine), folder / "mask.nii.gz", scan.meta["placement"])
    written = nib.load(folder / "mask.nii.gz")
    np.testing.assert_allclose(written.affine, scan.affine, atol=2e-4)
    return nib.affines.apply_affine(written.affine, np.argwhere(np.asarray(written.dataobj) > 0)).mean(axis=0)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data(), kind=st.sampled_from(list(FORMATS)))
def test_mark_lies_at_the_lesion_or_the_scan_is_refused(data: Any, kind: str) -> None:
    affine = data.draw(affines(shear=kind == "dicom"))
    values, lesion_mm = head(affine)
    with tempfile.TemporaryDirectory() as folder:
        source = FORMATS[kind](data.draw, values, affine, Path(folder))
        try:
            with bare_scan_errors():
                found_mm = marked(source, Path(folder))
        except ScanError:
            assert kind == "dicom"
            return
    np.testing.assert_allclose(found_mm, lesion_mm, atol=PLACE_MM)
