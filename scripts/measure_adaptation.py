"""Measure what an adaptation brings: normal scans of a site before and after it, false alarms, lesions, what is lost.

    python scripts/measure_adaptation.py DATA OUT --sites virtual:soft virtual:flat oasis1 --numbers 20 --seeds 0
    python scripts/measure_adaptation.py DATA OUT --page docs/benchmarks/adaptation.md

DATA holds the folders of the judge (scripts/judge.py). A virtual scanner shows the calibration and validation subjects
of the split file, with which is adapted, and its test subjects, which are reported; of a real site the scans of the
same subsets of the bundle's split. Prepared scans, networks and scores are kept in OUT, and a run that was broken off
goes on. OUT/adaptation.json holds every figure so far; --page writes the tables from it and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from itermask3d import BUNDLE_ROOT, simulation
from itermask3d.evaluation.judge_cache import code_digest, kept
from itermask3d.evaluation.matched import critical_value, flagged_mask, matched_threshold
from itermask3d.files.identity import file_digest, input_files
from itermask3d.files.plain import as_json_values
from itermask3d.files.scans import ScanError, bare_scan_errors, list_scans
from itermask3d.files.writing import write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.preprocessing.normalise import RobustNormalized
from itermask3d.simulation.lesion_plan import PlannedLesion, plan_lesions, simulate
from itermask3d.simulation.virtual_scanners import VIRTUAL_SCANNERS, show_with
from itermask3d.training.prepared import save_prepared
from itermask3d.workflows.site.adaptation_page import measured_page
from itermask3d.workflows.site.base_model import BaseModel
from itermask3d.workflows.site.crossfit import folds_of
from itermask3d.workflows.site.fine_tuning import FineTuning, fine_tune
from monai.data import MetaTensor

IXI = "normal_t1_2mm/t1"
REAL = {"ixi": IXI, "ds002748": "normal_t1_sites_2mm/ds002748", "oasis1": "normal_t1_sites_2mm/oasis1"}
VIRTUAL = "virtual:"
LOCAL, HELD_OUT = ("calibration", "validation"), "test"
"""Subsets of the split: with which is adapted, and which are reported. No weight was trained on either."""

PACKAGE = Path(simulation.__file__).parents[1]


def main() -> None:
    arguments = parse()
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    rows_file = output / "adaptation.json"
    if arguments.page:
        write_atomically(measured_page(json.loads(rows_file.read_text())), Path(arguments.page))
        return
    base = BaseModel(arguments.bundle, "t1")
    base.inferer.mixed_precision = True
    try:
        for site in arguments.sites:
            bench = Site(site, base, arguments)
            for number in arguments.numbers:
                for seed in arguments.seeds:
                    measure(bench, number, seed, arguments, rows_file)
    except ScanError as error:
        sys.exit(f"error: {error}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="folder that holds the sites")
    parser.add_argument("output", help="folder; made if absent")
    names = [f"{VIRTUAL}{name}" for name in VIRTUAL_SCANNERS] + list(REAL)
    parser.add_argument("--sites", nargs="+", choices=names, default=names, metavar="SITE", help=", ".join(names))
    parser.add_argument("--numbers", nargs="+", type=int, default=[20], help="of local scans (default: 20)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--folds", type=int, default=2, help="of the cross-fitted calibration (default: 2)")
    parser.add_argument("--limit", type=int, metavar="N", help="report the first N scans only")
    parser.add_argument("--no-lesions", action="store_true")
    parser.add_argument("--no-calibration", action="store_true", help="neither fold networks nor false alarms")
    parser.add_argument("--bundle", default=str(BUNDLE_ROOT), help="folder of the bundle")
    parser.add_argument("--brain-masks", help="folder of brain masks of the IXI scans (default: extracted anew)")
    parser.add_argument("--page", help="write the tables to this file from what was measured, and end")
    return parser.parse_args()


@dataclass
class Site:
    """The prepared scans of one site, real or virtual.

    Attributes:
        name: such as ``virtual:soft`` or ``oasis1``.
        base: whose preprocessing and settings hold.
        arguments: of the command.
    """

    name: str
    base: BaseModel
    arguments: argparse.Namespace

    @property
    def cache(self) -> Path:
        """Folder of what is kept of this site."""
        return Path(self.arguments.output) / self.name.replace(":", "_")

    @property
    def least_voxels(self) -> int:
        """Of a region that counts."""
        return round(float(self.base.value("min_volume_ml")) * 1000 / float(self.base.value("spacing_mm")) ** 3)

    @cached_property
    def items(self) -> dict[str, list[dict[str, Any]]]:
        """Scans by subset of the split, the adapting ones joined."""
        split = json.loads(Path(BUNDLE_ROOT, "configs/split_t1_2mm.json").read_text())
        folder = Path(self.arguments.data) / REAL.get(self.name, IXI)
        masks = self.arguments.brain_masks if REAL.get(self.name, IXI) == IXI else None
        found = {item["case"]: item for item in list_scans(folder)}
        if masks:
            for case, item in found.items():
                mask = Path(masks) / f"{case}.nii.gz"
                found[case] = {**item, "brain_mask": str(mask)} if mask.is_file() else item
        chosen = {
            subset: [found[case] for case in sorted(split[subset]) if case in found] for subset in (*LOCAL, HELD_OUT)
        }
        return {
            "local": [item for subset in LOCAL for item in chosen[subset]],
            "held_out": chosen[HELD_OUT][: self.arguments.limit],
        }

    def prepared(self, item: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """``image`` and ``brain_mask`` of a scan on the network's grid, ``(1, D, H, W)``."""
        code = code_digest((PACKAGE / "preprocessing").glob("*.py"))
        key = {"site": self.name, "inputs": input_files(item), "code": code}
        if self.name.startswith(VIRTUAL):
            key["scanner"] = repr(VIRTUAL_SCANNERS[self.name.removeprefix(VIRTUAL)])
        path = self.cache / "prepared" / f"{item['case']}.npz"
        arrays = kept(path, as_json_values(key), lambda: self._prepare(item))
        return {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in ("image", "brain_mask")}

    def usable(self, items: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """The scans that can be prepared, in their order; others are told, such as heads too large for the grid."""
        for item in items:
            try:
                self.prepared(item)
            except ScanError as error:
                print(f"{self.name}: left out: {item['case']}: {error}", flush=True)
                continue
            yield item

    def kept(self, item: Mapping[str, Any]) -> dict[str, str]:
        """A scan as training takes it."""
        path = self.cache / "training" / f"{item['case']}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_prepared(
                self.prepared(item), path, spacing_mm=float(self.base.value("spacing_mm")), bias_correction="n4"
            )
        return {"prepared": str(path), "case": item["case"], "site": self.name}

    def lesioned(self, item: Mapping[str, Any], planned: PlannedLesion) -> dict[str, torch.Tensor]:
        """A prepared scan with a lesion, and its ``truth``."""
        scan = self.prepared(item)
        key = {"plan": planned.case, "seed": planned.seed, "volume_ml": planned.volume_ml}

        def make() -> dict[str, np.ndarray]:
            image, brain = scan["image"][0].numpy(), scan["brain_mask"][0].numpy() > 0.5
            spacing = (float(self.base.value("spacing_mm")),) * 3
            made = simulate(planned, image, brain, spacing_mm=spacing, shapes={})
            sample = {"image": torch.from_numpy(made.image)[None].float(), "brain_mask": scan["brain_mask"]}
            return {"image": RobustNormalized("image")(sample)["image"].numpy(), "truth": made.truth[None]}

        arrays = kept(self.cache / "lesioned" / f"{planned.case}.npz", key, make)
        return {**scan, **{name: torch.from_numpy(arrays[name].astype(np.float32)) for name in ("image", "truth")}}

    def _prepare(self, item: Mapping[str, Any]) -> dict[str, np.ndarray]:
        preprocessing = self.base.value("preprocessing")
        with bare_scan_errors():
            sample = preprocessing.transforms[1](preprocessing.transforms[0]({**item}))
            if self.name.startswith(VIRTUAL):
                sample = shown(sample, self.name.removeprefix(VIRTUAL), item["case"])
            for transform in preprocessing.transforms[2:]:
                sample = transform(sample)
        image, brain = (sample[key].as_tensor().numpy(force=True) for key in ("image", "brain_mask"))
        return {"image": image.astype(np.float32), "brain_mask": brain > 0.5}


def shown(sample: Mapping[Any, Any], scanner: str, subject: str) -> dict[Any, Any]:
    """A loaded head and its brain mask as a virtual scanner shows them."""
    image, mask = sample["image"], sample["brain_mask"]
    made = show_with(
        VIRTUAL_SCANNERS[scanner],
        image[0].numpy(force=True),
        mask[0].numpy(force=True) > 0.5,
        spacing_mm=float(np.mean(image.pixdim.tolist()[:3])),
        subject=subject,
    )
    volumes = {"image": made.image, "brain_mask": made.brain_mask.astype(np.float32)}
    return {**sample, **{key: MetaTensor(torch.from_numpy(v)[None], affine=image.affine) for key, v in volumes.items()}}


def measure(site: Site, number: int, seed: int, arguments: argparse.Namespace, rows_file: Path) -> None:
    """Everything about one site, number of local scans and seed; written as it comes."""
    local, held_out = site.items["local"], list(site.usable(site.items["held_out"]))
    order = np.random.default_rng(seed).permutation(len(local))
    chosen = list(islice(site.usable([local[index] for index in order]), number))
    if len(chosen) < number:
        print(f"{site.name}: {len(chosen)} local scans, not {number}: left out", flush=True)
        return
    row: dict[str, Any] = {"site": site.name, "number": number, "seed": seed, "weights": site.base.digest}
    tuning = FineTuning(seed=2026 + seed)
    row["tuning"] = tuning.to_json()

    def tell(**facts: Any) -> None:
        row.update(facts)
        rows = json.loads(rows_file.read_text())["rows"] if rows_file.is_file() else []
        same = ("site", "number", "seed")
        rows = [other for other in rows if any(other[key] != row[key] for key in same)] + [row]
        rows.sort(key=lambda one: (one["site"], one["number"], one["seed"]))
        write_atomically(json.dumps({"note": RESEARCH_USE, "rows": rows}, indent=1) + "\n", rows_file)
        print(f"{site.name} {number} {seed}: {', '.join(facts)}", flush=True)

    runs = Runs(site, tuning)
    tell(before=runs.scores(None, held_out))
    final = runs.network(chosen, f"final-{number}-{seed}")
    tell(after=runs.scores(final, held_out))
    if not arguments.no_calibration:
        folds = folds_of([[item["case"]] for item in chosen], arguments.folds, seed=seed)
        calibration: dict[str, Any] = {}
        for index, fold in enumerate(folds):
            kept_out = [item for item in chosen if item["case"] in fold]
            others = [item for item in chosen if item["case"] not in fold]
            calibration |= runs.scores(runs.network(others, f"fold-{index}-{number}-{seed}"), kept_out)
        tell(calibration=calibration, folds=arguments.folds)
        tell(calibration_before=runs.scores(None, chosen))
    if not arguments.no_lesions:
        tell(lesions=lesions(runs, final, held_out, row))
    home = Site("ixi", site.base, arguments)
    if site.name != "ixi":
        home_runs = Runs(home, tuning)
        at_home = list(home.usable(home.items["held_out"]))
        tell(home_before=home_runs.scores(None, at_home))
        tell(home_after=home_runs.scores(final, at_home))


@dataclass
class Runs:
    """Networks and what they say, a file each."""

    site: Site
    tuning: FineTuning

    def network(self, items: Sequence[Mapping[str, Any]], name: str) -> Path:
        """Weights adapted to some scans; trained unless they are there."""
        folder = self.site.cache / "networks" / name
        if not (folder / "weights.pt").is_file():
            samples = told_progress(f"{self.site.name} {name}", self.tuning.samples(len(items)))
            fine_tune(self.site.base, [self.site.kept(item) for item in items], folder, self.tuning, drawn=samples)
        return folder / "weights.pt"

    def see(self, weights: Path | None, scan: Mapping[str, torch.Tensor], case: str) -> dict[str, np.ndarray]:
        """Map, mask and statistics of a prepared scan, kept."""
        base = self.site.base
        digest = base.digest if weights is None else file_digest(weights)
        key = {"weights": digest, "scan": float(scan["image"].double().sum())}

        def make() -> dict[str, np.ndarray]:
            network = base.network(weights).eval()
            found = base.inferer(scan["image"][None].to(base.device), network, scan["brain_mask"][None].to(base.device))
            inside = scan["brain_mask"][0].numpy() > 0.5
            arrays = {name: found[name][0, 0].numpy(force=True)[inside] for name in ("anomaly_map", "mask")}
            return {**arrays, "findings": np.str_(json.dumps(found["findings"][0].to_json()))}

        return kept(self.site.cache / "seen" / digest / f"{case}.npz", key, make)

    def scores(self, weights: Path | None, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Score, flagged volume and critical value of normal scans, by case."""
        found = {}
        voxel_ml = float(self.site.base.value("spacing_mm")) ** 3 / 1000
        for item in items:
            scan = self.site.prepared(item)
            seen = self.see(weights, scan, item["case"])
            findings = json.loads(str(seen["findings"]))
            anomaly_map, brain = filled(seen["anomaly_map"], scan), scan["brain_mask"][0].numpy() > 0.5
            least = self.site.least_voxels
            found[item["case"]] = {
                "score": round(float(findings["score"]), 5),
                "flagged_ml": round(float(seen["mask"].sum()) * voxel_ml, 3),
                "critical": round(float(critical_value(anomaly_map, brain, min_voxels=least)), 5),
            }
        return found


def lesions(runs: Runs, final: Path, items: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> dict[str, Any]:
    """Dice on inserted lesions: of the algorithm's own mask, and where 5 % of the local normals are flagged."""
    planned = plan_lesions([item["case"] for item in items], seed=0, simulators=["field"])
    found: dict[str, Any] = {}
    for state, weights, normals in (("before", None, "calibration_before"), ("after", final, "calibration")):
        threshold = None
        if normals in row:
            threshold = matched_threshold([one["critical"] for one in row[normals].values()]).threshold
        for item, plan in zip(items, planned, strict=True):
            try:
                scan = runs.site.lesioned(item, plan)
            except ScanError:
                continue
            seen = runs.see(weights, scan, plan.case)
            truth = scan["truth"][0].numpy() > 0.5
            case = found.setdefault(plan.case, {"kind": plan.kind, "volume_ml": round(plan.volume_ml, 2)})
            case[f"dice_{state}"] = dice(filled(seen["mask"], scan) > 0.5, truth)
            if threshold is not None:
                brain = scan["brain_mask"][0].numpy() > 0.5
                least = round(
                    float(runs.site.base.value("min_volume_ml")) * 1000 / runs.site.base.value("spacing_mm") ** 3
                )
                mask = flagged_mask(filled(seen["anomaly_map"], scan), brain, threshold=threshold, min_voxels=least)
                case[f"dice_matched_{state}"] = dice(mask, truth)
    return found


def filled(values: np.ndarray, scan: Mapping[str, torch.Tensor]) -> np.ndarray:
    """Values of the brain's voxels in their places ``(D, H, W)``, zero elsewhere."""
    inside = scan["brain_mask"][0].numpy() > 0.5
    volume = np.zeros(inside.shape, dtype=np.float32)
    volume[inside] = values
    return volume


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Of two boolean volumes, of which the second is not empty."""
    return round(2 * float((mask & truth).sum()) / float(mask.sum() + truth.sum()), 4)


def told_progress(name: str, total: int) -> Callable[[int], None]:
    """Tells every 20 samples how far a training is."""
    state = {"done": 0}

    def drawn(samples: int) -> None:
        state["done"] += samples
        if samples and state["done"] % 20 == 0:
            print(f"{name}: {state['done']} of {total} samples", flush=True)

    return drawn


if __name__ == "__main__":
    main()
