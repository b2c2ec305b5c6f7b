"""The one writer: whole or not at all, whatever goes wrong on the way."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from faulty import affine_of, nifti_bytes
from itermask3d.files.read import read_volume
from itermask3d.files.writing import publish_folder, replaced, replaced_folder, save_nifti, settle, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    path.write_text("old")
    with replaced(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.name.endswith(path.name)  # the ending tells a writer the format
    assert path.read_text() == "new"
    assert names(tmp_path) == ["table.csv.gz"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_no_part(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically("old", path)

    def half() -> None:
        with replaced(path) as partial:
            partial.write_text("ha")
            raise error

    with pytest.raises(type(error)):
        half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_an_error_leaves_the_old_folder_and_no_part(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    with replaced_folder(folder) as partial:
        (partial / "a").write_text("old")

    def half() -> None:
        with replaced_folder(folder) as partial:
            (partial / "b").write_text("new")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        half()
    assert names(folder) == ["a"]
    assert names(tmp_path) == ["case"]


def test_a_folder_takes_the_place_of_the_older_one_with_all_that_was_in_it(tmp_path: Path) -> None:
    folder, new = tmp_path / "out" / "case", tmp_path / "staging"
    folder.mkdir(parents=True)
    (folder / "report.html").touch()
    new.mkdir()
    (new / "mask").touch()
    publish_folder(new, folder)
    assert names(folder) == ["mask"]
    assert names(tmp_path / "out") == ["case"]


def test_what_a_killed_writer_left_is_cleared_and_the_older_folder_comes_back(tmp_path: Path) -> None:
    for name in (".case.partial", ".case.old"):
        (tmp_path / name).mkdir()
    (tmp_path / ".case.old" / "mask").touch()
    settle(tmp_path / "case")
    assert names(tmp_path) == ["case"]
    assert names(tmp_path / "case") == ["mask"]


def test_a_sheared_affine_is_kept_by_the_sform(tmp_path: Path) -> None:
    affine = np.array([[2, 0.3, 0, 1], [0, 2, 0, 2], [0, 0, 2, 3], [0, 0, 0, 1]], dtype=float)
    save_nifti(np.zeros((3, 3, 3), dtype=np.uint8), affine, tmp_path / "a.nii.gz")
    np.testing.assert_allclose(nib.load(tmp_path / "a.nii.gz").affine, affine)
    assert names(tmp_path) == ["a.nii.gz"]


def forms(path: Path) -> list:
    image = nib.load(path)
    return [image.affine, *image.get_sform(coded=True), *image.get_qform(coded=True)]


SCANNER, MOVED = affine_of((12, -21, 33)), affine_of((9, -21, 30), origin=(1, 2, 3))


@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (0, 1), (4, 0), (0, 0), (1, 3)])
def test_outputs_carry_both_forms_of_their_scan(codes, tmp_path):
    content = nifti_bytes(affine=SCANNER, qform=MOVED, codes=codes)
    (tmp_path / "scan.nii").write_bytes(content)
    scan = read_volume(tmp_path / "scan.nii")
    save_nifti(np.zeros(scan.voxels.shape, np.uint8), scan.affine, tmp_path / "mask.nii.gz", scan.placement)
    for told, written in zip(forms(tmp_path / "scan.nii"), forms(tmp_path / "mask.nii.gz"), strict=True):
        if told is None or np.ndim(told) == 0:
            assert written == told
        else:
            np.testing.assert_allclose(written, told, atol=1e-5)
