"""Training on the datastore's normal scans, scoring of what was reviewed, and which scan to look at next."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from itermask3d.files.identity import file_digest
from itermask3d.files.literals import as_literal
from itermask3d.files.scans import ScanError, scan_error
from itermask3d.files.writing import write_atomically
from monai.bundle import ConfigWorkflow
from monai.metrics import compute_dice
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from lib.errors import RequestError
from lib.options import Choice, Number, Option, declare, read
from lib.results import Results

__all__ = ["DiceScore", "MostSuspicious", "NormalTrainer", "SuspicionScore", "is_normal"]

logger = logging.getLogger(__name__)

MIN_NORMALS = 4


def is_normal(datastore: Datastore, image: str) -> bool | None:
    """What a person said about a scan: normal (reviewed, nothing marked), not normal, or ``None``: not reviewed."""
    if not datastore.get_label_by_image_id(image, DefaultLabelTag.FINAL):
        return None
    info = datastore.get_label_info(image, DefaultLabelTag.FINAL)
    if "empty" in info:
        return bool(info["empty"])
    return not np.asarray(nib.load(datastore.get_label_uri(image, DefaultLabelTag.FINAL)).dataobj).any()


class NormalTrainer(TrainTask):
    """Train the bundle's network on the datastore's normal scans, which need no label.

    MONAI Label's own list for training holds labelled scans only; here a scan counts as normal when a person saved an
    empty mask for it, or, on request, as long as nobody marked anything in it. Training goes on where it was stopped.
    The new weights are offered beside the bundle's own and are never used unasked: they are not calibrated.

    Args:
        bundle_root: the bundle's folder.
        directory: for checkpoints and ``progress.json``.
        weights: where the best weights go, whole or not at all.
    """

    options: Mapping[str, Option] = {
        "scans": Choice(["reviewed as normal", "not marked by anybody"]),
        "epochs": Number(10, 1, 5000),
        "batch_size": Number(2, 1, 64),
    }

    def __init__(self, bundle_root: str | Path, directory: Path, weights: Path) -> None:
        super().__init__("Trains on the scans that were reviewed as normal (saved with an empty mask)")
        self.bundle_root = Path(bundle_root)
        self.directory = directory
        self.weights = weights

    def config(self) -> dict[str, Any]:
        """Options as ``/info`` shows them."""
        return declare(self.options)

    def stats(self) -> dict[str, Any]:
        """Progress of the last training: epoch, epochs, loss, validation, whether it ended."""
        path = self.directory / "progress.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, and publish the best weights.

        Raises:
            RequestError: if there are too few normal scans or one cannot be used.
        """
        values, remarks = read(self.options, request)
        for remark in remarks:
            logger.warning(remark)
        scans = self._scans(datastore, values["scans"])
        logger.info("training on %d normal scans, %d epochs", len(scans), values["epochs"])
        try:
            self._train(scans, epochs=int(values["epochs"]), batch_size=int(values["batch_size"]))
        except (ScanError, ValueError, RuntimeError) as error:
            raise RequestError(422, f"training is not possible: {scan_error(error) or error}") from error
        best = self.directory / "best.pt"
        self.weights.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(best.read_bytes(), self.weights)
        (self.directory / "last.pt").unlink(missing_ok=True)  # it ended: the next training starts anew
        self._note(ended=True, scans=len(scans), weights_sha256=file_digest(self.weights))
        return {"scans": len(scans), "weights": self.weights.name, **self.stats()}

    def _scans(self, datastore: Datastore, which: str) -> list[str]:
        listed = datastore.list_images()
        unsure = set(listed) - set(datastore.get_labeled_images()) if which != "reviewed as normal" else set()
        said = {image: is_normal(datastore, image) for image in listed}
        images = [image for image in listed if said[image] or (said[image] is None and image in unsure)]
        if len(images) < MIN_NORMALS:
            raise RequestError(
                422,
                f"{len(images)} scans are {which}; expected {MIN_NORMALS} or more; save empty masks for normal scans",
            )
        return [str(datastore.get_image_uri(image)) for image in sorted(images)]

    def _train(self, scans: list[str], *, epochs: int, batch_size: int) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._start_anew_on_other_scans(scans)
        workflow = ConfigWorkflow(
            config_file=str(self.bundle_root / "configs" / "train.json"),
            meta_file=str(self.bundle_root / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="train",
            dataset_dir=as_literal(scans),
            split_file=None,
            output_dir=as_literal(str(self.directory)),
            epochs=epochs,
            batch_size=batch_size,
            val_interval=min(2, epochs),
        )
        workflow.initialize()
        trainer: Engine = workflow.parser.get_parsed_content("train::trainer")
        validator: Engine = workflow.parser.get_parsed_content("validate::evaluator")
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._progress(trainer, validator, epochs))
        workflow.run()
        workflow.finalize()

    def _start_anew_on_other_scans(self, scans: list[str]) -> None:
        """A stopped training goes on only on the same scans: with others, its split would be another one."""
        listed, text = self.directory / "scans.txt", "\n".join(scans) + "\n"
        if not listed.is_file() or listed.read_text() != text:
            (self.directory / "last.pt").unlink(missing_ok=True)
        write_atomically(text, listed)

    def _progress(self, trainer: Engine, validator: Engine, epochs: int) -> Callable[[], None]:
        def write() -> None:
            loss = trainer.state.output[0]["loss"]
            metrics = {name: float(value) for name, value in validator.state.metrics.items()}
            self._note(epoch=trainer.state.epoch, epochs=epochs, loss=float(loss), validation=metrics, ended=False)
            logger.info("epoch %d of %d, loss %.4f", trainer.state.epoch, epochs, float(loss))

        return write

    def _note(self, **facts: Any) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(json.dumps({**self.stats(), **facts}) + "\n", self.directory / "progress.json")


class SuspicionScore(ScoringMethod):
    """Collect the anomaly scores of the scans that were run, into the datastore's information on each image."""

    def __init__(self, results: Results) -> None:
        super().__init__("Collects outcome, score and percentile of every scan that was run")
        self.results = results

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Scores by image; scans that were not run yet are named under ``not_run``."""
        scores, missing = {}, []
        for image in datastore.list_images():
            params = self.results.params(image)
            if params is None:
                missing.append(image)
                continue
            scores[image] = {name: params[name] for name in ("outcome", "score", "percentile_among_normals")}
            if datastore.get_image_info(image):
                datastore.update_image_info(image, {"itermask3d": scores[image]})
        return {"scores": scores, "not_run": missing}


class DiceScore(ScoringMethod):
    """Dice of what the model found against what a person saved; 1 where both are empty."""

    def __init__(self) -> None:
        super().__init__("Dice of the automatic mask against the reviewed one; 1 where both are empty")

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Dice by image, for the scans that have both."""
        scores = {}
        for image in datastore.list_images():
            tags = datastore.get_labels_by_image_id(image)
            if {DefaultLabelTag.FINAL, DefaultLabelTag.ORIGINAL} <= set(tags):
                scores[image] = self._dice(datastore, image)
                datastore.update_image_info(image, {"dice": scores[image]})
        return scores

    def _dice(self, datastore: Datastore, image: str) -> float:
        final, original = (
            torch.from_numpy(np.asarray(nib.load(datastore.get_label_uri(image, tag)).dataobj) > 0)[None, None]
            for tag in (DefaultLabelTag.FINAL, DefaultLabelTag.ORIGINAL)
        )
        if not final.any() and not original.any():
            return 1.0
        return float(compute_dice(original, final, include_background=True, ignore_empty=False))


class MostSuspicious(Strategy):
    """Offer the unreviewed scan with the highest score; those that were not run come after, in order of name.

    A scan that was offered and not saved comes back after all others were offered. OHIF's and Slicer's "Next Sample"
    ask for a strategy called ``random``, so this one is registered under that name too.
    """

    def __init__(self, results: Results) -> None:
        super().__init__(
            "The most suspicious unreviewed scan first (also under the name random, which viewers ask for)"
        )
        self.results = results

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """``id`` of the scan and its score; ``None`` where everything was reviewed."""
        images = datastore.get_unlabeled_images()
        if not images:
            return None
        name = str(request.get("strategy") or "")
        order = sorted(images, key=lambda image: (self._offered(datastore, image, name), -self.score(image), image))
        chosen = next((image for image in order if not self._unfit(datastore, image)), None)
        if chosen is None:
            return None
        score = self.score(chosen)
        return {"id": chosen, "score": score if math.isfinite(score) else None}

    @staticmethod
    def _unfit(datastore: Datastore, image: str) -> bool:
        """Whether a closer look finds that a scan does not suit; a list alone does not tell everything."""
        try:
            return bool(datastore.obstacle(image))
        except RequestError as error:
            logger.warning("'%s' is not offered: %s", image, error.message)
            return error.status != 503

    def score(self, image: str) -> float:
        """The score of a scan, minus infinity where it was not run."""
        params = self.results.params(image)
        return -math.inf if params is None or params["score"] is None else float(params["score"])

    @staticmethod
    def _offered(datastore: Datastore, image: str, name: str) -> int:
        shown = datastore.get_image_info(image).get("strategy", {})
        return int(shown.get(name, {}).get("ts", 0)) if isinstance(shown, Mapping) else 0
