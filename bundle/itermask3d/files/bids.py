"""BIDS datasets: which of their files are raw anatomical scans, by the rules of the specification.

Source: Gorgolewski et al., Scientific Data 3, 160044 (2016); https://bids-specification.readthedocs.io, version 1.10.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pathspec import PathSpec

from itermask3d.files.listed import read_text_lines
from itermask3d.files.tree import LeftOut

__all__ = ["BIDS_SUFFIXES", "bids_scans", "is_bids"]

BIDS_SUFFIXES = ("T1w",)
"""Contrasts taken from a BIDS dataset unless others are asked for: those that the shipped weights know."""

NIFTI = (".nii.gz", ".nii")
NOT_RAW = ("derivatives", "sourcedata", "code", "stimuli")
"""Folders at the top of a dataset that hold no raw scans."""

NO_MAGNITUDE = ("phase", "real", "imag")
"""Values of the entity ``part`` that are no images of signal strength."""


def is_bids(folder: Path) -> bool:
    """Whether a folder is a raw BIDS dataset: its ``dataset_description.json`` says so."""
    try:
        content = json.loads((folder / "dataset_description.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "BIDSVersion" in content and content.get("DatasetType", "raw") == "raw"


def bids_scans(root: Path, files: Sequence[Path], suffixes: Sequence[str]) -> tuple[list[Path], list[LeftOut]]:
    """Tell the scans of a dataset from files that its rules leave out.

    Args:
        root: of the dataset.
        files: volumes below it.
        suffixes: those to take, such as ``T1w``.
    """
    ignored = _ignored(root)
    taken, left_out = [], []
    for file in files:
        reason = _left_out(file.relative_to(root), suffixes, ignored)
        if reason:
            left_out.append(LeftOut(str(file), reason))
        else:
            taken.append(file)
    return taken, left_out


def _ignored(root: Path) -> PathSpec[Any]:
    path = root / ".bidsignore"
    lines = read_text_lines(path) if path.is_file() else []
    return PathSpec.from_lines("gitignore", lines)


def _left_out(file: Path, suffixes: Sequence[str], ignored: PathSpec[Any]) -> str:
    """Why a file is no raw scan of a wanted contrast; empty where it is one."""
    if file.parts[0] in NOT_RAW:
        return f"in the dataset's folder '{file.parts[0]}', which holds no raw scans"
    if ignored.match_file(file.as_posix()):
        return "named by the dataset's .bidsignore"
    ending = next((ending for ending in NIFTI if file.name.endswith(ending)), None)
    if ending is None:
        return "no NIfTI file, which BIDS asks for"
    *pairs, suffix = file.name.removesuffix(ending).split("_")
    entities = dict(pair.partition("-")[::2] for pair in pairs)
    folders = [f"sub-{entities.get('sub')}", *([f"ses-{entities['ses']}"] if "ses" in entities else []), "anat"]
    if list(file.parts[:-1]) != folders:
        return "not in its place sub-*/[ses-*/]anat"
    if entities.get("part") in NO_MAGNITUDE:
        return f"part-{entities['part']}, expected the magnitude"
    return "" if suffix in suffixes else f"{suffix}, not {' or '.join(suffixes)}"
