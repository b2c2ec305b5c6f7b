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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _evidence import VOXEL_ML, prepared
from itermask3d import BUNDLE_ROOT
from itermask3d.evaluation.text import markdown_table
from itermask3d.files.scans import ScanError, list_scans
from itermask3d.files.writing import write_atomically
from itermask3d.inference.model import load_model
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.method.tissue_deviation import Side, suspicion
from tqdm import tqdm

BRIGHT = ("FLAIR", "T2")
"""Contrasts of a list's items on which bright is suspicious; on others both sides are."""


def main() -> None:
    arguments = parse()
    try:
        normals, cases = (list_scans(path) for path in (arguments.normals, arguments.cases))
        measure = Measure(arguments.model)
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
    parser.add_argument("--model", default="agnostic", help="t1 or agnostic (default: agnostic)")
    return parser.parse_args()


class Measure:
    """All maps of a scan, on the brain's voxels of the network's grid, and the mask of the model as it is shipped.

    Args:
        model: of the shipped bundle.
    """

    def __init__(self, model: str) -> None:
        self.model = load_model(BUNDLE_ROOT, model, overrides={"progress": False})
        self.inferer = self.model.variant(model).inferer
        self.network = self.model.networks[model]
        if self.inferer.evidence is None:
            raise ValueError(f"the model '{model}' has no evidence of tissues to compare")

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Maps by rule, ``own``, ``label`` where there is one, and the ``kind`` of contrast that was told."""
        sample = prepared(self.model, item)
        image, brain = (sample[key].as_tensor()[None] for key in ("image", "brain_mask"))
        inside = brain[0, 0] > 0.5
        found = self.inferer(image, self.network, brain)
        (evidence,) = found["evidence"]
        side = Side.BRIGHT if item.get("contrast") in BRIGHT else Side.BOTH
        values, z, error = image[0, 0][inside], evidence.deviation.z[0][inside], found["error"][0, 0][inside]
        maps = {
            "bright": values.clamp(min=0),
            "zscore": values.abs(),
            "error": error,
            "tissues, no sign": z.abs(),
            "tissues": suspicion(z, side),
            "fused": found["anomaly_map"][0, 0][inside],
        }
        label = sample["label"].as_tensor()[0][inside].numpy() > 0.5 if "label" in item else None
        return {
            "maps": {name: volume.numpy() for name, volume in maps.items()},
            "own": found["mask"][0, 0][inside].numpy() > 0.5,
            "label": label,
            "kind": str(evidence.kind),
        }


def compare(
    measure: Callable[[dict[str, Any]], dict[str, Any]],
    normals: list[dict[str, Any]],
    cases: list[dict[str, Any]],
    normal_ml: float,
) -> dict[str, Any]:
    """Thresholds by contrast, the Dice coefficient of every rule in every case, and what the model itself marks."""
    pools: dict[str, list[dict[str, np.ndarray]]] = {}
    flagged = []
    for item in tqdm(normals, unit="normal scan"):
        found = measure(item)
        contrast = str(item.get("contrast"))
        pools.setdefault(contrast, []).append(found["maps"])
        own = VOXEL_ML * int(found["own"].sum())
        flagged.append({"case": item["case"], "contrast": contrast, "told": found["kind"], "own_ml": own})
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
        own, label = found["own"], found["label"]
        bright = found["maps"]["bright"]
        best = max(
            dice(bright > threshold, label) for threshold in np.quantile(bright, 1 - np.geomspace(3e-4, 0.2, 50))
        )
        rows.append(
            {
                "case": item["case"],
                "contrast": contrast,
                "told": found["kind"],
                "label_ml": VOXEL_ML * int(label.sum()),
                "dice": dices | {"own": dice(own, label), "bright, best": best},
                "false_ml": VOXEL_ML * int((own & ~label).sum()),
            }
        )
    return {
        "normal_ml": normal_ml,
        "normals": {contrast: len(pool) for contrast, pool in pools.items()},
        "flagged": flagged,
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
    """Tables of the Dice coefficients, and of what is flagged of the normal scans, in Markdown."""
    rules = list(found["cases"][0]["dice"]) if found["cases"] else []
    normals = ", ".join(f"{count} of {contrast}" for contrast, count in found["normals"].items())
    told = (
        f"Dice at thresholds that flag {found['normal_ml']:g} ml of a normal scan in the mean ({normals}); *own* is "
        "the model as it is shipped, *bright, best* the bright rule at the best threshold for the case itself."
    )
    rows = [
        [row["case"], row["contrast"], row["told"], f"{row['label_ml']:.1f}"]
        + [f"{row['dice'][rule]:.2f}" for rule in rules]
        + [f"{row['false_ml']:.1f}"]
        for row in found["cases"]
    ]
    cases = markdown_table(["case", "contrast", "told", "lesion, ml", *rules, "own, false ml"], rows)
    healthy = [[row["case"], row["contrast"], row["told"], f"{row['own_ml']:.1f}"] for row in found["flagged"]]
    return f"{told}\n\n{cases}\n\n{markdown_table(['normal scan', 'contrast', 'told', 'own, ml'], healthy)}"


if __name__ == "__main__":
    main()
