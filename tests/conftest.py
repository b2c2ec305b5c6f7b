"""Fixtures that several test modules share."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Phantom, head_phantom
from monai.utils import set_determinism

# A shell ignores SIGINT for what it starts in the background, and so would every process that a test starts and
# interrupts; a handler here is not passed on to them.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_make_parametrize_id(val: object) -> None:
    """Refuse binary values as names of tests: gzip, for one, writes the time of day into them."""
    if isinstance(val, bytes) and not (val.isascii() and val.decode("ascii").isprintable()):
        raise pytest.UsageError(f"give the parameter {val[:20]!r} a name with ids=[…]: binary values change")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The development data beside the repository; a clone without it skips the test."""
    if not SHARED.is_dir():
        pytest.skip(f"this test needs the development data in '{SHARED}', which is not part of the repository")
    return SHARED


@pytest.fixture(scope="session")
def golden_dir(shared_dir: Path) -> Path:
    """What the public reference computes."""
    folder = shared_dir / "golden"
    if not folder.is_dir():
        pytest.skip(f"this test needs the reference's own results in '{folder}'")
    return folder


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    """The 2 mm phantom in RAS orientation; treat its arrays as read-only."""
    return head_phantom()


@pytest.fixture
def phantom_item(phantom: Phantom, tmp_path: Path) -> dict[str, str]:
    """The phantom saved as NIfTI: an item with the paths of ``image`` and ``label``."""
    return phantom.save(tmp_path)


@pytest.fixture
def kept_global_state(monkeypatch):
    """Training seeds everything and MONAI's runner sets up logging and ``sys.path``; other tests must not notice."""
    root = logging.getLogger()
    numpy_state, handlers, level = np.random.get_state(), root.handlers[:], root.level
    deterministic = torch.are_deterministic_algorithms_enabled()
    monkeypatch.setattr(sys, "path", sys.path.copy())
    with torch.random.fork_rng(devices=[]):
        yield
        set_determinism(None)
    torch.use_deterministic_algorithms(deterministic)
    np.random.set_state(numpy_state)
    root.handlers[:], root.level = handlers, level
