"""Results of the scans of a datastore, kept on disk: what the page, the report, a refinement and a restart need."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from filelock import FileLock
from itermask3d.files.writing import settle, write_atomically
from itermask3d.inference.overview import headline, save_overview, verdict
from itermask3d.inference.results import RESEARCH_USE, ScanResult, bounding_box, write_result
from itermask3d.method.detection import Findings
from scipy import ndimage

from lib.regions import deviations, plain_warnings, regions

__all__ = ["BANDS", "LABELS", "Results", "banded", "case_name", "describe"]

BANDS = (1.0, 2.0, 4.0)
"""Lower edges of the severity bands, in multiples of the scan's threshold."""

LABELS = {"anomaly 1 mild": 1, "anomaly 2 moderate": 2, "anomaly 3 severe": 3}
"""Segment names begin alike and sort by severity, because OHIF orders segments by name."""


def case_name(image: str) -> str:
    """A name for files: the image's own where it is one, otherwise made safe and told apart by a digest."""
    safe = re.sub(r"[^\w.-]", "_", image).lstrip(".") or "image"
    return safe if safe == image else f"{safe[:80]}-{hashlib.sha256(image.encode()).hexdigest()[:8]}"


def banded(mask: np.ndarray, anomaly_map: np.ndarray, threshold: float | None) -> np.ndarray:
    """Severity of each connected region, by its mean error in multiples of the threshold.

    Args:
        mask: boolean ``(D, H, W)``.
        anomaly_map: squared error, same grid.
        threshold: of the scan; without one every region counts as mild.

    Returns:
        uint8, 0 outside the mask, then 1 (mild), 2 (moderate) or 3 (severe).
    """
    bands = np.zeros(mask.shape, dtype=np.uint8)
    if not mask.any():
        return bands
    box = bounding_box(mask)
    regions, count = ndimage.label(mask[box], structure=np.ones((3, 3, 3)))
    severity = np.ones(count + 1, dtype=np.uint8)
    if threshold:
        means = np.asarray(ndimage.mean(anomaly_map[box], regions, np.arange(1, count + 1)))
        severity[1:] = np.clip(np.searchsorted(np.asarray(BANDS) * threshold, means, side="right"), 1, len(BANDS))
    severity[0] = 0
    bands[box] = severity[regions]
    return bands


def describe(result: ScanResult, **facts: Any) -> dict[str, Any]:
    """The ``params`` of an answer: what ``result.json`` holds, put shortly, and the severity bands."""
    data = result.to_json()
    labels = banded(result.mask, result.anomaly_map, result.findings.threshold)
    volumes = dict(data["volumes_ml"])
    for name, value in LABELS.items():
        volumes[name.split()[-1]] = float((labels == value).sum()) * result.voxel_ml
    return {
        "outcome": data["outcome"],
        "headline": headline(result),
        "verdict": verdict(result.findings, volumes["anomaly"], in_distribution=result.in_distribution),
        "score": data["score"],
        "percentile_among_normals": data["percentile_among_normals"],
        "p_value": data["p_value"],
        "in_distribution": data["in_distribution"],
        "flagged_share": data["flagged_share"],
        "threshold": data["threshold"],
        "threshold_status": data["estimate"]["status"],
        "slope_source": data["estimate"]["slope_source"],
        "step": data["estimate"]["step"],
        "fit": data["estimate"]["fit"],
        "curve": data["curve"],
        "iterations": data["iterations"],
        "converged": data["converged"],
        "volumes_ml": volumes,
        "components": regions(result, labels),
        "geometry": data["geometry"],
        "preprocessing": data["preprocessing"],
        "chosen_model": data["model"],
        "settings": data["settings"],
        "versions": data["versions"],
        "warnings": plain_warnings(result),
        "deviations": deviations(result),
        "note": RESEARCH_USE,
        "label_names": LABELS,
        **facts,
    }


class Results:
    """One folder a scan for the automatic result, and one for what a person made of it.

    Args:
        directory: made when the first result is written.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._threads = threading.Lock()

    @property
    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One writer at a time, also among processes: a batch runs in one of its own."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._threads, FileLock(self.directory / ".lock"):
            yield

    @property
    def automatic_directory(self) -> Path:
        """Where automatic results lie, a folder a scan as in a cohort's output."""
        return self.directory / "automatic"

    def folder(self, image: str) -> Path:
        """The folder of the newest result, prompted or automatic; it may not exist."""
        prompted = self.directory / "prompted" / case_name(image)
        return prompted if prompted.is_dir() else self.automatic_directory / case_name(image)

    def file(self, image: str, volume: str) -> Path:
        """The file of a volume: ``mask``, ``anomaly_map``, ``reconstruction`` or ``brain_mask``."""
        return self.folder(image) / f"{case_name(image)}_{volume}.nii.gz"

    def put(self, image: str, result: ScanResult, params: Mapping[str, Any], *, prompted: bool) -> None:
        """Write a result, whole or not at all; an automatic one replaces what a person made before."""
        with self._lock:
            folder = self.directory / ("prompted" if prompted else "automatic") / case_name(image)
            folder.parent.mkdir(parents=True, exist_ok=True)
            settle(folder)
            if not prompted:
                self._forget_guided(image)
            self._params_file(image, prompted=prompted).unlink(missing_ok=True)  # never those of another run
            write_result(result, folder, draw=save_overview)
            self._write_params(image, params, prompted=prompted)

    def back_to_automatic(self, image: str) -> None:
        """Drop what a person made of a scan; the automatic result counts again."""
        with self._lock:
            self._forget_guided(image)

    def forget(self, image: str) -> None:
        """Remove all that is kept of a scan."""
        with self._lock:
            self._forget_guided(image)
            shutil.rmtree(self.automatic_directory / case_name(image), ignore_errors=True)
            self._params_file(image, prompted=False).unlink(missing_ok=True)

    def forget_lost(self) -> None:
        """Remove what is kept of files that came with a session and are gone."""
        for path in sorted(self.directory.glob("params/*/*.json")):
            image = str(json.loads(path.read_text()).get("image", ""))
            if Path(image).is_absolute() and not Path(image).exists():
                self.forget(image)

    def params(self, image: str) -> dict[str, Any] | None:
        """What was answered last for a scan; ``None`` where nothing was."""
        prompted = self.folder(image).parent.name == "prompted"
        path = self._params_file(image, prompted=prompted)
        return json.loads(path.read_text()) if self.folder(image).is_dir() and path.is_file() else None

    def findings(self, image: str) -> Findings | None:
        """Findings of the automatic run on a scan; ``None`` where there was none."""
        path = self.automatic_directory / case_name(image) / "result.json"
        return Findings.from_json(json.loads(path.read_text())) if path.is_file() else None

    def options(self, image: str) -> dict[str, Any]:
        """Options of the automatic run on a scan; empty where there was none."""
        path = self._params_file(image, prompted=False)
        return dict(json.loads(path.read_text()).get("options", {})) if path.is_file() else {}

    def mask(self, image: str) -> np.ndarray | None:
        """The newest mask with its severity bands, uint8 in the scan's array order; ``None`` where there is none."""
        path = self.file(image, "mask")
        if not path.is_file():
            return None
        volumes = [np.asarray(nib.load(self.file(image, name)).dataobj) for name in ("mask", "anomaly_map")]
        params = self.params(image) or {}
        return banded(volumes[0] > 0, volumes[1], params.get("threshold"))

    def volume(self, image: str, name: str) -> np.ndarray | None:
        """A volume of the newest result, such as ``anomaly_map``, in the scan's array order; ``None`` without one."""
        path = self.file(image, name)
        return np.asarray(nib.load(path).dataobj) if path.is_file() else None

    def brain(self, image: str) -> np.ndarray:
        """The brain mask of the newest result, boolean; everything is brain where there is no result."""
        path = self.file(image, "brain_mask")
        return np.asarray(nib.load(path).dataobj) > 0 if path.is_file() else np.ones((1, 1, 1), dtype=bool)

    def _write_params(self, image: str, params: Mapping[str, Any], *, prompted: bool) -> None:
        path = self._params_file(image, prompted=prompted)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(json.dumps(params) + "\n", path)

    def _params_file(self, image: str, *, prompted: bool) -> Path:
        kind = "prompted" if prompted else "automatic"
        return self.directory / "params" / kind / f"{case_name(image)}.json"

    def _forget_guided(self, image: str) -> None:
        shutil.rmtree(self.directory / "prompted" / case_name(image), ignore_errors=True)
        self._params_file(image, prompted=True).unlink(missing_ok=True)
