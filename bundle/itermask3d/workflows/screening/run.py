"""A whole screening: find the scans, plan, let workers do what is left, write the page and the table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from itermask3d import __version__
from itermask3d.files.discovery import Discovery, discover, write_left_out
from itermask3d.files.locking import one_run
from itermask3d.files.tree import grouped
from itermask3d.inference.model import Model
from itermask3d.workflows.screening.cluster import (
    connected,
    dashboard,
    local_client,
    run_scans,
    slurm_client,
    visible_gpus,
)
from itermask3d.workflows.screening.cohort_report import Throughput, matching_normals, write_cohort_report
from itermask3d.workflows.screening.cohort_table import rows_of
from itermask3d.workflows.screening.journal import Journal, Record, Status
from itermask3d.workflows.screening.options import Options
from itermask3d.workflows.screening.screener import Plan, Report, Screener, clear_staging, make_plan, prepare_output

__all__ = ["End", "Screened", "Watch", "screen_scans"]

PATIENCE_S = 300.0
"""How long local workers may all be gone before a run ends."""


class End(Enum):
    """How a screening ended."""

    WHOLE = "whole"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Screened:
    """What a screening leaves.

    Attributes:
        end: how it ended.
        page: of the cohort; ``None`` where it could not be written.
        found: the scans and what was left out.
        done: how many of them have a result.
        failed: the latest record of each that has none.
        throughput: of the scans of this run; ``None`` where none was to be done.
    """

    end: End
    page: Path | None
    found: Discovery
    done: int
    failed: tuple[Record, ...]
    throughput: Throughput | None


class Watch(Protocol):
    """Who looks on while scans are done: told sentences and records, and asked how fast it went."""

    def say(self, sentence: str) -> None:
        """Take one sentence for the person who waits."""

    def watching(self, total: int) -> Any:
        """A context in which :meth:`tell` is called, for this many scans."""

    def tell(self, record: Record) -> None:
        """Take the record of a scan that ended."""

    @property
    def speed(self) -> tuple[int, float]:
        """Scans that ended, and the seconds from the start to the last one's end."""


def screen_scans(options: Options, watch: Watch, *, report: Report) -> Screened:
    """Screen what is left of a cohort; the same call goes on where a run ended.

    Args:
        options: what to do.
        watch: told what happens.
        report: writes the page of a scan into its folder.

    Raises:
        ScanError: if the source holds no scan, or weights, settings or output folder cannot be used.
    """
    found = discover(options.data, suffixes=options.suffix, brain_mask_dir=options.brain_masks, ignore=options.output)
    if options.only is not None:
        found = replace(found, scans=tuple(scan for scan in found.scans if scan.case in options.only))
    planner = Screener(options.bundle, options.overrides() | {"device": "$torch.device('cpu')"}, report=report)
    planner.model  # noqa: B018 weights that do not fit are told before anything is written
    with one_run(options.output):
        journal = Journal(options.output)
        plan = make_plan(found.scans, journal, planner, retry_failed=options.retry_failed, overwrite=options.overwrite)
        tell_plan(found, plan, watch)
        prepare_output(options.output, plan, found, __version__, planner)
        write_left_out(found.left_out, options.output)
        journal.enter(plan.done)
        end, throughput = (End.WHOLE, None) if options.report_only else work(options, plan, watch, journal, report)
        clear_staging(options.output)
        return conclude(options, journal, found, end, throughput, planner.model, watch)


def work(options: Options, plan: Plan, watch: Watch, journal: Journal, report: Report) -> tuple[End, Throughput | None]:
    """Screen what is left; how that ended, and how fast it was."""
    scans = (*plan.todo, *plan.reports)
    if not scans:
        return End.WHOLE, None
    settings = options.overrides() | {"inferer::progress": False}
    screener = Screener(options.bundle, settings, report=report, overview=options.overview, overwrite=options.overwrite)
    end = End.WHOLE
    workers, threads = options.workers, None
    try:
        with engine(options, len(scans)) as (client, workers, threads), watch.watching(len(scans)):
            watch.say(f"workers: {workers or 'as the scheduler has'}, dashboard: {dashboard(client) or 'none'}")
            queue = options.slurm or options.scheduler  # where workers may take their time to come
            patience_s = None if queue else PATIENCE_S
            for record in run_scans(client, screener, scans, options.output, threads=threads, patience_s=patience_s):
                watch.tell(record)
                if record.status is Status.NO_ROOM:
                    watch.say(f"stopped: {record.reason}; make room and run the same command again")
                    end = End.STOPPED
                    break
                journal.append(record)
    except KeyboardInterrupt:
        watch.say("stopped: finished scans stay; the same command goes on")
        end = End.INTERRUPTED
    except (ConnectionError, OSError) as error:
        watch.say(f"stopped: {error}; finished scans stay, and the same command goes on")
        end = End.STOPPED
    return end, Throughput(*watch.speed, max(1, workers or 1), threads)


@contextmanager
def engine(options: Options, n_scans: int) -> Iterator[tuple[Any, int | None, int | None]]:
    """Workers as asked for: the client, how many, and the threads of each."""
    if options.scheduler:
        with connected(options.scheduler) as client:
            yield client, len(client.scheduler_info(n_workers=-1)["workers"]) or None, options.threads
        return
    if options.slurm:
        with slurm_client(options.workers or 1, options.slurm) as client:
            yield client, options.workers or 1, options.slurm.threads
        return
    gpus = visible_gpus()
    workers = min(options.workers or len(gpus) or 1, n_scans)
    threads = options.threads or max(1, n_cores() // workers)
    with local_client(workers, threads, gpus) as client:
        yield client, workers, threads


def n_cores() -> int:
    """Cores that this process may use, in a container too."""
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)


def tell_plan(found: Discovery, plan: Plan, watch: Watch) -> None:
    """Say what was found and what is to be done."""
    watch.say(
        f"{found.source} ({found.kind}): {len(found.scans)} scans, {len(plan.done)} done before, {len(plan.todo)} to do"
        + (f", {len(plan.reports)} reports to write" if plan.reports else "")
    )
    for line in grouped(found.left_out):
        watch.say(line)
    for record in plan.failed:
        watch.say(f"failed before: {record.case}: {record.reason}")
    if plan.failed:
        watch.say(f"failed before and left alone: {len(plan.failed)}; --retry-failed tries them again")


def conclude(
    options: Options,
    journal: Journal,
    found: Discovery,
    end: End,
    throughput: Throughput | None,
    model: Model,
    watch: Watch,
) -> Screened:
    """Write the page and the table, and count."""
    page: Path | None = None
    rows = rows_of(journal)
    try:
        page = write_cohort_report(
            journal,
            title=options.title or Path(found.source).name,
            rows=rows,
            normals=matching_normals(model, rows),
            throughput=throughput,
            left_out=found.left_out,
        )
    except OSError as error:
        watch.say(f"the page could not be written ({error}); with --report-only it is made anew")
        end = End.STOPPED if end is End.WHOLE else end
    latest = journal.latest()
    records = [latest[scan.folder] for scan in found.scans if scan.folder in latest]
    done = sum(record.status is Status.DONE for record in records)
    failed = tuple(record for record in records if record.status is Status.FAILED)
    return Screened(end, page, found, done, failed, throughput)
