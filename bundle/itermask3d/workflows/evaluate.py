"""Every method over every scan of a list, and one report: what ``itermask3d evaluate`` runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from itermask3d.evaluation.baselines import (
    Autoencoder,
    Baseline,
    IntensityRule,
    NormalAtlas,
    Reconstruction,
    SinglePass,
)
from itermask3d.evaluation.cases import EVIDENCE, MethodResults, collect_all
from itermask3d.evaluation.compare import compare_folders
from itermask3d.evaluation.docs import hardware, public_command, write_docs
from itermask3d.evaluation.page import evaluation_page
from itermask3d.evaluation.pictures import case_pictures
from itermask3d.evaluation.plots import all_plots
from itermask3d.evaluation.rows import COLUMNS
from itermask3d.evaluation.run import BaselineRun, BundleParts, require_disjoint, run_bundle, weights_digest
from itermask3d.evaluation.summary import summarise
from itermask3d.evaluation.tables import all_tables
from itermask3d.evaluation.text import to_csv, to_markdown
from itermask3d.files.scans import ScanError, list_scans
from itermask3d.files.writing import write_atomically, write_table
from itermask3d.inference.domain import Domain
from itermask3d.inference.networks import load_weights
from itermask3d.inference.results import RESEARCH_USE, versions

__all__ = ["MAIN", "Evaluated", "Options", "evaluate_scans"]

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
"""The overlays of the repository; an installed package has none of them."""

MAIN = "itermask3d"
BASELINES = ("zscore", "bright", "dark", "single_pass", "autoencoder", "atlas")
REFERENCE = CONFIGS / "reference_inference.yaml"


@dataclass(frozen=True, kw_only=True)
class Options:
    """A whole evaluation's choices.

    Attributes:
        scans: JSON list of the scans to be reported.
        output: folder; made if absent.
        bundle: folder of the bundle.
        command: as it was given, for the record.
        methods: see :func:`read_method`; ``None`` for the bundle alone, or for all that have run.
        calibration: normal scans that set thresholds: list or folder.
        atlas: normal scans that the atlas is made of.
        autoencoder, autoencoder_channels: weights and widths of the auto-encoder.
        artefacts, severities, subjects: folder of simulated artefacts, which of it, and of how many people.
        level: nominal rate of false alarms.
        share: of normal brain that baselines flag.
        report_only: tables and page from what exists.
        docs: a page and the part of its blocks that are written anew.
        about, title: one sentence on the data, and the title of the page.
        compare_with, noise: kept tables, and what may differ from them.
    """

    scans: str
    output: Path
    bundle: str
    command: str = ""
    methods: tuple[str, ...] | None = None
    calibration: str | None = None
    atlas: str | None = None
    autoencoder: str | None = None
    autoencoder_channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    artefacts: str | None = None
    severities: tuple[str, ...] | None = None
    subjects: int | None = None
    level: float = 0.05
    share: float | None = None
    report_only: bool = False
    docs: tuple[str, str] | None = None
    about: str = ""
    compare_with: str | None = None
    noise: float = 0.01
    title: str = "Evaluation"


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation leaves.

    Attributes:
        report: the page; tables and ``metrics.json`` lie beside it.
        scans, methods: how many scans, and the names of the methods.
        written: files that ``docs`` changed.
        differences: a sentence for every metric of ``compare_with`` that did not come back; ``None`` if not compared.
    """

    report: Path
    scans: int
    methods: tuple[str, ...]
    written: tuple[str, ...] = ()
    differences: tuple[str, ...] | None = None


def evaluate_scans(options: Options) -> Evaluated:
    """Run what is missing, write the report, and compare it where that is asked for.

    Raises:
        ScanError: if a list, a method or a file cannot be used.
    """
    items = list_scans(options.scans)
    if options.artefacts:
        items += artefact_scans(Path(options.artefacts), options.severities, options.subjects)
    methods = chosen_methods(options, options.output)
    if not options.report_only:
        run(items, methods, options.output, options)
    written = report(items, list(methods), options.output, options)
    differences = None
    if options.compare_with:
        differences = tuple(compare_folders(options.compare_with, options.output, noise=options.noise))
    return Evaluated(options.output / "report.html", len(items), tuple(methods), tuple(written), differences)


def chosen_methods(arguments: Options, output: Path) -> dict[str, list[Path] | None]:
    """Overlays of the methods that were named; where none was, of the bundle alone, or names of those that have run."""
    if arguments.methods is None and arguments.report_only:
        return dict.fromkeys(recorded(output)) or {MAIN: []}
    return dict(read_method(text) for text in arguments.methods or [MAIN])


def recorded(output: Path) -> dict[str, dict[str, str]]:
    """Command and hardware by method, in the order in which they first ended."""
    path = output / "run.json"
    return json.loads(path.read_text()) if path.exists() else {}


def record(output: Path, names: Iterable[str], command: str) -> None:
    """Keep the command that these methods were run with, beside those of earlier ones."""
    made = {"command": command, "hardware": hardware()}
    known = recorded(output) | dict.fromkeys(names, made)
    write_atomically(json.dumps(known, indent=1) + "\n", output / "run.json")


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


def artefact_scans(
    folder: Path, severities: Sequence[str] | None = None, n_subjects: int | None = None
) -> list[dict[str, Any]]:
    """Items of ``<artefact>_<severity>/scans.json``, with group and subject, each under a name of its own."""
    items = []
    for path in sorted(folder.glob("*_*/scans.json")):
        artefact, _, severity = path.parent.name.rpartition("_")
        if severities and severity not in severities:
            continue
        for item in list_scans(path):
            facts = {"group": f"artefact:{artefact}:{severity}", "subject": item.get("subject", item["case"])}
            items.append({**item, **facts, "case": f"{path.parent.name}_{item['case']}"})
    if not items:
        wanted = f" of severity {', '.join(severities)}" if severities else ""
        raise ScanError(
            f"'{folder}' holds no ARTEFACT_SEVERITY/scans.json{wanted}; expected that of scripts/simulate_artefacts.py"
        )
    subjects = list(dict.fromkeys(item["subject"] for item in items))[:n_subjects]
    return [item for item in items if item["subject"] in subjects]


def run(items: Sequence[dict], methods: dict[str, list[Path] | None], output: Path, arguments: Options) -> None:
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
            record(output, [name], arguments.command)
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
    record(output, chosen, arguments.command)


def share_to_flag(output: Path, arguments: Options) -> float:
    """What was asked for, or what the bundle flags of the calibration scans' brains in the mean."""
    if arguments.share is not None:
        return float(arguments.share)
    path = output / "methods" / MAIN / "calibration.json"
    metrics = json.loads(path.read_text())["metrics"] if path.exists() else {}
    if not metrics:
        raise ScanError(f"baselines flag the share that '{MAIN}' flags: run it as well, or name a --share")
    return sum(one["flagged_share"] for one in metrics.values()) / len(metrics)


def baseline(
    name: str, parts: BundleParts, arguments: Options, items: Sequence[dict], normals: Sequence[dict]
) -> tuple[Callable[[], Baseline], dict[str, Any]]:
    """How to make a baseline, and what its results depend on."""
    about: dict[str, Any]
    if name == "single_pass":
        about = {"baseline": "one pass with the whole brain masked", **weights_digest(parts.weights)}
        return lambda: SinglePass(parts.inferer, parts.trained_network), about
    if name == "autoencoder":
        if not arguments.autoencoder:
            raise ScanError("the auto-encoder needs --autoencoder with its weights; see docs/how-to/evaluate.md")
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


def report(items: Sequence[dict], names: Sequence[str], output: Path, arguments: Options) -> list[str]:
    """All tables, metrics and the page, anew from what lies on disk; what ``docs`` changed."""
    ranges = Path(arguments.bundle) / "models" / "domain.json"
    methods = collect_all(items, output, names, domain=Domain.read(ranges) if ranges.exists() else None)
    if not any(method.rows for method in methods):
        raise ScanError(f"'{output}' holds no results of {', '.join(names)}; run without --report-only first")
    tables = all_tables(methods, level=arguments.level)
    (output / "tables").mkdir(parents=True, exist_ok=True)
    for table in tables:
        write_atomically(to_csv(table), output / "tables" / f"{table.name}.csv")
    facts = run_facts(items, methods, output, arguments)
    write_cases(methods, facts, output, arguments.level)
    text = "\n".join(to_markdown(table) for table in tables)
    write_atomically(f"# {arguments.title}\n\n{RESEARCH_USE}\n\n{text}", output / "tables.md")
    by_case = {item["case"]: item for item in items}
    pictures = all_plots(methods, tables, output=output, curves=curves(methods[0], output))
    pictures += case_pictures(methods, items=by_case, output=output, level=arguments.level)
    write_atomically(evaluation_page(arguments.title, tables, pictures, facts=facts), output / "report.html")
    if not arguments.docs:
        return []
    page, part = arguments.docs
    public = {name: value for name, value in facts.items() if not name.startswith(("Method", "Scans"))}
    public["Command"] = "; ".join(f"`{public_command(shlex.split(one))}`" for one in facts["Command"].split("; "))
    return list(write_docs(Path(page), part, tables, pictures, facts=public))


def run_facts(
    items: Sequence[dict], methods: Sequence[MethodResults], output: Path, arguments: Options
) -> dict[str, Any]:
    """Command, data, split, seeds, hardware and versions, by name."""
    made = [Path(arguments.scans).parent / "simulation.json"]
    made += [Path(arguments.artefacts) / "simulation.json"] if arguments.artefacts else []
    known, ran = versions(), [one for name, one in recorded(output).items() if name in {m.name for m in methods}]
    commands, machines = (list(dict.fromkeys(one[key] for one in ran)) for key in ("command", "hardware"))
    return {
        "Command": "; ".join(commands) or "not recorded",
        "Scans": f"{len(items)} in {arguments.scans}",
        "Data": arguments.about or "not described; name them with --about",
        **{f"Simulated by ({path.parent.name})": simulation(path) for path in made if path.exists()},
        "Seeds": "0 for the loop and the bootstrap",
        "Nominal rate of false alarms": arguments.level,
        "Hardware": "; ".join(machines) or "not recorded",
        **{f"Method {method.name}": json.dumps(method.info) for method in methods},
        "Versions": ", ".join(f"{name} {known[name]}" for name in known),
    }


def simulation(path: Path) -> str:
    """What a simulation script said of itself."""
    facts = json.loads(path.read_text())
    return f"`{facts['command']}`: {facts['scans']} scans, subset {facts['subset'] or 'all'}, seed {facts['seed']}"


def write_cases(methods: Sequence[MethodResults], facts: dict[str, Any], output: Path, level: float) -> None:
    """``metrics.csv``: a row a case and method; ``metrics.json``: the summary of each method."""
    rows = [
        {"method": method.name, **row, "p_value": method.p_value(row), "flagged": method.is_flagged(row, level)}
        | {f"{kind}_p_value": method.p_value(row, kind) for kind in EVIDENCE if kind != "score"}
        for method in methods
        for row in method.rows
    ]
    extra = (*(f"{kind}_p_value" for kind in EVIDENCE if kind != "score"), "flagged")
    write_table(rows, ("method", *COLUMNS, *extra), output / "metrics.csv")
    summaries = {
        method.name: {
            "info": method.info,
            "level": method.level(level),
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
