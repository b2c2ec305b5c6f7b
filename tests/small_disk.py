"""A disk of its own for one process, small enough to be filled."""

from __future__ import annotations

import shutil
import subprocess

import pytest

__all__ = ["own_mounts"]


def own_mounts() -> list[str]:
    """The command before another one that may then mount a disk which nobody else sees; skips where there is none."""
    tool = shutil.which("unshare")
    command = [str(tool), "--user", "--map-root-user", "--mount"]
    if tool is None or subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this test needs unshare, to mount a small disk of its own")
    return command
