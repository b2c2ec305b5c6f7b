"""One run an output folder: a second one is told so."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from itermask3d.files.errors import ScanError

__all__ = ["one_run"]

logger = logging.getLogger(__name__)


@contextmanager
def one_run(output: Path) -> Iterator[None]:
    """Keep a second run out of a folder, made if absent, on file systems that can lock; nothing is left there.

    The folder itself is locked, and free again when the process ends, however that happens.

    Raises:
        ScanError: if another run is at work there.
    """
    output.mkdir(parents=True, exist_ok=True)
    lock = os.open(output, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ScanError(f"another run is writing to '{output}'; expected one run an output folder") from error
    except OSError as error:
        logger.warning("'%s' cannot be locked (%s); start no second run there", output, error.strerror)
    try:
        yield
    finally:
        os.close(lock)
