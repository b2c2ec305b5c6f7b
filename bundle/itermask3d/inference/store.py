"""The output folder of a run: which results are up to date, and what a score means beside the weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from itermask3d.files.identity import file_digest, is_unchanged, require_same_scan
from itermask3d.inference.calibration import Calibration
from itermask3d.inference.domain import Domain, DomainCheck
from itermask3d.inference.models import AUTO, Choice, ModelTable, domain_digests
from itermask3d.method.inferer import IterMaskInferer

__all__ = ["ResultStore", "require_own_place"]

logger = logging.getLogger(__name__)


UNDECISIVE = (
    "calibration_sha256",
    "domain_sha256",
    "seed",
    "brain_extraction_method",
    "mixed_precision",
    "schedule",
)
"""Settings under which a score keeps its meaning."""


class ResultStore:
    """The output folder: one folder a scan, and what makes a result up to date.

    Args:
        directory: made when the first result is written.
        inferer: its settings enter every result; those of another model are put over them by :meth:`for_model`.
        checkpoint: weights file; its digest enters every result. ``None`` where the model is chosen scan by scan: then
            calibration and domain are those of each model, and what depends on a model is asked of :meth:`for_model`.
        preprocessing: values that describe the way to the network's grid.
        calibration: what ``itermask3d calibrate`` wrote; ``None`` or an absent file leaves percentile and p-value
            out.
        domain: what ``scripts/fit_domain.py`` wrote; ``None`` or an absent file leaves scans unchecked.
        overwrite: process scans again that have an up-to-date result.
        weights_sha256: digest of weights that were loaded before; by default that of ``checkpoint`` as it is now.
        models: the models of the bundle; without them, results name no model.
        model: name of the one whose files these are; by default the table's, where ``checkpoint`` is its weights.
        changes: settings that this run changes; :meth:`for_model` puts them over those of the model.

    Attributes:
        failures: sentence by case, of the scans whose result could not be made.

    Raises:
        ValueError: if models are to be chosen from, and a calibration or a domain is given for all of them.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        inferer: IterMaskInferer,
        checkpoint: str | Path | None,
        preprocessing: Mapping[str, Any] | None = None,
        calibration: str | Path | None = None,
        domain: str | Path | None = None,
        overwrite: bool = False,
        weights_sha256: str | None = None,
        models: ModelTable | None = None,
        model: str | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        if checkpoint is None and (calibration is not None or domain is not None):
            raise ValueError(
                f"model 'auto' takes each model's own calibration and domain, got '{calibration or domain}' for all; "
                "name a model to set one"
            )
        self.weights_sha256 = weights_sha256
        self.directory = Path(directory)
        self.inferer = inferer
        self.checkpoint = checkpoint
        self.preprocessing = dict(preprocessing or {})
        self.calibration = calibration
        self.domain = domain
        self.overwrite = overwrite
        self.models = models
        self.changes = dict(changes or {})
        self.model = model or self.choice.name
        self.failures: dict[str, str] = {}
        self._stores: dict[str, ResultStore] = {}

    @property
    def choice(self) -> Choice:
        """The choice that is the same for every scan: a model that was set, or weights that were named."""
        if self.models is None or self.models.only is None or str(self.models.only.weights) != str(self.checkpoint):
            return Choice.of_weights()
        return self.models.named(self.models.requested)

    def changed(self, **values: Any) -> ResultStore:
        """The same store with other arguments; finished scans are left alone."""
        kept = ("inferer", "checkpoint", "preprocessing", "calibration", "domain", "models", "model", "changes")
        arguments = {"directory": self.directory} | {name: getattr(self, name) for name in kept} | values
        return ResultStore(**arguments)

    def for_model(self, name: str | None, weights_sha256: str | None = None) -> ResultStore:
        """The store of a model's results; itself where the model is this store's own, or none has a name.

        Args:
            name: see :class:`itermask3d.inference.models.Choice`.
            weights_sha256: digest of its weights, where they were loaded before.
        """
        if name is None or self.models is None or name == self.model:
            return self
        if name not in self._stores:
            model = self.models[name]
            files = {"checkpoint": model.weights, "calibration": model.calibration, "domain": model.domain}
            settings = replace(self.models.adapted(self.inferer.settings, name), **self.changes)
            inferer = self.inferer.with_settings(settings)
            self._stores[name] = self.changed(**files, inferer=inferer, weights_sha256=weights_sha256, model=name)
        return self._stores[name]

    @property
    def caveats(self) -> tuple[str, ...]:
        """Why no score of this model has a percentile or p-value, in sentences; none for the preferred model."""
        if self.models is None or self.model in (None, self.models.names[0]):
            return ()
        for what, path, told in (
            ("domain", self.domain, "nobody measured for which scans its score means something"),
            ("calibration", self.calibration, "its score cannot be compared with normal scans"),
        ):
            if path is None or not Path(path).is_file():
                return (f"The model '{self.model}' has no {what} file: {told}, so there is no percentile or p-value.",)
        return ()

    def folder(self, case: str) -> Path:
        """Where the files of a scan lie."""
        return self.directory / case

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What a result depends on beside the scan; read once, so that it names the weights that ran.

        Raises:
            ValueError: if the model is yet to be chosen.
        """
        if self.checkpoint is None:
            raise ValueError("model 'auto' has to look at the scan first")
        return {
            **asdict(self.inferer.settings),
            **self.preprocessing,
            "min_volume_ml": self.inferer.min_volume_ml,
            "radius_cycles_per_mm": self.inferer.radius_cycles_per_mm,
            "mixed_precision": self.inferer.mixed_precision,
            "weights_sha256": self.weights_sha256 or file_digest(self.checkpoint),
            "calibration_sha256": file_digest(self.calibration) if self.calibration else "none",
            "domain_sha256": file_digest(self.domain) if self.domain else "none",
        }

    def is_done(self, item: Mapping[str, Any]) -> bool:
        """Whether this scan has a result of the same files, settings and weights."""
        result = self.read(item["case"])
        if self.checkpoint is None:  # the model is chosen scan by scan
            name = None if self.overwrite or result is None else self._chosen_before(result)
            return name is not None and self.for_model(name).is_done(item)
        plain = json.loads(json.dumps(self.settings))
        if self.overwrite or result is None or result.get("settings") != plain:
            return False
        return is_unchanged(result.get("inputs") or {}, item)

    def _chosen_before(self, result: Mapping[str, Any]) -> str | None:
        """The model that made a result, if it would be chosen again; ``None`` where that is not known."""
        if self.models is None:
            return None
        first, told = self.models[self.models.names[0]], result.get("model") or {}
        domain = (result.get("settings") or {}).get("domain_sha256")
        if result.get("in_domain") is True and domain == file_digest(first.domain):
            return first.name
        chosen = told.get("requested") == AUTO and told.get("candidates") == domain_digests(self.models.known)
        return str(told["name"]) if chosen else None

    def applying_calibration(self) -> Calibration | None:
        """The calibration; ``None`` where there is none, or other weights or settings made its scores.

        Raises:
            ValueError: if the file is no calibration.
        """
        if self.calibration is None or not Path(self.calibration).exists():
            return None
        calibration = Calibration.read(self.calibration)
        return calibration if _decisive(calibration.settings) == _decisive(self.settings) else None

    def check_domain(self, figures: Mapping[str, float], preprocessing: Mapping[str, Any]) -> DomainCheck | None:
        """Compare a scan with the training scans.

        Args:
            figures: from :mod:`itermask3d.preprocessing.scan_features`.
            preprocessing: ``spacing_mm`` and ``bias_correction`` of the grid that they were measured on.

        Returns:
            ``None``, with a sentence in the log, without a domain or where it was fitted on another preprocessing.

        Raises:
            ValueError: if the file is no domain.
        """
        if self.domain is None or not Path(self.domain).exists():
            logger.info("no domain file '%s': no scan is compared with the training scans", self.domain)
            return None
        domain = Domain.read(self.domain)
        if any(domain.settings[key] != preprocessing[key] for key in domain.settings):
            logger.warning("not compared with the training scans: %s is for %s", self.domain, dict(domain.settings))
            return None
        return domain.check(figures)

    def read(self, case: str) -> dict[str, Any] | None:
        """The ``result.json`` of a scan; ``None`` where there is none, or a damaged one."""
        path = self.folder(case) / "result.json"
        try:
            result = json.loads(path.read_text()) if path.is_file() else None
        except (OSError, ValueError) as error:
            logger.warning("'%s' cannot be read and counts as none (%s)", path, error)
            return None
        return result if isinstance(result, dict) else None


def require_own_place(store: ResultStore, item: Mapping[str, Any]) -> None:
    """Refuse a scan whose result would take the place of another scan's.

    Raises:
        ScanError: see :func:`itermask3d.files.identity.require_same_scan`.
    """
    result = store.read(item["case"])
    if result is not None:
        require_same_scan(result.get("inputs") or {}, item, store.folder(item["case"]))


def _decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in UNDECISIVE}
