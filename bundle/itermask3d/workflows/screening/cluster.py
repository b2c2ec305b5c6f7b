"""The screening of many scans on one machine or many, by Dask distributed (the extra ``cohort``)."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch

from itermask3d.files.discovery import FoundScan
from itermask3d.files.scans import ScanError
from itermask3d.workflows.screening.journal import Record, Status
from itermask3d.workflows.screening.screener import Screener

if TYPE_CHECKING:
    from distributed import Client


__all__ = [
    "SlurmJob",
    "connected",
    "dashboard",
    "local_client",
    "run_scans",
    "slurm_client",
    "slurm_script",
    "visible_gpus",
]

DEATHS = 3
"""Worker deaths on one scan before it counts as failed; the first two are tried again."""

GONE = "the Dask scheduler or all of its workers are gone"

CHECK_S = 5.0
"""How often somebody looks whether any worker is left."""

DEFAULT_MEMORY = "16GB"

_SCREENERS: dict[str, Screener] = {}
"""The screener of this worker process, with its model, by run; only the latest is kept."""


@dataclass(frozen=True)
class SlurmJob:
    """What one worker asks of SLURM; all else comes from dask-jobqueue's own YAML.

    Attributes:
        threads: cores of a worker.
        gpu: ask for one GPU.
        memory: of a worker, such as ``16GB``; ``None`` leaves it to the YAML, and without one to
            :data:`DEFAULT_MEMORY`.
        walltime, partition, account: as ``sbatch`` takes them; ``None`` leaves them to the YAML or the site.
        directives: ``#SBATCH`` lines beside those of the YAML, such as ``--constraint=a100``.
    """

    threads: int = 4
    gpu: bool = False
    memory: str | None = None
    walltime: str | None = None
    partition: str | None = None
    account: str | None = None
    directives: tuple[str, ...] = ()


def visible_gpus() -> list[str]:
    """What to put in ``CUDA_VISIBLE_DEVICES`` for each worker; empty without a GPU."""
    if not torch.cuda.is_available():
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",") if chosen else [str(index) for index in range(torch.cuda.device_count())]


@contextmanager
def local_client(workers: int, threads: int, gpus: Sequence[str] = ()) -> Iterator[Client]:
    """Start workers on this machine, reached by nobody else (own address, encrypted, keys of this run only).

    Args:
        workers: processes; each does one scan at a time.
        threads: of each.
        gpus: each worker gets one, in turn.
    """
    dask, distributed = _dask()
    started = [0]

    class Workers(distributed.LocalCluster):  # type: ignore[name-defined]
        def new_worker_spec(self) -> dict[Any, Any]:
            specs = super().new_worker_spec()
            for spec in specs.values():
                visible = {"CUDA_VISIBLE_DEVICES": gpus[started[0] % len(gpus)]} if gpus else {}
                spec.update(options={**spec["options"], "env": visible})
                started[0] += 1
            return specs

    with dask.config.set(_settings(threads)):
        cluster = Workers(
            n_workers=0,
            threads_per_worker=1,
            memory_limit=0,  # a worker near a limit is paused, for good; the system's own limit ends in a retry
            host="127.0.0.1",
            dashboard_address="127.0.0.1:8787",
            security=distributed.Security.temporary(),
            silence_logs=logging.ERROR,
        )
        with cluster, distributed.Client(cluster) as client:
            cluster.scale(workers)
            client.wait_for_workers(workers, timeout=300)
            yield client


@contextmanager
def slurm_client(workers: int, job: SlurmJob) -> Iterator[Client]:
    """Submit one SLURM job a worker; the scheduler stays in this process, which must live as long as the run."""
    dask, distributed = _dask()
    with dask.config.set(_settings(job.threads)), _slurm_cluster(job) as cluster:
        cluster.scale(jobs=workers)
        with distributed.Client(cluster) as client:
            yield client


def slurm_script(job: SlurmJob) -> str:
    """The script that each job runs, as it would be submitted."""
    with _slurm_cluster(job) as cluster:
        return str(cluster.job_script())


@contextmanager
def connected(address: str, timeout_s: float = 20) -> Iterator[Client]:
    """Use a scheduler that runs already.

    Raises:
        ScanError: if there is none at the address.
    """
    _, distributed = _dask()
    try:
        client = distributed.Client(address, timeout=timeout_s)
    except (OSError, ValueError) as error:
        raise ScanError(f"no Dask scheduler answers at '{address}'; expected one such as tcp://host:8786") from error
    with client:
        yield client


def dashboard(client: Client) -> str:
    """Address of the page that shows the workers at work; empty where the scheduler serves none."""
    link = client.dashboard_link
    port = client.scheduler_info(n_workers=0).get("services", {}).get("dashboard")
    return str(link) if port and link else ""


def run_scans(
    client: Client,
    screener: Screener,
    scans: Sequence[FoundScan],
    output: Path,
    *,
    threads: int | None = None,
    patience_s: float | None = None,
) -> Iterator[Record]:
    """Screen scans on the client's workers; yields a record for each as it comes, in no order.

    A scan whose worker dies goes to another one; after :data:`DEATHS` such deaths it is recorded as failed. Closing
    the generator takes back what is not finished.

    Args:
        client: of a cluster whose workers see the scans and the output under the same paths.
        screener: sent to every worker once for each scan, without its model, which a worker loads once.
        scans: what to do.
        output: folder of the results.
        threads: of torch in each worker; ``None`` leaves it as the worker has it.
        patience_s: give up when no worker has been there for so long; ``None`` waits, as for jobs in a queue.

    Raises:
        ConnectionError: if the scheduler is lost, or no worker came back within ``patience_s``.
    """
    _, distributed = _dask()
    run = uuid4().hex[:8]
    futures = {
        client.submit(_screen, run, screener, scan, str(output), threads, key=f"{scan.case}-{run}", pure=False): scan
        for scan in scans
    }
    over = threading.Event()
    watch = threading.Thread(
        target=_give_up_without_workers, args=(client, list(futures), over, patience_s), daemon=True
    )
    if patience_s is not None:
        watch.start()
    try:
        missing = {scan.case for scan in scans}
        for future in distributed.as_completed(list(futures)):
            yield _record(future, futures[future])
            missing.discard(futures[future].case)
            future.release()
        if missing:  # cancelled futures are passed over in silence
            raise ConnectionError(GONE)
    finally:
        over.set()
        client.cancel(list(futures), force=True)


def _give_up_without_workers(client: Client, futures: Sequence[Any], over: threading.Event, patience_s: float) -> None:
    """Cancel what is left once no worker has been there for a while; as it is, Dask would wait for ever."""
    alone_s = 0.0
    while not over.wait(min(CHECK_S, patience_s)):
        try:
            alone_s = 0.0 if client.scheduler_info(n_workers=-1)["workers"] else alone_s + min(CHECK_S, patience_s)
        except (OSError, TimeoutError):
            return  # the scheduler itself is lost, which the futures tell
        if alone_s >= patience_s:
            client.cancel(list(futures), force=True)
            return


def _screen(run: str, screener: Screener, scan: FoundScan, output: str, threads: int | None) -> Record:
    if run not in _SCREENERS:
        _SCREENERS.clear()
        _SCREENERS[run] = screener
        logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
        if threads is not None:
            torch.set_num_threads(threads)
    return _SCREENERS[run].screen(scan, Path(output), worker=_worker_name())


def _worker_name() -> str:
    from distributed import get_worker

    return str(get_worker().name)


def _record(future: Any, scan: FoundScan) -> Record:
    if future.status == "finished":
        record: Record = future.result()
        return record
    if future.status in ("cancelled", "lost"):
        raise ConnectionError(GONE)
    error = future.exception()
    if type(error).__name__ == "KilledWorker":
        reason = f"{DEATHS} workers died on it, the last without a word; it may need more memory than a worker has"
    else:
        reason = f"its worker failed: {type(error).__name__}: {' '.join(str(error).split())}"
    return Record.of(scan, Status.FAILED, reason=reason)


def _settings(threads: int) -> dict[str, Any]:
    # Dask's own values are made for many threads in one process: one for OpenMP, and memory handed back at once, which
    # costs a network on a CPU a third of its time. What the user has set in the environment stays.
    return {
        "distributed.scheduler.allowed-failures": DEATHS - 1,
        "distributed.scheduler.worker-saturation": 1.0,  # a scan that only waits is not blamed for its worker's death
        "distributed.nanny.pre-spawn-environ": {
            "MALLOC_TRIM_THRESHOLD_": None,
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads),
        },
    }


def _slurm_cluster(job: SlurmJob) -> Any:
    dask, _ = _dask()
    from dask_jobqueue import SLURMCluster

    def site(key: str) -> Any:
        return dask.config.get(f"jobqueue.slurm.{key}", None)

    gpu = ["--gpus=1"] if job.gpu else []
    given: Mapping[str, Any] = {"walltime": job.walltime, "queue": job.partition, "account": job.account}
    return SLURMCluster(
        cores=1,
        processes=1,
        job_name="itermask3d",
        job_cpu=job.threads,
        memory=job.memory or site("memory") or DEFAULT_MEMORY,
        job_extra_directives=[*(site("job-extra-directives") or []), *gpu, *job.directives],
        job_script_prologue=[f"export OMP_NUM_THREADS={job.threads}", *(site("job-script-prologue") or [])],
        worker_extra_args=["--memory-limit", "0", *(site("worker-extra-args") or [])],
        **{name: value for name, value in given.items() if value is not None},
    )


def _dask() -> tuple[Any, Any]:
    try:
        import dask
        import distributed
    except ImportError as error:
        raise ScanError("screening needs Dask: pip install 'itermask3d[cohort]'") from error
    logging.getLogger("distributed").setLevel(logging.ERROR)
    return dask, distributed
