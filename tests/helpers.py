"""Synthetic heads for the tests: analytic shapes in millimetres, sampled on any grid."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import torch
from itermask3d.cli.app import main
from monai.data import MetaTensor
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

BRAIN_RADII_MM = (65.0, 80.0, 60.0)
"""Semi-axes of the phantom's brain, right, front and up: an ellipsoid of 1307 ml."""

CENTRE_MM = (3.0, -17.0, 12.0)
"""Where the phantom's centre lies in scanner coordinates."""

LESION_MM = (((28.0, 22.0, 12.0), (22.0, 28.0, 18.0)), ((30.0, -20.0, 5.0), (14.0, 20.0, 12.0)))
"""Centre (from the brain's) and semi-axes of the two ellipsoids of the lesion: right, mostly in front, above."""


SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def load_script(name: str) -> ModuleType:
    """A script of the repository as a module, anew in each call."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # data classes look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
    return module


def run_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """``itermask3d`` with these words in this process: its exit status, and what it printed on both streams."""
    monkeypatch.setattr(sys, "argv", ["itermask3d", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out + captured.err


@dataclass(frozen=True)
class Phantom:
    """A synthetic skull-stripped scan: arrays ``(D, H, W)`` on one grid, background exactly zero."""

    image: np.ndarray
    brain_mask: np.ndarray
    label: np.ndarray
    affine: np.ndarray

    @property
    def voxel_ml(self) -> float:
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def save(self, folder: Path, *, name: str = "scan", keys: Sequence[str] = ("image", "label")) -> dict[str, str]:
        """Write the arrays as ``<name>_<key>.nii.gz`` and return a MONAI item with their paths."""
        item = {}
        for key in keys:
            path = folder / f"{name}_{key}.nii.gz"
            nib.save(nib.Nifti1Image(getattr(self, key).astype(np.float32), self.affine), path)
            item[key] = str(path)
        return item


def head_phantom(
    *, axes: np.ndarray | None = None, spacing_mm: Sequence[float] = (2, 2, 2), margin_mm: float = 10.0
) -> Phantom:
    """Sample the phantom on a grid.

    Args:
        axes: ``(3, 3)``, orthonormal; column ``i`` is the scanner direction (right, front, up) of voxel axis ``i``.
        spacing_mm: voxel size along each voxel axis.
        margin_mm: background around the brain.
    """
    axes = np.eye(3) if axes is None else np.asarray(axes, dtype=float)
    reach = np.linalg.norm(axes * np.asarray(BRAIN_RADII_MM)[:, None], axis=0) + margin_mm
    shape = np.ceil(2 * reach / np.asarray(spacing_mm)).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = axes * np.asarray(spacing_mm)
    affine[:3, 3] = np.asarray(CENTRE_MM) - affine[:3, :3] @ ((shape - 1) / 2)
    x, y, z = world_coordinates(shape, affine) - np.asarray(CENTRE_MM, dtype=np.float32).reshape(3, 1, 1, 1)
    brain = _ellipsoid((x, y, z), (0, 0, 0), BRAIN_RADII_MM)
    lesion = np.any([_ellipsoid((x, y, z), centre, radii) for centre, radii in LESION_MM], axis=0)
    texture = 100 + 12 * np.sin(x / 9 + 1) * np.cos(y / 11) + 9 * np.sin(z / 7 + y / 23) + 0.1 * x
    return Phantom(np.where(brain, texture + 60 * lesion, 0).astype(np.float32), brain, lesion & brain, affine)


def world_coordinates(shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """Scanner coordinates of every voxel, float32 ``(3, D, H, W)``."""
    voxels = np.indices(tuple(shape), dtype=np.float32)
    linear = np.asarray(affine, dtype=np.float32)
    return np.einsum("ij,jabc->iabc", linear[:3, :3], voxels) + linear[:3, 3].reshape(3, 1, 1, 1)


def rotation(*, degrees: Sequence[float]) -> np.ndarray:
    """Rotation matrix about the three scanner axes in turn."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        turn = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def axes_of(codes: str) -> np.ndarray:
    """Axes of an orientation such as ``"LPS"``, for :func:`head_phantom`."""
    directions = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    axes = np.zeros((3, 3))
    for column, code in enumerate(codes):
        row, sign = directions[code]
        axes[row, column] = sign
    return axes


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two boolean arrays, of which at least one holds a voxel."""
    return 2 * float(np.logical_and(a, b).sum()) / float(a.sum() + b.sum())


def volume(array: np.ndarray | torch.Tensor, *, spacing_mm: Sequence[float] = (2, 2, 2)) -> MetaTensor:
    """A ``(1, D, H, W)`` float32 MetaTensor on an axis-aligned grid."""
    affine = torch.diag(torch.tensor([*map(float, spacing_mm), 1.0], dtype=torch.float64))
    return MetaTensor(torch.as_tensor(array).float()[None], affine=affine)


def ball(shape: Sequence[int], *, radius: float, centre: Sequence[float] | None = None) -> np.ndarray:
    """Boolean ball of a radius in voxels."""
    middle = [(size - 1) / 2 for size in shape] if centre is None else centre
    return _ellipsoid(np.indices(tuple(shape), dtype=np.float32), middle, (radius,) * 3)


def _ellipsoid(coordinates: Sequence[np.ndarray], centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    parts = (((c - m) / r) ** 2 for c, m, r in zip(coordinates, centre, radii, strict=True))
    return np.asarray(sum(parts) <= 1)


def save_dicom(phantom: Phantom, folder: Path) -> Path:
    """Write a phantom as an MR series, one file a slice along the third voxel axis, in shuffled file order."""
    folder.mkdir()
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ phantom.affine
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    directions = to_lps[:3, :3] / spacing
    series, study = generate_uid(), generate_uid()
    for index in range(phantom.image.shape[2]):
        data = FileDataset(None, {}, file_meta=_dicom_meta(), preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = data.file_meta.MediaStorageSOPClassUID, generate_uid()
        data.SeriesInstanceUID, data.StudyInstanceUID, data.FrameOfReferenceUID = series, study, study
        data.Modality, data.PatientName, data.PatientID = "MR", "Phantom", "phantom"
        data.ImageType, data.SeriesNumber, data.InstanceNumber = ["ORIGINAL", "PRIMARY", "M"], 1, index + 1
        data.ImagePositionPatient = _decimals((to_lps @ [0, 0, index, 1])[:3])
        data.ImageOrientationPatient = _decimals([*directions[:, 0], *directions[:, 1]])
        data.PixelSpacing, data.SliceThickness = _decimals([spacing[1], spacing[0]]), _decimals([spacing[2]])[0]
        data.Columns, data.Rows = phantom.image.shape[:2]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.PixelData = np.ascontiguousarray(phantom.image[:, :, index].T.round().astype(np.uint16)).tobytes()
        data.save_as(folder / f"{(index * 37) % 997:03d}.dcm", write_like_original=False)
    return folder


def _dicom_meta() -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def _decimals(values: Sequence[float]) -> list[str]:
    return [f"{value:.8f}"[:16] for value in values]
