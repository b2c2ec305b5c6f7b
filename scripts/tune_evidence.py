"""Choose what is marked in scans of one kind of contrast, on generated scans and on healthy real ones.

    python scripts/tune_evidence.py flair NORMALS.json out/flair --labels LABELS --scans T1 [--cases 12]
    python scripts/tune_evidence.py t2 NORMALS.json out/t2 --labels LABELS --scans T1 [--cases 12]

NORMALS is a list of healthy real scans of that contrast. For every label map a normal scan is generated, one with a
large lesion (5 to 250 ml) and, where lesions are bright and small as on FLAIR, one with 4 to 14 small ones (0.06 to
2 ml in white matter). Of all combinations that flag at most --generated-ml of a generated normal scan in the mean and
--healthy-ml of each real one, that with the highest mean Dice is first in <output>/choice.md and choice.json. No
patient's scan has a say. Label maps must be of people whom neither training nor test uses: the default subset is
validation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _evidence import SPACING_MM, VOXEL_ML, prepared
from itermask3d import BUNDLE_ROOT
from itermask3d.evaluation.text import markdown_table
from itermask3d.files.scans import ScanError, list_scans
from itermask3d.files.writing import save_nifti, write_atomically
from itermask3d.inference.model import load_model
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.method.detection import voxels_in
from itermask3d.method.tissue_deviation import SIDES, ContrastKind, suspicion
from itermask3d.simulation.generator.contrasts import CONTRASTS
from itermask3d.simulation.generator.label_maps import label_items, tissue_transforms
from itermask3d.simulation.generator.synthesis import Ingredients, draw_recipe, render
from itermask3d.simulation.generator.tissues import Tissue
from itermask3d.simulation.lesions import LesionLook, generated_shape, insert_lesion
from scipy import ndimage
from tqdm import tqdm

SIZE = (96, 112, 96)
KINDS = {"flair": ("normal", "large", "small"), "t2": ("normal", "large")}
SHARES = (0.5, 0.65, 0.8, 0.9)
THRESHOLDS = (1.5, 2.0, 2.5, 3.0)
PEAKS = (2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0)
VOLUMES_ML = (0.06, 0.12, 0.24, 0.5, 1.0)
SHOWN = 10
HEAD = [
    "share",
    "threshold",
    "peak",
    "volume, ml",
    "Dice, large",
    "Dice, small",
    "generated, ml",
    "healthy, ml at most",
]


def main() -> None:
    arguments = parse()
    try:
        generated = generate(arguments, arguments.output / "scans")
        rows = tune(arguments, generated, list_scans(arguments.normals))
    except (ScanError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    limits = {"generated_ml": arguments.generated_ml, "healthy_ml": arguments.healthy_ml}
    good = [
        row for row in rows if row.generated_ml <= limits["generated_ml"] and row.healthy_ml <= limits["healthy_ml"]
    ]
    ordered = sorted(good, key=lambda row: -row.dice)
    told = {"contrast": arguments.contrast, **limits, "scans": [item["case"] for item in generated]}
    write_atomically(
        json.dumps(told | {"rows": [row._asdict() for row in ordered]}, indent=1) + "\n",
        arguments.output / "choice.json",
    )
    write_atomically(
        markdown_table(HEAD, [row.cells() for row in ordered[:SHOWN]]) + "\n", arguments.output / "choice.md"
    )
    print(arguments.output / "choice.md")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("contrast", choices=list(KINDS))
    parser.add_argument("normals", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--labels", required=True, help="folder or list of label maps")
    parser.add_argument("--scans", required=True, help="T1 scans of the same names, which refine the maps")
    parser.add_argument("--subset", default="validation")
    parser.add_argument("--split-file", default=f"{BUNDLE_ROOT}/configs/split_ixi_t1_2mm.json")
    parser.add_argument("--cases", type=int, default=12, help="use only the first so many label maps (default: 12)")
    parser.add_argument("--generated-ml", type=float, default=1.0, help="of a generated normal scan (default: 1)")
    parser.add_argument("--healthy-ml", type=float, default=3.0, help="of each healthy real scan (default: 3)")
    parser.add_argument("--model", default="agnostic", help="t1 or agnostic (default: agnostic)")
    return parser.parse_args()


def generate(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Scans of every label map and kind; what was drawn depends on the map's place and the kind alone."""
    folder.mkdir(parents=True, exist_ok=True)
    items = label_items(
        arguments.labels, split_file=arguments.split_file, subset=arguments.subset, scans=list_scans(arguments.scans)
    )
    prepare = tissue_transforms(spacing_mm=SPACING_MM, spatial_size=SIZE)
    entries = []
    for number, item in enumerate(tqdm(items[: arguments.cases], unit="label map")):
        tissues = prepare(item)
        for index, kind in enumerate(KINDS[arguments.contrast]):
            seed = [11, number, list(CONTRASTS).index(arguments.contrast), index]
            entries.append(write_scan(tissues, arguments.contrast, kind, seed, folder))
    return entries


def write_scan(tissues: dict[str, Any], contrast: str, kind: str, seed: list[int], folder: Path) -> dict[str, Any]:
    """One generated scan, its lesions and its brain; returns its item."""
    ingredients = Ingredients(
        {contrast: 1.0}, scaling=0.03, texture=(0.02, 0.2), variation=(0.05, 0.35), bias_log_sd=(0, 0.08),
        slice_probability=0.25,
    )  # fmt: skip
    recipe, rng = draw_recipe(ingredients, np.random.RandomState(seed)), np.random.default_rng(seed)
    affine = tissues["tissues"].affine.numpy()
    mixture, mask = (tissues[key].as_tensor() for key in ("tissues", "brain_mask"))
    scan = render(mixture, mask, recipe, spacing_mm=SPACING_MM)
    image, brain = 1000 * scan.image[0].numpy(), scan.brain_mask[0].numpy() > 0.5
    label = np.zeros(brain.shape, dtype=bool)
    white = brain if recipe.warp else brain & ((mixture[0] == Tissue.WHITE) & (mixture[2] > 0.8)).numpy()
    for volume_ml, look, place in lesions(kind, rng, brain, white):
        region = generated_shape(place, affine, volume_ml=volume_ml, rng=rng)
        image = insert_lesion(image, region, brain, affine, look=look(), rng=rng)
        label |= region
    case = f"{tissues['case']}_{contrast}_{kind}"
    paths = {name: folder / f"{case}_{name}.nii.gz" for name in ("image", "label", "brain_mask")}
    volumes = {"image": (image.clip(min=0) * brain).astype(np.float32), "label": label, "brain_mask": brain}
    for name, path in paths.items():
        volume = volumes[name]
        save_nifti(volume if name == "image" else volume.astype(np.uint8), affine, path)
    return {"case": case, "group": kind, **{name: str(path) for name, path in paths.items()}}


def lesions(kind: str, rng: np.random.Generator, brain: np.ndarray, white: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Volume, look and place of every lesion of a scan; the look is drawn once the shape is."""

    def drawn(contrast: tuple[float, float], keep: float, **more: Any) -> LesionLook:
        look = {"contrast": float(rng.uniform(*contrast)), "keep": float(rng.uniform(0.1, keep))}
        return LesionLook(**look, **{name: value() for name, value in more.items()})

    if kind == "large":
        texture = {"texture": lambda: float(rng.uniform(0.2, 0.8))}
        yield float(np.exp(rng.uniform(*np.log((5, 250))))), lambda: drawn((0.8, 3.0), 0.5, **texture), brain
    elif kind == "small":
        for _ in range(rng.integers(4, 15)):
            volume_ml = float(np.exp(rng.uniform(*np.log((0.06, 2)))))
            yield volume_ml, lambda: drawn((1.0, 3.0), 0.4, border_mm=lambda: 1.0), white


class Row(NamedTuple):
    """Of one combination of settings."""

    tissue_share: float
    threshold: float
    peak_threshold: float
    min_volume_ml: float
    large: float
    small: float | None
    generated_ml: float
    healthy_ml: float

    @property
    def dice(self) -> float:
        """What is to be highest: the mean over the kinds of lesions."""
        return self.large if self.small is None else (self.large + self.small) / 2

    def cells(self) -> list[str]:
        small = "" if self.small is None else f"{self.small:.3f}"
        settings = (self.tissue_share, self.threshold, self.peak_threshold, self.min_volume_ml)
        return [*map("{:g}".format, settings), f"{self.large:.3f}", small, f"{self.generated_ml:.2f}",
                f"{self.healthy_ml:.2f}"]  # fmt: skip


def tune(
    arguments: argparse.Namespace, generated: Sequence[dict[str, Any]], healthy: Sequence[dict[str, Any]]
) -> list[Row]:
    """Every combination, in the order in which they are tried."""
    model = load_model(BUNDLE_ROOT, arguments.model, overrides={"progress": False})
    kind = ContrastKind(arguments.contrast)
    found: dict[tuple[float, ...], dict[str, list[tuple[float, float]]]] = {}
    groups = [(item, item["group"]) for item in generated] + [(item, "healthy") for item in healthy]
    for item, group in tqdm(groups, unit="scan"):
        try:
            evidence = evidence_of(model, arguments.model, item, kind)
        except ScanError as reason:  # a generated brain may be too large for the grid
            tqdm.write(f"left out: {item['case']}: {reason}")
            continue
        for key, measured in combinations(*evidence):
            found.setdefault(key, {}).setdefault(group, []).append(measured)
    return [row_of(key, groups) for key, groups in found.items()]


def evidence_of(model: Any, name: str, item: dict[str, Any], kind: ContrastKind) -> tuple[np.ndarray, ...]:
    """What is suspicious of a scan, the error, the brain and the lesions, ``(D, H, W)``."""
    sample = prepared(model, {key: value for key, value in item.items() if key != "group"})
    image, brain = (sample[key].as_tensor()[None] for key in ("image", "brain_mask"))
    out = model.variant(name).inferer(image, model.networks[name], brain)
    suspicious = suspicion(out["evidence"][0].deviation.z[0], SIDES[kind]).numpy()
    inside = brain[0, 0].numpy() > 0.5
    label = sample["label"].as_tensor()[0].numpy() > 0.5 if "label" in item else np.zeros_like(inside)
    return suspicious, out["error"][0, 0].numpy(), inside, label


def combinations(
    suspicious: np.ndarray, error: np.ndarray, brain: np.ndarray, label: np.ndarray
) -> Iterator[tuple[tuple[float, ...], tuple[float, float]]]:
    """Dice and millilitres beside the lesion, for every combination of settings."""
    for share, threshold in product(SHARES, THRESHOLDS):
        fused = suspicious ** (2 * share) * error.clip(min=0) ** (1 - share)
        regions, count = ndimage.label((fused > threshold) & brain, np.ones((3, 3, 3)))
        inside = regions > 0
        region, values = regions[inside], fused[inside]
        sizes, hits = (np.bincount(part, minlength=count + 1) for part in (region, region[label[inside]]))
        for peak in (peak for peak in PEAKS if peak >= threshold):
            strong = np.bincount(region[values > peak], minlength=count + 1)
            for volume_ml in VOLUMES_ML:
                kept = strong >= max(1, voxels_in(volume_ml, (SPACING_MM,) * 3))
                marked, hit = float(sizes[kept].sum()), float(hits[kept].sum())
                total = marked + float(label.sum())
                dice = 2 * hit / total if total else 1.0
                yield (share, threshold, peak, volume_ml), (dice, VOXEL_ML * (marked - hit))


def row_of(key: tuple[float, ...], groups: dict[str, list[tuple[float, float]]]) -> Row:
    def mean(group: str, column: int) -> float:
        return float(np.mean([measured[column] for measured in groups[group]]))

    small = mean("small", 0) if "small" in groups else None
    largest = max((ml for _, ml in groups.get("healthy", [])), default=0.0)
    return Row(*key, mean("large", 0), small, mean("normal", 1), largest)


if __name__ == "__main__":
    main()
