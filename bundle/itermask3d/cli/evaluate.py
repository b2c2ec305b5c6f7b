"""``itermask3d evaluate``: the bundle, its ablations and simple baselines on one list of scans."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Annotated

import typer

from itermask3d import BUNDLE_ROOT
from itermask3d.cli.common import FAILED, one_sentence

__all__ = ["evaluate"]

CHANNELS = (16, 32, 64, 128, 256)


def evaluate(
    scans: Annotated[str, typer.Argument(help="JSON list of the scans to be reported.")],
    output: Annotated[str, typer.Argument(help="Folder; made if absent.")],
    methods: Annotated[
        list[str] | None, typer.Option(metavar="METHOD …", help="The first is compared with (default: itermask3d).")
    ] = None,
    calibration: Annotated[str | None, typer.Option(help="Normal scans that set thresholds: list or folder.")] = None,
    atlas: Annotated[str | None, typer.Option(help="Normal scans that the atlas is made of.")] = None,
    autoencoder: Annotated[str | None, typer.Option(help="Weights of configs/baseline_autoencoder.json.")] = None,
    autoencoder_channels: Annotated[
        tuple[int, int, int, int, int], typer.Option(help="Its widths.", show_default=False)
    ] = CHANNELS,
    artefacts: Annotated[str | None, typer.Option(help="Folder of simulated artefacts, added to the list.")] = None,
    severities: Annotated[list[str] | None, typer.Option(metavar="N …", help="Only these of --artefacts.")] = None,
    subjects: Annotated[int | None, typer.Option(help="Only the first so many of --artefacts.")] = None,
    level: Annotated[float, typer.Option(help="Nominal rate of false alarms.")] = 0.05,
    share: Annotated[float | None, typer.Option(help="Of normal brain that baselines flag.")] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Tables and page from what exists.")] = False,
    docs: Annotated[tuple[str, str] | None, typer.Option(metavar="PAGE PART", help="Write into PAGE's blocks.")] = None,
    about: Annotated[str, typer.Option(help="One sentence on the data.", show_default=False)] = "",
    compare_with: Annotated[str | None, typer.Option(help="Kept tables; says what differs.")] = None,
    noise: Annotated[float, typer.Option(help="What may differ: absolute up to 1, relative above.")] = 0.01,
    bundle: Annotated[str, typer.Option(help="Folder of another bundle.", show_default=False)] = BUNDLE_ROOT,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Evaluation",
) -> None:
    """Evaluate the bundle, its ablations and simple baselines on scans with labels; one report.

    METHOD is itermask3d, a baseline (zscore, bright, dark, single_pass, autoencoder, atlas), an ablation (a file of
    configs/ablations), reference, or NAME=OVERLAY.json[,OVERLAY.json]. Interrupted, it goes on.

    Example: itermask3d evaluate scans.json out --calibration normals.json --methods itermask3d zscore
    """
    options = SimpleNamespace(**locals())
    from itermask3d.cli.evaluate_run import DifferenceError, evaluate_scans

    with one_sentence():
        try:
            evaluate_scans(options)
        except DifferenceError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(FAILED) from error
