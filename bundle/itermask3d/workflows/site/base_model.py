"""The model that is adapted to a site: one model of a bundle, with the recipe that its weights were trained by."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from itermask3d.files.identity import file_digest
from itermask3d.files.literals import as_literal
from itermask3d.inference.models import ModelTable
from itermask3d.inference.networks import load_tissues, load_weights
from itermask3d.method.detection import Findings
from itermask3d.method.inferer import IterMaskInferer
from itermask3d.simulation.synthetic_anomalies import SyntheticAnomalies
from itermask3d.training.batches import DeviceBatches
from itermask3d.training.prepared import PreparedDataset
from itermask3d.training.variation import Variation

__all__ = ["BaseModel"]


class BaseModel:
    """A model of a bundle: fresh networks with its weights, its inferer, and its training recipe.

    Args:
        bundle: folder of the bundle; its ``inference.json`` and ``train.json`` are read.
        name: of the model.

    Raises:
        ScanError: if the weights are missing, damaged or of another network.
        ValueError: if there is no such model.
    """

    def __init__(self, bundle: str | Path, name: str) -> None:
        self.bundle, self.name = Path(bundle), name
        self._inference, self._training = (self._parser(kind) for kind in ("inference", "train"))
        self._inference["model"], self._inference["progress"] = name, False
        table: ModelTable = self._inference.get_parsed_content("models")
        if name not in table.names:
            raise ValueError(f"'{name}' is no model to adapt; expected one of {', '.join(table.names)}")
        self.model = table[table.checked(name)]
        self.settings = dict(table.settings.get(name, {}))
        self.inferer: IterMaskInferer = self._inference.get_parsed_content("inferer")
        self.device: torch.device = self._inference.get_parsed_content("device")
        if self.inferer.evidence is not None:
            load_tissues(self.inferer.evidence, self.device)

    def value(self, name: str) -> Any:
        """A plain value of the inference config, such as ``spacing_mm``."""
        return self._inference.get_parsed_content(name)

    def evidence_under(self, name: str) -> dict[str, Any]:
        """What the config says of the evidence of tissues for this model, under another name; empty without."""
        described = self._inference.get("evidence", {}).get(self.name)
        return {} if described is None else {name: described}

    @property
    def spatial_size(self) -> tuple[int, int, int]:
        """Of the network's grid."""
        first, second, third = (int(size) for size in self.value("spatial_size"))
        return first, second, third

    @cached_property
    def digest(self) -> str:
        """Of the weights."""
        return file_digest(self.model.weights)

    def network(self, weights: str | Path | None = None) -> nn.Module:
        """A new network on the device, in training mode.

        Args:
            weights: a state dict; ``None`` for the model's own.
        """
        network: nn.Module = self._parser("inference").get_parsed_content("network")
        load_weights(network, self.model.weights if weights is None else weights)
        return network.float()

    @torch.no_grad()
    def findings(self, network: nn.Module, image: torch.Tensor, brain_mask: torch.Tensor) -> Findings:
        """What the loop finds in one prepared scan, both ``(1, D, H, W)``, with a network in evaluation mode."""
        found = self.inferer(image[None].to(self.device), network, brain_mask[None].to(self.device))
        findings: Findings = found["findings"][0]
        return findings

    def batches(self, scans: PreparedDataset, batch_size: int) -> DeviceBatches:
        """Training batches as the recipe draws them, variation and synthetic anomalies included."""
        get = self._training.get_parsed_content
        anomalies: SyntheticAnomalies | None = get("synthetic_anomalies")
        variation: Variation | None = get("variation")
        return DeviceBatches(
            scans,
            batch_size,
            spacing_mm=float(self.value("spacing_mm")),
            radius_cycles_per_mm=float(self.value("radius_cycles_per_mm")),
            mixture=get("mixture"),
            synthetic_anomalies=anomalies,
            variation=variation,
            augment=bool(get("augment")),
        )

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Loss, noise, clipping, frozen norms and precision of the training."""
        names = ("loss", "noise", "max_gradient_norm", "frozen_norm_after", "mixed_precision")
        return {name: self._training.get_parsed_content(name) for name in names}

    def _parser(self, kind: str) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config(str(self.bundle / "configs" / f"{kind}.json"))
        parser["bundle_root"] = as_literal(str(self.bundle))
        return parser
