"""Many workers: one that is killed costs no scan, one that always dies costs its own, and the answer stays the same."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from fast_bundle import write_fast_bundle
from itermask3d.cli.app import main
from itermask3d.files.discovery import discover
from itermask3d.files.scans import ScanError
from itermask3d.workflows.screening import cluster
from itermask3d.workflows.screening import run as screen_run
from itermask3d.workflows.screening.journal import Status
from screening_helpers import KnownScreener, contents, write_scans

distributed = pytest.importorskip("distributed", reason="screening needs Dask: pip install 'itermask3d[cohort]'")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_fast_bundle(tmp_path_factory.mktemp("bundle"))


@contextmanager
def one_process(workers: int = 1, threads: int = 1, gpus: object = ()):
    """Workers that are threads of this process: quick to start."""
    with (
        distributed.LocalCluster(
            n_workers=workers, processes=False, threads_per_worker=1, dashboard_address=None
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


@pytest.fixture
def screen(monkeypatch, capsys, bundle):
    """Run the script with known answers; its exit status and what it printed."""
    monkeypatch.setattr(screen_run, "local_client", one_process)
    monkeypatch.setattr(screen_run, "Screener", KnownScreener)

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["itermask3d", "screen", *map(str, arguments), "--bundle", str(bundle)])
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as ended:
            main()
        signal.signal(signal.SIGTERM, before)
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out + captured.err

    return run


def test_a_killed_worker_costs_no_scan_and_changes_no_answer(bundle, tmp_path):
    names = ["slow1", "slow2", "slow3", "slow4", "bad"]
    scans = discover(write_scans(tmp_path / "in", names)).scans
    screener, uninterrupted, output = KnownScreener(bundle), tmp_path / "uninterrupted", tmp_path / "out"
    for scan in scans:
        screener.screen(scan, uninterrupted)
    records = {}
    with cluster.local_client(workers=2, threads=1) as client:
        assert "127.0.0.1" in cluster.dashboard(client)
        for record in cluster.run_scans(client, screener, scans, output, threads=1):
            if not records:
                os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
            assert record.case not in records
            records[record.case] = record
    assert set(records) == set(names)
    assert "cannot be read" in records.pop("bad").reason
    assert all(record.status is Status.DONE for record in records.values())
    assert contents(output) == contents(uninterrupted)


@pytest.mark.slow
def test_a_scan_that_kills_every_worker_fails_alone(bundle, tmp_path):
    scans = discover(write_scans(tmp_path / "in", ["slow1", "deadly", "slow2"])).scans
    with cluster.local_client(workers=1, threads=1) as client:
        found = cluster.run_scans(client, KnownScreener(bundle), scans, tmp_path / "out", threads=1)
        records = {record.case: record for record in found}
    assert "workers died" in records.pop("deadly").reason
    assert [record.status for record in records.values()] == [Status.DONE] * 2


def test_a_run_whose_workers_are_all_gone_ends_instead_of_waiting(bundle, tmp_path):
    scans = discover(write_scans(tmp_path / "in", ["slow1"])).scans
    with (
        one_process(workers=0) as client,
        pytest.raises(ConnectionError, match="or all of its workers are gone"),
    ):
        list(cluster.run_scans(client, KnownScreener(bundle), scans, tmp_path / "out", patience_s=0.2))


def test_script_screens_lists_failures_and_skips_what_is_done(screen, tmp_path):
    source, output = write_scans(tmp_path / "in", ["a", "b", "bad"]), tmp_path / "out"
    status, printed = screen(source, output)
    assert status == 1
    assert "2 of 3 scans done, 1 failed" in printed
    assert "failed: bad: " in printed
    assert "scans/h" in printed
    before = contents(output)
    status, printed = screen(source, output)
    assert status == 1
    assert "2 done before, 0 to do" in printed
    assert "failed before: bad: " in printed
    assert contents(output) == before
    (source / "bad.nii.gz").unlink()
    status, printed = screen(source, output, "--retry-failed")
    assert status == 0


def test_script_stops_at_a_full_disk_keeps_what_is_done_and_goes_on(screen, tmp_path, monkeypatch):
    from itermask3d.workflows.screening import screener

    source, output = write_scans(tmp_path / "in", ["a", "b", "c"]), tmp_path / "out"
    write = screener.write_result

    def full(result, folder, **options):
        if result.case == "b":
            raise OSError(28, "No space left on device")
        return write(result, folder, **options)

    monkeypatch.setattr(screener, "write_result", full)
    status, printed = screen(source, output)
    assert status == 3
    assert "make room" in printed
    assert (output / "a" / "result.json").exists()
    monkeypatch.setattr(screener, "write_result", write)
    status, printed = screen(source, output)
    assert (status, "3 of 3 scans done" in printed) == (0, True)


def test_ctrl_c_keeps_finished_scans_and_the_same_command_goes_on(screen, tmp_path):
    source, output = write_scans(tmp_path / "in", ["a", "interrupt", "z"]), tmp_path / "out"
    status, printed = screen(source, output)
    assert status == 130
    assert "the same command goes on" in printed
    assert (output / "a" / "result.json").exists()
    assert (output / "index.html").exists()
    assert not (output / ".staging").exists()
    status, printed = screen(source, output)
    assert (status, "3 of 3 scans done" in printed) == (0, True)


def test_nothing_to_do_is_said_in_one_sentence(screen, tmp_path):
    (tmp_path / "in").mkdir()
    status, printed = screen(tmp_path / "in", tmp_path / "out")
    assert status == 2
    assert printed.startswith("error: folder")
    assert not (tmp_path / "out").exists()


def test_slurm_job_asks_for_a_worker_with_its_cores_its_gpu_and_one_scan_at_a_time():
    pytest.importorskip("dask_jobqueue")
    job = cluster.SlurmJob(threads=8, gpu=True, memory="24GB", walltime="08:00:00", partition="gpu", account="lab")
    script = cluster.slurm_script(job)
    directives = {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert {"-n 1", "--cpus-per-task=8", "-t 08:00:00", "-p gpu", "-A lab", "--gpus=1"} <= directives
    assert "export OMP_NUM_THREADS=8" in script
    assert "--nthreads 1 " in script
    assert script.strip().endswith("--memory-limit 0")


def test_slurm_job_keeps_what_the_sites_own_yaml_says():
    pytest.importorskip("dask_jobqueue")
    import dask

    site = {"jobqueue.slurm.memory": "60GB", "jobqueue.slurm.job-extra-directives": ["--qos=night"]}
    with dask.config.set(site):
        script = cluster.slurm_script(cluster.SlurmJob(directives=("--constraint=a100",)))
    assert "#SBATCH --qos=night" in script
    assert "#SBATCH --constraint=a100" in script
    assert "#SBATCH --mem=56G" in script


def test_a_scheduler_that_does_not_answer_is_named():
    with (
        pytest.raises(ScanError, match="no Dask scheduler"),
        cluster.connected("tcp://127.0.0.1:9", timeout_s=1),
    ):
        pass


def test_a_machine_gets_a_summary_alone_on_standard_output(monkeypatch, capsys, bundle, tmp_path):
    monkeypatch.setattr(screen_run, "local_client", one_process)
    monkeypatch.setattr(screen_run, "Screener", KnownScreener)
    source, output = write_scans(tmp_path / "in", ["a", "bad"]), tmp_path / "out"
    words = ["itermask3d", "screen", str(source), str(output), "--bundle", str(bundle), "--json"]
    monkeypatch.setattr(sys, "argv", words)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        main()
    signal.signal(signal.SIGTERM, before)
    facts = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1
    assert (facts["end"], facts["scans"], facts["done"]) == ("whole", 2, 1)
    assert [one["case"] for one in facts["failed"]] == ["bad"]
    assert Path(facts["page"]).is_file()
    assert Path(facts["table"]).is_file()
