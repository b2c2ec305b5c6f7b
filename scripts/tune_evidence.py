"""Choose what is marked in scans of one kind of contrast, on generated scans and on healthy real ones.

    python scripts/tune_evidence.py flair NORMALS.json out/flair --labels LABELS --scans T1 [--cases 12]
    python scripts/tune_evidence.py t2 NORMALS.json out/t2 --labels LABELS --scans T1 [--cases 12]

NORMALS is a list of healthy real scans of that contrast. For every label map a normal scan is generated, one with a
large lesion (5 to 250 ml) and, where lesions are bright and small as on FLAIR, one with 4 to 14 small ones (0.06 to
2 ml in white matter). Of all combinations that flag at most --generated-ml of a generated normal scan in the mean and
--healthy-ml of each real one, that with the highest mean Dice is first in <output>/choice.md and choice.json. With the
first TOP of them, how far large regions grow into their rim is chosen by the same rule, in growth.md and growth.json:
what grows needs room within the limits. No patient's scan has a say. Label maps must be of people whom neither training
nor test uses: the default subset is validation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _evidence import SPACING_MM, VOXEL_ML, prepared
from itermask3d import BUNDLE_ROOT
from itermask3d.evaluation.text import markdown_table
from itermask3d.files.scans import ScanError, list_scans
from itermask3d.files.writing import save_nifti, write_atomically
from itermask3d.inference.model import load_model
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.method.detection import Growth, grow_regions, remove_weak_components, voxels_in
from itermask3d.method.evidence import fused
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
TOP = 3
"""Combinations with which growth is tried."""
GROWTHS = tuple(product((0.4, 0.6, 0.8), (1.0, 4.0), (4.0, 8.0, 16.0)))
"""Threshold as a share of the outline's, volume from which on a region grows in ml, and distance in mm."""
SETTINGS = ("tissue_share", "threshold", "peak_threshold", "min_volume_ml", "grows_above", "from_ml", "within_mm")
"""Of a row, as far as it has them."""
MEASURES = ["Dice, large", "Dice, small", "generated, ml", "healthy, ml at most"]
HEAD = ["share", "threshold", "peak", "volume, ml", *MEASURES]
GROWTH_HEAD = [*HEAD[:4], "grows above", "from, ml", "within, mm", *MEASURES]


def main() -> None:
    arguments = parse()
    limits = Limits(arguments.generated_ml, arguments.healthy_ml)
    try:
        generated = generate(arguments, arguments.output / "scans")
        seen = list(evidences(arguments, generated, list_scans(arguments.normals)))
        choice = limits.best_first(tune(seen, combinations))
        if not choice:
            raise ValueError(f"no combination keeps to {limits.generated_ml:g} and {limits.healthy_ml:g} ml")
        tried = [tune(seen, partial(growths, settings=best.settings)) for best in choice[:TOP]]
        growth = limits.best_first([row for rows in tried for row in rows])
    except (ScanError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    told = {"contrast": arguments.contrast, **limits._asdict(), "scans": [item["case"] for item in generated]}
    for name, head, rows in (("choice", HEAD, choice), ("growth", GROWTH_HEAD, growth)):
        content = told | {"rows": [row.to_json() for row in rows]}
        write_atomically(json.dumps(content, indent=1) + "\n", arguments.output / f"{name}.json")
        table = markdown_table(head, [row.cells() for row in rows[:SHOWN]])
        write_atomically(table + "\n", arguments.output / f"{name}.md")
        print(arguments.output / f"{name}.md")


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


class Seen(NamedTuple):
    """What is suspicious of a scan, the error, the brain and the lesions, ``(D, H, W)``, and the kind of scan."""

    group: str
    suspicious: np.ndarray
    error: np.ndarray
    brain: np.ndarray
    label: np.ndarray

    def fused(self, share: float) -> np.ndarray:
        """The map with so much of the tissues."""
        return fused(torch.from_numpy(self.suspicious), torch.from_numpy(self.error), share).numpy()

    def measured(self, marked: float, hit: float) -> tuple[float, float]:
        """Dice, and millilitres beside the lesion, of so many voxels."""
        total = marked + float(self.label.sum())
        return (2 * hit / total if total else 1.0), VOXEL_ML * (marked - hit)


class Row(NamedTuple):
    """Of one combination of settings."""

    settings: tuple[float, ...]
    large: float
    small: float | None
    generated_ml: float
    healthy_ml: float

    @property
    def dice(self) -> float:
        """What is to be highest: the mean over the kinds of lesions."""
        return self.large if self.small is None else (self.large + self.small) / 2

    def to_json(self) -> dict[str, Any]:
        """Settings by name, and the measures."""
        plain = self._asdict()
        return dict(zip(SETTINGS, plain.pop("settings"), strict=False)) | plain

    def cells(self) -> list[str]:
        small = "" if self.small is None else f"{self.small:.3f}"
        return [*map("{:g}".format, self.settings), f"{self.large:.3f}", small, f"{self.generated_ml:.2f}",
                f"{self.healthy_ml:.2f}"]  # fmt: skip


class Limits(NamedTuple):
    """What may be flagged of normal scans: of a generated one in the mean, of each healthy real one."""

    generated_ml: float
    healthy_ml: float

    def best_first(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that keep to the limits, the highest Dice first."""
        good = [row for row in rows if row.generated_ml <= self.generated_ml and row.healthy_ml <= self.healthy_ml]
        return sorted(good, key=lambda row: -row.dice)


def evidences(
    arguments: argparse.Namespace, generated: Sequence[dict[str, Any]], healthy: Sequence[dict[str, Any]]
) -> Iterator[Seen]:
    """The evidence of every scan that fits the grid."""
    model = load_model(BUNDLE_ROOT, arguments.model, overrides={"progress": False})
    side = SIDES[ContrastKind(arguments.contrast)]
    groups = [(item, item["group"]) for item in generated] + [(item, "healthy") for item in healthy]
    for item, group in tqdm(groups, unit="scan"):
        try:
            sample = prepared(model, {key: value for key, value in item.items() if key != "group"})
        except ScanError as reason:  # a generated brain may be too large for the grid
            tqdm.write(f"left out: {item['case']}: {reason}")
            continue
        image, brain = (sample[key].as_tensor()[None].to(model.device) for key in ("image", "brain_mask"))
        out = model.variant(arguments.model).inferer(image, model.networks[arguments.model], brain)
        inside = brain[0, 0].numpy(force=True) > 0.5
        label = sample["label"].as_tensor()[0].numpy() > 0.5 if "label" in item else np.zeros_like(inside)
        suspicious = suspicion(out["evidence"][0].deviation.z[0], side).numpy(force=True)
        yield Seen(group, suspicious, out["error"][0, 0].numpy(force=True), inside, label)


Measured = tuple[tuple[float, ...], tuple[float, float]]
"""Settings, and what :meth:`Seen.measured` says of a scan with them."""


def tune(seen: Sequence[Seen], tried: Callable[[Seen], Iterator[Measured]]) -> list[Row]:
    """A row for all settings that are tried with each scan, in the order in which they are."""
    found: dict[tuple[float, ...], dict[str, list[tuple[float, float]]]] = {}
    for scan in tqdm(seen, unit="scan"):
        for key, measured in tried(scan):
            found.setdefault(key, {}).setdefault(scan.group, []).append(measured)
    return [row_of(key, groups) for key, groups in found.items()]


def combinations(scan: Seen) -> Iterator[Measured]:
    """Dice and millilitres beside the lesion, for every combination of settings."""
    for share, threshold in product(SHARES, THRESHOLDS):
        values = scan.fused(share)
        regions, count = ndimage.label((values > threshold) & scan.brain, np.ones((3, 3, 3)))
        inside = regions > 0
        region, values = regions[inside], values[inside]
        sizes, hits = (np.bincount(part, minlength=count + 1) for part in (region, region[scan.label[inside]]))
        for peak in (peak for peak in PEAKS if peak >= threshold):
            strong = np.bincount(region[values > peak], minlength=count + 1)
            for volume_ml in VOLUMES_ML:
                kept = strong >= max(1, voxels_in(volume_ml, (SPACING_MM,) * 3))
                measured = scan.measured(float(sizes[kept].sum()), float(hits[kept].sum()))
                yield (share, threshold, peak, volume_ml), measured


def growths(scan: Seen, settings: tuple[float, ...]) -> Iterator[Measured]:
    """The same for how far large regions grow, with the other settings as they are chosen."""
    share, threshold, peak, volume_ml = settings
    spacing = (SPACING_MM,) * 3
    values, brain = (torch.from_numpy(volume)[None, None] for volume in (scan.fused(share), scan.brain))
    mask = remove_weak_components(
        (values > threshold) & brain, values, peak_threshold=peak, min_volume_ml=volume_ml, spacing_mm=spacing
    )
    for lower, from_ml, within_mm in GROWTHS:
        growth = Growth(round(lower * threshold, 3), from_ml, within_mm)
        grown = grow_regions(mask, values, brain, growth, spacing_mm=spacing)[0, 0].numpy()
        measured = scan.measured(float(grown.sum()), float((grown & scan.label).sum()))
        yield (*settings, growth.threshold, from_ml, within_mm), measured


def row_of(key: tuple[float, ...], groups: dict[str, list[tuple[float, float]]]) -> Row:
    def mean(group: str, column: int) -> float:
        return float(np.mean([measured[column] for measured in groups[group]]))

    small = mean("small", 0) if "small" in groups else None
    largest = max((ml for _, ml in groups.get("healthy", [])), default=0.0)
    return Row(key, mean("large", 0), small, mean("normal", 1), largest)


if __name__ == "__main__":
    main()
