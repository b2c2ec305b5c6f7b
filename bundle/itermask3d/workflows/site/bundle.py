"""A bundle of one's own: the shipped one with settings, weights and facts that belong to other scans."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from itermask3d import BUNDLE_ROOT, __version__
from itermask3d.files.writing import replaced_folder, write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.method.network import SIZE_DIVISOR
from itermask3d.method.settings import RefinementSettings

__all__ = [
    "DATA_LICENCE",
    "Recipe",
    "copy_bundle",
    "derived_epochs",
    "derived_size",
    "set_loop",
    "set_values",
    "write_bundle",
    "write_card",
]

PACKAGE = Path(__file__).resolve().parents[2]
CHANNELS = (8, 16, 32, 64, 128)
ROOM_MM = 4.0
"""Around the largest brain of the set: later ones may be larger."""

SMALLEST = 32
TRAINING_STEPS = 4000
"""About as many as the shipped weights have seen."""

EPOCHS = (20, 300)
TISSUES = "model_tissue.pt"
NOT_COPIED = ("__pycache__", "*.egg-info", "models", "docs", "split_*.json")
"""Of the shipped bundle: what belongs to its own scans."""

DATA_LICENCE = """Data behind the weights in models/
================================

To be filled in by whoever shares this bundle: where the scans come from, under which terms, and whom to credit.
No scan or part of one is contained in this bundle. models/calibration.json and models/domain.json hold statistics of
them (scores, ranges) and the names of cases; configs/split.json lists the cases of each subset.
"""


@dataclass(frozen=True)
class Recipe:
    """The values in which a bundle for other scans differs from the shipped one.

    Attributes:
        spacing_mm, spatial_size: of the network's grid.
        channels: widths of the network.
        epochs, batch_size, val_interval, seed: of the training.
        brain_extraction: for scans that come later.
        bias_correction: ``n4`` or ``none``.
        contrast: of the scans, in words.
    """

    spacing_mm: float
    spatial_size: tuple[int, int, int]
    epochs: int
    val_interval: int
    channels: tuple[int, ...] = CHANNELS
    batch_size: int = 2
    seed: int = 2026
    brain_extraction: str = "auto"
    bias_correction: str = "n4"
    contrast: str = "T1"

    def for_training(self) -> dict[str, Any]:
        """Ids of ``train.json`` and their values."""
        values = asdict(self)
        del values["contrast"]
        channels = values.pop("channels")
        split = "$@bundle_root + '/configs/split.json'"
        return {**values, "network_def::channels": list(channels), "split_file": split}

    def for_inference(self) -> dict[str, Any]:
        """Ids of ``inference.json`` and their values."""
        names = ("spacing_mm", "spatial_size", "brain_extraction", "bias_correction")
        values: dict[str, Any] = {name: asdict(self)[name] for name in names}
        return {
            **values,
            "model": "own",
            "models::names": ["own"],
            "models::settings": {},
            "evidence": {},
        }


def derived_size(spans_mm: Sequence[Sequence[float]], spacing_mm: float) -> tuple[int, int, int]:
    """Voxels of the smallest grid that the network takes and that holds every brain, with some room.

    Args:
        spans_mm: of each brain, left-right, back-front, down-up.
        spacing_mm: edge of a voxel.
    """
    largest = [max(span[axis] for span in spans_mm) + ROOM_MM for axis in range(3)]
    sizes = [max(SMALLEST, SIZE_DIVISOR * math.ceil(extent / spacing_mm / SIZE_DIVISOR)) for extent in largest]
    return sizes[0], sizes[1], sizes[2]


def derived_epochs(n_train: int, batch_size: int) -> int:
    """Epochs that make about as many steps as the shipped weights have seen, within bounds."""
    low, high = EPOCHS
    return min(high, max(low, math.ceil(TRAINING_STEPS / max(1, n_train // batch_size))))


def write_bundle(folder: Path, recipe: Recipe, splits: Mapping[str, Sequence[str]]) -> None:
    """Write a bundle without weights, complete or not at all; weights that lie there already are lost.

    Args:
        folder: of the bundle.
        recipe: enters both configs and the metadata.
        splits: cases by subset, kept as ``configs/split.json``.
    """
    with replaced_folder(folder) as partial:
        copy_bundle(BUNDLE_ROOT, partial)
        configs = partial / "configs"
        set_values(configs / "train.json", recipe.for_training())
        set_values(configs / "inference.json", recipe.for_inference())
        set_values(
            configs / "metadata.json", _metadata(recipe, {subset: len(cases) for subset, cases in splits.items()})
        )
        write_atomically(json.dumps({**splits}, indent=1) + "\n", configs / "split.json")
        write_atomically(DATA_LICENCE, partial / "docs" / "data_license.txt")


def copy_bundle(source: str | Path, folder: Path) -> None:
    """Copy a bundle with its code into a folder that exists, without what belongs to its own scans: of ``models`` only
    the tissue network comes along, which is not trained at a site, and ``docs`` is left empty."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*NOT_COPIED), dirs_exist_ok=True)
    if not (folder / PACKAGE.name).is_dir():  # a wheel's bundle lies inside its package
        shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", "_bundle"))
    for name in ("models", "docs"):
        (folder / name).mkdir()
    tissues = Path(source, "models", TISSUES)
    if tissues.is_file():
        shutil.copyfile(tissues, folder / "models" / TISSUES)


_OF_LOOP = {field.name for field in fields(RefinementSettings)}


def set_loop(folder: Path, chosen: Mapping[str, Any]) -> None:
    """Write the settings that ``scripts/tune.py`` chose into a bundle's ``inference.json``."""
    values = {f"settings::{name}": value for name, value in chosen.items() if name in _OF_LOOP}
    set_values(folder / "configs" / "inference.json", {**values, "min_volume_ml": chosen["min_volume_ml"]})


def write_card(folder: Path, recipe: Recipe, facts: Mapping[str, Any]) -> None:
    """Write the model card of a bundle: what is known filled in, what only its maker knows left to fill in.

    Args:
        folder: of the bundle.
        recipe: of its training.
        facts: sentences or statistics by name, in their order.
    """
    size = "×".join(map(str, recipe.spatial_size))
    rows = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
    text = f"""# IterMask3D, trained on scans of one's own: model card

Marks where a {recipe.contrast} brain MR scan differs from what a network, trained on normal scans only, expects of it.

**{RESEARCH_USE}**

| | |
|---|---|
| Task | unsupervised anomaly segmentation and scan-level scoring |
| Input | one 3D {recipe.contrast} scan of the kind that it was trained on |
| Output | mask, anomaly map, reconstruction on the scan's own grid; `result.json`; `overview.png` |
| Method | IterMask3D, Liang et al., doi:10.1016/j.media.2025.103763; own implementation, version {__version__} |
| Network | widths {"-".join(map(str, recipe.channels))}, grid of {size} voxels of {recipe.spacing_mm:g} mm |
| Licence | code Apache-2.0; data see [data_license.txt](data_license.txt) |

## What was done
| | |
|---|---|
{rows}
## To be filled in
- Where the scans come from: scanner, field strength, protocol, age and sex of the people, who called them normal.
- Terms of the data, in `data_license.txt`.
- Metrics on scans that took no part in any choice (`itermask3d evaluate`). Until then nothing is known of what these
  weights find; what is above says only how much they flag where there should be nothing.
- Intended use, and what they fail on.
"""
    write_atomically(text, folder / "docs" / "README.md")


def set_values(path: Path, values: Mapping[str, Any]) -> None:
    """Change values of a JSON config; ``::`` reaches inside."""
    config = json.loads(path.read_text())
    for name, value in values.items():
        *outer, last = name.split("::")
        place = config
        for key in outer:
            place = place[key]
        place[last] = value
    write_atomically(json.dumps(config, indent=2) + "\n", path)


def _metadata(recipe: Recipe, counts: Mapping[str, int]) -> dict[str, Any]:
    told = ", ".join(f"{count} for {subset}" for subset, count in counts.items())
    shape = list(recipe.spatial_size)
    return {
        "version": "0.1.0",
        "changelog": {"0.1.0": f"weights for {recipe.contrast} scans of one's own, with itermask3d {__version__}"},
        "data_source": f"scans of one's own: {told}; see docs/data_license.txt",
        "image_classes": f"single contrast: {recipe.contrast} MR of the head, resampled to {recipe.spacing_mm:g} mm, "
        "normalised by the brain's median and interquartile range",
        "intended_use": f"{RESEARCH_USE} The weights are for {recipe.contrast} scans of the kind in docs/README.md.",
        "network_data_format::inputs::image::spatial_shape": shape,
        "network_data_format::outputs::pred::spatial_shape": shape,
    }
