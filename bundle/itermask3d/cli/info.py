"""``itermask3d info``: what is installed here, and what is missing."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from itermask3d import BUNDLE_ROOT, __version__

__all__ = ["info"]

OPTIONAL = {
    "brain": ("deepbet", "HD_BET", "cc3d", "fill_voids"),
    "cohort": ("dask", "distributed", "bokeh"),
    "demo": ("nilearn",),
    "dicom": ("highdicom",),
    "label": ("monailabel", "dicomweb_client", "pynetdicom"),
}
"""Modules of each optional part, by the name that pip takes in brackets."""


def info(
    bundle: Annotated[Path, typer.Option(help="Folder of another bundle.", show_default=False)] = Path(BUNDLE_ROOT),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which version, models and optional parts are here, and what is missing.

    Example: itermask3d info --json
    """
    facts = gather(bundle)
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    print(f"itermask3d {facts['version']}, bundle {facts['bundle']} (version {facts['bundle_version']})")
    print(f"device: {facts['device']}")
    print("versions: " + ", ".join(f"{name} {number}" for name, number in facts["versions"].items()))
    for name, model in facts["models"].items():
        print(f"model {name}: {', '.join(f'{part} {told}' for part, told in model.items())}")
    for part, missing in facts["optional"].items():
        told = f"missing {', '.join(missing)}: pip install 'itermask3d[{part}]'" if missing else "installed"
        print(f"optional part {part}: {told}")


def gather(bundle: Path) -> dict[str, Any]:
    """Everything that is told, as plain values."""
    import torch

    from itermask3d.inference.models import NAMES, model_file

    metadata = bundle / "configs" / "metadata.json"
    device = f"cuda ({torch.cuda.get_device_name()})" if torch.cuda.is_available() else "cpu"
    return {
        "version": __version__,
        "bundle": str(bundle),
        "bundle_version": json.loads(metadata.read_text())["version"] if metadata.is_file() else None,
        "device": device,
        "versions": {name: found for name in ("monai", "torch", "numpy") if (found := installed(name))},
        "models": {name: {kind: state(model_file(bundle / "models", kind, name)) for kind in PARTS} for name in NAMES},
        "optional": {part: [name for name in needs if find_spec(name) is None] for part, needs in OPTIONAL.items()},
    }


PARTS = ("model.pt", "domain.json", "calibration.json")


def state(path: Path) -> str:
    """Of which version a model's file is, by its content; or that it is missing."""
    from itermask3d.files.identity import file_digest

    return f"sha256 {file_digest(path)[:12]}" if path.is_file() else "missing"


def installed(name: str) -> str | None:
    """Version of a distribution, if it is here."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
