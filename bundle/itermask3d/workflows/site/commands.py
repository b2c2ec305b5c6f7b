"""Commands that the stages of a run are made of, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itermask3d.files.literals import as_literal

__all__ = ["StageError", "execute", "own_output", "run_script", "run_workflow"]


class StageError(RuntimeError):
    """A stage's command failed; what it said stands above."""


def execute(command: Sequence[Any], *, cwd: Path, allowed: Sequence[int] = (0,)) -> None:
    """Run a command and pass on what it says; it is stopped with this process.

    Raises:
        StageError: if it ends with another status than those allowed.
    """
    words = [str(word) for word in command]
    with subprocess.Popen(words, cwd=cwd, stdout=own_output()) as process:
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if status not in allowed:
        raise StageError(f"'{' '.join(words[1:5])} …' ended with status {status}")


def own_output() -> int | None:
    """Where this process prints now, be it redirected; ``None`` where that is no file, as in tests."""
    try:
        return sys.stdout.fileno()
    except OSError:
        return None


def run_workflow(bundle: Path, name: str, *, allowed: Sequence[int] = (0,), **overrides: Any) -> None:
    """``python -m monai.bundle run`` inside a bundle, so that it is its own code and configs that run.

    Raises:
        StageError: see :func:`execute`.
    """
    configs = bundle / "configs"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", configs / f"{name}.json"]
    command += ["--meta_file", configs / "metadata.json", "--logging_file", configs / "logging.conf"]
    for key, value in overrides.items():
        command += [f"--{key}", as_literal(value)]
    execute(command, cwd=bundle, allowed=allowed)


def run_script(path: Path, *options: Any, cwd: Path) -> None:
    """One of the repository's scripts.

    Raises:
        StageError: see :func:`execute`.
    """
    execute([sys.executable, path, *options], cwd=cwd)
