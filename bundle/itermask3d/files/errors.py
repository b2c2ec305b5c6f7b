"""The one kind of error that a scan can cause, and how to find it behind others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ScanError", "bare_scan_errors", "first_cause", "scan_error"]


class ScanError(ValueError):
    """A scan cannot be used; the message says in one sentence what was found and what was expected."""


def first_cause(error: BaseException) -> BaseException:
    """What others wrapped: the exception at the start of the chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def scan_error(error: BaseException | None) -> ScanError | None:
    """Find the :class:`ScanError` behind an exception; MONAI wraps what a transform raises."""
    while error is not None and not isinstance(error, ScanError):
        error = error.__cause__
    return error


@contextmanager
def bare_scan_errors() -> Iterator[None]:
    """Let a block raise the :class:`ScanError` itself where MONAI wrapped one; any other exception passes as it is."""
    try:
        yield
    except Exception as error:
        reason = scan_error(error)
        if reason is None or reason is error:
            raise
        raise reason from reason.__cause__
