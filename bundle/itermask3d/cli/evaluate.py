"""``itermask3d evaluate``: the bundle, its ablations and simple baselines on one list of scans."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from itermask3d import BUNDLE_ROOT
from itermask3d.cli.common import DONE, FAILED, as_given, for_machines, one_sentence, print_json, require_bundle

if TYPE_CHECKING:
    from itermask3d.workflows.evaluate import Evaluated

__all__ = ["evaluate"]

CHANNELS = (16, 32, 64, 128, 256)
EXAMPLES = """
itermask3d evaluate scans.json out --calibration normals.json
itermask3d evaluate scans.json out --report-only --json
"""
STATUS = "Exit status: 0 done, 1 --compare-with found differences, 2 not started."


def evaluate(
    scans: Annotated[str, typer.Argument(help="JSON list of the scans to be reported.")],
    output: Annotated[Path, typer.Argument(help="Folder; made if absent.")],
    methods: Annotated[
        list[str] | None, typer.Option(metavar="METHOD …", help="The first is compared (default: itermask3d).")
    ] = None,
    calibration: Annotated[str | None, typer.Option(help="Normal scans that set thresholds.")] = None,
    atlas: Annotated[str | None, typer.Option(help="Normal scans that the atlas is made of.")] = None,
    autoencoder: Annotated[str | None, typer.Option(metavar="FILE", help="Weights of the auto-encoder.")] = None,
    autoencoder_channels: Annotated[
        tuple[int, int, int, int, int], typer.Option(metavar="N", help="Its five widths.", show_default=False)
    ] = CHANNELS,
    artefacts: Annotated[str | None, typer.Option(help="Folder of simulated artefacts, as scans too.")] = None,
    severities: Annotated[list[str] | None, typer.Option(metavar="N …", help="Only these of --artefacts.")] = None,
    subjects: Annotated[int | None, typer.Option(metavar="N", help="Only the first so many of --artefacts.")] = None,
    level: Annotated[float, typer.Option(help="Rate of false alarms.")] = 0.05,
    share: Annotated[float | None, typer.Option(help="Of normal brain that baselines flag.")] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Tables and page from what exists.")] = False,
    docs: Annotated[tuple[str, str] | None, typer.Option(metavar="PAGE PART", help="Write into PAGE's blocks.")] = None,
    about: Annotated[str, typer.Option(help="One sentence on the data.", show_default=False)] = "",
    compare_with: Annotated[str | None, typer.Option(help="Kept tables; says what differs.")] = None,
    noise: Annotated[float, typer.Option(help="What may differ.")] = 0.01,
    bundle: Annotated[str, typer.Option(help="Folder of another bundle.", show_default=False)] = BUNDLE_ROOT,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Evaluation",
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Compare the bundle with baselines on scans with labels.

    METHOD is itermask3d, zscore, bright, dark, single_pass, autoencoder, atlas, reference, a file of configs/ablations,
    or NAME=OVERLAY.json[,OVERLAY.json]. Interrupted, it goes on.
    """
    given = {name: value for name, value in locals().items() if name != "as_json"}
    given |= {"methods": tuple(methods) if methods else None, "severities": tuple(severities) if severities else None}
    require_bundle(bundle)
    from itermask3d.workflows.evaluate import Options, evaluate_scans

    with for_machines(as_json), one_sentence():
        done = evaluate_scans(Options(**given, command=as_given()))
        tell(done, docs, compare_with)
    if as_json:
        facts = {"report": str(done.report), "metrics": str(output / "metrics.json"), "scans": done.scans}
        print_json({**facts, "methods": done.methods, "differences": done.differences})
    raise typer.Exit(FAILED if done.differences else DONE)


def tell(done: Evaluated, docs: tuple[str, str] | None, kept: str | None) -> None:
    """Say what was written, and every metric of ``kept`` that did not come back."""
    if docs and done.written:
        print(f"{docs[0]}: {', '.join(done.written)}")
    print(f"{done.scans} scans, {len(done.methods)} methods: {done.report}")
    if done.differences is None:
        return
    for sentence in done.differences:
        print(sentence)
    if done.differences:
        print(f"error: {len(done.differences)} metrics differ from those of '{kept}'", file=sys.stderr)
    else:
        print(f"every metric of '{kept}' came back, up to the noise")
