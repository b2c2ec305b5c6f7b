"""Segmenters, scans that are ready, and results: what the tasks share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from itermask3d.files.literals import as_literals
from itermask3d.files.scans import ScanError, first_cause
from itermask3d.inference.models import AUTO
from itermask3d.inference.preparation import PreparedScan, Timings
from itermask3d.inference.prompts import Prompts
from itermask3d.inference.results import ScanResult
from itermask3d.inference.segmenter import Segmenter

from lib.errors import RequestError
from lib.local import with_maps_of
from lib.monitor import Monitor, Run
from lib.options import Choice
from lib.results import Results, case_name, describe

__all__ = ["Workbench"]

KEPT_SCANS = 3
"""Scans kept ready in memory."""

KEPT_OPTIONS = ("weights", "model_choice", "brain_extraction", "gamma", "min_volume_ml", "seed")
"""Options of the automatic run that a prompted run takes over."""


class Workbench:
    """Runs the bundle for the tasks of the app; one run at a time.

    Args:
        bundle_root: the bundle's folder.
        results: where answers are kept.
        monitor: the turn, and the progress.
        weights: state dicts by the name a viewer shows; ``None`` stands for the bundle's own.
    """

    def __init__(
        self,
        bundle_root: str | Path,
        results: Results,
        monitor: Monitor,
        *,
        weights: Mapping[str, Path | None],
    ) -> None:
        self.bundle_root = Path(bundle_root)
        self.results = results
        self.monitor = monitor
        self.weights = dict(weights)
        self._segmenters: dict[tuple[str, str, int], Segmenter] = {}
        self._scans: OrderedDict[tuple[Segmenter, str, str, str], PreparedScan] = OrderedDict()

    def segmenter(self, weights: str = "", brain_extraction: str = "") -> Segmenter:
        """The segmenter for some weights; loaded once, and again when training has replaced them.

        Raises:
            RequestError: with status 503 if weights or packages are missing; there are no random weights.
        """
        name = weights or next(iter(self.weights))
        path = self.weights.get(name) or self.bundle_root / "models" / "model.pt"
        files = [path, *sorted(path.parent.glob("model_*.pt"))]
        key = (name, brain_extraction, max(file.stat().st_mtime_ns if file.is_file() else 0 for file in files))
        if key not in self._segmenters:
            self._segmenters = {old: kept for old, kept in self._segmenters.items() if old[:2] != key[:2]}
            try:
                self._segmenters[key] = Segmenter(self.bundle_root, self._overrides(name, brain_extraction))
            except (ScanError, ValueError, ImportError, RuntimeError) as error:
                raise RequestError(503, f"the model cannot run: {first_cause(error)}") from error
        return self._segmenters[key]

    def problem(self) -> str:
        """Why the model cannot run; empty where it can."""
        try:
            self.segmenter()
        except RequestError as error:
            return error.message
        return ""

    def models(self) -> list[str]:
        """The models to choose from, the bundle's default first, ``auto`` among them; empty with one model alone."""
        if self.problem() or next(iter(self.weights.values())) is not None:
            return []
        table = self.segmenter().model.models
        known = [model.name for model in table.known]
        return list(dict.fromkeys((table.requested, AUTO, *known))) if len(known) > 1 else []

    def reads_other_contrasts(self, asked: Any, weights: str = "") -> bool:
        """Whether a request's ``model_choice`` means, or may come to mean, another model than the preferred one.

        Args:
            asked: as it came.
            weights: by name; those that are named answer themselves, whatever the choice.
        """
        models = self.models()
        if not models or self.weights.get(weights) is not None:
            return False
        model = self.segmenter().model
        model = model.changed(requested=Choice(models).parse("model_choice", asked)[0])
        return model.chooses or model.fixed_name not in (None, model.models.names[0])

    def prepared(self, image: str, path: str, segmenter: Segmenter, run: Run) -> PreparedScan:
        """A scan on the network's grid; kept for the next question about it.

        Raises:
            RequestError: with status 422 if the scan cannot be used.
        """
        source = Path(path)
        changed = str(source.stat().st_mtime_ns) if source.exists() else ""
        key = (segmenter, image, path, changed)  # the way back is that of the segmenter's own transforms
        if key not in self._scans:
            item = {"image": path, "case": case_name(image)}
            try:
                scan = segmenter.prepare(item, run.report)
            except ScanError as error:
                raise RequestError(422, str(error)) from error
            self._scans[key] = replace(scan, timings=Timings())  # the next answer did not wait for it
            while len(self._scans) > KEPT_SCANS:
                self._scans.popitem(last=False)
            return scan
        self._scans.move_to_end(key)
        return self._scans[key]

    def automatic(self, image: str, path: str, values: Mapping[str, Any], run: Run) -> dict[str, Any]:
        """Run the method on a whole scan, or find the answer of an equal run.

        Args:
            image: identifier in the datastore.
            path: the scan's file.
            values: ``weights``, ``brain_extraction``, ``gamma``, ``min_volume_ml``, ``seed``, ``fresh``, as read.

        Returns:
            ``params``; the mask lies in :class:`Results`.
        """
        segmenter = self.segmenter(values["weights"], values["brain_extraction"])
        if not values["fresh"] and self._is_done(image, path, values):
            self.results.back_to_automatic(image)
            return {**(self.results.params(image) or {}), "from_earlier_run": True}
        settings, min_volume_ml = _settings(values)
        scan = self.prepared(image, path, segmenter, run)
        try:
            result, timings = segmenter.segment(
                scan,
                settings=settings,
                min_volume_ml=min_volume_ml,
                model=values.get("model_choice"),
                progress=run.report,
            )
        except ScanError as error:  # weights of a model that no scan has asked for before
            raise RequestError(503, f"the model cannot run: {error}") from error
        return self._keep(image, result, timings.seconds, prompted=False, options=values)

    def ready(self, image: str, path: str, values: Mapping[str, Any], run: Run) -> tuple[dict[str, Any], PreparedScan]:
        """Make sure that a scan has an automatic result for a person to start from, whatever its options were.

        Returns:
            The options of that result, and the scan on the network's grid.
        """
        stored = self.results.options(image)
        options = {**values, **stored} if stored.get("weights") in self.weights else dict(values)
        if not self._is_done(image, path, options):
            options = dict(values)
            self.automatic(image, path, {**options, "fresh": True}, run)
        segmenter = self.segmenter(options["weights"], options["brain_extraction"])
        return options, self.prepared(image, path, segmenter, run)

    def prompted(
        self,
        image: str,
        options: Mapping[str, Any],
        scan: PreparedScan,
        prompts: Prompts,
        run: Run,
        *,
        zone: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Run the method where a person asks, with the threshold of the automatic run.

        Args:
            image: identifier in the datastore.
            options, scan: from :meth:`ready`.
            prompts: on the scan's own grid.
            zone: boolean, where the anomaly map may change; ``None`` for everywhere.

        Returns:
            ``params``; the mask lies in :class:`Results`.
        """
        findings = self.results.findings(image)
        segmenter = self.segmenter(options["weights"], options["brain_extraction"])
        try:
            result, timings = segmenter.segment(
                scan,
                prompts=prompts,
                earlier=findings,
                settings=_settings(options)[0],
                min_volume_ml=0.0,
                model=options.get("model_choice"),
                progress=run.report,
            )
        except ValueError as error:
            raise RequestError(422, str(error)) from error
        if zone is not None:
            names = ("anomaly_map", *result.evidence_maps)
            result = with_maps_of(result, {name: self.results.volume(image, name) for name in names}, zone)
        return self._keep(image, result, timings.seconds, prompted=True, options=options)

    def _is_done(self, image: str, path: str, values: Mapping[str, Any]) -> bool:
        segmenter = self.segmenter(values["weights"], values["brain_extraction"])
        store = segmenter.store_for(*_settings(values), self.results.automatic_directory, values.get("model_choice"))
        return store.is_done({"case": case_name(image), "image": path}) and self.results.params(image) is not None

    def _keep(
        self,
        image: str,
        result: ScanResult,
        seconds: Mapping[str, float],
        *,
        prompted: bool,
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        latencies = {step: round(value, 2) for step, value in seconds.items()}
        latencies["total"] = round(sum(seconds.values()), 2)
        asked = {name: options.get(name) for name in KEPT_OPTIONS}
        params = describe(
            result, image=image, series=options.get("series"), prompted=prompted, options=asked, latencies=latencies
        )
        self.results.put(image, result, params, prompted=prompted)
        return params

    def _overrides(self, weights: str, brain_extraction: str) -> dict[str, Any]:
        overrides: dict[str, Any] = {"output_dir": str(self.results.automatic_directory)}
        if self.weights.get(weights) is not None:
            overrides["ckpt_path"] = str(self.weights[weights])
        if brain_extraction:
            overrides["brain_extraction"] = brain_extraction
        return as_literals(overrides)


def _settings(values: Mapping[str, Any]) -> tuple[dict[str, Any], float | None]:
    """Fields of the refinement to change, and the smallest component; what is ``None`` is left to the bundle."""
    settings: dict[str, Any] = {}
    if values.get("gamma") is not None:
        settings["gamma"] = float(values["gamma"])
    if values.get("seed") is not None:
        settings["seed"] = int(values["seed"])
    volume = values.get("min_volume_ml")
    return settings, None if volume is None else float(volume)
