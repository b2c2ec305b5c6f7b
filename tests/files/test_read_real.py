"""Series of real scanners, read as ITK reads them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from faulty import OBLIQUE, TO_LPS, VALUES, enhanced, meta_bytes, mr_slices, nrrd_bytes, save
from itermask3d.files.dicom_files import group_series
from itermask3d.files.read import read_volume
from itermask3d.files.scans import ScanError
from itermask3d.files.volume import Volume

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom_real"
pytest_real = pytest.mark.skipif(not DATA.is_dir(), reason="the real DICOM series are not beside the repository")


def unzipped(name: str, folder: Path) -> Path:
    with zipfile.ZipFile(DATA / name / "series.zip") as archive:
        archive.extractall(folder)
    return folder


def read_by_itk(source: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels ``(I, J, K)`` and the affine to RAS."""
    if source.is_dir():
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(source)))
        image = reader.Execute()
    else:
        image = sitk.ReadImage(str(source))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, TO_LPS @ affine


def require_as_itk(volume: Volume, source: Path, *, place_mm: float = 0.01) -> None:
    """The same voxels at the same place; of enhanced images, ITK keeps the order of frames and we that of places."""
    voxels, affine = read_by_itk(source)
    if affine[:3, 2] @ volume.affine[:3, 2] < 0:
        back = np.diag([1.0, 1.0, -1.0, 1.0])
        back[2, 3] = voxels.shape[2] - 1
        voxels, affine = voxels[:, :, ::-1], affine @ back
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(voxels.shape) - 1)
    apart = nib.affines.apply_affine(affine, corners) - nib.affines.apply_affine(volume.affine, corners)
    assert np.abs(apart).max() < place_mm
    np.testing.assert_allclose(volume.voxels, voxels, rtol=1e-5, atol=1e-2)


@pytest_real
def test_philips_series_is_read_as_itk_does(tmp_path: Path) -> None:
    folder = unzipped("philips_elition_T1_mprage", tmp_path)
    volume = read_volume(folder)
    assert volume.voxels.shape == (256, 256, 170)
    assert volume.warnings == ()
    require_as_itk(volume, folder, place_mm=0.02)


@pytest_real
def test_philips_series_without_a_slice_is_refused(tmp_path: Path) -> None:
    folder = unzipped("philips_elition_T1_mprage", tmp_path)
    sorted(folder.iterdir())[80].unlink()
    with pytest.raises(ScanError, match=r"lacks 1 of 170 slices, at -?\d+\.\d mm"):
        read_volume(folder)


@pytest_real
def test_enhanced_siemens_is_read_as_itk_does(tmp_path: Path) -> None:
    folder = unzipped("siemens_prisma_xa30_T1_enhanced", tmp_path)
    volume = read_volume(folder)
    assert volume.voxels.shape == (128, 128, 96)
    require_as_itk(volume, next(folder.iterdir()))


@pytest_real
def test_enhanced_diffusion_is_refused_as_several_volumes(tmp_path: Path) -> None:
    folder = unzipped("canon_galan_dwi_enhanced", tmp_path)
    with pytest.raises(ScanError, match=r"13 volumes of 40 slices \(DiffusionBValue 0, 1500"):
        read_volume(folder)
    (found,) = group_series(folder.iterdir())
    assert found.n_images == 520


def test_classic_series_is_read_as_itk_does(tmp_path: Path) -> None:
    require_as_itk(read_volume(save(mr_slices(affine=OBLIQUE), tmp_path)), tmp_path)


def test_enhanced_image_is_read_as_itk_does(tmp_path: Path) -> None:
    folder = save([enhanced(affine=OBLIQUE)], tmp_path)
    require_as_itk(read_volume(folder), folder / "0000.dcm")


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.mha", "compressed.nrrd", "compressed.mha", "scan.mhd"])
def test_itk_writes_what_is_read(tmp_path: Path, name: str) -> None:
    image = sitk.GetImageFromArray(VALUES.T)
    lps = TO_LPS @ OBLIQUE
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / name), useCompression=name.startswith("compressed"))
    volume = read_volume(tmp_path / name)
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    np.testing.assert_array_equal(volume.voxels, VALUES)
    assert volume.warnings == ()


@pytest.mark.parametrize(("name", "content"), [("scan.nrrd", nrrd_bytes), ("scan.mha", meta_bytes)])
def test_file_is_read_as_itk_does(tmp_path: Path, name: str, content) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / name).write_bytes(content(affine=OBLIQUE))
    require_as_itk(read_volume(tmp_path / name), tmp_path / name, place_mm=1e-5)
