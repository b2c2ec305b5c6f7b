"""Many scans through one pipeline: a bad scan is listed and the others go on; finished scans are not done again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.engines import Evaluator, PrepareBatchExtraInput
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn
from torch.utils.data import IterableDataset, get_worker_info

from itermask3d.files.discovery import write_left_out
from itermask3d.files.errors import out_of_memory, printable
from itermask3d.files.identity import input_files
from itermask3d.files.locking import one_run
from itermask3d.files.scans import ScanError, bare_scan_errors, first_cause, list_scans
from itermask3d.files.tree import LeftOut, grouped
from itermask3d.files.writing import no_room, settle, write_atomically
from itermask3d.inference.choice import ChooseModeld, ChosenModels
from itermask3d.inference.models import Networks, load_weights
from itermask3d.inference.results import RESEARCH_USE, foreign_files
from itermask3d.inference.store import ResultStore, require_own_place

__all__ = ["ScanStream", "SegmentationRun"]

logger = logging.getLogger(__name__)


class ScanStream(IterableDataset[Any]):
    """Items one by one through a transform; a scan that cannot be used is recorded and left out.

    Args:
        source: see :func:`itermask3d.files.scans.list_scans`; searched once, when the scans are first asked for.
        transform: from item to network input.
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
                    prepared = self.transform(item | {"inputs": json.dumps(input_files(item))})
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


class SegmentationRun:
    """The whole run behind ``python -m monai.bundle run`` and ``itermask3d segment``.

    Args:
        evaluator: MONAI engine over a loader of ``dataset``.
        dataset: the scans.
        store: where results go.
        network, checkpoint: weights are loaded strictly before the first scan. Without a checkpoint the model is chosen
            scan by scan; weights of others than the preferred model are loaded when the first scan needs them.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        dataset: ScanStream,
        store: ResultStore,
        network: nn.Module,
        checkpoint: str | Path | None,
    ) -> None:
        self.evaluator = evaluator
        self.dataset = dataset
        self.store = store
        self.network = network
        self.checkpoint = checkpoint
        self.console = Console(soft_wrap=True)

    def run(self) -> None:
        """Process every scan, write ``failures.json`` where there are any, print a summary.

        Raises:
            SystemExit: with status 1 if a scan failed, 2 if nothing could start, 3 if the disk is full; the reason is
                printed.
        """
        try:
            cases = [item["case"] for item in self.dataset.items()]
            if self.checkpoint is None:
                self._choose_models()
            else:
                load_weights(self.network, self.checkpoint)
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
        """Sentence by case, of the scans that could not be used or whose result could not be made."""
        return {**self.dataset.failures, **self.store.failures}

    def _choose_models(self) -> None:
        """Put the choice behind the preprocessing, and the networks behind the inferer."""
        if self.store.models is None:
            raise ValueError("a run without weights needs a table of models to choose from")
        networks = Networks(self.network, self.store.models)
        networks[self.store.models.names[0]]
        prepare = self.dataset.transform
        choose = ChooseModeld(prepare, networks)
        self.dataset.transform = lambda item: choose(prepare(item))
        self.evaluator.inferer = ChosenModels(self.evaluator.inferer, networks)  # type: ignore[attr-defined]
        self.evaluator.prepare_batch = PrepareBatchExtraInput({"brain_mask": "brain_mask", "model": "model"})

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
        for case in done:
            result = self.store.read(case)
            if result is not None:
                percentile, p_value = result["percentile_among_normals"], result.get("p_value")
                table.add_row(
                    escape(case),
                    result["outcome"] if result.get("in_domain") is not False else f"{result['outcome']} *",
                    f"{result['volumes_ml']['anomaly']:.2f}",
                    f"{result['score']:.4f}",
                    "-" if percentile is None else f"{percentile:.0f}",
                    "-" if p_value is None else f"{p_value:.2g}",
                )
        if done:
            self.console.print(table)
            if any((self.store.read(case) or {}).get("in_domain") is False for case in done):
                self.console.print("* outside the training domain, see the warnings in its result.json: not comparable")
            self.console.print(f"{len(done)} of {len(cases)} scans done, {escape(self._used())}")
            self.console.print(f"results in {escape(printable(str(self.store.directory)))}")

    def _used(self) -> str:
        if self.checkpoint is None and self.store.models is not None:
            return f"model chosen of {', '.join(model.name for model in self.store.models.known)}"
        return f"weights {self.checkpoint}"
