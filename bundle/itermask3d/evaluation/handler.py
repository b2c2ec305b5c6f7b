"""The metrics of every case while a run of MONAI's engine goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from itermask3d.evaluation.rows import COLUMNS, CaseVolumes, case_row, read_case
from itermask3d.evaluation.summary import summarise
from itermask3d.files.writing import write_atomically, write_table
from itermask3d.inference.cohort import ScanStream
from itermask3d.inference.preparation import PreparedScan
from itermask3d.inference.results import ScanResult
from itermask3d.inference.store import ResultStore

__all__ = ["CaseMetrics"]

logger = logging.getLogger(__name__)


class CaseMetrics:
    """Handler that writes ``metrics.csv`` (a row a case) and ``metrics.json`` (the summary), anew after every case.

    The summary's metrics of the scan level come with the last case.

    Works on what :class:`itermask3d.inference.cohort.SegmentBatch` leaves: prepared scans in the batch, results in the
    output. A scan without a ``label`` is left out. Scans that were done before are read from the store.

    Args:
        directory: where both files go.
        dataset, store: of the run; without them only what runs now is counted.
    """

    def __init__(
        self, directory: str | Path, dataset: ScanStream | None = None, store: ResultStore | None = None
    ) -> None:
        self.directory = Path(directory)
        self.dataset = dataset
        self.store = store
        self.rows: list[dict[str, Any]] = []
        self._n_read = 0
        self._listed: dict[str, dict[str, Any]] = {}

    def attach(self, engine: Engine) -> None:
        """Register on MONAI's evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self) -> None:
        self.rows.clear()
        self._n_read = 0

    def _collect(self, engine: Engine) -> None:
        self._read_finished()
        scans: Sequence[PreparedScan] = engine.state.batch  # type: ignore[assignment]
        results: Sequence[ScanResult] = engine.state.output  # type: ignore[assignment]
        for scan, result in zip(scans, results, strict=True):
            if scan.label is not None:
                self.rows.append(_row(self._facts(scan.case) | {"case": scan.case}, result, scan.label))
        if self.rows:
            self._write(scan_level=False)

    def _read_finished(self) -> None:
        if self.dataset is None or self.store is None or len(self.dataset.finished) == self._n_read:
            return
        for case in self.dataset.finished[self._n_read :]:
            item = self._facts(case)
            row = read_case(item, self.store.folder(case)) if item.get("label") else None
            self.rows += [row] if row else []
        self._n_read = len(self.dataset.finished)

    def _facts(self, case: str) -> dict[str, Any]:
        """What the list says of a case; preprocessing drops its group and subject."""
        if not self._listed and self.dataset is not None:
            self._listed = {item["case"]: item for item in self.dataset.items()}
        return self._listed.get(case, {})

    def _finish(self) -> None:
        self._read_finished()
        if self.rows:
            self._write(scan_level=True)
        else:
            logger.error("no scan had a label: name label_dir, or 'label' in every item of the list")

    def _write(self, *, scan_level: bool) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        write_table(self.rows, COLUMNS, self.directory / "metrics.csv")
        summary = json.dumps(summarise(self.rows, scan_level=scan_level), indent=1, allow_nan=False)
        write_atomically(summary + "\n", self.directory / "metrics.json")


def _row(item: Mapping[str, Any], result: ScanResult, label: MetaTensor) -> dict[str, Any]:
    volumes_of_case = CaseVolumes(
        mask=torch.from_numpy(result.mask),
        anomaly_map=torch.from_numpy(result.anomaly_map),
        brain_mask=torch.from_numpy(result.brain_mask),
        affine=np.asarray(label.affine),
        label=label.as_tensor()[0] > 0.5,
    )
    return case_row(item, result.to_json(), volumes_of_case)
