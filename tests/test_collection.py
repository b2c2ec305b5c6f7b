"""The names of the tests, which have to be the same in every process: workers compare theirs before they start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def collected(config: pytest.Config, *, hash_seed: str) -> set[str]:
    """Names of the tests of this session as a process with a hash seed of its own finds them."""
    chosen = ["-m", config.option.markexpr or "", "-k", config.option.keyword or "", *config.args]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-q",
            "--disable-warnings",
            "-o",
            "addopts=",
            "-p",
            "no:cacheprovider",
            *chosen,
        ],
        cwd=config.invocation_params.dir,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return {line for line in done.stdout.splitlines() if "::" in line}


def test_names_of_tests_depend_on_neither_the_time_nor_the_hash_seed(request: pytest.FixtureRequest) -> None:
    here = {item.nodeid for item in request.session.items}  # of another time and, mostly, another seed
    there = collected(request.config, hash_seed="2" if os.environ.get("PYTHONHASHSEED") == "1" else "1")
    assert here == there, sorted(here ^ there)[:10]
