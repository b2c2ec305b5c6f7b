"""Choose gamma and its companions on validation scans.

    python scripts/tune.py LIST OUT [--weights best.pt] [--max-normal-share 0.005] [--limit 16]

LIST is what scripts/simulate_lesions.py wrote for the validation subset. Writes OUT/rows.csv (a row a scan and
combination) and OUT/summary.json (a row a combination, the chosen one first).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, fields
from pathlib import Path

import torch
from itermask3d import BUNDLE_ROOT
from itermask3d.evaluation.tuning import Grid, TuningRow, choose, evaluate_grid, summarise_rows
from itermask3d.files.scans import ScanError, bare_scan_errors, list_scans
from itermask3d.files.writing import write_atomically, write_table
from itermask3d.inference.models import shipped_settings
from itermask3d.inference.networks import load_weights, network_shape
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.method.frequency import high_frequency
from itermask3d.method.inferer import IterMaskInferer
from itermask3d.method.network import ReconstructionUNet
from itermask3d.method.settings import RefinementSettings
from itermask3d.preprocessing.pipeline import inference_transforms
from tqdm import tqdm


def main() -> None:
    arguments = parse()
    network = ReconstructionUNet(**(network_shape(arguments.weights) or {}))
    try:
        load_weights(network, arguments.weights)
        items = list_scans(arguments.list)[: arguments.limit]
        if not all("label" in item for item in items):
            raise ScanError("a listed scan has no 'label'; expected the list that simulate_lesions.py wrote")
    except ScanError as error:
        sys.exit(f"error: {error}")
    network.eval()
    base = shipped_settings()
    of_loop = {field.name for field in fields(RefinementSettings)}
    tried = {field.name: (getattr(base, field.name),) for field in fields(Grid) if field.name in of_loop}
    grid = Grid(**{**tried, **json.loads(arguments.grid)})
    transform = inference_transforms(
        spacing_mm=arguments.spacing_mm,
        spatial_size=arguments.spatial_size,
        bias_correction=arguments.bias_correction,
        with_label=True,
    )
    spacing = (arguments.spacing_mm,) * 3
    inferer = IterMaskInferer(spacing_mm=arguments.spacing_mm, mixed_precision=True)
    rows: list[TuningRow] = []
    for item in tqdm(items, unit="scan"):
        try:
            with bare_scan_errors():
                sample = transform(item)
        except ScanError as reason:
            tqdm.write(f"left out: {item['case']}: {reason}")
            continue
        image, brain, label = (sample[key].as_tensor()[None] for key in ("image", "brain_mask", "label"))
        guide = high_frequency(image, spacing_mm=spacing, radius_cycles_per_mm=arguments.radius_cycles_per_mm)
        reconstruct = inferer.reconstructor(network, brain)
        with torch.no_grad():
            scan = (item["case"], image, brain, guide, label, reconstruct)
            rows += evaluate_grid(*scan, grid=grid, spacing_mm=spacing, base=base)
        write(rows, Path(arguments.output), arguments.max_normal_share)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("list")
    parser.add_argument("output")
    parser.add_argument("--weights", default=f"{BUNDLE_ROOT}/models/model.pt")
    parser.add_argument("--spacing-mm", type=float, default=2.0)
    parser.add_argument("--spatial-size", type=int, nargs=3, default=[80, 96, 80])
    parser.add_argument("--bias-correction", default="n4")
    parser.add_argument("--radius-cycles-per-mm", type=float, default=shipped_radius(), help="of the guide")
    parser.add_argument(
        "--grid", default="{}", help="JSON of values to try, others as in the bundle, e.g. '{\"gamma\": [0.05, 0.1]}'"
    )
    parser.add_argument("--max-normal-share", type=float, default=0.005)
    parser.add_argument("--limit", type=int, help="use the first scans only")
    return parser.parse_args()


def shipped_radius() -> float:
    """Radius of the guide as the shipped bundle has it."""
    return float(json.loads(Path(BUNDLE_ROOT, "configs", "inference.json").read_text())["radius_cycles_per_mm"])


def write(rows: list[TuningRow], output: Path, max_normal_share: float) -> None:
    """Write what is known so far, so that a long run can be read while it goes on."""
    output.mkdir(parents=True, exist_ok=True)
    write_table([asdict(row) for row in rows], list(asdict(rows[0])), output / "rows.csv")
    summaries = sorted(summarise_rows(rows), key=lambda row: -row["dice_mean"])
    chosen = choose(summaries, max_normal_share=max_normal_share)
    write_atomically(json.dumps({"chosen": chosen, "all": summaries}, indent=1) + "\n", output / "summary.json")


if __name__ == "__main__":
    main()
