"""The one way from a path to a volume, whatever the format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from itermask3d.files.dicom_files import is_dicom
from itermask3d.files.dicom_volume import read_series
from itermask3d.files.errors import ScanError
from itermask3d.files.metaimage import METAIMAGE_SUFFIXES, read_metaimage
from itermask3d.files.mgh import MGH_SUFFIXES, read_mgh
from itermask3d.files.nifti import NIFTI_SUFFIXES, read_nifti
from itermask3d.files.nrrd import NRRD_SUFFIXES, read_nrrd
from itermask3d.files.volume import MEMORY_LIMIT_BYTES, Volume

__all__ = ["VOLUME_SUFFIXES", "Source", "read_volume"]

Source = str | Path | Sequence[str | Path]
"""A file, a folder with one DICOM series, or the files of one."""

READERS = (
    (NIFTI_SUFFIXES, read_nifti),
    (MGH_SUFFIXES, read_mgh),
    (NRRD_SUFFIXES, read_nrrd),
    (METAIMAGE_SUFFIXES, read_metaimage),
)
VOLUME_SUFFIXES = tuple(suffix for suffixes, _ in READERS for suffix in suffixes)
"""Endings of files, in any case, that hold a volume; a DICOM series is named by its folder or its files."""


def read_volume(source: Source, *, memory_limit_bytes: int = MEMORY_LIMIT_BYTES) -> Volume:
    """Read a scan: a file by its ending, a folder or a list of files as a DICOM series, one DICOM file as enhanced.

    Args:
        source: see above.
        memory_limit_bytes: of the voxels as float32, checked before memory is taken.

    Raises:
        ScanError: if it is missing or of no known format; else see the reader of its format.
    """
    if not isinstance(source, (str, Path)):
        return read_series(source, memory_limit_bytes=memory_limit_bytes)
    path = Path(source)
    if path.is_dir():
        return read_series(source, memory_limit_bytes=memory_limit_bytes)
    if not path.exists():
        raise ScanError(f"'{source}' does not exist; expected a file or a folder with one DICOM series")
    for suffixes, reader in READERS:
        if path.name.lower().endswith(suffixes):
            return reader(source, memory_limit_bytes=memory_limit_bytes)
    if is_dicom(path):
        return read_series(source, memory_limit_bytes=memory_limit_bytes)
    raise ScanError(f"'{source}' is of no known format; expected {', '.join(VOLUME_SUFFIXES)} or DICOM")
