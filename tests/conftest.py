"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import Phantom, head_phantom

SHARED = Path(__file__).resolve().parents[2] / "shared"


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
