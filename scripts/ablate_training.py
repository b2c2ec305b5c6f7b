"""What each choice of a training is worth: train every variant of an ablation equally long, compare on validation
scans.

    python scripts/ablate_training.py configs/training_ablations/recipe.json SCANS OUT --brain-masks masks \\
        --check t1=validation.json [--only NAME …] [--write docs/benchmarks.md recipe]

An ablation is a JSON file: `overlays` and values for `all` variants, and the values in which each of the `variants`
differs. Every variant is trained by the bundle's own workflow, then judged by one pass with the whole brain masked,
which is the loop's first step, so settings of the loop play no part. --check names lists as
scripts/simulate_lesions.py writes them; the normal scans of the first set the threshold for all lists: the error that
0.5 % of their voxels exceed. What is trained or judged is not done again, an interrupted training goes on; several
processes may share OUT, each with its own --only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from itermask3d import BUNDLE_ROOT
from itermask3d.evaluation.discrimination import voxel_discrimination
from itermask3d.evaluation.docs import fill_blocks
from itermask3d.evaluation.text import markdown_table
from itermask3d.files.scans import ScanError, bare_scan_errors, list_scans
from itermask3d.files.writing import write_atomically
from itermask3d.inference.models import shipped_settings
from itermask3d.inference.networks import load_weights
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.method.error import RefinementTask
from itermask3d.method.frequency import high_frequency
from itermask3d.method.inferer import IterMaskInferer
from itermask3d.preprocessing.pipeline import inference_transforms
from monai.bundle import ConfigParser
from monai.data import PersistentDataset
from monai.data.utils import pickle_hashing
from monai.utils import convert_to_tensor
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
NORMAL_SHARE = 0.005

COLUMNS = {
    "squared_error": ("squared error, normal", "{:.3f}"),
    "flagged": ("normal brain flagged, median", "{:.2%}"),
    "ap": ("voxel AP", "{:.3f}"),
    "dice": ("Dice", "{:.3f}"),
}


def main() -> None:
    arguments = parse()
    ablation = json.loads(arguments.ablation.read_text())
    variants = ablation["variants"]
    unknown = sorted(set(arguments.only or ()) - variants.keys())
    if unknown:
        sys.exit(f"error: the ablation has no variant {', '.join(map(repr, unknown))}; it has {', '.join(variants)}")
    try:
        checks = [named_list(text) for text in arguments.check]
        for number, name in enumerate(variants):
            if not arguments.only or name in arguments.only:
                folder = arguments.output / f"{number:02d}"
                files = config_files(ablation, name, folder)
                train(files, folder, arguments)
                judge(files, folder, checks, arguments)
    except ScanError as error:
        sys.exit(f"error: {error}")
    text = ablation_table(read_judgements(variants, arguments.output), arguments.columns)
    print(text)
    if arguments.write:
        page, block = arguments.write
        write_atomically(fill_blocks(Path(page).read_text(), {block: text}), Path(page))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ablation", type=Path, help="configs/training_ablations/*.json")
    parser.add_argument("scans", help="normal scans, of which the split file names those for training")
    parser.add_argument("output", type=Path)
    parser.add_argument("--check", nargs="+", default=[], metavar="NAME=LIST", help="validation scans")
    parser.add_argument("--brain-masks", help="folder with a brain mask of the same file name for every scan")
    parser.add_argument("--columns", nargs="+", choices=list(COLUMNS), default=list(COLUMNS), help="of the table")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these variants (default: all)")
    parser.add_argument("--override", default="{}", help="JSON of config ids for every variant")
    parser.add_argument("--write", nargs=2, metavar=("PAGE", "BLOCK"), help="fill a block of a page with the table")
    return parser.parse_args()


def named_list(text: str) -> tuple[str, list[dict[str, str]]]:
    """``NAME=LIST`` as a name and its scans."""
    name, _, path = text.partition("=")
    if not path:
        raise ScanError(f"--check '{text}'; expected NAME=LIST")
    return name, list_scans(path)


def config_files(ablation: Mapping[str, Any], name: str, folder: Path) -> list[str]:
    """The config of a variant: the bundle's, the overlays, and a file with the values, written here."""
    values = dict(ablation["variants"][name])
    overlays = [*ablation["overlays"], *values.pop("overlays", [])]
    path = folder / "variant.json"
    content = json.dumps({**ablation["all"], **values}, indent=1) + "\n"
    if path.exists() and path.read_text() != content:
        raise ScanError(f"'{folder}' holds another variant than '{name}' of now; expected an empty folder")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(content, path)
    return [f"{BUNDLE_ROOT}/configs/train.json", *(str(ROOT / overlay) for overlay in overlays), str(path.absolute())]


def train(files: Sequence[str], folder: Path, arguments: argparse.Namespace) -> None:
    """The bundle's training in a process of its own; the cache is shared by all variants."""
    if (folder / "trained").exists():
        return
    fixed: dict[str, Any] = {"output_dir": str(folder.absolute()), "dataset_dir": arguments.scans}
    fixed |= {"cache_dir": str((arguments.output / "cache").absolute()), "brain_mask_dir": arguments.brain_masks}
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(list(files))]
    for key, value in {**fixed, **json.loads(arguments.override)}.items():
        command += [f"--{key}", value if isinstance(value, str) else json.dumps(value)] if value is not None else []
    with (folder / "train.log").open("a") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise ScanError(f"training ended with status {done.returncode}; see '{folder / 'train.log'}'")
    (folder / "trained").touch()


def judge(
    files: Sequence[str],
    folder: Path,
    checks: Sequence[tuple[str, Sequence[Mapping[str, str]]]],
    arguments: argparse.Namespace,
) -> None:
    """Write ``checks.json``: metrics of every list, by one pass with the whole brain masked."""
    path = folder / "checks.json"
    if path.exists() and json.loads(path.read_text()).keys() == dict(checks).keys():
        return
    parser = ConfigParser()
    parser.read_config(list(files))
    parser.update(json.loads(arguments.override))
    parser["device"] = "cpu"
    network = parser.get_parsed_content("network_def")
    load_weights(network, folder / "best.pt")
    network.eval()
    spacing_mm, radius = float(parser["spacing_mm"]), float(parser["radius_cycles_per_mm"])
    noise = float(parser["noise"])
    transform = inference_transforms(
        spacing_mm=spacing_mm, spatial_size=parser["spatial_size"], bias_correction=parser["bias_correction"],
        with_label=True,
    )  # fmt: skip
    judged, threshold = {}, None
    for name, items in checks:
        dataset = PersistentDataset(items, transform, arguments.output / "checked", hash_transform=pickle_hashing)
        samples = usable(dataset, items, name)
        scans = [one_pass(sample, network, spacing_mm, radius, noise) for sample in samples]
        normals = [scan for scan in scans if not scan["label"].any()]
        if threshold is None:
            if not normals:
                raise ScanError(f"the first list, '{name}', has no normal scan; expected some to set the threshold by")
            threshold = float(np.quantile(np.concatenate([scan["error"] for scan in normals]), 1 - NORMAL_SHARE))
        judged[name] = metrics(scans, threshold)
    write_atomically(json.dumps(judged, indent=1) + "\n", path)


def usable(dataset: PersistentDataset, items: Sequence[Mapping[str, str]], name: str) -> Iterator[Any]:
    """The prepared scans of a list; one that cannot be used is named and left out."""
    for number, item in enumerate(tqdm(items, desc=name)):
        try:
            with bare_scan_errors():
                sample = dataset[number]
        except ScanError as reason:
            tqdm.write(f"left out: {item['case']}: {reason}")
        else:
            yield sample


def one_pass(
    sample: Mapping[str, Any], network: torch.nn.Module, spacing_mm: float, radius: float, noise: float
) -> dict[str, np.ndarray]:
    """Errors of one scan's brain voxels when all of them are masked, ``(n,)``, and their labels."""
    image, brain, label = (
        convert_to_tensor(sample[key], track_meta=False)[None] for key in ("image", "brain_mask", "label")
    )
    guide = high_frequency(image, spacing_mm=(spacing_mm,) * 3, radius_cycles_per_mm=radius)
    reconstructor = IterMaskInferer(spacing_mm=spacing_mm).reconstructor(network, brain)
    predicts_variance = network.up_stage_4[2].conv.out_channels > 1
    settings = replace(shipped_settings(), noise=noise, relative_error=predicts_variance)
    with torch.inference_mode():
        task = RefinementTask.from_settings(image, brain, guide, reconstructor, settings)
        reconstruction = task.reconstruct(task.brain)
        error = task.error(reconstruction, task.brain)
        squared = (image - reconstruction).square()
    inside = task.brain
    return {
        "error": error[inside].numpy(),
        "squared": squared[inside].numpy(),
        "label": label[inside].numpy() > 0.5,
    }


def metrics(scans: Sequence[Mapping[str, np.ndarray]], threshold: float) -> dict[str, float]:
    """Means over the scans with a lesion and over those without; what there is none of is left out."""
    normals = [scan for scan in scans if not scan["label"].any()]
    lesions = [scan for scan in scans if scan["label"].any()]
    result: dict[str, float] = {"normals": len(normals), "lesions": len(lesions)}
    if normals:
        result["squared_error"] = float(np.mean([scan["squared"].mean() for scan in normals]))
        result["flagged"] = float(np.median([(scan["error"] > threshold).mean() for scan in normals]))
    if lesions:
        result["ap"] = float(np.mean([average_precision(scan) for scan in lesions]))
        result["dice"] = float(np.mean([overlap(scan["error"] > threshold, scan["label"]) for scan in lesions]))
    return result


def average_precision(scan: Mapping[str, np.ndarray]) -> float:
    """How well the error ranks the brain's voxels."""
    error, label = torch.from_numpy(scan["error"]), torch.from_numpy(scan["label"])
    return voxel_discrimination(error, label, brain_mask=torch.ones_like(label))["voxel_ap"]


def overlap(mask: np.ndarray, label: np.ndarray) -> float:
    """Dice of two boolean arrays, of which the second holds a voxel."""
    return 2 * float((mask & label).sum()) / float(mask.sum() + label.sum())


def read_judgements(variants: Mapping[str, Any], output: Path) -> dict[str, dict[str, Any]]:
    """What is judged so far, by variant."""
    paths = {name: output / f"{number:02d}" / "checks.json" for number, name in enumerate(variants)}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def ablation_table(judged: Mapping[str, Mapping[str, Any]], columns: Sequence[str] = tuple(COLUMNS)) -> str:
    """A row a variant, the metrics of each list side by side."""
    lists = dict.fromkeys(name for one in judged.values() for name in one)
    cells = [
        (name, key)
        for name in lists
        for key in columns
        if any(key in one.get(name, {}) for one in judged.values())
        and not (key == "flagged" and name == next(iter(lists)))
    ]
    head = ["variant", *(f"{name}: {COLUMNS[key][0]}" for name, key in cells)]
    rows = [
        [variant, *(COLUMNS[key][1].format(one[name][key]) if key in one.get(name, {}) else "–" for name, key in cells)]
        for variant, one in judged.items()
    ]
    return markdown_table(head, rows)


if __name__ == "__main__":
    main()
