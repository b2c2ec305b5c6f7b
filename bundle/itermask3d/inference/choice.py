"""The model that each scan gets: chosen from its domains, and run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.transforms import MapTransform

from itermask3d.inference.models import Choice, Networks
from itermask3d.inference.results import OUTPUTS
from itermask3d.method.inferer import IterMaskInferer
from itermask3d.preprocessing.measure import measured_figures

__all__ = ["ChooseModeld", "ChosenModels"]

logger = logging.getLogger(__name__)


class ChooseModeld(MapTransform):
    """Choose the model for a prepared scan, by the domains, and load its weights if they are not yet.

    Adds ``model``: JSON text of a :class:`itermask3d.inference.models.Choice`.

    Raises:
        ScanError: from a call, if the weights are missing, damaged or of another network.
    """

    def __init__(self, preprocessing: Callable[..., Any], networks: Networks) -> None:
        super().__init__(["image", "brain_mask"])
        self.preprocessing = preprocessing
        self.networks = networks

    def __call__(self, data: Mapping[Any, Any]) -> dict[Hashable, Any]:
        measured = measured_figures(data, self.preprocessing)
        choice = self.networks.table.choose(measured["figures"], measured)
        self.networks[str(choice.name)]
        logger.info("%s: model %s. %s", data.get("case"), choice.name, choice.reason)
        return {**data, "model": json.dumps(choice.to_json())}


class ChosenModels(Inferer):
    """Every scan of a batch through the network that was chosen for it.

    Args:
        inferer: with the settings of the config; each model's own are put over them.
        networks: by name of the model.
    """

    def __init__(self, inferer: IterMaskInferer, networks: Networks) -> None:
        super().__init__()
        self.inferer = inferer
        self.networks = networks

    def __call__(
        self, inputs: torch.Tensor, network: Any, brain_mask: torch.Tensor, model: Sequence[str], **kwargs: Any
    ) -> dict[str, Any]:
        """Run the inferer once a model.

        Args:
            inputs, brain_mask: ``(B, 1, D, H, W)``.
            network: not used.
            model: of each scan, what :class:`ChooseModeld` added.

        Returns:
            What the inferer returns, in the order of the scans.
        """
        names = [Choice.from_json(json.loads(text)).name for text in model]
        groups = [[i for i, other in enumerate(names) if other == name] for name in dict.fromkeys(names)]
        found = []
        for group in groups:
            name = str(names[group[0]])
            inferer = self.inferer.with_settings(self.networks.table.adapted(self.inferer.settings, name))
            found.append(
                inferer(torch.as_tensor(inputs)[group], self.networks[name], torch.as_tensor(brain_mask)[group])
            )
        order = np.argsort([i for group in groups for i in group]).tolist()
        joined: dict[str, Any] = {key: torch.cat([part[key] for part in found])[order] for key in OUTPUTS}
        texts = [text for part in found for text in part["findings"]]
        return joined | {"findings": [texts[i] for i in order]}
