"""For any affine, order, code and fault: the place that nibabel or the slices' positions tell, or a refusal."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from faulty import (
    SHAPE,
    TO_LPS,
    UPRIGHT,
    VALUES,
    again,
    brighter,
    decimals,
    enhanced,
    gzipped,
    meta_bytes,
    mgh_bytes,
    mr_slices,
    nifti_bytes,
    nrrd_bytes,
    require_phantom,
    save,
)
from helpers import axes_of, rotation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from itermask3d.files.dicom_volume import read_series
from itermask3d.files.read import read_volume
from itermask3d.files.scans import ScanError

MANY = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SOME = settings(MANY, max_examples=60)
PLACE_MM = 0.06

degrees = st.floats(-180, 180)
lengths = st.floats(0.3, 6)


@st.composite
def affines(draw: Any, *, shear: bool = False) -> np.ndarray:
    """Any orientation, either handedness, unequal voxels, any origin."""
    order = draw(st.sampled_from(["RAS", "LPS", "LAS", "PIR", "PIL", "AIR", "SRA", "ILP"]))
    affine = np.eye(4)
    turn = rotation(degrees=[draw(degrees) for _ in range(3)]) if draw(st.booleans()) else np.eye(3)
    affine[:3, :3] = turn @ axes_of(order) * np.array([draw(lengths) for _ in range(3)])
    if shear:
        affine[:3, 2] += affine[:3, 0] * draw(st.floats(-0.4, 0.4)) + affine[:3, 1] * draw(st.floats(-0.4, 0.4))
    affine[:3, 3] = [draw(st.floats(-300, 300)) for _ in range(3)]
    return affine


@MANY
@given(
    sform=affines(shear=True),
    qform=affines(),
    codes=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    big_endian=st.booleans(),
    kind=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
    compressed=st.booleans(),
)
def test_nifti_lies_where_nibabel_places_it(
    sform: np.ndarray, qform: np.ndarray, codes: tuple[int, int], big_endian: bool, kind: Any, compressed: bool
) -> None:
    content = nifti_bytes(affine=sform, qform=qform, codes=codes, big_endian=big_endian, kind=kind)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / ("scan.nii.gz" if compressed else "scan.nii")
        file.write_bytes(gzipped(content) if compressed else content)
        volume, expected = read_volume(file), nib.load(file)
        np.testing.assert_array_equal(volume.affine, expected.affine)
        np.testing.assert_array_equal(volume.voxels, expected.get_fdata(dtype=np.float32))
    assert volume.known_sides == (codes != (0, 0))
    assert volume.placement is not None
    assert (volume.placement.sform_code, volume.placement.qform_code) == codes
    np.testing.assert_array_equal(volume.placement.qform, expected.get_qform())
    np.testing.assert_array_equal(volume.placement.sform, expected.get_sform())


def _series_fault(draw: Any, slices: list[Any]) -> list[Any]:
    """Slices shuffled, lost, doubled, moved or turned."""
    fault = draw(st.sampled_from(["none", "none", "lost", "doubled", "other", "moved", "spacing", "turned"]))
    index = draw(st.integers(0, len(slices) - 1))
    if fault == "lost":
        slices = [data for data in slices if draw(st.integers(0, 3)) or data is slices[0]]
    if fault == "doubled":
        slices = slices + again(slices[index:])
    if fault == "other":
        slices = slices + brighter(slices[index:])
    if fault == "moved":
        by = [draw(st.floats(-3, 3)) for _ in range(3)]
        slices[index].ImagePositionPatient = decimals(np.array(slices[index].ImagePositionPatient, float) + by)
    if fault == "spacing":
        slices[index].PixelSpacing = decimals(np.array(slices[index].PixelSpacing, float) * draw(st.floats(0.9, 1.1)))
    if fault == "turned":
        turned = rotation(degrees=(draw(st.floats(-5, 5)), 0, 0))
        vectors = np.reshape(np.array(slices[index].ImageOrientationPatient, float), (2, 3))
        slices[index].ImageOrientationPatient = decimals((vectors @ turned).ravel())
    return slices


@MANY
@given(data=st.data(), affine=affines(shear=True))
def test_every_dicom_voxel_lies_where_its_slice_says(data: Any, affine: np.ndarray) -> None:
    slices = _series_fault(data.draw, mr_slices(affine=affine))
    places = {item.SOPInstanceUID: item for item in slices}
    with tempfile.TemporaryDirectory() as folder:
        names = data.draw(st.permutations([f"IM{index:03d}" for index in range(len(slices))]))
        save(slices, Path(folder) / "series", names)
        try:
            volume = read_series(Path(folder) / "series")
        except ScanError:
            return
    corners = np.array([[i, j] for i in (0, SHAPE[0] - 1) for j in (0, SHAPE[1] - 1)])
    assert len(volume.instances) == volume.voxels.shape[2]
    for k, uid in enumerate(volume.instances):
        item = places[uid]
        row, column = np.reshape(np.array(item.ImageOrientationPatient, float), (2, 3))
        row_mm, column_mm = map(float, item.PixelSpacing)
        position = np.array(item.ImagePositionPatient, float)
        told = position + corners[:, :1] * row * column_mm + corners[:, 1:] * column * row_mm
        found = nib.affines.apply_affine(TO_LPS @ volume.affine, np.c_[corners, np.full(4, k)])
        assert np.abs(found - told).max() < PLACE_MM
        stored = np.frombuffer(item.PixelData, "<i2").reshape(item.Rows, item.Columns).T
        np.testing.assert_array_equal(volume.voxels[:, :, k], stored)


@SOME
@given(affine=affines(), data=st.data())
def test_enhanced_frames_lie_where_they_say(affine: np.ndarray, data: Any) -> None:
    order = data.draw(st.permutations(range(SHAPE[2])))
    with tempfile.TemporaryDirectory() as folder:
        save([enhanced(affine=affine, frames=[{"k": k} for k in order])], Path(folder))
        volume = read_volume(folder)
    require_phantom(volume, affine)


@SOME
@given(affine=affines(shear=True))
def test_nrrd_and_mgh_lie_where_their_header_says(affine: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("a.nrrd", nrrd_bytes(affine=affine)), ("a.mgh", mgh_bytes(affine=affine))):
            (Path(folder) / name).write_bytes(content)
        nrrd, mgh = read_volume(Path(folder) / "a.nrrd"), read_volume(Path(folder) / "a.mgh")
        expected = nib.load(Path(folder) / "a.mgh").affine
    np.testing.assert_allclose(nrrd.affine, affine, atol=1e-9)
    np.testing.assert_allclose(mgh.affine, expected, atol=1e-3)


@settings(MANY, max_examples=600)
@given(
    edits=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=3),
    big_endian=st.booleans(),
    codes=st.sampled_from([(1, 0), (0, 1), (2, 1)]),
)
def test_damaged_nifti_header_is_refused_or_read_as_nibabel_does(
    edits: list[tuple[int, int]], big_endian: bool, codes: tuple[int, int]
) -> None:
    content = bytearray(nifti_bytes(big_endian=big_endian, codes=codes))
    for place, value in edits:
        content[place] = value
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scan.nii"
        file.write_bytes(content)
        try:
            volume = read_volume(file)
        except ScanError:
            return
        expected = nib.load(file)
        np.testing.assert_array_equal(volume.affine, expected.affine)
        assert volume.voxels.shape == expected.shape[:3]
        with np.errstate(all="ignore"):
            found = expected.get_fdata(dtype=np.float64).reshape(volume.voxels.shape, order="F")
        np.testing.assert_allclose(volume.voxels, found, rtol=1e-5, atol=1e-30)


@settings(MANY, max_examples=600)
@given(
    edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=3),
    index=st.integers(0, SHAPE[2] - 1),
)
def test_damaged_slice_header_never_moves_the_volume(
    edits: list[tuple[int, int]], index: int, whole_series: list[bytes]
) -> None:
    content = bytearray(whole_series[index])
    header_bytes = len(content) - SHAPE[0] * SHAPE[1] * 2
    for place, value in edits:
        content[place % header_bytes] = value
    with tempfile.TemporaryDirectory() as folder:
        for position, slice_bytes in enumerate(whole_series):
            (Path(folder) / f"{position}.dcm").write_bytes(content if position == index else slice_bytes)
        try:
            volume = read_volume(folder)
        except ScanError:
            return
    assert volume.voxels.shape == SHAPE
    np.testing.assert_allclose(volume.affine, UPRIGHT, atol=PLACE_MM)
    others = [k for k in range(SHAPE[2]) if k != index]
    np.testing.assert_array_equal(volume.voxels[:, :, others], VALUES[:, :, others])


@pytest.fixture(scope="module")
def whole_series(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = save(mr_slices(), tmp_path_factory.mktemp("series"), [f"{k}.dcm" for k in range(SHAPE[2])])
    return [(folder / f"{k}.dcm").read_bytes() for k in range(SHAPE[2])]


@settings(MANY, max_examples=300)
@given(
    kind=st.sampled_from(["scan.nrrd", "scan.mha", "scan.mgh", "scan.nii.gz", "enhanced.dcm"]),
    edits=st.lists(st.tuples(st.integers(0, 100000), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.one_of(st.none(), st.floats(0, 1)),
)
def test_damaged_file_raises_nothing_but_a_sentence(
    kind: str, edits: list[tuple[int, int]], cut: float | None, whole_files: dict[str, bytes]
) -> None:
    content = bytearray(whole_files[kind])
    for place, value in edits:
        content[place % min(len(content), 3000)] = value
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / kind
        file.write_bytes(content if cut is None else content[: int(cut * len(content))])
        try:
            volume = read_volume(file, memory_limit_bytes=2**28)
        except ScanError:
            return
    assert volume.voxels.dtype == np.float32
    assert np.isfinite(volume.affine).all()
    if kind == "scan.nii.gz":
        require_phantom(volume, UPRIGHT)


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = save([enhanced()], tmp_path_factory.mktemp("enhanced"))
    return {
        "scan.nrrd": nrrd_bytes(),
        "scan.mha": meta_bytes(),
        "scan.mgh": mgh_bytes(),
        "scan.nii.gz": gzipped(nifti_bytes()),
        "enhanced.dcm": (folder / "0000.dcm").read_bytes(),
    }
