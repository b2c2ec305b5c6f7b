"""What of a long run is done, and under which settings: finished stages are passed over, changed ones are told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from itermask3d.files.plain import as_json_values
from itermask3d.files.scans import ScanError
from itermask3d.files.writing import write_atomically

__all__ = ["Stages"]


class Stages:
    """A file that names the finished stages of a run and what each was made from.

    Args:
        path: of the file; read when it exists.

    Raises:
        ScanError: if the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.made_from: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
        except ValueError as error:
            raise ScanError(
                f"'{path}' is damaged ({error}); delete it, and finished stages are looked at again"
            ) from error

    def is_done(self, name: str, made_from: Mapping[str, Any], products: Iterable[Path] = ()) -> bool:
        """Whether a stage was finished with just these values and its files are still there."""
        return self.made_from.get(name) == _plain(made_from) and all(path.exists() for path in products)

    def run(
        self, name: str, made_from: Mapping[str, Any], action: Callable[[], Any], products: Iterable[Path] = ()
    ) -> bool:
        """Do a stage unless it is done; it is entered only when it returns.

        Returns:
            Whether anything was done.
        """
        if self.is_done(name, made_from, products):
            return False
        self.forget(name)
        action()
        self.enter(name, made_from)
        return True

    def enter(self, name: str, made_from: Mapping[str, Any]) -> None:
        """Record what a stage was, or is being, made from."""
        self.made_from[name] = _plain(made_from)
        self._write()

    def forget(self, *names: str) -> None:
        """Take stages for not done."""
        known = self.made_from.keys() & set(names)
        for name in known:
            del self.made_from[name]
        if known:
            self._write()

    def changed(self, name: str, made_from: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Old and new value of what differs from a recorded stage; empty where nothing is recorded."""
        old, new = self.made_from.get(name), _plain(made_from)
        if old is None:
            return {}
        return {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}

    def _write(self) -> None:
        write_atomically(json.dumps(self.made_from, indent=1) + "\n", self.path)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = as_json_values(values)
    return plain
