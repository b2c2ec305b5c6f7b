"""What a request brings: names, options and files, checked before anything is done with them."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Form, UploadFile
from itermask3d.files.writing import save_nifti
from itermask3d.preprocessing.load import load_volume

from lib.errors import RequestError

__all__ = ["Params", "Scratch", "on_grid", "parse_options", "safe_name", "safe_person", "safe_tag", "store_upload"]

Params = Annotated[str, Form()]
IMAGE_TYPES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")
MAX_NAME = 64
"""Length of a person's name in DICOM (PS3.5, value representation PN)."""


def safe_name(name: str) -> str:
    """Let a name of the datastore pass, but no path."""
    if not name or len(name) > 255 or name.startswith(".") or re.search(r"[/\\\x00-\x1f]", name):
        raise RequestError(404, f"'{name[:80]}' is not the name of an image; expected one from the datastore's list")
    return name


def safe_person(name: str) -> str:
    """Let a person's name pass that DICOM can hold; empty is fine."""
    if len(name) > MAX_NAME or not name.isprintable() or "\\" in name:
        raise RequestError(422, f"the user's name must be up to {MAX_NAME} letters without line breaks or backslashes")
    return name


def safe_tag(tag: str) -> str:
    """Let the name of a kind of label pass, but no path, and not the kind that only a person saves."""
    if not re.fullmatch(r"\w[\w-]{0,63}", tag) or tag == "final":
        raise RequestError(422, f"the label's tag '{tag[:80]}' cannot be used; expected a word such as original")
    return tag


def parse_options(params: str) -> dict[str, Any]:
    """Read the form field ``params``: a JSON object, or nothing."""
    try:
        value = json.loads(params or "{}")
    except (ValueError, RecursionError) as error:
        raise RequestError(422, f"params is not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise RequestError(422, f"params is a JSON {type(value).__name__}; expected an object with the options")
    return value


class Scratch:
    """Temporary files of one request, all removed on leaving. They lie side by side in the folder for such files."""

    def __init__(self) -> None:
        self._paths: list[Path] = []

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._paths:
            path.unlink(missing_ok=True)

    def file(self, suffix: str) -> Path:
        """A new, empty file."""
        handle, name = tempfile.mkstemp(prefix="itermask3d_", suffix=suffix)
        os.close(handle)
        self._paths.append(Path(name))
        return Path(name)


def store_upload(upload: UploadFile, scratch: Scratch, *, extra: tuple[str, ...] = ()) -> Path:
    """Write an upload under a name of our own, of a type that can be read."""
    name = (upload.filename or ".nii.gz").lower()
    suffix = next((suffix for suffix in (*IMAGE_TYPES, *extra) if name.endswith(suffix)), None)
    if suffix is None:
        raise RequestError(422, f"the file '{name[-80:]}' is of no known type; expected {', '.join(IMAGE_TYPES)}")
    path = scratch.file(suffix)
    with path.open("wb") as target:
        shutil.copyfileobj(upload.file, target)
    return path


def on_grid(raw: Path, reference: Path, scratch: Scratch) -> Path:
    """Turn raw bytes, first axis fastest, into a NIfTI file on the reference's grid."""
    image = load_volume(reference)
    voxels = np.fromfile(raw, dtype=np.uint8)
    if voxels.size != np.prod(image.shape):
        raise RequestError(
            422, f"the label has {voxels.size} voxels; expected {tuple(image.shape)}, the grid of the image"
        )
    path = scratch.file(".nii.gz")
    save_nifti(voxels.reshape(tuple(image.shape), order="F"), np.asarray(image.affine), path)
    return path
