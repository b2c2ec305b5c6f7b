"""The one kind of error that a scan can cause, and how to find it behind others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ScanError", "bare_scan_errors", "first_cause", "out_of_memory", "printable", "scan_error"]


class ScanError(ValueError):
    """A scan cannot be used; the message says in one sentence what was found and what was expected."""


def first_cause(error: BaseException) -> BaseException:
    """What others wrapped: the exception at the start of the chain."""
    return list(_chain(error))[-1]


def scan_error(error: BaseException | None) -> ScanError | None:
    """Find the :class:`ScanError` behind an exception; MONAI wraps what a transform raises."""
    return next((cause for cause in _chain(error) if isinstance(cause, ScanError)), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its causes, each once: Python lets a chain of causes lead back into itself."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


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


def out_of_memory(error: BaseException) -> bool:
    """Whether a scan needed more memory than there was; PyTorch says so on a CPU by a mere ``RuntimeError``."""
    cause = first_cause(error)
    told = type(cause).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(cause)
    return isinstance(cause, MemoryError) or (isinstance(cause, RuntimeError) and told)


def printable(text: str) -> str:
    """Text that every terminal and file takes: bytes of a path that are no UTF-8 are written as ``\\udcxx``."""
    return text.encode("utf-8", "backslashreplace").decode()
