"""A disk that fills, or a kill, again and again: it costs no scan and changes no byte of any answer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fast_bundle import write_fast_bundle
from helpers import head_phantom
from screening_helpers import contents
from small_disk import own_mounts

pytestmark = pytest.mark.slow

N_SCANS, N_TIMES = 12, 8
BEGUN = re.compile(rf"scan (\d+) of {N_SCANS}, \S+$")
"""The line of a scan that is done now, not before."""

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
INSIDE = """
import contextlib, io, json, shutil, subprocess, sys
from itermask3d.cli.app import main

disk, kept, sizes, words = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4:]


def run():
    sys.argv = ["itermask3d", *words]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            return end.code or 0, said.getvalue()


def mount(*options):
    subprocess.run(["mount", *options, disk], check=True)


mount("-t", "tmpfs", "-o", f"size={sizes[0]}k", "tmpfs")
told = []
for size in sizes:
    mount("-o", f"remount,size={size}k")
    told.append(run())
shutil.copytree(f"{disk}/out", kept)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    phantom = head_phantom(spacing_mm=(5, 5, 5))
    for seed in range(N_SCANS):
        noise = np.random.default_rng(seed).normal(0, 6, phantom.image.shape)
        image = np.where(phantom.brain_mask, phantom.image + noise, 0).astype(np.int16)
        nib.save(nib.Nifti1Image(image, phantom.affine), folder / f"scan{seed:02d}.nii.gz")
    return folder


def plain_run(*words: object) -> list[str]:
    """The command in a process of its own."""
    return [sys.executable, "-m", "itermask3d", *map(str, words)]


def kill_at(command: list[str], number: int, output: Path) -> None:
    """Kill a run at the beginning of its scan of this number, or, of an even one, while its files are written."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            found = BEGUN.search(line.rstrip())
            if found and int(found[1]) == number:
                break
        while number % 2 == 0 and not list(output.glob(".*.partial")):
            assert process.poll() is None
        process.kill()


def test_after_many_kills_every_file_is_as_without(scans, tmp_path):
    bundle = write_fast_bundle(tmp_path / "bundle")
    options = ("--bundle", bundle, "--brain-extraction", "none", "--no-overview")
    for output in ("whole", "killed"):
        command = plain_run("segment", scans, tmp_path / output, *options)
        for number in range(2, 2 + N_TIMES) if output == "killed" else ():
            kill_at(command, number, tmp_path / output)
        subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob(".*"))


def lasting(files: dict[str, bytes]) -> dict[str, bytes]:
    """All but the reports, which tell when they were written."""
    return {name: content for name, content in files.items() if "/report." not in name}


@pytest.mark.parametrize("verb", ["segment", "screen"])
def test_after_a_disk_that_filled_many_times_every_file_is_as_without(verb, scans, tmp_path):
    namespace = own_mounts()
    bundle, disk, kept = write_fast_bundle(tmp_path / "bundle"), tmp_path / "disk", tmp_path / "kept"
    options = ("--bundle", bundle, "--brain-extraction", "none", "--no-overview")
    subprocess.run(
        plain_run(verb, scans, tmp_path / "whole", *options), check=True, capture_output=True, env=ENVIRONMENT
    )
    whole = contents(tmp_path / "whole")
    needed_kb = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file()) // 1024
    sizes = [64 + needed_kb * step // N_TIMES for step in range(N_TIMES)] + [20 * needed_kb]
    disk.mkdir()
    words = [sys.executable, "-c", INSIDE, disk, kept, json.dumps(sizes), verb, scans, disk / "out", *options]
    done = subprocess.run([*namespace, *map(str, words)], check=False, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert [status for status, _ in told[:-1]] == [3] * N_TIMES, told
    assert not [said for _, said in told[:-1] if "stopped: " not in said or "Traceback" in said]
    assert told[-1][0] == 0
    assert lasting(contents(kept)) == lasting(whole)
    assert not [path for path in kept.rglob(".*") if path.name.endswith((".partial", ".old"))]
