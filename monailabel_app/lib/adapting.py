"""Adapting the bundle to the scanner whose scans a person reviewed as normal."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from itermask3d.files.scans import ScanError, scan_error
from itermask3d.files.writing import write_atomically
from itermask3d.workflows.site.adaptation import Adaptation
from itermask3d.workflows.site.adaptation_options import AdaptationOptions
from monailabel.interfaces.datastore import Datastore

from lib.errors import RequestError
from lib.learning import NormalTrainer
from lib.options import Choice, Number, Option, read

__all__ = ["Adapter"]

logger = logging.getLogger(__name__)


class Adapter(NormalTrainer):
    """Adapt the bundle to the datastore's normal scans, up to a calibrated bundle in a folder of its own.

    The running server keeps its bundle: the new one is used by a server that is started with it. Adapting goes on
    where it was stopped, on the same scans.

    Args:
        bundle_root: the bundle's folder.
        directory: for everything that is made; the new bundle is ``adapted/bundle`` in it.
    """

    options: Mapping[str, Option] = {
        "scans": Choice(["reviewed as normal", "not marked by anybody"]),
        "epochs": Number(10, 1, 50),
        "folds": Number(4, 2, 10),
    }

    def __init__(self, bundle_root: str | Path, directory: Path) -> None:
        super().__init__(bundle_root, directory, directory / "weights.pt")
        self.description = "Adapts the bundle to the scanner of 10 to 50 scans that were reviewed as normal"

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Adapt, and say where the new bundle lies.

        Raises:
            RequestError: if there are too few normal scans or one cannot be used.
        """
        values, remarks = read(self.options, request)
        for remark in remarks:
            logger.warning(remark)
        scans = self._scans(datastore, values["scans"])
        self.directory.mkdir(parents=True, exist_ok=True)
        listed = self.directory / "scans.json"
        items = [{"case": _case(number, scan), "image": scan} for number, scan in enumerate(scans, start=1)]
        write_atomically(json.dumps(items, indent=1) + "\n", listed)
        self._note(ended=False, scans=len(scans))
        options = AdaptationOptions(
            scans=str(listed),
            output=self.directory / "adapted",
            bundle=self.bundle_root,
            command="the app's training menu",
            force=True,  # a person reviewed the scans
            epochs=int(values["epochs"]),
            folds=int(values["folds"]),
            restart=True,
        )
        try:
            Adaptation(options, logger.info).run()
        except (ScanError, ValueError, RuntimeError) as error:
            raise RequestError(422, f"adapting is not possible: {scan_error(error) or error}") from error
        told = json.loads((options.output / "adaptation.json").read_text())
        found = {"bundle": str(options.output / "bundle"), "report": str(options.output / "report.html")}
        self._note(ended=True, **found, before=told["before"], after=told["after"])
        return {"scans": len(scans), **self.stats()}


def _case(number: int, scan: str) -> str:
    """A name for files, told apart by its number."""
    stem = re.sub(r"(\.nii)?\.[A-Za-z0-9]+$", "", Path(scan).name)
    return f"{number:03d}_{re.sub(r'[^A-Za-z0-9_-]+', '-', stem)[-80:]}"
