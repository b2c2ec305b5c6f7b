"""Time and compare the ways to compute one answer: plain and accelerated network, exact and fast schedule.

    python scripts/bench.py agreement OUT [--list scans.json]     final masks against the exact schedule, 2 mm
    python scripts/bench.py time OUT --spacing-mm 1 [--scan FILE]  every step of acceleration, time and peak memory
    python scripts/bench.py growth OUT                             cost against voxels, steps and scans
    python scripts/bench.py scan OUT                               where a whole scan's time goes
    python scripts/bench.py compilers OUT --spacing-mm 1           a pass under torch.compile, OpenVINO, ONNX Runtime
    python scripts/bench.py floor OUT --spacing-mm 1               a pass beside what its arithmetic allows
    python scripts/bench.py report OUT                             tables and plots into docs/
    python scripts/bench.py quick OUT                              agreement on a small synthetic scan, no times

Without a list or a scan the demo's volumes are used. Each part adds to OUT.json, so parts can be run one at a
time; `make bench` runs them all.
"""

from __future__ import annotations

import argparse
import copy
import cProfile
import inspect
import json
import os
import pstats
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from _bench_limits import floor, in_turn, other_compilers
from _bench_report import report as write_report
from itermask3d import BUNDLE_ROOT
from itermask3d.files.scans import list_scans
from itermask3d.files.writing import write_atomically
from itermask3d.inference.cohort import SegmentationRun
from itermask3d.inference.models import shipped_settings
from itermask3d.inference.networks import load_weights
from itermask3d.inference.results import write_result
from itermask3d.method.acceleration.folding import fuse_upsampling
from itermask3d.method.acceleration.network import InferenceUNet
from itermask3d.method.detection import find, remove_small_components
from itermask3d.method.error import RefinementTask
from itermask3d.method.frequency import high_frequency
from itermask3d.method.inferer import IterMaskInferer
from itermask3d.method.network import ReconstructionUNet
from itermask3d.method.refinement import refine
from itermask3d.method.settings import RefinementSettings
from itermask3d.preprocessing.bias import estimate_bias_field
from itermask3d.preprocessing.brain_extraction import extract_brain
from itermask3d.preprocessing.grid import AntiAliasd, ScannerGridd
from itermask3d.preprocessing.load import load_volume
from itermask3d.preprocessing.pipeline import inference_transforms
from itermask3d.simulation.demo import packaged_scan, write_demo
from monai.bundle import ConfigParser, ConfigWorkflow
from torch.nn.functional import avg_pool3d

FIELD_MM = {2.0: (80, 96, 80), 1.0: (192, 192, 192)}
SHIPPED = shipped_settings()
SETTINGS = {2.0: SHIPPED, 1.0: replace(SHIPPED, error_window=2 * SHIPPED.error_window - 1)}
"""The bundle's; at 1 mm, for which its weights were not trained, with a window of the same extent."""

PREPROCESSING = {"bias_correction": "n4"}
MIN_VOLUME_ML = 1.0
LEAST_DICE = 0.98

# The last bit of the scan is the yardstick: how far two runs of one method are apart for no reason at all.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain, exact": {"network": "plain"},
    "fused upsampling, exact": {"network": "fused"},
    "accelerated, exact": {},
    "accelerated, exact, last bit of the scan changed": {"last_bit": True},
    "accelerated, exact, bfloat16": {"mixed_precision": True},
    "accelerated, fast": {"schedule": "fast"},
    "accelerated, fast, last bit of the scan changed": {"schedule": "fast", "last_bit": True},
    "accelerated, fast, bfloat16": {"schedule": "fast", "mixed_precision": True},
}


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    PARTS[arguments.part](arguments, output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("output")
    parser.add_argument("--list", help="scans of the agreement, .json or .txt")
    parser.add_argument("--scan", help="scan of the times")
    parser.add_argument("--spacing-mm", type=float, choices=list(FIELD_MM), default=2.0)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--limit", type=int, help="the first scans of the list only")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def agreement(arguments: argparse.Namespace, output: Path) -> None:
    """Final masks of every variant against the accelerated network under the exact schedule."""
    reference, *others = [name for name in VARIANTS if name.startswith("accelerated") and name in arguments.variants]
    network, rows = shipped_network(), []
    for case, image, brain in samples(arguments, output):
        runs = {
            name: segmented(network, image, brain, VARIANTS[name], arguments.spacing_mm)
            for name in (reference, *others)
        }
        for name in others:
            rows.append({"case": case, "variant": name, **compared(runs[name], runs[reference], brain)})
            print(rows[-1], flush=True)
        store(output, f"agreement_{arguments.spacing_mm:g}mm", rows)


def times(arguments: argparse.Namespace, output: Path) -> None:
    """One scan under every variant: first single passes in turn, then whole loops, each in a process of its own."""
    image, brain = one_sample(arguments, output)
    torch.save((image, brain, stand_in_scale(arguments, output, image, brain)), output / "sample.pt")
    key = f"{arguments.spacing_mm:g}mm"
    store(output, f"pass_{key}", apart(arguments, output, "passes"))
    rows: list[dict[str, Any]] = []
    for name in arguments.variants:
        rows.append(apart(arguments, output, "worker", name))
        with np.load(masks_file(output, rows[0]["variant"])) as first, np.load(masks_file(output, name)) as masks:
            rows[-1]["dice"] = dice(masks["mask"], first["mask"])
            rows[-1]["dice_before_small_components_go"] = dice(masks["raw"], first["raw"])
            rows[-1]["voxels_apart"] = int((masks["raw"] != first["raw"]).sum())
        print(rows[-1], flush=True)
        store(output, f"time_{key}", {"threads": arguments.threads, "grid": list(image.shape[2:]), "rows": rows})


def apart(arguments: argparse.Namespace, output: Path, part: str, *variants: str) -> dict[str, Any]:
    """What a part prints when a process of its own runs it on the scan that this one prepared."""
    command = [sys.executable, __file__, part, str(output), "--spacing-mm", str(arguments.spacing_mm)]
    command += ["--threads", str(arguments.threads), *(["--variants", *variants] if variants else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def passes(arguments: argparse.Namespace, output: Path) -> None:
    """Print the seconds of single passes as JSON."""
    print(json.dumps(pass_seconds(arguments.spacing_mm, *torch.load(output / "sample.pt")[:2])))


def worker(arguments: argparse.Namespace, output: Path) -> None:
    """Run one variant on the scan that the parent prepared; print its measurements with the peak memory as JSON."""
    at_start = peak_gb()
    (name,) = arguments.variants
    image, brain, scale = torch.load(output / "sample.pt")
    network = scale_variance(shipped_network(), scale)
    run = segmented(network, image, brain, VARIANTS[name], arguments.spacing_mm)
    np.savez_compressed(masks_file(output, name), raw=run.pop("raw"), mask=run.pop("mask"))
    memory = {"peak_gb": peak_gb(), "peak_over_start_gb": peak_gb() - at_start}
    print(json.dumps({"variant": name, **run, **memory, "brain_voxels": int(brain.sum())}))


def stand_in_scale(arguments: argparse.Namespace, output: Path, image: torch.Tensor, brain: torch.Tensor) -> float:
    """How much larger the relative error of the stand-in at 1 mm is than that of the shipped weights at 2 mm.

    The weights predict their variance at 2 mm, the grid of their training. Weights of 1 mm would predict that of 1 mm,
    so their relative error would be as large as at 2 mm, and the loop would have as much to do.
    """
    if arguments.spacing_mm == 2.0:
        return 1.0
    coarse = one_sample(argparse.Namespace(**{**vars(arguments), "spacing_mm": 2.0}), output)
    expected = typical_error(shipped_network(), *coarse, 2.0)
    return typical_error(shipped_network(), image, brain, arguments.spacing_mm) / expected


def typical_error(network: ReconstructionUNet, image: torch.Tensor, brain: torch.Tensor, spacing_mm: float) -> float:
    """Median relative error of a brain's voxels when the whole brain is masked, relative to the predicted variance."""
    reconstructor = IterMaskInferer(spacing_mm=spacing_mm).reconstructor(network, brain)
    guide = high_frequency(image, spacing_mm=(spacing_mm,) * 3)
    with torch.inference_mode():
        settings = replace(SETTINGS[spacing_mm], predicted_variance_floor=0.0, error_saturation=None, error_level=None)
        task = RefinementTask.from_settings(image, brain, guide, reconstructor, settings)
        return float(task.quantile(task.error(task.reconstruct(task.brain), task.brain), 0.5))


def scale_variance(network: ReconstructionUNet, scale: float) -> ReconstructionUNet:
    """Let a network, in place, predict a variance that is larger by a factor."""
    bias = network.up_stage_4[2].conv.bias
    with torch.no_grad():
        bias[1] += float(np.log(scale))
    return network


def masks_file(output: Path, variant: str) -> Path:
    """Where a variant's masks lie until the last one is compared."""
    return output / f"{variant.replace(', ', '_').replace(' ', '_')}.npz"


def peak_gb() -> float:
    """Largest resident memory of this process so far; not from getrusage, which begins with the parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e6


def pass_seconds(spacing_mm: float, image: torch.Tensor, brain: torch.Tensor, rounds: int = 5) -> dict[str, float]:
    """Median seconds of one pass of each form of the network, taken in turn so that all see the same machine."""
    network = shipped_network()
    forms: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "plain": network,
        "fused upsampling": fuse_upsampling(shipped_network()),
        "accelerated": InferenceUNet(network, brain),
        "accelerated, bfloat16": InferenceUNet(network, brain, dtype=torch.bfloat16),
        "accelerated, without the predicted variance": partial(InferenceUNet(network, brain), out_channels=1),
        "accelerated, bfloat16, without the predicted variance": partial(
            InferenceUNet(network, brain, dtype=torch.bfloat16), out_channels=1
        ),
    }
    return in_turn(forms, network_inputs(image, spacing_mm), rounds)


def network_inputs(image: torch.Tensor, spacing_mm: float) -> torch.Tensor:
    """A scan and its guide as the network reads them, ``(1, 2, D, H, W)``."""
    return torch.cat((image, high_frequency(image, spacing_mm=(spacing_mm,) * 3)), dim=1)


def compilers(arguments: argparse.Namespace, output: Path) -> None:
    """One pass under every compiler that is installed, beside the accelerated network; the reconstruction alone."""
    network, (image, brain) = shipped_network(), one_sample(arguments, output)
    inputs = network_inputs(image, arguments.spacing_mm)
    forms: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "accelerated": partial(InferenceUNet(network, brain), out_channels=1),
        "accelerated, bfloat16": partial(InferenceUNet(network, brain, dtype=torch.bfloat16), out_channels=1),
        "accelerated, whole field": partial(InferenceUNet(network), out_channels=1),
        **other_compilers(network, inputs.shape, output, threads=arguments.threads),
    }
    with torch.inference_mode():
        expected = network(inputs)[:, :1][brain]
        errors = {name: float((form(inputs)[brain] - expected).abs().max()) for name, form in forms.items()}
    seconds = in_turn(forms, inputs, rounds=5)
    rows = {name: {"seconds": seconds[name], "largest_error": errors[name]} for name in forms}
    print(rows)
    store(output, f"compilers_{arguments.spacing_mm:g}mm", rows)


def limits(arguments: argparse.Namespace, output: Path) -> None:
    """What the arithmetic of a pass would take at the speed of a matrix product, beside what it takes."""
    image, brain = one_sample(arguments, output)
    inputs = network_inputs(image, arguments.spacing_mm)
    measured = floor(shipped_network(), inputs, brain)
    print(measured)
    store(output, f"floor_{arguments.spacing_mm:g}mm", measured)


def growth(arguments: argparse.Namespace, output: Path) -> None:
    """Cost of a pass against voxels, and of a scan against steps and against scans at once; shipped width."""
    network = shipped_network()
    voxels = []
    for size in (64, 96, 128, 160, 192):
        image, brain = ball_scan(size)
        voxels.append({"voxels": size**3, **pass_seconds(2.0, image, brain, rounds=3)})
    image, brain = one_sample(arguments, output)
    steps = [{"n_steps": n, **loop_seconds(network, image, brain, n_steps=n)} for n in (10, 25, 50, 100)]
    batches = {n: (image.repeat(n, 1, 1, 1, 1), brain.repeat(n, 1, 1, 1, 1)) for n in (1, 2, 4)}
    together = [{"scans": n, **loop_seconds(network, *batch, n_steps=10)} for n, batch in batches.items()]
    store(output, "growth", {"voxels": voxels, "steps": steps, "scans": together})


def ball_scan(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise in a ball that spans 80 % of a cube, about what a brain does."""
    axis = torch.linspace(-1, 1, size)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    brain = (x.square() + y.square() + z.square() < 0.8**2)[None, None]
    return torch.randn(brain.shape, generator=torch.Generator().manual_seed(0)) * brain, brain


def loop_seconds(
    network: ReconstructionUNet, image: torch.Tensor, brain: torch.Tensor, *, n_steps: int
) -> dict[str, float]:
    """Seconds of the whole loop and of the network in it."""
    passes = Counter(IterMaskInferer(spacing_mm=2.0).reconstructor(network, brain))
    start = time.perf_counter()
    with torch.inference_mode():
        guide = high_frequency(image, spacing_mm=(2.0,) * 3)
        refine(image, brain, guide, passes, settings=replace(SETTINGS[2.0], n_steps=n_steps))
    return {"seconds": time.perf_counter() - start, "network_seconds": passes.seconds, "passes": passes.count}


STAGES: dict[str, Callable[..., Any]] = {
    "everything": SegmentationRun.run,
    "reading": load_volume,
    "brain extraction": extract_brain,
    "bias field": estimate_bias_field,
    "smoothing": AntiAliasd.__call__,
    "resampling": ScannerGridd.__call__,
    "guide": high_frequency,
    "loop": refine,
    "network": InferenceUNet.__call__,
    "quantiles": RefinementTask.quantile,
    "resampling back": ScannerGridd.inverse,
    "files and overview": write_result,
}
"""Functions of which each takes one stage; ``network`` and ``quantiles`` are parts of ``loop``."""


def scan(arguments: argparse.Namespace, output: Path) -> None:
    """Where the time goes from a raw scan to its files, in the bundle's own inference workflow."""
    workflow = ConfigWorkflow(
        config_file=f"{BUNDLE_ROOT}/configs/inference.json",
        meta_file=f"{BUNDLE_ROOT}/configs/metadata.json",
        logging_file=f"{BUNDLE_ROOT}/configs/logging.conf",
        workflow_type="infer",
        dataset_dir=str(arguments.scan or packaged_scan()),
        output_dir=str(output / "scan"),
        overwrite=True,
        progress=False,
    )
    workflow.initialize()
    segmentation, profile = workflow.parser.get_parsed_content("segmentation"), cProfile.Profile()
    profile.runcall(segmentation.run)
    taken = pstats.Stats(profile).stats
    seconds = {label: cumulative_seconds(taken, function) for label, function in STAGES.items()}
    store(output, "scan", seconds)
    print(seconds)


def quick(arguments: argparse.Namespace, output: Path) -> None:
    """The agreement of all variants on a small textured ball with a bright lump; fails where they do not agree.

    The texture is faint: a ball of strong texture is no brain to the network, most of it lies near the threshold, and
    then a rounding decides much.
    """
    image, brain = ball_scan(64)
    texture = avg_pool3d(image, 7, stride=1, padding=3)
    image = 0.4 * texture / texture[brain].std() * brain
    image[..., 20:30, 28:38, 30:40] += 4.0
    network, settings = shipped_network(), replace(SETTINGS[2.0], n_steps=20)
    runs = {name: segmented(network, image, brain, VARIANTS[name], 2.0, settings=settings) for name in VARIANTS}
    first = next(iter(runs.values()))
    rows = [{"variant": name, **compared(run, first, brain)} for name, run in runs.items()]
    store(output, "quick", rows)
    for row in rows:
        if row["dice"] < LEAST_DICE or row["outcome"] != row["exact_outcome"]:
            sys.exit(f"error: '{row['variant']}' agrees with a Dice of {row['dice']:.3f}, expected {LEAST_DICE}")


def cumulative_seconds(taken: dict[Any, Any], function: Callable[..., Any]) -> float:
    """Seconds in a function and all that it called; 0 where it was not called."""
    code = inspect.unwrap(function).__code__
    return float(taken.get((code.co_filename, code.co_firstlineno, code.co_name), (0, 0, 0, 0.0))[3])


def report(arguments: argparse.Namespace, output: Path) -> None:
    """Tables and plots from what has been measured so far."""
    write_report(json.loads(figures_file(output).read_text()), Path(__file__).parents[1] / "docs")


def one_sample(arguments: argparse.Namespace, output: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The scan of the times: the one named, else the last of the list (the demo's with the lesion)."""
    item = list_scans(arguments.scan)[0] if arguments.scan else scans(arguments, output)[-1]
    spacing_mm = arguments.spacing_mm
    sample = inference_transforms(spacing_mm=spacing_mm, spatial_size=FIELD_MM[spacing_mm], **PREPROCESSING)(item)
    return sample["image"].as_tensor()[None].clone(), sample["brain_mask"].as_tensor()[None] > 0.5


def segmented(
    network: ReconstructionUNet,
    image: torch.Tensor,
    brain: torch.Tensor,
    variant: dict[str, Any],
    spacing_mm: float,
    *,
    settings: RefinementSettings | None = None,
) -> dict[str, Any]:
    """One scan through the loop under a variant: the mask before and after small components go, and the statistics."""
    settings = replace(settings or SETTINGS[spacing_mm], schedule=variant.get("schedule", "exact"))
    inferer = IterMaskInferer(
        settings,
        spacing_mm=spacing_mm,
        mixed_precision=variant.get("mixed_precision", False),
        accelerate="network" not in variant,
    )
    if variant.get("network") == "fused":
        network = fuse_upsampling(copy.deepcopy(network))
    passes = Counter(inferer.reconstructor(network, brain))
    if variant.get("last_bit"):
        image = torch.nextafter(image, torch.where(brain, torch.inf, image))
    start = time.perf_counter()
    guide = high_frequency(image, spacing_mm=(spacing_mm,) * 3)
    with torch.inference_mode():
        refinement = refine(image, brain, guide, passes, settings=settings)
    mask = remove_small_components(refinement.mask, min_volume_ml=MIN_VOLUME_ML, spacing_mm=(spacing_mm,) * 3)
    seconds = time.perf_counter() - start
    findings = find(replace(refinement, mask=mask), brain)[0]
    return {
        "raw": refinement.mask.numpy(),
        "mask": mask.numpy(),
        "seconds": seconds,
        "network_seconds": passes.seconds,
        "passes": passes.count,
        "outcome": findings.outcome.value,
        "threshold": findings.threshold,
        "step": findings.estimate.step,
        "slope_source": findings.estimate.slope_source.value,
        "flagged_share": findings.flagged_share,
        "score": findings.score,
        "iterations": findings.iterations,
    }


class Counter:
    """A reconstructor that counts its calls and the seconds in them."""

    def __init__(self, reconstructor: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        self.reconstructor = reconstructor
        self.count, self.seconds = 0, 0.0

    def __call__(self, image: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
        return self.counted(self.reconstructor, image, guide)

    def reconstruct(self, image: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
        return self.counted(getattr(self.reconstructor, "reconstruct", self.reconstructor), image, guide)

    def counted(self, form: Callable[..., torch.Tensor], image: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        result = form(image, guide)
        self.count += 1
        self.seconds += time.perf_counter() - start
        return result


def compared(run: dict[str, Any], reference: dict[str, Any], brain: torch.Tensor) -> dict[str, Any]:
    """How far a run is from another of the same scan."""
    names = ("seconds", "passes", "outcome", "step", "threshold", "iterations", "flagged_share", "score")
    return {
        "dice": dice(run["mask"], reference["mask"]),
        "dice_before_small_components_go": dice(run["raw"], reference["raw"]),
        "voxels_apart": int((run["raw"] != reference["raw"]).sum()),
        "brain_voxels": int(brain.sum()),
        **{name: run[name] for name in names},
        **{f"exact_{name}": reference[name] for name in names},
    }


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two masks; 1 where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def shipped_network() -> ReconstructionUNet:
    """The bundle's network with its weights."""
    config = ConfigParser(ConfigParser.load_config_file(f"{BUNDLE_ROOT}/configs/inference.json"))
    network = config.get_parsed_content("network_def")
    load_weights(network, f"{BUNDLE_ROOT}/models/model.pt")
    return network.eval()


def samples(arguments: argparse.Namespace, output: Path) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name, normalised image and brain mask ``(1, 1, D, H, W)`` of each listed scan."""
    transform = inference_transforms(
        spacing_mm=arguments.spacing_mm, spatial_size=FIELD_MM[arguments.spacing_mm], **PREPROCESSING
    )
    for item in scans(arguments, output)[: arguments.limit]:
        sample = transform(item)
        yield item["case"], sample["image"].as_tensor()[None], sample["brain_mask"].as_tensor()[None] > 0.5


def scans(arguments: argparse.Namespace, output: Path) -> list[dict[str, Any]]:
    """The list that was given, or the demo's volumes."""
    if arguments.list:
        return list_scans(arguments.list)
    inputs = output / "inputs"
    if not (inputs / "scans.json").exists():
        inputs.mkdir(parents=True, exist_ok=True)
        write_demo(nib.load(packaged_scan()), inputs)
    return list_scans(inputs / "scans.json")


def figures_file(output: Path) -> Path:
    """Beside the folder with everything else, under its name."""
    return output.with_suffix(".json")


def store(output: Path, key: str, value: Any) -> None:
    """Put one part's measurements into OUT.json."""
    path = figures_file(output)
    known = json.loads(path.read_text()) if path.exists() else {}
    write_atomically(json.dumps({**known, key: value}, indent=1) + "\n", path)


PARTS: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "agreement": agreement,
    "time": times,
    "passes": passes,
    "worker": worker,
    "growth": growth,
    "scan": scan,
    "compilers": compilers,
    "floor": limits,
    "report": report,
    "quick": quick,
}


if __name__ == "__main__":
    main()
