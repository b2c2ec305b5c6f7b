"""What tests share that run the bundle's workflows in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]

CHANNELS = [2, 4, 4, 4, 4]
"""Widths of a network that trains in seconds."""


def command(*configs: str | Path, cwd: Path, launcher: tuple[str, ...] = (), **overrides: Any):
    """``python -m monai.bundle run`` in a process of its own, on one thread of the CPU."""
    options = [part for name, value in overrides.items() for part in (f"--{name}", as_option(value))]
    files = "[" + ",".join(f"'{config}'" for config in configs) + "]"
    return subprocess.run(
        [sys.executable, *launcher, "-m", "monai.bundle", "run", "--config_file", files, *options],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def as_option(value: Any) -> str:
    return str(value) if isinstance(value, (str, Path)) else json.dumps(value)
