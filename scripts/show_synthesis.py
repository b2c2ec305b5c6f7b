"""Show scans made from label maps, by contrast, and compare their features with those of real scans.

    python scripts/show_synthesis.py [--output docs/synthesis.png]
    python scripts/show_synthesis.py --labels FOLDER --scans FOLDER --split-file split.json --real REAL.json

Without --labels the tissue maps of the ICBM152 template serve. REAL.json lists real scans, each with its contrast as
``group``; one of each is shown, and all are measured. A table is written beside the picture, as ``.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from itermask3d import BUNDLE_ROOT
from itermask3d.files.scans import ScanError, list_scans
from itermask3d.files.writing import write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.preprocessing.normalise import RobustNormalized
from itermask3d.preprocessing.pipeline import inference_transforms
from itermask3d.preprocessing.scan_features import measure_prepared
from itermask3d.simulation.generator.contrasts import CONTRASTS
from itermask3d.simulation.generator.label_maps import TEMPLATE, label_items, tissue_transforms
from itermask3d.simulation.generator.synthesis import Ingredients, SynthesizeBraind
from monai.data import PersistentDataset
from tqdm import tqdm

SPACING_MM = 2.0
SIZE = (80, 96, 80)
FEATURES = (
    "dark_tail",
    "bright_tail",
    "quartile_skewness",
    "depth_contrast",
    "sharpness",
    "sharpness_balance",
    "noise",
    "slice_jump",
    "brain_ml",
    "asymmetry_percent",
    "surface_ratio",
)
SHOWN = (-2.8, 2.8)

Volumes = tuple[np.ndarray, np.ndarray]


def main() -> None:
    arguments = parse()
    try:
        maps = tissue_maps(arguments)
        made = {
            name: [generate(name, maps[i % len(maps)], arguments.seed + i) for i in range(arguments.measured)]
            for name in tqdm(arguments.contrasts, unit="contrast")
        }
        real = real_scans(arguments.real, arguments.cache) if arguments.real else {}
    except (ScanError, ValueError) as error:
        sys.exit(f"error: {error}")
    output = Path(arguments.output)
    draw(made, real, arguments.shown, output)
    write_atomically(table(made, real), output.with_suffix(".md") if arguments.table is None else Path(arguments.table))
    print(f"{sum(map(len, made.values()))} generated scans in {output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", default=TEMPLATE, help="folder or list of label maps")
    parser.add_argument("--scans", help="T1 scans of the same names, which refine the maps")
    parser.add_argument("--brain-masks", help="folder with a brain mask of the same file name for every scan")
    parser.add_argument(
        "--split-file",
        default=f"{BUNDLE_ROOT}/configs/split_ixi_t1_2mm.json",
        help="use only the cases of its training subset",
    )
    parser.add_argument("--extra", help="further label maps, of people in no subset")
    parser.add_argument("--maps", type=int, default=4, help="use this many label maps")
    parser.add_argument("--real", help="list of real scans with their contrast as group")
    parser.add_argument("--contrasts", nargs="+", default=list(CONTRASTS), choices=list(CONTRASTS))
    parser.add_argument("--shown", type=int, default=4, help="scans in a row of the picture")
    parser.add_argument("--measured", type=int, default=8, help="scans of each contrast that are made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", default="out/synthesis_cache")
    parser.add_argument("--output", default="out/synthesis.png")
    parser.add_argument("--table", help="Markdown file (default: beside the picture)")
    return parser.parse_args()


def tissue_maps(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The first label maps of the list and, where asked for, one of the extra ones last."""
    scans = list_scans(arguments.scans, brain_mask_dir=arguments.brain_masks) if arguments.scans else []
    items = label_items(arguments.labels, split_file=arguments.split_file, scans=scans)[: arguments.maps]
    if arguments.extra:
        items[-1:] = label_items(arguments.extra, subset=None)[:1]
    prepare = tissue_transforms(spacing_mm=SPACING_MM, spatial_size=SIZE)
    Path(arguments.cache).mkdir(parents=True, exist_ok=True)
    return list(PersistentDataset(items, prepare, cache_dir=arguments.cache))


def generate(contrast: str, tissues: dict[str, Any], seed: int) -> Volumes:
    """A normalised scan and its brain mask, ``(D, H, W)``."""
    synthesize = SynthesizeBraind("tissues", SPACING_MM, Ingredients({contrast: 1.0}))
    synthesize.set_random_state(seed=seed)
    return volumes(RobustNormalized("image")(synthesize(tissues)))


def real_scans(source: str, cache: str) -> dict[str, list[Volumes]]:
    """Real scans as the bundle prepares them, by group."""
    prepare = inference_transforms(spacing_mm=SPACING_MM, spatial_size=SIZE, bias_correction="n4", check_fit=False)
    found = defaultdict(list)
    items = list_scans(source)
    for item, sample in zip(items, tqdm(PersistentDataset(items, prepare, cache_dir=cache), unit="scan"), strict=True):
        found[str(item.get("group", "real"))].append(volumes(sample))
    return dict(found)


def volumes(sample: dict[str, Any]) -> Volumes:
    return sample["image"][0].numpy(), sample["brain_mask"][0].numpy() > 0.5


def draw(made: dict[str, list[Volumes]], real: dict[str, list[Volumes]], shown: int, output: Path) -> None:
    """A row a contrast, generated first; an axial and a sagittal slice of each scan."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [(f"generated {name}", scans) for name, scans in made.items()]
    rows += [(f"real {name}", scans) for name, scans in real.items()]
    figure, axes = pyplot.subplots(
        len(rows), 2 * shown, figsize=(4.2 * shown, 2.1 * len(rows)), facecolor="black", squeeze=False
    )
    for (name, scans), line in zip(rows, axes, strict=True):
        for axis in line:
            axis.axis("off")
        line[0].set_title(name, color="white", loc="left", fontsize=13)
        for (image, brain), pair in zip(scans[:shown], line.reshape(-1, 2), strict=False):
            seen = np.where(brain, image, SHOWN[0])
            for axis, part in zip(pair, (seen[:, :, SIZE[2] // 2 + 2], seen[SIZE[0] // 2]), strict=True):
                axis.imshow(part.T, origin="lower", cmap="gray", vmin=SHOWN[0], vmax=SHOWN[1])
    figure.tight_layout(pad=0.2)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=50, facecolor="black")
    pyplot.close(figure)


def table(made: dict[str, list[Volumes]], real: dict[str, list[Volumes]]) -> str:
    """Markdown: median and range of each feature, real beside generated."""
    columns = {f"{kind} {name} ({len(scans)})": measured(scans) for kind, name, scans in in_pairs(made, real)}
    lines = ["| feature | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for feature in FEATURES:
        cells = [summary([one[feature] for one in found if feature in one]) for found in columns.values()]
        lines.append(f"| `{feature}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def in_pairs(
    made: dict[str, list[Volumes]], real: dict[str, list[Volumes]]
) -> list[tuple[str, str, Sequence[Volumes]]]:
    """Real and generated scans of one contrast side by side; those without a partner last."""
    both = [name for name in made if name in real]
    pairs = [
        ("real", name, real[name]) if first else ("generated", name, made[name]) for name in both for first in (1, 0)
    ]
    rest = [("generated", name, made[name]) for name in made if name not in real]
    return pairs + rest + [("real", name, real[name]) for name in real if name not in made]


def measured(scans: Sequence[Volumes]) -> list[dict[str, float]]:
    return [measure_prepared(image, brain, spacing_mm=SPACING_MM) for image, brain in scans]


def summary(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle, low, high = np.median(values), min(values), max(values)
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


if __name__ == "__main__":
    main()
