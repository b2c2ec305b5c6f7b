"""The output folder of a run: which results are up to date."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from itermask3d.files.identity import file_digest, is_unchanged, require_same_scan
from itermask3d.files.plain import as_json_values
from itermask3d.inference.model import Model
from itermask3d.inference.models import AUTO, domain_digests

__all__ = ["ResultStore", "require_own_place"]

logger = logging.getLogger(__name__)


class ResultStore:
    """The output folder: one folder a scan, and what makes a result up to date.

    Args:
        directory: made when the first result is written.
        model: makes the results; its settings tell whether one is up to date.
        overwrite: process scans again that have an up-to-date result.
    """

    def __init__(self, directory: str | Path, model: Model, *, overwrite: bool = False) -> None:
        self.directory = Path(directory)
        self.model = model
        self.overwrite = overwrite

    def folder(self, case: str) -> Path:
        """Where the files of a scan lie."""
        return self.directory / case

    def is_done(self, item: Mapping[str, Any]) -> bool:
        """Whether this scan has a result of the same files, settings and weights."""
        result = None if self.overwrite else self.read(item["case"])
        if result is None:
            return False
        name = self._chosen_before(result) if self.model.chooses else self.model.fixed_name
        if name is None and self.model.requested is not None:
            return False
        plain = as_json_values(self.model.variant(name).settings)
        return result.get("settings") == plain and is_unchanged(result.get("inputs") or {}, item)

    def read(self, case: str) -> dict[str, Any] | None:
        """The ``result.json`` of a scan; ``None`` where there is none, or a damaged one."""
        path = self.folder(case) / "result.json"
        try:
            result = json.loads(path.read_text()) if path.is_file() else None
        except (OSError, ValueError) as error:
            logger.warning("'%s' cannot be read and counts as none (%s)", path, error)
            return None
        return result if isinstance(result, dict) else None

    def _chosen_before(self, result: Mapping[str, Any]) -> str | None:
        """The model that made a result, if it would be chosen again; ``None`` where that is not known."""
        models = self.model.models
        first, told = models[models.names[0]], result.get("model") or {}
        domain = (result.get("settings") or {}).get("domain_sha256")
        if result.get("in_distribution") is True and domain == file_digest(first.domain):
            return first.name
        chosen = told.get("requested") == AUTO and told.get("candidates") == domain_digests(models.known)
        return str(told["name"]) if chosen else None


def require_own_place(store: ResultStore, item: Mapping[str, Any]) -> None:
    """Refuse a scan whose result would take the place of another scan's.

    Raises:
        ScanError: see :func:`itermask3d.files.identity.require_same_scan`.
    """
    result = store.read(item["case"])
    if result is not None:
        require_same_scan(result.get("inputs") or {}, item, store.folder(item["case"]))
