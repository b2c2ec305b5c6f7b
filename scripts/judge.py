"""Judge weights and settings on several sites, with two kinds of simulated lesions, beside simple methods.

    python scripts/judge.py DATA OUT
    python scripts/judge.py DATA OUT --weights run/best.pt --settings noise=1 threshold_floor=2.2 --name candidate
    python scripts/judge.py DATA OUT --methods loop single-pass --sites oasis1 --limit 2

DATA holds the folders of SITES and SHAPES below. Normal scans are judged as they are, and with lesions of each
simulator that one seed draws. Every threshold comes from the calibration scans of the split file; a site that the file
lists is judged on its test subset, any other site whole. Scans, lesioned scans and maps are kept in OUT/cache (or
--cache), and a run that was broken off goes on; other weights cost their passes alone. Writes OUT/NAME/results.json and
OUT/NAME/judge.md. The lesions are semi-synthetic.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from itermask3d import BUNDLE_ROOT, simulation
from itermask3d.evaluation.judge import NORMAL, Case, Method, judge, to_json
from itermask3d.evaluation.judge_cache import array_digest, code_digest, kept
from itermask3d.evaluation.judge_methods import METHODS, JudgedModel, methods_of, read_model
from itermask3d.evaluation.judge_tables import judge_tables
from itermask3d.evaluation.text import to_markdown
from itermask3d.files.identity import input_files
from itermask3d.files.plain import as_json_values
from itermask3d.files.scans import ScanError, bare_scan_errors, list_scans
from itermask3d.files.writing import write_atomically
from itermask3d.inference.results import RESEARCH_USE, versions
from itermask3d.preprocessing.normalise import RobustNormalized
from itermask3d.simulation.lesion_plan import SIMULATORS, Donor, PlannedLesion, plan_lesions, simulate
from itermask3d.simulation.lesion_shapes import LesionShape, load_shapes, read_shapes, save_shapes
from tqdm import tqdm

SITES = {
    "ixi": "normal_t1_2mm/t1",
    "ds002748": "normal_t1_sites_2mm/ds002748",
    "oasis1": "normal_t1_sites_2mm/oasis1",
}
"""Folder of each site's normal scans."""

SHAPES = ("lesion_shapes", "lesion_shapes_soop")

PACKAGE = Path(simulation.__file__).parents[1]


def main() -> None:
    arguments = parse()
    output = Path(arguments.output) / arguments.name
    try:
        model = read_model(
            arguments.bundle, model=arguments.model, weights=arguments.weights, settings=dict(arguments.settings)
        )
        methods = methods_of(model, arguments.methods)
        bench = Bench.of(arguments, model)
        judgements, seconds = [], {}
        for method in methods:
            start = time.perf_counter()
            judgements.append(judge_one(method, bench, model, arguments))
            seconds[method.name] = round(time.perf_counter() - start, 1)
    except (ScanError, ValueError) as error:
        sys.exit(f"error: {error}")
    about = facts(arguments, model, bench) | {"seconds": seconds, "failures": bench.failures}
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(json.dumps({"about": about} | to_json(judgements), indent=1) + "\n", output / "results.json")
    write_atomically(page(about, judgements), output / "judge.md")
    print(f"{len(bench.items)} scans, {len(methods)} methods, {len(bench.failures)} failures: {output / 'judge.md'}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="folder that holds the sites and the lesion shapes")
    parser.add_argument("output", help="folder; made if absent")
    parser.add_argument("--name", default="judge", help="of this run's folder in OUT (default: judge)")
    parser.add_argument("--bundle", default=str(BUNDLE_ROOT), help="folder of the bundle")
    parser.add_argument("--model", default="t1", help="of the bundle: its weights and settings (default: t1)")
    parser.add_argument("--weights", help="state dict to judge instead; the network's shape is read from it")
    parser.add_argument("--settings", nargs="+", type=setting, default=[], metavar="KEY=VALUE", help="of the loop")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--sites", nargs="+", choices=list(SITES), default=list(SITES))
    parser.add_argument("--simulators", nargs="+", choices=list(SIMULATORS), default=list(SIMULATORS))
    parser.add_argument("--split-file", default=f"{BUNDLE_ROOT}/configs/split_ixi_t1_2mm.json")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N scans of every site and calibration")
    parser.add_argument("--per-scan", type=int, default=1, metavar="N", help="lesions a scan and simulator (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the lesions (default 0)")
    parser.add_argument("--level", type=float, default=0.05, help="share of calibration scans flagged (default 0.05)")
    parser.add_argument(
        "--min-volumes-ml",
        nargs="+",
        type=float,
        metavar="ML",
        help="smallest regions at matched thresholds; 0 is any voxel (default: the bundle's, and 0.1)",
    )
    parser.add_argument("--cache", help="folder of what is kept between runs (default: OUT/cache)")
    return parser.parse_args()


def setting(text: str) -> tuple[str, Any]:
    """``key=value``, the value as JSON where it is that."""
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"'{text}' is no setting; expected KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


@dataclass
class Bench:
    """The scans that are judged, prepared and lesioned when they are first needed.

    Attributes:
        items: scans of all sites, each with ``site``; in the order in which they are judged.
        calibration: normal scans that set thresholds.
        plan: lesions by site and scan.
        model: its preprocessing is used.
        data, cache: folders.
        failures: by case, why it was left out.
    """

    items: list[dict[str, Any]]
    calibration: list[dict[str, Any]]
    plan: Mapping[tuple[str, str], Sequence[PlannedLesion]]
    everything: Mapping[tuple[str, str], dict[str, Any]]
    model: JudgedModel
    data: Path
    cache: Path
    failures: dict[str, str] = field(default_factory=dict)
    _prepared: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @classmethod
    def of(cls, arguments: argparse.Namespace, model: JudgedModel) -> Bench:
        """Find the scans and draw the lesions."""
        data = Path(arguments.data)
        split = json.loads(Path(arguments.split_file).read_text())
        everything: dict[tuple[str, str], dict[str, Any]] = {}
        items, plan = [], {}
        for site in arguments.sites:
            found = [item | {"site": site} for item in list_scans(data / SITES[site])]
            judged = held_out(found, split)
            everything |= {(site, item["case"]): item for item in judged}
            items += judged[: arguments.limit]
            drawn = plan_lesions(
                [item["case"] for item in judged],
                seed=arguments.seed,
                per_scan=arguments.per_scan,
                simulators=arguments.simulators,
            )
            for item in judged:
                plan[site, item["case"]] = [one for one in drawn if one.subject == item["case"]]
        listed = [item | {"site": site} for site in SITES for item in list_scans(data / SITES[site])]
        calibration = [item for item in listed if item["case"] in set(split["calibration"])][: arguments.limit]
        cache = Path(arguments.cache or Path(arguments.output) / "cache")
        return cls(items, calibration, plan, everything, model, data, cache)

    @cached_property
    def shapes(self) -> dict[str, LesionShape]:
        path = self.cache / "shapes.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_shapes(read_shapes([self.data / folder for folder in SHAPES]), path)
        return load_shapes(path)

    @cached_property
    def code(self) -> dict[str, str]:
        """Of what prepares and what lesions a scan."""
        return {room: code_digest((PACKAGE / room).glob("*.py")) for room in ("preprocessing", "simulation")}

    @property
    def total(self) -> int:
        """Cases, the calibration left out."""
        return sum(1 + len(self.plan[item["site"], item["case"]]) for item in self.items)

    def prepared(self, item: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Normalised image and brain of a scan, ``(D, H, W)``."""
        place = item["site"], item["case"]
        if place not in self._prepared:
            key = {"inputs": input_files(item), "by": dict(self.model.prepared_by), "code": self.code["preprocessing"]}
            path = self.cache / "prepared" / f"{item['site']}__{item['case']}.npz"
            found = kept(path, as_json_values(key), lambda: self._prepare(item))
            self._prepared[place] = found["image"], found["brain"]
        return self._prepared[place]

    def normals(self, items: Sequence[Mapping[str, Any]]) -> Iterator[Case]:
        """Normal scans; one that cannot be prepared is recorded and left out."""
        for item in items:
            name = f"{item['site']}__{item['case']}"
            if name in self.failures:
                continue
            try:
                image, brain = self.prepared(item)
            except ScanError as error:
                self.failures[name] = str(error)
                continue
            yield Case(name, item["case"], item["site"], NORMAL, image, brain, np.zeros_like(brain))

    def cases(self) -> Iterator[Case]:
        """Every scan, as it is and with its lesions."""
        for normal in self.normals(self.items):
            yield normal
            for planned in self.plan[normal.site, normal.subject]:
                name = f"{normal.site}__{planned.case}"
                if name in self.failures:
                    continue
                try:
                    yield self._lesioned(normal, planned, name)
                except ScanError as error:
                    self.failures[name] = str(error)

    def _prepare(self, item: Mapping[str, Any]) -> dict[str, np.ndarray]:
        with bare_scan_errors():
            sample = self.model.preprocessing({key: value for key, value in item.items() if key != "site"})
        image, brain = (sample[key].as_tensor()[0].numpy(force=True) for key in ("image", "brain_mask"))
        return {"image": image.astype(np.float32), "brain": brain > 0.5}

    def _lesioned(self, normal: Case, planned: PlannedLesion, name: str) -> Case:
        donor = None
        if planned.donor is not None:
            donor = Donor(*self.prepared(self.everything[normal.site, planned.donor]))
        key = {"plan": asdict(planned), "scan": array_digest(normal.image, normal.brain), "code": self.code}
        key |= {"donor": None if donor is None else array_digest(*donor)}

        def make() -> dict[str, np.ndarray]:
            spacing = self.model.inferer.spacing_mm
            made = simulate(planned, normal.image, normal.brain, spacing_mm=spacing, shapes=self.shapes, donor=donor)
            volumes = {"image": made.image, "healthy": normal.image, "brain_mask": normal.brain}
            sample = {
                part: torch.from_numpy(np.array(volume, dtype=np.float32))[None] for part, volume in volumes.items()
            }
            # As a scan with a lesion would have been normalised; the healthy one comes along, in the same unit.
            sample = RobustNormalized(("image", "healthy"))(sample)
            arrays = {part: sample[part][0].numpy() for part in ("image", "healthy")}
            return arrays | {"truth": made.truth, "about": np.str_(json.dumps(made.about))}

        found = kept(self.cache / "lesioned" / f"{name}.npz", key, make)
        kind = f"{planned.simulator}: {planned.kind}"
        return Case(
            name, normal.subject, normal.site, kind, found["image"], normal.brain, found["truth"], found["healthy"]
        )


def held_out(items: Sequence[dict[str, Any]], split: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """The test scans of a site that a split lists, all scans of one that it does not."""
    listed = {case for cases in split.values() for case in cases}
    if not any(item["case"] in listed for item in items):
        return list(items)
    return [item for item in items if item["case"] in set(split["test"])]


def judge_one(method: Method, bench: Bench, model: JudgedModel, arguments: argparse.Namespace) -> Any:
    """Every case through one method, with a bar."""
    digest = array_digest(np.frombuffer(json.dumps(method.key, sort_keys=True).encode(), dtype=np.uint8))
    volumes = arguments.min_volumes_ml or list(dict.fromkeys((model.inferer.min_volume_ml, 0.1)))
    passes = iter(("scans", "ranking"))

    def cases() -> Iterator[Case]:
        about = f"{method.name}: {next(passes)}"
        return iter(tqdm(bench.cases(), total=bench.total, desc=about, unit="scan"))

    normals = bench.normals(bench.calibration)
    return judge(
        method,
        calibration=tqdm(normals, total=len(bench.calibration), desc=f"{method.name}: calibration", unit="scan"),
        cases=cases,
        spacing_mm=model.inferer.spacing_mm,
        min_volumes_ml=volumes,
        level=arguments.level,
        folder=bench.cache / "maps" / f"{method.name}-{digest}",
    )


def facts(arguments: argparse.Namespace, model: JudgedModel, bench: Bench) -> dict[str, Any]:
    """What the results are of."""
    sites = dict.fromkeys(item["site"] for item in bench.items)
    return {
        "note": RESEARCH_USE,
        "model": arguments.model if arguments.weights is None else None,
        "weights": Path(model.weights).name,
        **model.describe(),
        "preprocessing": dict(model.prepared_by),
        "seed": arguments.seed,
        "level": arguments.level,
        "limit": arguments.limit,
        "split_file": Path(arguments.split_file).name,
        "scans": {site: [item["case"] for item in bench.items if item["site"] == site] for site in sites},
        "calibration": [item["case"] for item in bench.calibration],
        "versions": versions(),
    }


def page(about: Mapping[str, Any], judgements: Sequence[Any]) -> str:
    """All tables and what they are of, as Markdown."""
    counted = ", ".join(f"{site} {len(cases)}" for site, cases in about["scans"].items())
    failed = "".join(f"- {case}: {reason}\n" for case, reason in about["failures"].items())
    head = (
        f"# Judge\n\n{RESEARCH_USE}\n\nWeights `{about['weights']}` ({about['weights_sha256']}), seed {about['seed']}; "
        f"normal scans: {counted}; calibration: {len(about['calibration'])}.\n\n"
    )
    left_out = f"## Left out\n\n{failed}\n" if failed else ""
    return head + left_out + "\n".join(to_markdown(table) for table in judge_tables(judgements))


if __name__ == "__main__":
    main()
