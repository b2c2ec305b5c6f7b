"""One scan at a time, kept ready: for servers and notebooks, where a person asks again with another answer in mind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import SpatialResample

from itermask3d import BUNDLE_ROOT
from itermask3d.files.identity import file_digest, input_files
from itermask3d.files.literals import as_literal
from itermask3d.files.scans import bare_scan_errors
from itermask3d.inference.choice import ChooseModeld
from itermask3d.inference.guidance import Guidance, apply_guidance
from itermask3d.inference.models import Choice, ModelTable, Networks, load_weights
from itermask3d.inference.postprocessing import SaveResultd, inference_postprocessing
from itermask3d.inference.results import ScanResult
from itermask3d.inference.store import ResultStore
from itermask3d.method.detection import Findings
from itermask3d.method.inferer import IterMaskInferer
from itermask3d.method.refinement import Thresholding
from itermask3d.method.settings import RefinementSettings
from itermask3d.method.shrink import Constraints
from itermask3d.preprocessing.brain_extraction import BrainMaskd

__all__ = ["PreparedScan", "Segmenter", "Timings", "guided_threshold"]

Progress = Callable[[str, int, int], None]
"""``(phase, done, total)``; phases are ``reading``, ``brain extraction``, ``sweep``, ``shrink``, ``writing``."""

FALLBACK_SHARE = 0.95
"""See :func:`guided_threshold`."""


@dataclass
class Timings:
    """Seconds spent on one scan, by step."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, step: str, since: float) -> float:
        """Charge the time since ``since`` to a step; return the time now."""
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - since
        return now


@dataclass(frozen=True)
class PreparedScan:
    """A scan on the network's grid with the way back.

    Attributes:
        sample: what the preprocessing made of it.
        shape, affine: of the scan's own grid.
        timings: of the preparation.
    """

    sample: Mapping[str, Any]
    shape: tuple[int, ...]
    affine: np.ndarray
    timings: Timings


class Segmenter:
    """The bundle's inference for one scan, with weights loaded once and room for a person's guidance.

    Everything comes from ``configs/inference.json`` of the bundle: preprocessing, network, inferer, calibration and
    models. With its ``model`` set to ``auto`` each scan gets the model whose domain it lies in; weights of others than
    the preferred one are loaded when a scan first needs them.

    Args:
        bundle_root: the bundle's folder.
        overrides: config ids and values, such as ``{"settings::gamma": 0.05}``.

    Raises:
        ScanError: if the weights are missing, damaged or of another network.
        ValueError: if a setting is outside its range.
    """

    def __init__(self, bundle_root: str | Path = BUNDLE_ROOT, overrides: Mapping[str, Any] | None = None) -> None:
        parser = ConfigParser()
        parser.read_config(str(Path(bundle_root) / "configs" / "inference.json"))
        parser["bundle_root"] = as_literal(str(bundle_root))
        for key, value in (overrides or {}).items():
            parser[key] = value
        self.preprocessing = parser.get_parsed_content("preprocessing")
        self.inferer: IterMaskInferer = parser.get_parsed_content("inferer")
        self.settings: RefinementSettings = parser.get_parsed_content("settings")
        self.store: ResultStore = parser.get_parsed_content("store")
        self.network: torch.nn.Module = parser.get_parsed_content("network")
        self.device: torch.device = parser.get_parsed_content("device")
        self.models: ModelTable = (
            parser.get_parsed_content("models") if "models" in parser else ModelTable(Path(bundle_root) / "models")
        )
        self._networks = Networks(self.network, self.models)
        self._weights_sha256: str | None = None
        checkpoint = parser.get_parsed_content("ckpt_path")
        if checkpoint is None or self.store.model is not None:
            self._networks[self.store.model or self.models.names[0]]
        else:
            self._weights_sha256 = file_digest(checkpoint)  # of the weights that run, whatever becomes of the file
            load_weights(self.network, checkpoint)
            self.network.eval()
        self._postprocessing = inference_postprocessing(self.preprocessing, None)
        self._results = SaveResultd(self.store, picture=False)

    def prepare(self, item: Mapping[str, Any], progress: Progress | None = None) -> PreparedScan:
        """Read a scan and bring it to the network's grid.

        Args:
            item: ``image`` (path), ``case`` and, optionally, ``brain_mask`` (path), as
                :func:`itermask3d.files.scans.list_scans` gives them.
            progress: told the phase.

        Raises:
            ScanError: if the scan cannot be used.
        """
        report, timings = progress or _silent, Timings()
        sample: Any = {**item, "inputs": json.dumps(input_files(item))}
        shape: tuple[int, ...] = ()
        affine = np.eye(4)
        report("reading", 0, 1)
        for transform in self.preprocessing.transforms:
            brain_extraction = isinstance(transform, BrainMaskd)
            if brain_extraction:
                shape, affine = tuple(sample["image"].shape[1:]), np.asarray(sample["image"].affine, dtype=float)
                report("brain extraction", 0, 1)
            start = time.perf_counter()
            with bare_scan_errors():
                sample = transform(sample)
            timings.add("brain_extraction" if brain_extraction else "reading", start)
        return PreparedScan(sample, shape, affine, timings)

    @torch.no_grad()
    def segment(
        self,
        scan: PreparedScan,
        *,
        guidance: Guidance | None = None,
        earlier: Findings | None = None,
        settings: Mapping[str, Any] | None = None,
        min_volume_ml: float | None = None,
        model: str | None = None,
        progress: Progress | None = None,
    ) -> tuple[ScanResult, Timings]:
        """Find what does not belong, on the scan's own grid.

        Args:
            scan: from :meth:`prepare`.
            guidance: what a person says; the threshold is still the scan's own unless it is given.
            earlier: findings of an automatic run on this scan with the same settings; saves the sweep.
            settings: fields of :class:`itermask3d.method.settings.RefinementSettings` to change for this run.
            min_volume_ml: connected components below this are dropped; ``None`` for the bundle's value.
            model: a name, or ``auto``; ``None`` for the bundle's. Without effect where weights were named.
            progress: told phase, iterations done and iterations at most.

        Returns:
            The result, and the seconds that its steps took.

        Raises:
            ValueError: if a setting is outside its range, a mask lies on another grid, or there is no such model.
            ScanError: if the weights of the model are missing, damaged or of another network.
        """
        timings = Timings(dict(scan.timings.seconds))
        start = time.perf_counter()
        choice = self._choice(scan, model)
        inferer = self._inferer(choice.name, settings or {}, min_volume_ml)
        network = self.network if choice.name is None else self._networks[choice.name]
        store = self._store(choice.name, settings or {}, min_volume_ml, self.store.directory)
        predicted = inferer(
            scan.sample["image"][None].to(self.device),
            network,
            scan.sample["brain_mask"][None].to(self.device),
            constraints=self._constraints(scan, guidance),
            thresholding=self._thresholding(guidance, earlier),
            iter_callback=progress,
        )
        start = timings.add("network", start)
        (progress or _silent)("writing", 0, 1)
        result = self._result(scan, predicted, choice, store)
        if guidance is not None:
            result = apply_guidance(result, guidance)
        timings.add("resampling", start)
        return result, timings

    def _result(
        self, scan: PreparedScan, predicted: Mapping[str, Any], choice: Choice, store: ResultStore
    ) -> ScanResult:
        """What the inferer found, on the scan's own grid."""
        chosen = {"model": json.dumps(choice.to_json())}
        pred = {name: value[0] for name, value in predicted.items()}
        sample = self._postprocessing({**scan.sample, **chosen, "pred": pred})
        return self._results.result(sample, store)

    def to_network(self, mask: np.ndarray, scan: PreparedScan) -> torch.Tensor:
        """Bring a mask from the scan's own grid to the network's.

        Args:
            mask: boolean ``(D, H, W)`` on the scan's grid.

        Returns:
            Boolean ``(1, 1, *grid)`` on the segmenter's device.

        Raises:
            ValueError: if the mask has another shape than the scan.
        """
        if mask.shape != scan.shape:
            raise ValueError(f"a mask has shape {mask.shape}; expected the scan's {scan.shape}")
        grid: MetaTensor = scan.sample["image"]
        volume = MetaTensor(torch.from_numpy(mask.astype(np.float32))[None], affine=torch.from_numpy(scan.affine))
        resample = SpatialResample(mode="bilinear", padding_mode="zeros", align_corners=True)
        moved = resample(volume, dst_affine=grid.affine, spatial_size=grid.shape[1:])
        return (torch.as_tensor(moved)[None] >= 0.5).as_subclass(torch.Tensor).to(self.device)

    def _inferer(self, name: str | None, settings: Mapping[str, Any], min_volume_ml: float | None) -> IterMaskInferer:
        own = self.inferer.settings if name is None else self.models.adapted(self.settings, name)
        inferer = self.inferer.with_settings(replace(own, **settings))
        if min_volume_ml is not None:
            inferer.min_volume_ml = min_volume_ml
        return inferer

    def store_for(
        self,
        settings: Mapping[str, Any],
        min_volume_ml: float | None,
        directory: str | Path,
        model: str | None = None,
    ) -> ResultStore:
        """A store that knows whether a result of a run with these settings and this model lies in a folder.

        Raises:
            ValueError: if there is no such model.
        """
        if self._weights_sha256 is not None:
            return self._store(None, settings, min_volume_ml, directory)
        fixed = self.models.fixed(self._requested(model))
        if fixed is not None:
            return self._store(fixed.name, settings, min_volume_ml, directory)
        files = dict.fromkeys(("checkpoint", "calibration", "domain", "model"))
        inferer = self._inferer(None, {}, min_volume_ml).with_settings(self.settings)
        return self.store.changed(directory=directory, inferer=inferer, changes=settings, **files)

    def _store(
        self, name: str | None, settings: Mapping[str, Any], min_volume_ml: float | None, directory: str | Path
    ) -> ResultStore:
        if name is None or name == self.store.model:
            inferer = self._inferer(name, settings, min_volume_ml)
            digest = self._weights_sha256 if name is None else self._networks.digests.get(name)
            return self.store.changed(directory=directory, inferer=inferer, weights_sha256=digest)
        plain = self._inferer(None, {}, min_volume_ml).with_settings(self.settings)
        store = self.store.changed(directory=directory, inferer=plain, changes=settings)
        return store.for_model(name, self._networks.digests.get(name))

    def _requested(self, model: str | None) -> str:
        return self.models.requested if model is None else self.models.checked(model)

    def _choice(self, scan: PreparedScan, model: str | None) -> Choice:
        if self._weights_sha256 is not None:
            return Choice.of_weights()
        requested = self._requested(model)
        if self.models.fixed(requested) is not None:
            return self.models.named(requested)
        chosen = ChooseModeld(self.preprocessing, self._networks)(scan.sample)
        return Choice.from_json(json.loads(chosen["model"]))

    def _constraints(self, scan: PreparedScan, guidance: Guidance | None) -> Constraints | None:
        if guidance is None:
            return None
        masks = [
            None if mask is None else self.to_network(mask, scan)
            for mask in (guidance.region, guidance.suspicious, guidance.normal)
        ]
        return Constraints(*masks)

    @staticmethod
    def _thresholding(guidance: Guidance | None, earlier: Findings | None) -> Thresholding | None:
        if earlier is None:
            return None
        threshold = float("inf") if earlier.threshold is None else earlier.threshold
        if guidance is not None:
            threshold = guided_threshold(earlier) if guidance.threshold is None else guidance.threshold
        curves = torch.tensor([earlier.curve], dtype=torch.float64)
        return Thresholding(curves, (earlier.estimate,), (threshold,))


def guided_threshold(earlier: Findings) -> float:
    """Error above which a voxel is anomalous where a person asks: the scan's own threshold, or what stands in for it.

    A scan without a threshold agreed with its reconstruction as a whole; a person who asks about a place of it all the
    same is answered by the error that 95 % of its brain did not exceed in the sweep. Infinite where the curve is
    unusable.
    """
    if earlier.threshold is not None:
        return earlier.threshold
    finite = [value for value in earlier.curve if np.isfinite(value)]
    return float(np.quantile(finite, FALLBACK_SHARE)) if finite else float("inf")


def _silent(phase: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
