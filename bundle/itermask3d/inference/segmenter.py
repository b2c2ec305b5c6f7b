"""One scan at a time, kept ready: for servers and notebooks, where a person asks again with another answer in mind."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from itermask3d import BUNDLE_ROOT
from itermask3d.inference.conclusion import conclude
from itermask3d.inference.model import Model, load_model
from itermask3d.inference.preparation import PreparedScan, Progress, Timings, prepare, silent, to_network_grid
from itermask3d.inference.prompts import Prompts, apply_prompts
from itermask3d.inference.results import ScanResult
from itermask3d.inference.store import ResultStore
from itermask3d.method.detection import Findings
from itermask3d.method.refinement import Thresholding
from itermask3d.method.shrink import Constraints

__all__ = ["Segmenter", "prompted_threshold"]

FALLBACK_SHARE = 0.95
"""See :func:`prompted_threshold`."""


class Segmenter:
    """A model with room for a person's prompts: :func:`prepare`, :meth:`Model.predict` and :func:`conclude`, timed.

    Args:
        bundle_root: the bundle's folder.
        overrides: config ids and values, such as ``{"settings::gamma": 0.05}``.

    Raises:
        ScanError: if the weights are missing, damaged or of another network.
        ValueError: if a setting is outside its range.
    """

    def __init__(self, bundle_root: str | Path = BUNDLE_ROOT, overrides: Mapping[str, Any] | None = None) -> None:
        self.model: Model = load_model(bundle_root, overrides=overrides)

    def prepare(self, item: Mapping[str, Any], progress: Progress | None = None) -> PreparedScan:
        """Read a scan and bring it to the network's grid; see :func:`itermask3d.inference.preparation.prepare`."""
        return prepare(item, self.model.preprocessing, progress)

    def segment(
        self,
        scan: PreparedScan,
        *,
        prompts: Prompts | None = None,
        earlier: Findings | None = None,
        settings: Mapping[str, Any] | None = None,
        min_volume_ml: float | None = None,
        model: str | None = None,
        progress: Progress | None = None,
    ) -> tuple[ScanResult, Timings]:
        """Find what does not belong, on the scan's own grid.

        Args:
            scan: from :meth:`prepare`.
            prompts: what a person says; the threshold is still the scan's own unless it is given.
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
        changed = self.model.changed(settings, min_volume_ml, model)
        prediction = changed.predict(
            scan,
            self._constraints(scan, prompts),
            thresholding=_thresholding(prompts, earlier),
            iter_callback=progress,
        )
        start = timings.add("network", start)
        (progress or silent)("writing", 0, 1)
        result = conclude(prediction, scan, changed)
        if prompts is not None:
            result = apply_prompts(result, prompts)
        timings.add("resampling", start)
        return result, timings

    def to_network(self, mask: np.ndarray, scan: PreparedScan) -> torch.Tensor:
        """Bring a mask from the scan's own grid to the network's; see :func:`to_network_grid`."""
        return to_network_grid(mask, scan, self.model.device)

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
        return ResultStore(directory, self.model.changed(settings, min_volume_ml, model))

    def _constraints(self, scan: PreparedScan, prompts: Prompts | None) -> Constraints | None:
        if prompts is None:
            return None
        masks = [
            None if mask is None else self.to_network(mask, scan)
            for mask in (prompts.roi, prompts.include, prompts.exclude)
        ]
        return Constraints(*masks)


def _thresholding(prompts: Prompts | None, earlier: Findings | None) -> Thresholding | None:
    if earlier is None:
        return None
    threshold = float("inf") if earlier.threshold is None else earlier.threshold
    if prompts is not None:
        threshold = prompted_threshold(earlier) if prompts.threshold is None else prompts.threshold
    curves = torch.tensor([earlier.curve], dtype=torch.float64)
    return Thresholding(curves, (earlier.estimate,), (threshold,))


def prompted_threshold(earlier: Findings) -> float:
    """Error above which a voxel is anomalous where a person asks: the scan's own threshold, or what stands in for it.

    A scan without a threshold agreed with its reconstruction as a whole; a person who asks about a place of it all the
    same is answered by the error that 95 % of its brain did not exceed in the sweep. Infinite where the curve is
    unusable.
    """
    if earlier.threshold is not None:
        return earlier.threshold
    finite = [value for value in earlier.curve if np.isfinite(value)]
    return float(np.quantile(finite, FALLBACK_SHARE)) if finite else float("inf")
