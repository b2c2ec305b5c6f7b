"""Evaluate the bundle, its ablations and simple baselines on one list of scans, and write one report.

    python scripts/evaluate.py SCANS.json OUT --calibration NORMALS.json
    python scripts/evaluate.py SCANS.json OUT --calibration NORMALS.json --methods itermask3d one_shot zscore not_nested
    python scripts/evaluate.py SCANS.json OUT --report-only

SCANS.json is a list of items: case, image, and where there are any brain_mask, label, group (normal, real,
fault:NAME:SEVERITY, or a word of yours such as "weak lesion") and subject. NORMALS.json lists normal scans that are not
among them: they set every threshold of a baseline and say at which score a scan is flagged. Interrupted, it goes on.

A method is itermask3d (the bundle as it is), a baseline (zscore, bright, dark, one_shot, autoencoder, atlas), an
ablation (a file of configs/ablations), reference (the published loop), or NAME=OVERLAY.json[,OVERLAY.json].
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from itermask3d import BUNDLE_ROOT
from itermask3d.baselines import Autoencoder, Baseline, IntensityRule, NormalAtlas, OneShot, Reconstruction
from itermask3d.cohort import load_weights
from itermask3d.evaluation import COLUMNS, summarise
from itermask3d.evaluation_cases import MethodResults, collect
from itermask3d.evaluation_page import evaluation_page
from itermask3d.evaluation_plots import all_pictures
from itermask3d.evaluation_run import BaselineRun, BundleParts, require_disjoint, run_bundle, weights_digest
from itermask3d.evaluation_tables import all_tables
from itermask3d.evaluation_text import to_csv, to_markdown
from itermask3d.results import RESEARCH_USE, versions, write_atomically, write_table
from itermask3d.scans import ScanError, list_scans

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
MAIN = "itermask3d"
BASELINES = ("zscore", "bright", "dark", "one_shot", "autoencoder", "atlas")
REFERENCE = CONFIGS / "reference_inference.json"


def main() -> None:
    arguments = parse()
    output = Path(arguments.output)
    try:
        items = list_scans(arguments.scans) + (faulted_scans(Path(arguments.faults)) if arguments.faults else [])
        methods = dict(read_method(text) for text in arguments.methods)
        if not arguments.report_only:
            run(items, methods, output, arguments)
        report(items, list(methods), output, arguments)
    except (ScanError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{len(items)} scans, {len(methods)} methods: {output / 'report.html'}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scans", help="JSON list of the scans to be reported")
    parser.add_argument("output", help="folder; made if absent")
    parser.add_argument(
        "--faults", help="folder that scripts/simulate_faults.py wrote; its scans are added to the list"
    )
    parser.add_argument("--methods", nargs="+", default=[MAIN], metavar="METHOD", help="the first is compared with")
    parser.add_argument("--calibration", help="normal scans that set thresholds: a list or a folder")
    parser.add_argument("--atlas", help="normal scans that the atlas is made of; others than those of --calibration")
    parser.add_argument("--autoencoder", help="weights that training with configs/baseline_autoencoder.json wrote")
    parser.add_argument("--autoencoder-channels", nargs=5, type=int, default=[8, 16, 32, 64, 128], metavar="WIDTH")
    parser.add_argument("--level", type=float, default=0.05, help="nominal rate of false alarms (default 0.05)")
    parser.add_argument(
        "--share", type=float, help="share of normal brain that baselines flag (default: what itermask3d flags)"
    )
    parser.add_argument("--report-only", action="store_true", help="tables and page from the results that exist")
    parser.add_argument("--bundle", default=str(BUNDLE_ROOT), help="folder of the bundle")
    parser.add_argument("--title", default="Evaluation")
    return parser.parse_args()


def read_method(text: str) -> tuple[str, list[Path] | None]:
    """Name and overlays of a method; no list for a baseline."""
    name, _, files = text.partition("=")
    if files:
        overlays = [Path(part) for part in files.split(",")]
    elif name in BASELINES:
        return name, None
    else:
        overlays = {MAIN: [], "reference": [REFERENCE]}.get(name, [CONFIGS / "ablations" / f"{name}.json"])
    absent = [str(path) for path in overlays if not path.is_file()]
    if absent or Path(name).name != name:
        known = sorted(path.stem for path in (CONFIGS / "ablations").glob("*.json"))
        what = f"'{absent[0]}' does not exist" if absent else f"'{name}' cannot name a folder"
        raise ScanError(f"{what}; expected {', '.join((MAIN, 'reference', *BASELINES, *known))}, or NAME=OVERLAY.json")
    return name, overlays


def faulted_scans(folder: Path) -> list[dict[str, Any]]:
    """Items of ``<fault>_<severity>/scans.json``, with group and subject, each under a name of its own."""
    items = []
    for path in sorted(folder.glob("*_*/scans.json")):
        fault, _, severity = path.parent.name.rpartition("_")
        for item in list_scans(path):
            facts = {"group": f"fault:{fault}:{severity}", "subject": item.get("subject", item["case"])}
            items.append({**item, **facts, "case": f"{path.parent.name}_{item['case']}"})
    if not items:
        raise ScanError(
            f"'{folder}' holds no FAULT_SEVERITY/scans.json; expected what scripts/simulate_faults.py wrote"
        )
    return items


def run(
    items: Sequence[dict], methods: dict[str, list[Path] | None], output: Path, arguments: argparse.Namespace
) -> None:
    """Every method over every scan; the bundle first, because baselines flag the share that it flags."""
    normals = list_scans(arguments.calibration) if arguments.calibration else []
    require_disjoint(items, normals, "calibration scans")
    output.mkdir(parents=True, exist_ok=True)
    listed = output / "scans.json"
    here = Path.cwd()
    absolute = [
        item | {key: str(here / item[key]) for key in ("image", "brain_mask", "label") if key in item} for item in items
    ]
    write_atomically(json.dumps(absolute, indent=1) + "\n", listed)
    for name, overlays in methods.items():
        if overlays is not None:
            calibration = arguments.calibration if normals else None
            folder = output / "methods" / name
            run_bundle(listed, folder, overlays=overlays, calibration=calibration, bundle_root=arguments.bundle)
    parts = BundleParts.read(arguments.bundle)
    chosen = {
        name: baseline(name, parts, arguments, items, normals) for name, overlays in methods.items() if overlays is None
    }
    factories = {name: factory for name, (factory, _) in chosen.items()}
    baselines = BaselineRun(parts, output, factories, {name: about for name, (_, about) in chosen.items()})
    if chosen:
        if not normals:
            raise ScanError(
                "baselines need --calibration: their thresholds come from normal scans that are not reported"
            )
        baselines.calibrate(normals, share=share_to_flag(output, arguments))
    baselines.run(items)


def share_to_flag(output: Path, arguments: argparse.Namespace) -> float:
    """What was asked for, or what the bundle flags of the calibration scans' brains in the mean."""
    if arguments.share is not None:
        return float(arguments.share)
    path = output / "methods" / MAIN / "calibration.json"
    figures = json.loads(path.read_text())["figures"] if path.exists() else {}
    if not figures:
        raise ScanError(f"baselines flag the share that '{MAIN}' flags: run it as well, or name a --share")
    return sum(one["flagged_share"] for one in figures.values()) / len(figures)


def baseline(
    name: str, parts: BundleParts, arguments: argparse.Namespace, items: Sequence[dict], normals: Sequence[dict]
) -> tuple[Callable[[], Baseline], dict[str, Any]]:
    """How to make a baseline, and what its results depend on."""
    if name == "one_shot":
        about = {"baseline": "one pass with the whole brain hidden", **weights_digest(parts.checkpoint)}
        return lambda: OneShot(parts.inferer, parts.trained_network), about
    if name == "autoencoder":
        if not arguments.autoencoder:
            raise ScanError("the auto-encoder needs --autoencoder with its weights; see docs/evaluation.md")
        network = Autoencoder(arguments.autoencoder_channels)
        load_weights(network, arguments.autoencoder)
        about = {"baseline": "denoising auto-encoder", **weights_digest(arguments.autoencoder)}
        return lambda: Reconstruction(network.to(parts.device).eval()), about
    if name == "atlas":
        if not arguments.atlas:
            raise ScanError("the atlas needs --atlas with normal scans, others than those of --calibration")
        scans = list_scans(arguments.atlas)
        require_disjoint([*items, *normals], scans, "scans of the atlas")
        about = {"baseline": "voxel-wise median and MAD of normals", "atlas": [item["case"] for item in scans]}
        return lambda: NormalAtlas(atlas_scans(parts, scans)), about
    side = {"zscore": "both"}.get(name, name)
    return partial(IntensityRule, side), {"baseline": f"squared robust z-score, side: {side}"}


def atlas_scans(parts: BundleParts, scans: Sequence[dict]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The atlas's scans on the network's grid."""
    for item in scans:
        yield parts.volumes(parts.prepare(item))


def report(items: Sequence[dict], names: Sequence[str], output: Path, arguments: argparse.Namespace) -> None:
    """All tables, figures and the page, anew from what lies on disk."""
    methods = [collect(items, output, name) for name in names]
    if not any(method.rows for method in methods):
        raise ScanError(f"'{output}' holds no results of {', '.join(names)}; run without --report-only first")
    tables = all_tables(methods, level=arguments.level)
    (output / "tables").mkdir(parents=True, exist_ok=True)
    for table in tables:
        write_atomically(to_csv(table), output / "tables" / f"{table.name}.csv")
    facts = {
        "Command": shlex.join(["python", "scripts/evaluate.py", *sys.argv[1:]]),
        "Scans": f"{len(items)} in {arguments.scans}",
        "Nominal rate of false alarms": arguments.level,
        **{f"Method {method.name}": json.dumps(method.info) for method in methods},
        "Versions": json.dumps(versions()),
    }
    write_cases(methods, facts, output, arguments.level)
    text = "\n".join(to_markdown(table) for table in tables)
    write_atomically(f"# {arguments.title}\n\n{RESEARCH_USE}\n\n{text}", output / "tables.md")
    by_case = {item["case"]: item for item in items}
    pictures = all_pictures(methods, tables, items=by_case, output=output, curves=curves(methods[0], output))
    write_atomically(evaluation_page(arguments.title, tables, pictures, facts=facts), output / "report.html")


def write_cases(methods: Sequence[MethodResults], facts: dict[str, Any], output: Path, level: float) -> None:
    """``metrics.csv``: a row a case and method; ``metrics.json``: the summary of each method."""
    rows = [{"method": method.name, **row} for method in methods for row in method.rows]
    write_table(rows, ("method", *COLUMNS), output / "metrics.csv")
    summaries = {
        method.name: {
            "info": method.info,
            "flagged_above": method.flags_above(level),
            "failures": method.failures,
            "summary": summarise([row for row in method.rows if row.get("label_ml") is not None]),
        }
        for method in methods
    }
    text = json.dumps({"note": RESEARCH_USE, "facts": facts, "methods": summaries}, indent=1, allow_nan=False)
    write_atomically(text + "\n", output / "metrics.json")


def curves(method: MethodResults, output: Path) -> dict[str, list[float]]:
    """Error curves of the sweep, by case."""
    folder = output / "methods" / method.name / "results"
    return {row["case"]: json.loads((folder / row["case"] / "result.json").read_text())["curve"] for row in method.rows}


if __name__ == "__main__":
    main()
