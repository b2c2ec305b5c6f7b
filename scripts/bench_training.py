"""Samples per second of the bundle's training recipe beside the reference's, and where the time of a step goes.

    python scripts/bench_training.py SCANS OUT [--brain-masks FOLDER] [--split-file FILE] [--steps 10] [--full]
    python scripts/bench_training.py PREPARED OUT --prepared [--split-file FILE] [--steps 10]

Every recipe runs through its own config: the cache is filled first, then each part of a step is timed by itself. The
reference's recipe is run at the bundle's grid and widths; with ``--full`` as published, at 1 mm and full width, too.
With ``--prepared`` scans come from scripts/prepare_scans.py, lie on the device, and whole batches are drawn at once
(configs/prepared.json; here none ahead, so that each part has a time of its own).
OUT/training.json keeps the figures; with ``--write`` the table goes into docs/how-to/train.md between its markers.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from itermask3d import BUNDLE_ROOT
from itermask3d.evaluation.docs import fill_blocks
from itermask3d.evaluation.text import markdown_table
from itermask3d.files.scans import ScanError, bare_scan_errors
from itermask3d.files.writing import write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.method.frequency import HighFrequencyd
from itermask3d.method.masking import RandMaskd
from itermask3d.simulation.synthetic_anomalies import RandSyntheticAnomalyd
from itermask3d.training.batches import DeviceBatches
from itermask3d.training.prepared import PreparedDataset
from monai.bundle import ConfigWorkflow
from monai.data import list_data_collate
from monai.transforms import RandomizableTrait, Transform
from monai.utils import set_determinism
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "how-to" / "train.md"
REFERENCE = ("reference_recipe.yaml",)
RECIPES: dict[str, tuple[str, ...]] = {
    "the bundle's recipe": (),
    "the reference's recipe, same grid and widths": (*REFERENCE, "reference_recipe_2mm.yaml"),
    "the reference's recipe, 192³ at 1 mm": REFERENCE,
}
PARTS = (
    "drawn at once",
    "from the cache",
    "augmentation",
    "synthetic anomaly",
    "guide",
    "mask",
    "batch",
    "forward",
    "backward",
    "optimiser",
)


def main() -> None:
    arguments = parse()
    warnings.simplefilter("ignore")
    output = Path(arguments.output).absolute()
    output.mkdir(parents=True, exist_ok=True)
    path = output / "training.json"
    measured: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for name in list(RECIPES)[: 3 if arguments.full else 2]:
        overlays = (*RECIPES[name], "prepared.json") if arguments.prepared else RECIPES[name]
        try:
            with bare_scan_errors():
                measured[name] = measure(overlays, arguments, output)
        except (ScanError, SystemExit) as reason:
            sys.exit(str(reason))
        write_atomically(json.dumps(measured, indent=1) + "\n", path)
    text = training_table(measured)
    print(text)
    if arguments.write:
        write_atomically(fill_blocks(PAGE.read_text(), {"training": text}), PAGE)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scans", help="normal scans: a folder or a list")
    parser.add_argument("output")
    parser.add_argument("--prepared", action="store_true", help="the scans are those of scripts/prepare_scans.py")
    parser.add_argument("--brain-masks", help="folder with a brain mask of the same file name for every scan")
    parser.add_argument("--split-file", help="JSON of cases by subset (default: a split by name)")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed, after two that are not")
    parser.add_argument("--scans-used", type=int, default=4, help="how many training scans to load")
    parser.add_argument(
        "--full", action="store_true", help="the reference's recipe as published too; needs much memory"
    )
    parser.add_argument("--write", action="store_true", help="write the table into docs/how-to/train.md")
    parser.add_argument(
        "--override", default="{}", help="JSON of config ids for every recipe, e.g. '{\"spacing_mm\": 8}'"
    )
    return parser.parse_args()


def measure(overlays: tuple[str, ...], arguments: argparse.Namespace, output: Path) -> dict[str, Any]:
    """Median seconds of each part of a step, and what they add up to."""
    parser = parsed(overlays, arguments, output)
    dataset = parser.get_parsed_content("train::dataset")
    network, optimizer, loss, inferer, prepare = (
        parser.get_parsed_content(key)
        for key in ("network", "optimizer", "loss", "train::inferer", "train::prepare_batch")
    )
    device, size = parser.get_parsed_content("device"), int(parser["batch_size"])
    used = min(arguments.scans_used, len(dataset.data))
    for index in tqdm(range(used), unit="scan", desc="cache"):
        cached(dataset, index)
    network.train()
    seconds: dict[str, list[float]] = {part: [] for part in PARTS}
    clipping = parser.get_parsed_content("max_gradient_norm")
    for step in tqdm(range(arguments.steps + 2), unit="step", desc=overlays[-1] if overlays else "train.json"):
        clock = Clock(device)
        indices = [(step * size + index) % used for index in range(size)]
        batch = drawn_batch(parser, dataset, indices, clock)
        inputs, target = clock("batch", lambda batch=batch: prepare(batch(), device))
        prediction = clock("forward", lambda inputs=inputs: inferer(inputs, network))

        def backward(prediction: torch.Tensor = prediction, target: torch.Tensor = target) -> None:
            loss(prediction, target).backward()
            if clipping is not None:
                torch.nn.utils.clip_grad_norm_(network.parameters(), clipping)

        clock("backward", backward)
        clock("optimiser", lambda: (optimizer.step(), optimizer.zero_grad(set_to_none=True)))
        if step >= 2:
            for part in PARTS:
                seconds[part].append(clock.seconds[part])
    parts = {part: statistics.median(values) for part, values in seconds.items()}
    total = sum(parts.values())
    grid = [int(value) for value in parser.get_parsed_content("spatial_size")]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return {
        "parts": parts,
        "step_seconds": total,
        "samples_per_second": size / total,
        "batch_size": size,
        "grid": grid,
        "channels": list(parser["network_def"]["channels"]),
        "steps": arguments.steps,
        "device": where,
        "machine": platform.machine(),
    }


def parsed(overlays: tuple[str, ...], arguments: argparse.Namespace, output: Path) -> Any:
    """The config of a recipe, with a cache that all of one grid share."""
    files = [f"{BUNDLE_ROOT}/configs/train.json", *(str(ROOT / "configs" / name) for name in overlays)]
    # Preparing is no part of a step: scans prepared for one recipe serve both.
    either = {f"{part}::dataset::bias_correction": None for part in ("train", "validate")} if arguments.prepared else {}
    workflow = ConfigWorkflow(
        files,
        workflow_type="train",
        logging_file=False,
        dataset_dir=arguments.scans,
        brain_mask_dir=arguments.brain_masks,
        split_file=arguments.split_file,
        output_dir=str(output / "run"),
        cache_dir=str(output / "cache"),
        **either,
        **json.loads(arguments.override),
    )
    set_determinism(0)
    workflow.parser.get_parsed_content("required")
    return workflow.parser


class Clock:
    """Seconds by part; waits for the device before and after."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def __call__(self, part: str, action: Callable[[], Any]) -> Any:
        self._wait()
        start = time.perf_counter()
        result = action()
        self._wait()
        self.seconds[part] += time.perf_counter() - start
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def cached(dataset: Any, index: int) -> Any:
    """A scan as the random transforms begin with it."""
    return dataset.prepared(index) if isinstance(dataset, PreparedDataset) else dataset._cachecheck(dataset.data[index])


def drawn_batch(parser: Any, dataset: Any, indices: list[int], clock: Clock) -> Callable[[], Any]:
    """A batch of these scans, drawn at once on the device or put together of samples."""
    loader = parser.get_parsed_content("train::dataloader")
    if isinstance(loader, DeviceBatches):
        batch = clock("drawn at once", lambda: loader.draw(indices))
        return lambda: batch
    samples = [drawn(dataset, index, clock) for index in indices]
    return lambda: list_data_collate(samples)


def drawn(dataset: Any, index: int, clock: Clock) -> Any:
    """One training sample, as the dataset would give it: what is cached, then each random transform."""
    sample = clock("from the cache", lambda: cached(dataset, index))
    transforms = dataset.transform.transforms
    for transform in transforms[dataset.transform.get_index_of_first(is_random) :]:
        part = {HighFrequencyd: "guide", RandMaskd: "mask", RandSyntheticAnomalyd: "synthetic anomaly"}.get(
            type(transform), "augmentation"
        )
        sample = clock(part, lambda transform=transform, sample=sample: transform(sample))
    return sample


def is_random(transform: Any) -> bool:
    """Where MONAI's PersistentDataset ends what it caches."""
    return isinstance(transform, RandomizableTrait) or not isinstance(transform, Transform)


def training_table(measured: dict[str, Any]) -> str:
    """Samples per second, and the share of each part."""
    first = next(iter(measured.values()))
    rows = []
    for name, row in measured.items():
        shares = [f"{1000 * row['parts'][part] / row['batch_size']:.0f}" for part in PARTS]
        grid, widths = "×".join(map(str, row["grid"])), "-".join(map(str, row["channels"]))
        rows.append([name, f"{grid}, {widths}", f"{row['samples_per_second']:.2f}", *shares])
    head = ["recipe", "grid, widths", "samples a second", *(f"{part}, ms a sample" for part in PARTS)]
    note = f"\nMedian of {first['steps']} steps of batches of {first['batch_size']} on {first['device']}.\n"
    return markdown_table(head, rows) + note


if __name__ == "__main__":
    main()
