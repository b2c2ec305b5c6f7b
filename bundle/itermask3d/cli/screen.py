"""``itermask3d screen``: many scans, one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from itermask3d import BUNDLE_ROOT
from itermask3d.cli.common import (
    DONE,
    FAILED,
    INTERRUPTED,
    STOPPED,
    exclusive,
    for_machines,
    one_of,
    one_sentence,
    print_json,
    require_bundle,
)

if TYPE_CHECKING:
    from itermask3d.workflows.screening.cluster import SlurmJob
    from itermask3d.workflows.screening.run import Screened

__all__ = ["screen"]

EXAMPLES = """
itermask3d screen scans out/night --workers 2
itermask3d screen bids out/night --suffix T1w --slurm --memory 8GB
"""
STATUS = "Exit status: 0 done, 1 some failed, 2 not started, 3 stopped, 130 Ctrl-C."
SUFFIXES = ["T1w"]


def screen(
    data: Annotated[Path, typer.Argument(help="Folder, list, BIDS or DICOM tree.")],
    output: Annotated[Path, typer.Argument(help="Folder for the results.")] = Path("out/screen"),
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try scans again that failed before.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do finished scans again.")] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Screen nothing, page and table anew.")] = False,
    no_overview: Annotated[bool, typer.Option("--no-overview", help="No overview.png, so no thumbnails.")] = False,
    title: Annotated[str | None, typer.Option(help="Of the page (default: the name of DATA).")] = None,
    suffix: Annotated[
        list[str] | None, typer.Option(metavar="NAME …", help="Of a BIDS dataset (default: T1w).")
    ] = None,
    brain_masks: Annotated[str | None, typer.Option(help="Folder with a brain mask for every scan.")] = None,
    brain_extraction: Annotated[str | None, typer.Option(help="How the brain is found (default: auto).")] = None,
    bundle: Annotated[Path, typer.Option(help="Folder of another bundle.", show_default=False)] = Path(BUNDLE_ROOT),
    model: Annotated[str | None, typer.Option(help="auto (default): by the scan; t1, or agnostic.")] = None,
    weights: Annotated[Path | None, typer.Option(help="State dict, instead of a model.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Slope at which the threshold is taken.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Of the sweep: exact or fast.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, metavar="N", help="At once (default: one a GPU, or 1).")] = None,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of each worker (SLURM: 4).")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Of a Dask cluster: tcp://host:8786.")] = None,
    reference: Annotated[str | None, typer.Option(help="cohort: no normals named, 20 scans or more.")] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="SLURM jobs (--memory, --walltime, …).")] = False,
    print_job: Annotated[bool, typer.Option("--print-job", help="Show the script of --slurm, end.")] = False,
    memory: Annotated[str | None, typer.Option(hidden=True, help="Of a job (default: 16GB).")] = None,
    walltime: Annotated[str | None, typer.Option(hidden=True, help="Of a job, hh:mm:ss.")] = None,
    partition: Annotated[str | None, typer.Option(hidden=True, help="Partition of the cluster.")] = None,
    account: Annotated[str | None, typer.Option(hidden=True, help="Account to be charged.")] = None,
    gpu: Annotated[bool, typer.Option("--gpu", hidden=True, help="One GPU a job.")] = False,
    sbatch: Annotated[list[str] | None, typer.Option(hidden=True, help="A further directive; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON; all else on stderr.")] = False,
) -> None:
    """Screen many scans and read the result on one page.

    OUTPUT/index.html shows all scans. The same command goes on where it ended.
    """
    given = dict(locals())
    check(given)
    require_bundle(bundle)
    if print_job:
        from itermask3d.workflows.screening.cluster import slurm_script

        print(slurm_script(job_of(given)))
        raise typer.Exit(DONE)
    given |= {"output": output.absolute(), "suffix": tuple(suffix or SUFFIXES), "overview": not no_overview}
    with for_machines(as_json), one_sentence():
        screened = run(given)
    if as_json:
        print_json(summary(screened, output.absolute()))
    raise typer.Exit(status_of(screened))


def check(given: dict[str, Any]) -> None:
    """Refuse options that exclude each other; a cohort that is its own reference keeps the bundle's settings."""
    pairs = [("model", "weights"), ("slurm", "scheduler")]
    for pair in [*pairs, *(("reference", name) for name in ("weights", "gamma", "schedule"))]:
        exclusive(**{name: given[name] for name in pair})
    one_of(given["reference"], ("cohort",), "--reference")


def job_of(given: dict[str, Any]) -> SlurmJob:
    """What a worker asks of SLURM."""
    from itermask3d.workflows.screening.cluster import SlurmJob

    asked = {name: given[name] for name in ("gpu", "memory", "walltime", "partition", "account")}
    return SlurmJob(given["threads"] or 4, **asked, directives=tuple(given["sbatch"] or ()))


def run(given: dict[str, Any]) -> Screened:
    """Screen, and say what happened."""
    import logging
    import signal
    import warnings
    from dataclasses import fields

    from itermask3d.cli.progress import ScanProgress
    from itermask3d.inference.results import RESEARCH_USE
    from itermask3d.preprocessing.brain_extraction import METHODS
    from itermask3d.reports.scan_report import write_scan_report
    from itermask3d.workflows.screening.options import Options
    from itermask3d.workflows.screening.own_reference import screen_by_itself
    from itermask3d.workflows.screening.run import screen_scans

    one_of(given["brain_extraction"], METHODS, "--brain-extraction")
    one_of(given["schedule"], ("exact", "fast"), "--schedule")
    warnings.simplefilter("ignore", FutureWarning)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)  # a decoder nothing here needs
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as a scheduler or a container ends a job
    progress = ScanProgress()
    given = given | {"slurm": job_of(given) if given["slurm"] else None}
    options = Options(**{field.name: given[field.name] for field in fields(Options) if field.name in given})
    screening = screen_by_itself if given["reference"] else screen_scans
    screened = screening(options, progress, report=write_scan_report)
    throughput = screened.throughput
    speed = f", {throughput.scans_per_hour:.1f} scans/h" if throughput and throughput.scans else ""
    progress.say(f"{screened.done} of {len(screened.found.scans)} scans done, {len(screened.failed)} failed{speed}")
    progress.say(f"{screened.page.as_uri()}\n{RESEARCH_USE}" if screened.page else RESEARCH_USE)
    return screened


def status_of(screened: Screened) -> int:
    """The exit status of how a screening ended."""
    end = {"stopped": STOPPED, "interrupted": INTERRUPTED}.get(screened.end.value)
    return end or (FAILED if screened.failed else DONE)


def summary(screened: Screened, output: Path) -> dict[str, Any]:
    """What a machine wants to know of a screening."""
    throughput = screened.throughput
    return {
        "end": screened.end.value,
        "scans": len(screened.found.scans),
        "done": screened.done,
        "failed": [{"case": record.case, "reason": record.reason} for record in screened.failed],
        "left_out": [{"path": entry.path, "reason": entry.reason} for entry in screened.found.left_out],
        "scans_per_hour": throughput.scans_per_hour if throughput else None,
        "page": None if screened.page is None else str(screened.page),
        "table": str(output / "scans.tsv"),
    }
