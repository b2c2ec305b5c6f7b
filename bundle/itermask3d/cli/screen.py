"""``itermask3d screen``: many scans, one page."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import typer

from itermask3d import BUNDLE_ROOT
from itermask3d.cli.common import exclusive

__all__ = ["screen"]

SUFFIXES = ["T1w"]


def screen(
    data: Annotated[Path, typer.Argument(help="Folder of scans, list, BIDS dataset or tree of DICOM files.")],
    output: Annotated[Path | None, typer.Argument(help="Folder for the results.", show_default="out/screen")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try scans again that failed before.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do finished scans again.")] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Screen nothing, page and table anew.")] = False,
    no_picture: Annotated[bool, typer.Option("--no-picture", help="No picture.png, so no thumbnails.")] = False,
    title: Annotated[str | None, typer.Option(help="Of the page (default: the name of DATA).")] = None,
    suffix: Annotated[list[str] | None, typer.Option(help="Of a BIDS dataset (default: T1w).")] = None,
    brain_masks: Annotated[str | None, typer.Option(help="Folder with a brain mask for every scan.")] = None,
    brain_extraction: Annotated[str | None, typer.Option(help="How the brain is found (default: auto).")] = None,
    bundle: Annotated[Path, typer.Option(help="Folder of another bundle.", show_default=False)] = Path(BUNDLE_ROOT),
    model: Annotated[str | None, typer.Option(help="t1, any, or auto: by each scan's kind (default: t1).")] = None,
    weights: Annotated[Path | None, typer.Option(help="State dict, instead of a model of the bundle.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Slope at which the threshold is taken.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Of the sweep: exact or fast.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="At once (default: one a GPU, else one).")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each worker (SLURM: 4).")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Of a running Dask cluster: tcp://host:8786.")] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="One SLURM job a worker.")] = False,
    print_job: Annotated[bool, typer.Option("--print-job", help="Show the script of --slurm, end.")] = False,
    memory: Annotated[str | None, typer.Option(help="Of a job (default: 16GB).")] = None,
    walltime: Annotated[str | None, typer.Option(help="Of a job, hh:mm:ss.")] = None,
    partition: Annotated[str | None, typer.Option(help="Of the cluster.")] = None,
    account: Annotated[str | None, typer.Option(help="To be charged.")] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="One GPU a job.")] = False,
    sbatch: Annotated[list[str] | None, typer.Option(help="A further directive; again for another.")] = None,
) -> None:
    """Screen many scans and read the result on one page.

    OUTPUT/index.html shows all scans, OUTPUT/scans.tsv is the same as a table. The same command goes on where a run
    ended. Exit status also 3: stopped early (disk full, scheduler gone), 130: by Ctrl-C.

    Example: itermask3d screen scans out/night --workers 2
    """
    options = SimpleNamespace(**locals())
    exclusive(model=model, weights=weights)
    exclusive(slurm=slurm, scheduler=scheduler)
    options.output = output or Path("out/screen")
    options.suffix, options.sbatch = suffix or SUFFIXES, sbatch or []
    from itermask3d.cli.screen_run import screen_scans

    raise typer.Exit(screen_scans(options))
