"""Compare kinds of evidence on the same scans: reconstruction, tissues, both, with and without a sign, and plain rules.

    python scripts/compare_evidence.py NORMALS.json CASES.json out/evidence [--normal-ml 3] [--model agnostic]

Both are lists of scans as for evaluation; items have a "contrast", and cases a "label". For every contrast each rule's
threshold is that at which the normal scans of this contrast are flagged by so many millilitres in the mean; no case has
a say in it, and a case of a contrast without a normal scan is left out and named. Writes <output>/evidence.json and
<output>/evidence.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from itermask3d import BUNDLE_ROOT
from itermask3d.evaluation.baselines import SinglePass
from itermask3d.evaluation.text import markdown_table
from itermask3d.files.scans import ScanError, list_scans
from itermask3d.files.writing import write_atomically
from itermask3d.inference.models import ModelTable, shipped_settings
from itermask3d.inference.networks import load_weights
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.method.inferer import IterMaskInferer
from itermask3d.method.network import ReconstructionUNet
from itermask3d.method.tissue_deviation import (
    Side,
    TissueSettings,
    contrast_kind,
    fused,
    suspicion,
    tissue_deviation,
)
from itermask3d.method.tissue_network import prior_shares
from itermask3d.preprocessing.pipeline import inference_transforms
from monai.bundle import ConfigParser
from tqdm import tqdm

VOXEL_ML = 0.008
"""Of the network's grid, 2 mm."""

BRIGHT = ("FLAIR", "T2")
"""Contrasts of a list's items on which bright is suspicious; on others both sides are."""

SETTINGS = TissueSettings(trust=2.0, smooth_mm=1.0)
"""Chosen on generated scans with and without synthetic lesions."""


def main() -> None:
    arguments = parse()
    try:
        normals, cases = (list_scans(path) for path in (arguments.normals, arguments.cases))
        measure = Evidence(arguments.model, single_pass=arguments.single_pass)
        found = compare(measure, normals, cases, arguments.normal_ml)
        arguments.output.mkdir(parents=True, exist_ok=True)
        write_atomically(json.dumps(found, indent=1) + "\n", arguments.output / "evidence.json")
        write_atomically(page(found), arguments.output / "evidence.md")
    except (ScanError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(arguments.output / "evidence.md")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("normals", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--normal-ml", type=float, default=3.0, help="flagged in a normal scan (default: 3)")
    parser.add_argument("--model", default="agnostic", help="t1 or agnostic (default: any)")
    parser.add_argument("--single-pass", action="store_true", help="the error of one pass instead of the whole loop")
    return parser.parse_args()


class Evidence:
    """All maps of a scan, on the brain's voxels of the network's grid.

    Args:
        model: of the shipped bundle.
        single_pass: leave refinement out.
    """

    def __init__(self, model: str, *, single_pass: bool = False) -> None:
        config = ConfigParser(ConfigParser.load_config_file(f"{BUNDLE_ROOT}/configs/inference.json"))
        table = ModelTable(Path(BUNDLE_ROOT, "models"), model, settings=config["models"]["settings"])
        self.network = ReconstructionUNet(out_channels=2, channels=config["network_def"]["channels"], dropout=0.0)
        load_weights(self.network, table[model].weights)
        inferer = IterMaskInferer(
            table.adapted(shipped_settings(), model), radius_cycles_per_mm=config["radius_cycles_per_mm"]
        )
        single = SinglePass(inferer, self.network.eval())
        self.error = (
            (lambda image, brain: single(image, brain).anomaly_map)
            if single_pass
            else (lambda image, brain: inferer(image, self.network, brain)["anomaly_map"])
        )
        self.prior = torch.from_numpy(np.load(Path(BUNDLE_ROOT, "models/tissue_prior.npy"))).float()
        self.grid = {"spacing_mm": config["spacing_mm"], "spatial_size": config["spatial_size"]}
        self.bias_correction = config["bias_correction"]

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Maps by rule, ``label`` where there is one, and the ``kind`` of contrast that was told from the scan."""
        prepare = inference_transforms(**self.grid, bias_correction=self.bias_correction, with_label="label" in item)
        sample = prepare(item)
        image, brain = (sample[key].as_tensor()[None] for key in ("image", "brain_mask"))
        inside = brain[0] > 0.5
        shares = prior_shares(self.prior, brain)[0]
        deviation = tissue_deviation(image[0], brain[0], shares, SETTINGS)
        error = self.error(image, brain)[0]
        signed = suspicion(deviation.z, Side.BRIGHT if item.get("contrast") in BRIGHT else Side.BOTH)
        maps = {
            "bright": image[0].clamp(min=0),
            "zscore": image[0].abs(),
            "reconstruction": error.sqrt(),
            "tissues": signed,
            "tissues, no sign": deviation.z.abs(),
            "fused": fused(signed, error),
            "fused, no sign": fused(deviation.z.abs(), error),
        }
        label = sample["label"].as_tensor()[inside].numpy() > 0.5 if "label" in item else None
        return {
            "maps": {name: volume[inside].numpy() for name, volume in maps.items()},
            "label": label,
            "kind": str(contrast_kind(deviation.means)),
        }


def compare(
    measure: Evidence, normals: list[dict[str, Any]], cases: list[dict[str, Any]], normal_ml: float
) -> dict[str, Any]:
    """Thresholds by contrast, and the Dice coefficient of every rule in every case."""
    pools: dict[str, list[dict[str, np.ndarray]]] = {}
    for item in tqdm(normals, unit="normal scan"):
        pools.setdefault(str(item.get("contrast")), []).append(measure(item)["maps"])
    thresholds = {
        contrast: {rule: threshold_for_ml([maps[rule] for maps in pool], normal_ml) for rule in pool[0]}
        for contrast, pool in pools.items()
    }
    rows = []
    for item in tqdm(cases, unit="case"):
        contrast = str(item.get("contrast"))
        if contrast not in thresholds:
            tqdm.write(f"left out: {item['case']}: there is no normal scan of the contrast {contrast}")
            continue
        found = measure(item)
        if found["label"] is None:
            raise ScanError(f"case '{item['case']}' has no label; expected a lesion mask")
        dices = {
            rule: dice(values > thresholds[contrast][rule], found["label"]) for rule, values in found["maps"].items()
        }
        rows.append({"case": item["case"], "contrast": contrast, "told": found["kind"], "dice": dices})
    return {
        "normal_ml": normal_ml,
        "normals": {contrast: len(pool) for contrast, pool in pools.items()},
        "thresholds": thresholds,
        "cases": rows,
    }


def threshold_for_ml(maps: list[np.ndarray], volume_ml: float) -> float:
    """The value that so many millilitres of the normal scans exceed in the mean.

    >>> threshold_for_ml([np.arange(10.0)], 0.016)
    7.0
    """
    ordered = np.sort(np.concatenate(maps))[::-1]
    return float(ordered[min(round(volume_ml / VOXEL_ML * len(maps)), len(ordered) - 1)])


def dice(mask: np.ndarray, label: np.ndarray) -> float:
    """Of two masks; 1 where both are empty."""
    total = int(mask.sum()) + int(label.sum())
    return 2 * int((mask & label).sum()) / total if total else 1.0


def page(found: dict[str, Any]) -> str:
    """A table of the Dice coefficients, in Markdown."""
    rules = list(next(iter(found["thresholds"].values()), {}))
    normals = ", ".join(f"{count} of {contrast}" for contrast, count in found["normals"].items())
    told = f"Dice at thresholds that flag {found['normal_ml']:g} ml of a normal scan in the mean ({normals})."
    rows = [
        [row["case"], row["contrast"], row["told"], *(f"{row['dice'][rule]:.2f}" for rule in rules)]
        for row in found["cases"]
    ]
    return f"{told}\n\n{markdown_table(['case', 'contrast', 'told', *rules], rows)}"


if __name__ == "__main__":
    main()
