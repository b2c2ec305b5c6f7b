"""Several methods over the same scans, each into its own folder; what is done already is not done again.

A method's folder holds ``results/<case>/`` (what :func:`itermask3d.inference.results.write_result` writes, for every
method), ``calibration.json`` (its metrics on normal calibration scans) and ``method.json`` (what it is).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from tqdm import tqdm

from itermask3d import BUNDLE_ROOT
from itermask3d.evaluation.baselines import Baseline, CalibrationMap, decide, threshold_for_share
from itermask3d.files.identity import file_digest, input_files, is_unchanged
from itermask3d.files.literals import as_literal
from itermask3d.files.plain import as_json_values
from itermask3d.files.scans import ScanError, voxel_volume_ml
from itermask3d.files.writing import replaced_folder, save_nifti, settle, write_atomically
from itermask3d.inference.model import Model, load_model
from itermask3d.inference.preparation import PreparedScan, prepare
from itermask3d.inference.results import RESEARCH_USE, VOLUMES, versions
from itermask3d.preprocessing.measure import on_own_grid

__all__ = [
    "BaselineRun",
    "BundleParts",
    "normalised_scan",
    "read_normalised",
    "require_disjoint",
    "run_bundle",
    "weights_digest",
]

logger = logging.getLogger(__name__)


METRICS = ("score", "flagged_share", "mean_error", "error_p99")
"""Metrics of a scan that need no ground truth; each can serve as its score."""


def run_bundle(
    source: str | Path,
    method: Path,
    *,
    overlays: Sequence[str | Path] = (),
    calibration: str | Path | None = None,
    bundle_root: str | Path = BUNDLE_ROOT,
) -> None:
    """Run the bundle's ``evaluate`` workflow, changed by overlays, over the scans and over the calibration scans.

    Args:
        source: list of scans, see :func:`itermask3d.files.scans.list_scans`.
        method: folder of the method.
        overlays: JSON files of config ids and values over ``inference.json`` and ``evaluate.json``.
        calibration: list of normal scans.
        bundle_root: the bundle's folder.

    Raises:
        ScanError: if the run could not start.
    """
    configs = [f"{bundle_root}/configs/{name}.json" for name in ("inference", "evaluate")]
    for part, scans in (("results", source), ("calibration", calibration)):
        if scans is None:
            continue
        parser = ConfigParser()
        parser.read_config([*configs, *map(str, overlays)])
        parser["bundle_root"], parser["dataset_dir"] = as_literal(str(bundle_root)), as_literal(str(scans))
        parser["output_dir"], parser["picture"] = as_literal(str(method / part)), False
        parser["handlers"] = []  # metrics of all methods are taken from disk in the same way, once
        try:
            parser.get_parsed_content("segmentation").run()
        except SystemExit as stop:
            if stop.code != 1:  # 1: a scan failed, which failures.json records
                raise ScanError(f"method '{method.name}' could not start, see the error above") from stop
    done = next(iter(sorted(method.glob("results/*/result.json"))), None)
    settings = json.loads(done.read_text())["settings"] if done else {}
    changed = [json.loads(Path(path).read_text()) for path in overlays]
    _write_json({"kind": "bundle", "overlays": changed, "settings": settings}, method / "method.json")
    if calibration is not None:
        found = {path.parent.name: json.loads(path.read_text()) for path in method.glob("calibration/*/result.json")}
        usable = {case: result for case, result in sorted(found.items()) if result["outcome"] != "fit_failed"}
        metrics = {case: {name: result[name] for name in METRICS} for case, result in usable.items()}
        _write_json({"metrics": metrics}, method / "calibration.json")


class BundleParts:
    """What a baseline takes from the bundle: its way to the network's grid and back, its network, its cleaning.

    Args:
        model: of the bundle; its weights are loaded when a baseline first needs them.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.inferer = model.inferer
        self.device = model.device
        self.described = model.preprocessing.described
        self.spacing_mm = float(self.described["spacing_mm"])

    @classmethod
    def read(cls, bundle_root: str | Path = BUNDLE_ROOT) -> BundleParts:
        """What ``configs/inference.json`` describes; of several models the first, since a baseline has one network."""
        model = load_model(bundle_root, overrides={"progress": False}, lazy=True)
        return cls(model.changed(requested=model.models.names[0]) if model.chooses else model)

    @property
    def weights(self) -> str:
        """The weights file."""
        return str(self.model.variant(self.model.fixed_name).weights)

    @property
    def trained_network(self) -> torch.nn.Module:
        """The network with its weights, in evaluation mode."""
        return self.model.networks[self.model.fixed_name]

    def prepare(self, item: Mapping[str, Any]) -> PreparedScan:
        """A scan on the network's grid; a scan that cannot be used raises :class:`ScanError`."""
        return prepare(item, self.model.preprocessing)

    def volumes(self, scan: PreparedScan) -> tuple[torch.Tensor, torch.Tensor]:
        """Image and brain mask as a batch of one, ``(1, 1, D, H, W)``."""
        image, brain = (volume.as_tensor()[None].to(self.device) for volume in (scan.image, scan.brain_mask))
        return image, brain

    def to_scan(
        self, scan: PreparedScan, mask: torch.Tensor, anomaly_map: torch.Tensor, reconstruction: torch.Tensor
    ) -> dict[str, np.ndarray]:
        """Bring three volumes ``(1, 1, D, H, W)`` and the brain mask to the scan's own grid."""
        volumes = {"mask": mask.float()[0], "anomaly_map": anomaly_map[0], "reconstruction": reconstruction[0]}
        moved = on_own_grid({"image": scan.image}, self.model.preprocessing, **volumes)
        arrays = {name: volume[0].numpy(force=True) for name, volume in moved.items()}
        brain = scan.native_brain
        arrays |= {name: np.where(brain, arrays[name], 0) for name in ("anomaly_map", "reconstruction")}
        return arrays | {"brain_mask": brain, "mask": (arrays["mask"] > 0.5) & brain}


def normalised_scan(parts: BundleParts, scan: PreparedScan, path: Path) -> None:
    """Write the normalised scan, back on its own grid: what a perfect reconstruction would be, for PSNR and SSIM."""
    image, brain = parts.volumes(scan)
    arrays = parts.to_scan(scan, brain > 0.5, image, image)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_nifti(arrays["reconstruction"].astype(np.float32), scan.affine, path)


class BaselineRun:
    """Several baselines over the same scans, each scan prepared once.

    Args:
        parts: of the bundle.
        output: folder of the evaluation; a baseline's folder is ``output / "methods" / name``.
        baselines: by name, made when first needed.
        about: by name, what a result depends on beside scan and threshold (a digest of weights, for one).
    """

    def __init__(
        self,
        parts: BundleParts,
        output: Path,
        baselines: Mapping[str, Callable[[], Baseline]],
        about: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.parts = parts
        self.output = output
        self.factories = dict(baselines)
        self.about = {name: self._about(about[name]) for name in baselines}
        self._made: dict[str, Baseline] = {}

    def folder(self, name: str) -> Path:
        """Of one baseline."""
        return self.output / "methods" / name

    def calibrate(self, items: Sequence[Mapping[str, Any]], *, share: float) -> None:
        """Set every threshold so that this share of normal brain is flagged; write ``calibration.json``.

        Raises:
            ScanError: if a calibration scan cannot be used.
        """
        wanted = as_json_values({"share": share, "inputs": {item["case"]: input_files(item) for item in items}})
        missing = [name for name in self.factories if not self._is_calibrated(name, wanted)]
        maps: dict[str, list[CalibrationMap]] = {name: [] for name in missing}
        for item in tqdm(items if missing else [], desc="calibrating baselines", unit="scan"):
            image, brain = self.parts.volumes(self.parts.prepare(item))
            for name in missing:
                maps[name].append(CalibrationMap.of(self._baseline(name)(image, brain).anomaly_map, brain))
        for name in missing:
            threshold = threshold_for_share(maps[name], share=share, **self._cleaning)
            found = [one.decide(threshold, **self._cleaning) for one in maps[name]]
            metrics = {
                item["case"]: {metric: getattr(one, metric) for metric in METRICS}
                for item, one in zip(items, found, strict=True)
            }
            values = wanted | {"about": self.about[name], "threshold": threshold, "metrics": metrics}
            _write_json({"kind": "baseline", "share": share, **self.about[name]}, self.folder(name) / "method.json")
            _write_json(values, self.folder(name) / "calibration.json")

    def run(self, items: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Write the results of every baseline; also the normalised scans. Returns a sentence for a scan that failed."""
        failures = {}
        settings = {name: self.about[name] | {"threshold": self._threshold(name)} for name in self.factories}
        for item in tqdm(items, desc="baselines", unit="scan"):
            normalised = self.output / "scans" / f"{item['case']}.nii.gz"
            missing = [name for name in settings if not _is_done(self.folder(name), item, settings[name])]
            if not missing and normalised.exists():
                continue
            try:
                scan = self.parts.prepare(item)
            except ScanError as error:
                logger.error("%s: %s", item["case"], error)
                failures[item["case"]] = str(error)
                continue
            normalised_scan(self.parts, scan, normalised)
            for name in missing:
                self._run_one(name, item, scan, settings[name])
        for name in settings:
            _write_json(failures, self.folder(name) / "results" / "failures.json")
        return failures

    @property
    def _cleaning(self) -> dict[str, Any]:
        return {"min_volume_ml": self.parts.inferer.min_volume_ml, "spacing_mm": (self.parts.spacing_mm,) * 3}

    def _about(self, values: Mapping[str, Any]) -> dict[str, Any]:
        plain = {**values, "preprocessing": self.parts.described, "min_volume_ml": self.parts.inferer.min_volume_ml}
        return dict(as_json_values(plain))

    def _baseline(self, name: str) -> Baseline:
        if name not in self._made:
            self._made[name] = self.factories[name]()
        return self._made[name]

    def _is_calibrated(self, name: str, wanted: Mapping[str, Any]) -> bool:
        path = self.folder(name) / "calibration.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        return all(known.get(key) == value for key, value in {**wanted, "about": self.about[name]}.items())

    def _threshold(self, name: str) -> float:
        return float(json.loads((self.folder(name) / "calibration.json").read_text())["threshold"])

    def _run_one(self, name: str, item: Mapping[str, Any], scan: PreparedScan, settings: Mapping[str, Any]) -> None:
        image, brain = self.parts.volumes(scan)
        prediction = self._baseline(name)(image, brain)
        found = decide(prediction, brain, threshold=settings["threshold"], **self._cleaning)
        expected = torch.zeros_like(image) if prediction.reconstruction is None else prediction.reconstruction
        arrays = self.parts.to_scan(scan, found.mask, prediction.anomaly_map, expected)
        unit = scan.normalisation
        arrays["reconstruction"] = np.where(
            arrays["brain_mask"], arrays["reconstruction"] * unit["scale"] + unit["median"], 0
        )
        voxel_ml = voxel_volume_ml(scan.affine)
        values = {
            "note": RESEARCH_USE,
            "case": item["case"],
            "scan": str(item["image"]),
            "outcome": "anomaly" if found.flagged_share > 0 else "no_anomaly",
            **{metric: getattr(found, metric) for metric in METRICS},
            "threshold": settings["threshold"],
            "has_reconstruction": prediction.reconstruction is not None,
            "percentile_among_normals": None,
            "volumes_ml": {
                "brain": float(arrays["brain_mask"].sum()) * voxel_ml,
                "anomaly": float(arrays["mask"].sum()) * voxel_ml,
            },
            "curve": [],
            "preprocessing": {"brain_extraction": scan.brain_extraction, **unit},
            "settings": settings,
            "inputs": scan.inputs,
            "versions": versions(),
        }
        _write_folder(values, arrays, scan.affine, self.folder(name) / "results" / item["case"])


def require_disjoint(items: Sequence[Mapping[str, Any]], normals: Sequence[Mapping[str, Any]], what: str) -> None:
    """Refuse a list of normals that shares a case, subject or file with the scans to be reported.

    Raises:
        ScanError: naming the first one.
    """
    for key in ("case", "subject", "image"):
        shared = {str(item[key]) for item in items if item.get(key)} & {str(n[key]) for n in normals if n.get(key)}
        if shared:
            raise ScanError(f"the {what} and the scans to be reported share {key} '{min(shared)}'; expected none")
    other = [item for item in normals if item.get("group", "normal") != "normal"]
    if other:
        raise ScanError(f"'{other[0]['case']}' of the {what} is of group '{other[0]['group']}'; expected normal scans")


def weights_digest(path: str | Path) -> dict[str, str]:
    """For ``about``."""
    return {"weights_sha256": file_digest(path)}


def _is_done(folder: Path, item: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    case = folder / "results" / item["case"]
    settle(case)
    path = case / "result.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    plain = as_json_values(settings)
    return known.get("settings") == plain and is_unchanged(known.get("inputs") or {}, item)


def _write_folder(
    values: Mapping[str, Any], arrays: Mapping[str, np.ndarray], affine: np.ndarray, folder: Path
) -> None:
    """All files of one scan, or none."""
    with replaced_folder(folder) as partial:
        for name, dtype in VOLUMES.items():
            save_nifti(arrays[name].astype(dtype), affine, partial / f"{folder.name}_{name}.nii.gz")
        (partial / "result.json").write_text(json.dumps(values, indent=1, allow_nan=False) + "\n")


def _write_json(values: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(json.dumps(values, indent=1, allow_nan=False) + "\n", path)


def read_normalised(path: Path) -> np.ndarray | None:
    """What :func:`normalised_scan` wrote; ``None`` where there is nothing."""
    return nib.Nifti1Image.from_filename(path).get_fdata(dtype=np.float32) if path.exists() else None
