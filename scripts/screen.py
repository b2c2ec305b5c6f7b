"""Screen many scans and read the result on one page.

    python scripts/screen.py DATA OUT [--workers 2] [--retry-failed] …

DATA is a folder of scans, a .txt or .json list, a BIDS dataset or a tree of DICOM files. Every scan gets a folder in
OUT; OUT/index.html shows them all, OUT/scans.tsv is the same as a table. The same command goes on where a run ended:
finished scans are skipped, failed ones are listed and tried again with --retry-failed.

Exit status: 0 all done, 1 some scan failed, 2 nothing could start, 3 stopped early (disk full, scheduler gone),
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from itermask3d import BUNDLE_ROOT, __version__
from itermask3d.files.discovery import BIDS_SUFFIXES, Discovery, discover
from itermask3d.files.literals import as_literals
from itermask3d.files.scans import ScanError, first_cause
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.preprocessing.brain_extraction import METHODS
from itermask3d.reports.scan_report import write_scan_report
from itermask3d.workflows.screening.cluster import (
    SlurmJob,
    connected,
    dashboard,
    local_client,
    run_scans,
    slurm_client,
    slurm_script,
    visible_gpus,
)
from itermask3d.workflows.screening.cohort_report import Throughput, duration, matching_normals, write_cohort_report
from itermask3d.workflows.screening.journal import Journal, Record, Status
from itermask3d.workflows.screening.screener import Plan, Screener, clear_staging, exclusive, make_plan, prepare_output
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

PATIENCE_S = 300.0
"""How long local workers may all be gone before a run ends."""

CONSOLE = Console(soft_wrap=True, highlight=False, markup=False)
DONE, FAILED, NOT_STARTED, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130


def main() -> None:
    arguments = parse()
    warnings.simplefilter("ignore", FutureWarning)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)  # a decoder nothing here needs
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as a scheduler or a container ends a job
    try:
        sys.exit(run(arguments))
    except (ScanError, RuntimeError, ValueError) as error:
        reason = first_cause(error)
        if not isinstance(reason, ValueError):
            raise
        CONSOLE.print(f"error: {reason}")
        sys.exit(NOT_STARTED)


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments ask; the exit status."""
    if arguments.print_job:
        print(slurm_script(slurm_job(arguments)))
        return DONE
    output = arguments.output.absolute()
    found = discover(
        arguments.data, suffixes=arguments.suffix, brain_mask_dir=arguments.brain_masks, ignore=arguments.output
    )
    planner = Screener(
        arguments.bundle, overrides(arguments) | {"device": "$torch.device('cpu')"}, report=write_scan_report
    )
    planner.segmenter  # noqa: B018 weights that do not fit are told before anything is written
    with exclusive(output):
        plan = make_plan(
            found.scans, output, planner, retry_failed=arguments.retry_failed, overwrite=arguments.overwrite
        )
        tell_plan(found, plan)
        prepare_output(output, plan, found, __version__)
        Journal(output).enter(plan.done)
        status, throughput = (DONE, None) if arguments.report_only else work(arguments, plan, output)
        clear_staging(output)
        normals = matching_normals(planner.store(found.scans[0], output))
        return finish(arguments, found, status, throughput, normals)


def work(arguments: argparse.Namespace, plan: Plan, output: Path) -> tuple[int, Throughput | None]:
    """Screen what is left; how that ended, and how fast it was."""
    scans = (*plan.todo, *plan.reports)
    if not scans:
        return DONE, None
    settings = overrides(arguments) | {"inferer::progress": False}
    screener = Screener(
        arguments.bundle,
        settings,
        report=write_scan_report,
        picture=not arguments.no_picture,
        overwrite=arguments.overwrite,
    )
    journal, watch = Journal(output), Watch(len(scans))
    status, workers, threads = DONE, arguments.workers, None
    try:
        with engine(arguments, len(scans)) as (client, workers, threads), watch:
            CONSOLE.print(f"workers: {workers or 'as the scheduler has'}, dashboard: {dashboard(client) or 'none'}")
            queue = arguments.slurm or arguments.scheduler  # where workers may take their time to come
            patience_s = None if queue else PATIENCE_S
            for record in run_scans(client, screener, scans, output, threads=threads, patience_s=patience_s):
                watch.tell(record)
                if record.status is Status.NO_ROOM:
                    CONSOLE.print(f"stopped: {record.reason}; make room and run the same command again")
                    status = STOPPED
                    break
                journal.append(record)
    except KeyboardInterrupt:
        CONSOLE.print("stopped: finished scans stay; the same command goes on")
        status = INTERRUPTED
    except (ConnectionError, OSError) as error:
        CONSOLE.print(f"stopped: {error}; finished scans stay, and the same command goes on")
        status = STOPPED
    return status, Throughput(watch.finished, watch.seconds, max(1, workers or 1), threads)


@contextmanager
def engine(arguments: argparse.Namespace, n_scans: int) -> Iterator[tuple[Any, int | None, int | None]]:
    """Workers as asked for: the client, how many, and the threads of each."""
    threads = arguments.threads
    if arguments.scheduler:
        with connected(arguments.scheduler) as client:
            yield client, len(client.scheduler_info(n_workers=-1)["workers"]) or None, threads
        return
    if arguments.slurm:
        job = slurm_job(arguments)
        with slurm_client(arguments.workers or 1, job) as client:
            yield client, arguments.workers or 1, job.threads
        return
    gpus = visible_gpus()
    workers = min(arguments.workers or len(gpus) or 1, n_scans)
    threads = threads or max(1, n_cores() // workers)
    with local_client(workers, threads, gpus) as client:
        yield client, workers, threads


def n_cores() -> int:
    """Cores that this process may use, in a container too."""
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)


def slurm_job(arguments: argparse.Namespace) -> SlurmJob:
    return SlurmJob(
        threads=arguments.threads or 4,
        gpu=arguments.gpu,
        memory=arguments.memory,
        walltime=arguments.walltime,
        partition=arguments.partition,
        account=arguments.account,
        directives=tuple(arguments.sbatch),
    )


class Watch(AbstractContextManager["Watch"]):
    """Progress with rate and remaining time: a bar on a terminal, a line a scan in a file."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.finished = self.failed = 0
        self.start = self.last = time.monotonic()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self.bar = Progress(*columns, console=CONSOLE, disable=not CONSOLE.is_terminal)
        self.task = self.bar.add_task("the first scan is under way", total=total)

    @property
    def seconds(self) -> float:
        """From the start to the last scan's end."""
        return self.last - self.start

    def __enter__(self) -> Watch:
        self.start = self.last = time.monotonic()
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def tell(self, record: Record) -> None:
        self.last = time.monotonic()
        self.finished += 1
        self.failed += record.status is Status.FAILED
        rate = self.finished / max(self.seconds, 1e-9)
        left = duration((self.total - self.finished) / rate)
        text = f"{3600 * rate:.1f} scans/h, {left} left" + (f", {self.failed} failed" if self.failed else "")
        self.bar.update(self.task, completed=self.finished, description=text)
        if record.status is Status.FAILED:
            CONSOLE.print(f"failed: {record.case}: {record.reason}")
        elif not CONSOLE.is_terminal:
            CONSOLE.print(f"{self.finished}/{self.total} {record.case} {duration(record.seconds)} ({text})")


def tell_plan(found: Discovery, plan: Plan) -> None:
    """Say what was found and what is to be done."""
    CONSOLE.print(
        f"{found.source} ({found.kind}): {len(found.scans)} scans, {len(plan.done)} done before, {len(plan.todo)} to do"
        + (f", {len(plan.reports)} reports to write" if plan.reports else "")
    )
    for series in found.skipped:
        CONSOLE.print(f"left out: {series.folder}: {series.reason}")
    for record in plan.failed:
        CONSOLE.print(f"failed before: {record.case}: {record.reason}")
    if plan.failed:
        CONSOLE.print(f"failed before and left alone: {len(plan.failed)}; --retry-failed tries them again")


def finish(
    arguments: argparse.Namespace,
    found: Discovery,
    status: int,
    throughput: Throughput | None,
    normals: Sequence[float],
) -> int:
    """Write the page and the table, and say where they are."""
    output = arguments.output.absolute()
    title = arguments.title or Path(found.source).name
    try:
        page = write_cohort_report(output, title=title, normals=normals, throughput=throughput, skipped=found.skipped)
    except OSError as error:
        CONSOLE.print(f"the page could not be written ({error}); with --report-only it is made anew")
        return status or STOPPED
    latest = Journal(output).latest()
    records = [latest[scan.folder] for scan in found.scans if scan.folder in latest]
    done = sum(record.status is Status.DONE for record in records)
    failed = sum(record.status is Status.FAILED for record in records)
    speed = f", {throughput.scans_per_hour:.1f} scans/h" if throughput and throughput.scans else ""
    CONSOLE.print(f"{done} of {len(found.scans)} scans done, {failed} failed{speed}\n{page.as_uri()}\n{RESEARCH_USE}")
    return status or (FAILED if failed else DONE)


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Map the options that were given to ids of the inference config."""
    values = {
        "brain_extraction": arguments.brain_extraction,
        "model": arguments.model,
        "ckpt_path": None if arguments.weights is None else str(Path(arguments.weights).absolute()),
        "settings::gamma": arguments.gamma,
        "settings::schedule": arguments.schedule,
    }
    return as_literals({key: value for key, value in values.items() if value is not None})


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of scans, list, BIDS dataset or tree of DICOM files")
    parser.add_argument("output", type=Path, help="folder for the results")
    parser.add_argument("--retry-failed", action="store_true", help="try scans again that failed before")
    parser.add_argument("--overwrite", action="store_true", help="do finished scans again")
    parser.add_argument("--report-only", action="store_true", help="screen nothing, write page and table anew")
    parser.add_argument("--no-picture", action="store_true", help="write no picture.png, so no thumbnails either")
    parser.add_argument("--title", help="of the page (default: the name of DATA)")
    scans = parser.add_argument_group("scans")
    scans.add_argument("--suffix", nargs="+", default=list(BIDS_SUFFIXES), help="of a BIDS dataset (default: T1w)")
    scans.add_argument("--brain-masks", help="folder with a brain mask of the same file name for every scan")
    scans.add_argument("--brain-extraction", choices=METHODS, help="how the brain is found (default: auto)")
    scans.add_argument("--bundle", type=Path, default=BUNDLE_ROOT, help="folder of another bundle")
    weights = scans.add_mutually_exclusive_group()
    weights.add_argument("--model", help="t1, any, or auto: by each scan's kind (default: the bundle's, t1)")
    weights.add_argument("--weights", help="state dict, instead of a model of the bundle")
    scans.add_argument("--gamma", type=float, help="slope at which the threshold is taken")
    scans.add_argument("--schedule", choices=("exact", "fast"), help="of the sweep (default: exact)")
    workers = parser.add_argument_group("workers")
    workers.add_argument("--workers", type=positive, help="at the same time (default: one a GPU, else one)")
    workers.add_argument("--threads", type=positive, help="of each worker (default: cores / workers; SLURM: 4)")
    workers.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that runs already: tcp://host:8786")
    workers.add_argument("--slurm", action="store_true", help="one SLURM job a worker")
    workers.add_argument("--print-job", action="store_true", help="show the job script of --slurm and end")
    for option, text in (
        ("--memory", "of a job (default: 16GB)"),
        ("--walltime", "of a job, hh:mm:ss"),
        ("--partition", "of the cluster"),
        ("--account", "to be charged"),
    ):
        workers.add_argument(option, help=text)
    workers.add_argument("--gpu", action="store_true", help="one GPU a job")
    workers.add_argument(
        "--sbatch", action="append", default=[], help="a further directive: --sbatch=--constraint=a100"
    )
    arguments = parser.parse_args()
    if arguments.slurm and arguments.scheduler:
        parser.error("--slurm and --scheduler exclude each other")
    return arguments


if __name__ == "__main__":
    main()
