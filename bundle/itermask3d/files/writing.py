"""The one way to write: a file or folder appears whole or not at all.

Everything is written to the side first, under a name that begins with a full stop, on the same disk, and then moved to
its place. Nothing else in the repository moves files over others.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from itermask3d.files.volume import Placement

__all__ = [
    "no_room",
    "publish_folder",
    "replaced",
    "replaced_folder",
    "save_atomically",
    "save_nifti",
    "settle",
    "write_atomically",
    "write_table",
]


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""What the operating system says when nothing more can be written: no scan's fault, and the same for all."""


def no_room(error: BaseException) -> bool:
    """Whether nothing more can be written."""
    return isinstance(error, OSError) and error.errno in NO_ROOM


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path to the side of a file, with the same ending, for whoever writes it.

    What lies there takes the file's place when the block ends; if the block raises, the file stays as it was.
    """
    partial = path.with_name(f".partial.{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to the side, which takes the place of ``folder`` when the block ends.

    If the block raises, or the move fails, the older folder stays, or comes back.
    """
    partial = _side(folder, "partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        publish_folder(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def publish_folder(new: Path, folder: Path) -> None:
    """Move a whole folder to its place on the same disk; an older one gives way, and comes back if that fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    old = _side(folder, "old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    finally:
        settle(folder)


def settle(folder: Path) -> None:
    """Clear what an interrupted writer left beside ``folder``; a complete older one comes back."""
    partial, old = _side(folder, "partial"), _side(folder, "old")
    shutil.rmtree(partial, ignore_errors=True)
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    shutil.rmtree(old, ignore_errors=True)


def write_atomically(content: str | bytes, path: Path) -> None:
    """Write text or bytes as a file."""
    with replaced(path) as partial:
        # A path may hold bytes that are no UTF-8: they are written as \\udcxx, and the file stays readable.
        partial.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))


def write_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write a CSV table with a header."""
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(table.getvalue(), path)


def save_atomically(state: Any, path: Path) -> None:
    """:func:`torch.save` a state."""
    with replaced(path) as partial:
        torch.save(state, partial)


def save_nifti(voxels: NDArray[Any], affine: NDArray[Any], path: Path, placement: Placement | None = None) -> None:
    """Write a NIfTI in millimetres, with the affine as both sform and qform (scanner coordinates).

    The qform can only hold rotations and zooms; a sheared affine is kept exactly by the sform.

    Args:
        voxels, affine: see nibabel.
        path: of the file.
        placement: both forms and codes of the scan on whose grid the voxels lie; they are written as they are.
    """
    image = nib.Nifti1Image(np.asfortranarray(voxels), affine)  # in the order of the file: a third faster
    image.header.set_xyzt_units("mm")
    told = placement or Placement(affine, affine, 1, 1)
    oriented = told.qform_code > 0 and bool(np.isfinite(told.qform).all())
    image.set_qform(told.qform if oriented else affine, told.qform_code if oriented else 0, strip_shears=True)
    image.set_sform(told.sform if np.isfinite(told.sform).all() else affine, told.sform_code)
    with replaced(path) as partial:
        nib.save(image, partial)


def _side(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{kind}")
