"""The methods that the judge knows: the loop as it is used, one pass of its network, and plain intensity rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from itermask3d import BUNDLE_ROOT
from itermask3d.evaluation.baselines import Baseline, IntensityRule, SinglePass
from itermask3d.evaluation.judge import Method, Seen
from itermask3d.evaluation.judge_cache import code_digest
from itermask3d.files.identity import file_digest
from itermask3d.files.literals import as_literal
from itermask3d.files.scans import ScanError
from itermask3d.method.acceleration.folding import fuse_upsampling
from itermask3d.method.inferer import IterMaskInferer
from itermask3d.method.network import ReconstructionUNet
from itermask3d.method.settings import RefinementSettings

__all__ = ["METHODS", "JudgedModel", "methods_of", "network_from", "read_model"]

METHODS = ("loop", "single-pass", "z-score", "bright", "dark")

_OF_THE_THRESHOLD = (
    "gamma",
    "n_steps",
    "fit_limit",
    "min_r_squared",
    "stop_ratio",
    "max_iterations",
    "interpolate",
    "threshold_floor",
    "threshold_ceiling",
    "schedule",
)
"""Settings that a single pass does not depend on."""


@dataclass(frozen=True)
class JudgedModel:
    """A bundle with the weights and settings that are judged.

    Attributes:
        preprocessing: raw scan to network grid.
        prepared_by: values that describe the preprocessing.
        inferer: with the settings.
        network: in evaluation mode, on ``device``.
        device: where it runs.
        weights: the file.
        weights_sha256: 16 digits of it.
    """

    preprocessing: Compose
    prepared_by: Mapping[str, Any]
    inferer: IterMaskInferer
    network: torch.nn.Module
    device: torch.device
    weights: str
    weights_sha256: str

    def describe(self) -> dict[str, Any]:
        """What results depend on, JSON-ready."""
        return {
            "weights_sha256": self.weights_sha256,
            "settings": asdict(self.inferer.settings),
            "evidence": None if self.inferer.evidence is None else self.inferer.evidence.described(),
            "spacing_mm": self.inferer.spacing_mm[0],
            "radius_cycles_per_mm": self.inferer.radius_cycles_per_mm,
            "min_volume_ml": self.inferer.min_volume_ml,
            "mixed_precision": self.inferer.mixed_precision,
            "code": code_digest(Path(__file__).parents[1].joinpath("method").rglob("*.py")),
        }


def read_model(
    bundle_root: str | Path = BUNDLE_ROOT,
    *,
    model: str = "t1",
    weights: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> JudgedModel:
    """Build what ``configs/inference.json`` describes, around any weights.

    Args:
        bundle_root: the bundle's folder.
        model: whose weights and settings; ``auto`` is no single model.
        weights: a state dict to judge instead, of whatever widths; the settings stay those of ``model``.
        settings: fields of :class:`itermask3d.method.settings.RefinementSettings` to change.

    Raises:
        ScanError: if the weights are missing, damaged, or no network of ours.
        ValueError: for an unknown model or setting, or a value outside its range.
    """
    parser = ConfigParser()
    parser.read_config(f"{bundle_root}/configs/inference.json")
    parser["bundle_root"], parser["model"] = as_literal(str(bundle_root)), as_literal(model)
    parser["progress"] = False
    get = parser.get_parsed_content
    path = weights or get("ckpt_path")
    if path is None:
        raise ValueError(f"the judge needs one model, got '{model}'")
    changed, known = dict(settings or {}), {setting.name for setting in fields(RefinementSettings)}
    if set(changed) - known:
        raise ValueError(
            f"unknown settings {sorted(set(changed) - known)}; expected some of {', '.join(sorted(known))}"
        )
    inferer: IterMaskInferer = get("inferer")
    device: torch.device = get("device")
    return JudgedModel(
        preprocessing=get("preprocessing"),
        prepared_by=dict(get("preprocessing").described),
        inferer=inferer.with_settings(replace(inferer.settings, **changed)),
        network=fuse_upsampling(network_from(path)).to(device).eval(),
        device=device,
        weights=str(path),
        weights_sha256=file_digest(path),
    )


def network_from(weights: str | Path) -> ReconstructionUNet:
    """The network that a state dict belongs to, its widths and outputs read from it, with these weights.

    Args:
        weights: a plain state dict, or a training checkpoint that holds one under ``network``.

    Raises:
        ScanError: if the file is missing, unreadable, or no :class:`ReconstructionUNet`'s.
    """
    expected = f"weights '{weights}'"
    if not Path(weights).is_file():
        raise ScanError(f"{expected} do not exist; expected a state dict such as models/model.pt")
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        state = state.get("network", state)
        widths = [int(state[f"conv_{level}.conv.unit1.conv.weight"].shape[0]) for level in range(1, 6)]
        network = ReconstructionUNet(
            in_channels=int(state["conv_1.conv.unit0.conv.weight"].shape[1]),
            out_channels=int(state["up_stage_4.2.conv.weight"].shape[0]),
            channels=widths,
            dropout=0.0,
        )
        network.load_state_dict(state)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ScanError(f"{expected} are no readable state dict of ReconstructionUNet ({error})") from error
    return network


def methods_of(model: JudgedModel, names: Sequence[str] = METHODS) -> list[Method]:
    """The methods by name, those with a network around one model.

    Raises:
        ValueError: for an unknown name.
    """
    unknown = set(names) - set(METHODS)
    if unknown:
        raise ValueError(f"unknown methods {', '.join(sorted(unknown))}; expected some of {', '.join(METHODS)}")
    return [_method(model, name) for name in names]


def _method(model: JudgedModel, name: str) -> Method:
    described = model.describe()
    if name == "loop":
        return Method(name, _Loop(model), {"method": name, **described})
    if name == "single-pass":
        settings = {key: value for key, value in described["settings"].items() if key not in _OF_THE_THRESHOLD}
        baseline = _Baseline(SinglePass(model.inferer, model.network), model.device)
        return Method(name, baseline, {"method": name, **described, "settings": settings, "min_volume_ml": None})
    side = "both" if name == "z-score" else name
    return Method(name, _Baseline(IntensityRule(side), torch.device("cpu")))


class _Loop:
    def __init__(self, model: JudgedModel) -> None:
        self.model = model

    def __call__(self, image: torch.Tensor, brain_mask: torch.Tensor) -> Seen:
        device = self.model.device
        found = self.model.inferer(image.to(device), self.model.network, brain_mask.to(device))
        mask, anomaly_map, reconstruction = (_array(found[key]) for key in ("mask", "anomaly_map", "reconstruction"))
        return Seen(anomaly_map, mask > 0.5, reconstruction)


class _Baseline:
    def __init__(self, baseline: Baseline, device: torch.device) -> None:
        self.baseline = baseline
        self.device = device

    def __call__(self, image: torch.Tensor, brain_mask: torch.Tensor) -> Seen:
        said = self.baseline(image.to(self.device), brain_mask.to(self.device))
        reconstruction = None if said.reconstruction is None else _array(said.reconstruction)
        return Seen(_array(said.anomaly_map), None, reconstruction)


def _array(volume: torch.Tensor) -> np.ndarray:
    return np.asarray(volume[0, 0].float().numpy(force=True))
