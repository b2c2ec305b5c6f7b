"""The container's recipe, step by step without a container engine: its wheel is built and run in a clean folder.

What needs a network or an engine is not done here: the base image, ``pip install -r requirements.lock`` (the packages
of the environment that runs the tests stand in for it), the user and the entry point.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "docs" / "container" / "Dockerfile"
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def steps() -> list[tuple[str, str]]:
    """Instruction and rest of every step, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", RECIPE.read_text())
    return [tuple(line.split(" ", 1)) for line in text.splitlines() if line and not line.startswith("#")]


def copied() -> list[str]:
    """What the recipe copies from the repository."""
    rest = [rest for name, rest in steps() if name == "COPY" and not rest.startswith("--from")]
    return [source for one in rest for source in one.split()[:-1]]


def test_the_recipe_copies_only_what_is_there_and_not_ignored():
    allowed = {
        line[1:] for line in RECIPE.with_name("Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"
    }
    assert set(copied()) == allowed
    assert not [name for name in copied() if not (ROOT / name).exists()]


def test_the_final_stage_holds_the_wheel_and_no_clone():
    last = RECIPE.read_text().rpartition("FROM ")[2]
    assert re.findall(r"^COPY (.*)$", last, re.MULTILINE) == ["requirements.lock ./", "--from=wheel /wheels /wheels"]
    assert 'ENTRYPOINT ["itermask3d"]' in last
    assert "USER 65534" in last


@pytest.mark.slow
def test_the_steps_of_the_recipe_give_a_command_that_runs_without_the_repository(tmp_path):
    source, wheels, env = tmp_path / "source", tmp_path / "wheels", tmp_path / "env"
    source.mkdir()
    for name in copied():
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        path = ROOT / name
        shutil.copytree(path, source / name, ignore=ignore) if path.is_dir() else shutil.copy(path, source)
    venv.create(env, with_pip=True)
    (packages,) = env.glob("lib/python*/site-packages")
    for old in packages.glob("setuptools*"):  # that of the venv is older than the build asks for; the lock's is used
        shutil.rmtree(old)
    (packages / "locked.pth").write_text(sysconfig.get_path("purelib") + "\n")
    build, locked, install = (rest for name, rest in steps() if name == "RUN")
    assert "requirements.lock" in locked
    variables = {**os.environ, **OFFLINE, "PATH": f"{env / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    variables |= {"PYTHONPATH": "", "PIP_FORCE_REINSTALL": "1", "OMP_NUM_THREADS": "1"}
    for command, folder in ((build, source), (install, tmp_path)):
        line = command.replace("/wheels", str(wheels))
        subprocess.run(["bash", "-ec", line], cwd=folder, env=variables, check=True, capture_output=True, text=True)
    shutil.rmtree(source)
    done = subprocess.run(
        [env / "bin" / "itermask3d", "info", "--json"], cwd=tmp_path, env=variables, check=True, capture_output=True
    )
    assert json.loads(done.stdout)["bundle"] == str(packages / "itermask3d" / "_bundle")
    assert sys.executable != str(env / "bin" / "python")
