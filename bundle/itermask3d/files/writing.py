"""The one way to write: a file or folder appears whole or not at all."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

__all__ = ["save_nifti", "settle", "write_atomically", "write_table"]


def save_atomically(state: Any, path: Path) -> None:
    """``torch.save`` to the side, then rename over ``path``."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        torch.save(state, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_nifti(voxels: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write a NIfTI with the affine as both sform and qform (scanner coordinates), millimetres.

    The qform can only hold rotations and zooms; a sheared affine is kept exactly by the sform.
    """
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner", strip_shears=True)
    nib.save(image, path)


def settle(folder: Path) -> None:
    """Clear what an interrupted :func:`write_result` left beside ``folder``; a complete older result comes back."""
    partial, old = side(folder, "partial"), side(folder, "old")
    shutil.rmtree(partial, ignore_errors=True)
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    shutil.rmtree(old, ignore_errors=True)


def write_atomically(content: str | bytes, path: Path) -> None:
    """Write a file to the side, then rename it over ``path``."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content) if isinstance(content, bytes) else partial.write_text(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write a CSV table with a header, whole or not at all."""
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(table.getvalue(), path)


def replace_folder(new: Path, folder: Path) -> None:
    old = side(folder, "old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    finally:
        settle(folder)


def side(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{kind}")
