"""What all verbs share: exit statuses, refusals in one sentence, and options as values of the bundle's config."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

import typer

from itermask3d.files.literals import as_literals

__all__ = ["DONE", "FAILED", "INTERRUPTED", "LISTS", "NOTE", "NOT_STARTED", "STATUS", "STOPPED", "as_given"]
__all__ += ["config_values", "exclusive", "for_machines", "one_of", "one_sentence", "print_json", "refuse", "repeated"]
__all__ += ["require_bundle"]

DONE, FAILED, NOT_STARTED, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit statuses: all done; some scan or stage failed; nothing could start; stopped early; stopped by Ctrl-C."""

STATUS = "Exit status: 0 done, 1 some scan failed, 2 nothing could start."

NOTE = "For research use only. Not a medical device, not for diagnosis."

LISTS = frozenset({"--exclude", "--methods", "--severities", "--suffix"})
"""Options that take several words: ``--exclude a b`` is ``--exclude a --exclude b``."""


def repeated(words: Sequence[str]) -> list[str]:
    """Write an option of several words as the same option several times, which is what the parser reads.

    >>> repeated(["train", "scans", "out", "--exclude", "a", "b", "--force"])
    ['train', 'scans', 'out', '--exclude', 'a', '--exclude', 'b', '--force']
    """
    found: list[str] = []
    option = None
    for word in words:
        if word.startswith("-"):
            option = word if word in LISTS else None
        elif option is not None and found[-1] != option:
            found.append(option)
        found.append(word)
    return found


def config_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Ids of a config and the values that were given for them; what nobody gave is left to the config.

    Every value from a command line goes through here on its way to MONAI's parser, which takes it as text.
    """
    return as_literals({key: value for key, value in values.items() if value is not None})


def as_given() -> str:
    """The command as it was given, for records."""
    return shlex.join(["itermask3d", *sys.argv[1:]])


@contextmanager
def for_machines(wanted: bool) -> Iterator[None]:
    """Send what is printed inside to standard error, so that standard output holds JSON alone."""
    with redirect_stdout(sys.stderr) if wanted else nullcontext():
        yield


def print_json(value: Any) -> None:
    """Print a value for a machine; numbers that JSON has not are refused, not written."""
    print(json.dumps(value, indent=1, allow_nan=False))


def refuse(reason: object) -> NoReturn:
    """Say in one sentence why nothing can start, and end."""
    print(f"error: {reason}", file=sys.stderr)
    raise typer.Exit(NOT_STARTED)


def require_bundle(folder: str | Path) -> None:
    """Refuse a folder that is no bundle."""
    if not (Path(folder) / "configs" / "inference.json").is_file():
        refuse(f"'{folder}' is no bundle; expected a folder with configs/inference.json")


def exclusive(**given: object) -> None:
    """Refuse two options that exclude each other."""
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if len(named) > 1:
        refuse(f"{' and '.join(named)} exclude each other; expected one of them")


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn what a user can mend into one sentence and status 2; anything else is a fault of ours and stays one."""
    from itermask3d.files.scans import first_cause

    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        reason = first_cause(error)
        if not isinstance(reason, ValueError | OSError):
            raise
        refuse(reason)


def one_of(value: str | None, choices: Collection[str], name: str) -> None:
    """Refuse a value that is no choice; ``None`` is none given."""
    if value is not None and value not in choices:
        refuse(f"{name} must be one of {', '.join(choices)}, got '{value}'")
