"""Many scans through one pipeline: a bad scan is listed and the others go on; finished scans are not done again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from monai.engines import Evaluator, IterationEvents
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch.utils.data import IterableDataset, get_worker_info

from itermask3d.files.discovery import write_left_out
from itermask3d.files.errors import out_of_memory, printable
from itermask3d.files.locking import one_run
from itermask3d.files.scans import ScanError, bare_scan_errors, first_cause, list_scans
from itermask3d.files.tree import LeftOut, grouped
from itermask3d.files.writing import no_room, settle, write_atomically
from itermask3d.inference.conclusion import conclude
from itermask3d.inference.model import Model
from itermask3d.inference.models import Choice
from itermask3d.inference.overview import save_overview
from itermask3d.inference.preparation import PreparedScan
from itermask3d.inference.results import RESEARCH_USE, ScanResult, foreign_files, write_result
from itermask3d.inference.store import ResultStore, require_own_place

__all__ = ["ScanStream", "SegmentBatch", "SegmentationRun"]

logger = logging.getLogger(__name__)


class ScanStream(IterableDataset[Any]):
    """Items one by one through a transform; a scan that cannot be used is recorded and left out.

    Args:
        source: see :func:`itermask3d.files.scans.list_scans`; searched once, when the scans are first asked for.
        transform: from item to what the network is given, such as :func:`itermask3d.inference.preparation.prepare`.
        store: scans that are done there are not processed again.
        brain_mask_dir, label_dir: see :func:`itermask3d.files.scans.list_scans`.

    Attributes:
        failures: sentence by case, of the scans that could not be used.
        finished: cases that were done before.
        left_out: what lies in a folder and is no scan.
    """

    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        transform: Callable[[dict[str, Any]], Any],
        *,
        store: ResultStore | None = None,
        brain_mask_dir: str | Path | None = None,
        label_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.transform = transform
        self.source = source
        self.store = store
        self.brain_mask_dir = brain_mask_dir
        self.label_dir = label_dir
        self.failures: dict[str, str] = {}
        self.finished: list[str] = []
        self.left_out: list[LeftOut] = []
        self._items: list[dict[str, Any]] | None = None

    def items(self) -> list[dict[str, Any]]:
        """The listed scans.

        Raises:
            ScanError: see :func:`itermask3d.files.scans.list_scans`.
        """
        if self._items is None:
            self.left_out.clear()
            self._items = list_scans(
                self.source,
                brain_mask_dir=self.brain_mask_dir,
                label_dir=self.label_dir,
                left_out=self.left_out.append,
            )
        return self._items

    def __iter__(self) -> Iterator[Any]:
        if get_worker_info() is not None:
            raise ValueError("a stream of scans needs a loader without workers, got num_workers above 0")
        items = self.items()
        for number, item in enumerate(items, start=1):
            case = item["case"]
            try:
                if self._is_done(item):
                    logger.info("scan %d of %d, %s: done before", number, len(items), case)
                    self.finished.append(case)
                    continue
                logger.info("scan %d of %d, %s", number, len(items), case)
                with bare_scan_errors():
                    prepared = self.transform(item)
            except ScanError as reason:
                self._fail(case, printable(str(reason)))
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                name = printable(str(item["image"]))
                self._fail(case, f"'{name}' needs more memory than there is; expected a smaller scan")
            else:
                yield prepared

    def _fail(self, case: str, reason: str) -> None:
        logger.error("%s: %s", case, reason)
        self.failures[case] = reason

    def _is_done(self, item: Mapping[str, Any]) -> bool:
        if self.store is None:
            return False
        require_own_place(self.store, item)
        return self.store.is_done(item)


class SegmentBatch:
    """One step of MONAI's engine: predict, conclude and write each scan of a batch.

    For ``iteration_update`` of an :class:`monai.engines.Evaluator` with ``decollate=False``: the batch is a list of
    :class:`PreparedScan`, the output a list of :class:`ScanResult`, both as they are when the iteration is completed.

    Args:
        model: with which the scans were prepared.
        store: where results go.
        overview: draw ``overview.png``.

    Attributes:
        records: what ``result.json`` holds, by case, of every scan of the run.
        failures: sentence by case, of the scans whose network could not be loaded; they are taken out of the batch.
    """

    def __init__(self, model: Model, store: ResultStore, overview: bool = True) -> None:
        self.model = model
        self.store = store
        self.draw = save_overview if overview else None
        self.records: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, str] = {}

    def __call__(self, engine: Engine, batch: list[PreparedScan]) -> list[ScanResult]:
        choices = {scan.case: choice for scan in batch if (choice := self._choice(scan)) is not None}
        scans = [scan for scan in batch if scan.case in choices]
        engine.state.batch = scans  # type: ignore[assignment]
        predictions = self.model.predict_batch(scans, list(choices.values()))
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        results = [conclude(found, scan, self.model) for found, scan in zip(predictions, scans, strict=True)]
        for result in results:
            write_result(result, self.store.folder(result.case), draw=self.draw)
            self.records[result.case] = result.to_json()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return results

    def _choice(self, scan: PreparedScan) -> Choice | None:
        try:
            return self.model.choose(scan)
        except ScanError as reason:
            logger.error("%s: %s", scan.case, reason)
            self.failures[scan.case] = str(reason)
            return None


class SegmentationRun:
    """The whole run behind ``python -m monai.bundle run`` and ``itermask3d segment``.

    Args:
        evaluator: MONAI engine over a loader of ``dataset``, which updates by ``batch``.
        dataset: the scans.
        batch: the step of the engine; its model's weights are loaded strictly before the first scan, those of others
            than the preferred network when the first scan needs them.
    """

    def __init__(self, evaluator: Evaluator, dataset: ScanStream, batch: SegmentBatch) -> None:
        self.evaluator = evaluator
        self.dataset = dataset
        self.batch = batch
        self.store = batch.store
        self.console = Console(soft_wrap=True)

    def run(self) -> None:
        """Process every scan, write ``failures.json`` where there are any, print a summary.

        Raises:
            SystemExit: with status 1 if a scan failed, 2 if nothing could start, 3 if the disk is full; the reason is
                printed.
        """
        try:
            cases = [item["case"] for item in self.dataset.items()]
            self.batch.model.load()
            self._make_folder()
            with one_run(self.store.directory):
                self._prepare_folder(cases)
                self._run()
        except ScanError as error:
            self.console.print(f"[red]error:[/red] {escape(printable(str(error)))}", highlight=False)
            raise SystemExit(2) from error
        self._summarise(cases)
        if self.failures:
            raise SystemExit(1)

    def _run(self) -> None:
        try:
            self.evaluator.run()
        except Exception as error:
            if not no_room(first_cause(error)):
                raise
            reason = f"the disk is full ({first_cause(error)}); finished scans stay, and the same command goes on"
            self.console.print(f"[red]stopped:[/red] {escape(reason)}", highlight=False)
            raise SystemExit(3) from error
        finally:
            self._record_failures()

    @property
    def failures(self) -> dict[str, str]:
        """Sentence by case, of the scans without a result."""
        return self.dataset.failures | self.batch.failures

    def record(self, case: str) -> dict[str, Any] | None:
        """What ``result.json`` of a scan holds; ``None`` where it has no result."""
        return None if case in self.failures else self.batch.records.get(case) or self.store.read(case)

    def _make_folder(self) -> None:
        folder = self.store.directory
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically("", folder / ".probe")
            (folder / ".probe").unlink()
        except OSError as error:
            raise ScanError(
                f"results cannot be written to '{folder}' ({error.strerror}); expected an output folder with room"
            ) from error

    def _prepare_folder(self, cases: Sequence[str]) -> None:
        for case in cases:
            folder = self.store.folder(case)
            foreign = foreign_files(folder, case)
            if foreign:
                raise ScanError(
                    f"'{folder}' holds files of others ({foreign[0]} …); expected a folder for results only"
                )
        for case in cases:
            settle(self.store.folder(case))
        write_left_out(self.dataset.left_out, self.store.directory)
        for line in grouped(self.dataset.left_out):
            self.console.print(escape(printable(line)), highlight=False)

    def _record_failures(self) -> None:
        path = self.store.directory / "failures.json"
        if not self.failures:
            path.unlink(missing_ok=True)
            return
        for case, reason in self.failures.items():
            self.console.print(f"[red]failed:[/red] {escape(printable(f'{case}: {reason}'))}", highlight=False)
        try:
            write_atomically(json.dumps(self.failures, indent=1) + "\n", path)
        except OSError as error:
            logger.error("'%s' cannot be written (%s)", path, error.strerror)

    def _summarise(self, cases: Sequence[str]) -> None:
        table = Table(title="IterMask3D", caption=RESEARCH_USE)
        for name, justify in (("scan", "left"), ("outcome", "left"), ("flagged ml", "right"), ("score", "right")):
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for name in ("above % of normals", "p"):
            table.add_column(name, justify="right")
        done = [case for case in cases if case not in self.failures]
        records = {case: record for case in done if (record := self.record(case)) is not None}
        for case, result in records.items():
            percentile, p_value = result["percentile_among_normals"], result.get("p_value")
            table.add_row(
                escape(case),
                result["outcome"] if result.get("in_distribution") is not False else f"{result['outcome']} *",
                f"{result['volumes_ml']['anomaly']:.2f}",
                f"{result['score']:.4f}",
                "-" if percentile is None else f"{percentile:.0f}",
                "-" if p_value is None else f"{p_value:.2g}",
            )
        if done:
            self.console.print(table)
            if any(result.get("in_distribution") is False for result in records.values()):
                self.console.print("* out-of-distribution, see the warnings in its result.json: not comparable")
            self.console.print(f"{len(done)} of {len(cases)} scans done, {escape(self._used())}")
            self.console.print(f"results in {escape(printable(str(self.store.directory)))}")

    def _used(self) -> str:
        model = self.batch.model
        if model.chooses:
            return f"model chosen of {', '.join(known.name for known in model.models.known)}"
        return f"weights {model.variant(model.fixed_name).weights}"
