"""Check that screening keeps its promises on a cohort: one worker, two of which one is killed, and once more.

    python scripts/screen_check.py COHORT OUT [--scans 40] [-- OPTIONS OF screen]

COHORT is a list such as scripts/simulate_cohort.py writes. It is screened (a) by one worker into OUT/one, (b) by two
into OUT/two, one of which is killed when half of the scans are done, and both again (c), which must skip every scan and
touch no file. All files of all results are then compared byte by byte (a report without its two time stamps).
OUT/check.md tells what was found, with the throughput of each run and what 10,000 scans would take, and, where
truth.tsv lies beside the list, what was flagged; OUT/check.json is the same for programs. Interrupted, it goes on
after the last whole run.

Exit status: 0 all promises kept, 1 some was broken, 2 nothing could start.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from itermask3d.files.scans import ScanError, list_scans
from itermask3d.files.writing import write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.workflows.screening.cohort_report import Throughput, duration

SCREEN = ("-m", "itermask3d", "screen")
COST_SCANS, COST_WORKERS = 10_000, (1, 2, 8, 32)
SCAN_DONE = re.compile(r"\d+/\d+ |failed: ")
"""How a line of `itermask3d screen` begins that tells the end of a scan."""

TIMED = ("seconds", "finished")
"""Columns of scans.tsv that differ from run to run."""


@dataclass(frozen=True)
class Run:
    """One call of `itermask3d screen`.

    Attributes:
        name: of the run, and of its folder.
        status: exit status.
        seconds: from the workers' start to the last scan's end.
        finished: scans that it did.
        killed: process id of the worker that was killed; ``None`` without.
        told: what it printed.
    """

    name: str
    workers: int
    status: int
    seconds: float
    finished: int
    killed: int | None = None
    told: list[str] = field(default_factory=list)

    @property
    def throughput(self) -> Throughput:
        return Throughput(self.finished, self.seconds, self.workers)


def main() -> None:
    arguments = parse()
    output = Path(arguments.output).absolute()
    try:
        cohort, n_scans = shortened(Path(arguments.cohort).absolute(), arguments.scans, output)
    except ScanError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    runs, broken = check(cohort, n_scans, output, arguments.options)
    truth = Path(arguments.cohort).absolute().parent / "truth.tsv"
    write_findings(runs, broken, n_scans, output, truth)
    print((output / "check.md").read_text())
    sys.exit(1 if broken else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cohort", metavar="COHORT", help=".json list of scans")
    parser.add_argument("output", metavar="OUT")
    parser.add_argument("--scans", type=int, help="only so many of them, at least 3 (default: all)")
    parser.add_argument(
        "options", nargs="*", metavar="OPTION", help="after --: handed on to every call of `itermask3d screen`"
    )
    return parser.parse_args()


def shortened(cohort: Path, n_scans: int | None, output: Path) -> tuple[Path, int]:
    """The list to screen, with absolute paths in ``output``, and its length.

    Raises:
        ScanError: if the list has fewer scans than wanted, or than 3: of fewer none is left for the other worker.
    """
    items = list_scans(cohort)
    wanted = len(items) if n_scans is None else n_scans
    if not 3 <= wanted <= len(items):
        raise ScanError(f"'{cohort}' lists {len(items)} scans and {wanted} are wanted; expected 3 or more of them")
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(json.dumps(items[:wanted], indent=1) + "\n", output / "list.json")
    return output / "list.json", wanted


def check(cohort: Path, n_scans: int, output: Path, options: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Do all runs; they, and what went against the promises."""
    runs, broken = [], []
    for name, workers, kill_after in (("one", 1, None), ("two", 2, n_scans // 2)):
        run = earlier(output / f"{name}.json")
        if run is None:
            shutil.rmtree(output / name, ignore_errors=True)
            run = screen(cohort, output / name, workers=workers, kill_after=kill_after, options=options)
            write_atomically(json.dumps(asdict(run), indent=1) + "\n", output / f"{name}.json")
        broken += [] if run.finished == n_scans else [f"{name}: {run.finished} of {n_scans} scans were done"]
        broken += [] if kill_after is None or run.killed else [f"{name}: no worker was killed"]
        runs.append(run)
    for first in runs:
        name = first.name
        before = stamps(output / name)
        again = screen(cohort, output / name, workers=first.workers, options=options)
        broken += [f"{name}: the second run did {again.finished} scans again"] if again.finished else []
        broken += [f"{name}: the second run touched {file}" for file in unlike(before, stamps(output / name))]
        if again.status != first.status:
            broken.append(f"{name}: the first run ended with status {first.status}, the second with {again.status}")
    broken += [f"the runs differ in {file}" for file in unlike(digests(output / "one"), digests(output / "two"))]
    broken += [f"the tables differ in {case}" for case in unlike(table(output / "one"), table(output / "two"))]
    return runs, broken


def earlier(path: Path) -> Run | None:
    """A run that an interrupted check had finished."""
    return Run(**json.loads(path.read_text())) if path.is_file() else None


def screen(
    cohort: Path, folder: Path, *, workers: int, kill_after: int | None = None, options: Sequence[str] = ()
) -> Run:
    """Call `itermask3d screen`, and kill one of its workers once so many scans are done."""
    command = [sys.executable, *SCREEN, str(cohort), str(folder), "--workers", str(workers), *options]
    print(f"== {' '.join(command[1:])}", flush=True)
    told: list[str] = []
    finished, killed = 0, None
    start = last = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            told.append(line.rstrip())
            if line.startswith("workers: "):
                start = last = time.monotonic()
            elif SCAN_DONE.match(line):
                finished, last = finished + 1, time.monotonic()
            if kill_after is not None and killed is None and finished >= kill_after:
                killed = kill_worker(process.pid)
    return Run(folder.name, workers, process.returncode, round(last - start, 3), finished, killed, told)


def kill_worker(run: int) -> int | None:
    """End one worker of a run as a system short of memory would; its process id."""
    workers = [child for child in psutil.Process(run).children() if "spawn_main" in " ".join(child.cmdline())]
    if not workers:
        return None
    workers[0].kill()
    print(f"== worker {workers[0].pid} was killed", flush=True)
    return workers[0].pid


def results(output: Path) -> Iterator[Path]:
    """All files of all results."""
    for record in sorted(output.rglob("result.json")):
        yield from sorted(path for path in record.parent.rglob("*") if path.is_file())


def stamps(output: Path) -> dict[str, str]:
    """What tells whether a file was written again."""
    return {str(path.relative_to(output)): str(path.stat().st_mtime_ns) for path in results(output)}


def digests(output: Path) -> dict[str, str]:
    """SHA-256 of every file of the results; of a report without the times at which it and its result were written."""
    found = {}
    for path in results(output):
        content = path.read_bytes()
        if path.name in ("report.html", "report.json"):
            provenance = json.loads(path.with_name("report.json").read_text())["provenance"]
            for name in ("result_written", "report_written"):
                content = content.replace(provenance[name].replace("+", "&#43;").encode(), b"")
                content = content.replace(provenance[name].encode(), b"")
        found[str(path.relative_to(output))] = hashlib.sha256(content).hexdigest()
    return found


def table(output: Path) -> dict[str, str]:
    """Rows of scans.tsv by case, without their times."""
    with (output / "scans.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return {row["case"]: json.dumps({name: row[name] for name in row if name not in TIMED}) for row in rows}


def unlike(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """Names that only one has, or that differ."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def write_findings(runs: Sequence[Run], broken: Sequence[str], n_scans: int, output: Path, truth: Path) -> None:
    """Write ``check.md`` and ``check.json``."""
    n_files = len(list(results(output / "one")))
    lines = [f"# Screening of {n_scans} scans, with 1 and 2 workers", ""]
    if broken:
        lines += ["Broken promises:", "", *(f"- {sentence}" for sentence in broken)]
    else:
        lines += [
            f"All {n_files} files of the results are the same in both runs, and the second runs skipped every scan."
        ]
    lines += ["", *speed_table(runs), ""]
    kinds = by_kind(truth, output / "one") if truth.is_file() else []
    if kinds:
        lines += ["| kind | scans | flagged | failed | median score |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(map(str, row))} |" for row in kinds] + [""]
    write_atomically("\n".join(lines), output / "check.md")
    data = {"note": RESEARCH_USE, "broken": list(broken), "files": n_files, "runs": [asdict(run) for run in runs]}
    write_atomically(json.dumps(data, indent=1) + "\n", output / "check.json")


def speed_table(runs: Sequence[Run]) -> list[str]:
    """Throughput of each run, and the hours of a large one by the model of :class:`Throughput`."""
    head = [f"{COST_SCANS:,} on {n}" for n in COST_WORKERS]
    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores, shared by the workers of a run.",
        "",
        f"| workers | time | scans an hour | a worker's time a scan | {' | '.join(head)} |",
        "|---" * (4 + len(head)) + "|",
    ]
    for run in runs:
        speed = run.throughput
        costs = [duration(3600 * speed.hours(COST_SCANS, n)) for n in COST_WORKERS] if run.finished else []
        name = f"{run.workers}{', one killed' if run.killed else ''}"
        cells = [name, duration(run.seconds), f"{speed.scans_per_hour:.1f}", duration(speed.worker_seconds), *costs]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", "Further workers count as such where each has cores or a GPU of its own."]


def by_kind(truth: Path, output: Path) -> list[tuple[str, int, int, int, str]]:
    """Of each kind of scan: how many, how many were flagged, how many failed, and the median score."""
    with truth.open() as stream:
        kinds = {row["case"]: row["kind"] for row in csv.DictReader(stream, delimiter="\t")}
    rows = [json.loads(row) for row in table(output).values()]
    found = []
    for kind in sorted({kinds[row["case"]] for row in rows if row["case"] in kinds}):
        own = [row for row in rows if kinds.get(row["case"]) == kind]
        scores = [float(row["score"]) for row in own if row["score"] != "n/a"]
        flagged = sum(row["outcome"] == "anomaly" for row in own)
        failed = sum(row["status"] == "failed" for row in own)
        found.append((kind, len(own), flagged, failed, f"{statistics.median(scores):.4f}" if scores else "n/a"))
    return found


if __name__ == "__main__":
    main()
