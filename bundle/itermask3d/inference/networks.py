"""The networks of a bundle's models: of the shape of their weights, loaded when first needed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from itermask3d.files.identity import file_digest
from itermask3d.files.scans import ScanError
from itermask3d.inference.models import ModelTable
from itermask3d.method.acceleration.folding import fuse_upsampling
from itermask3d.method.evidence import TissueEvidence
from itermask3d.method.network import ReconstructionUNet

__all__ = ["Networks", "load_tissues", "load_weights", "network_of", "network_shape", "network_shape_of"]


class Networks:
    """Networks with the weights of a table's models, each loaded when it is first asked for.

    Args:
        template: network of the right shape; the weights asked for first go into it, others into a copy, or into a
            network of their own shape.
        table: of the models.
        named: a state dict that was named instead of a model; its name is ``None``.
    """

    def __init__(self, template: nn.Module, table: ModelTable, named: str | Path | None = None) -> None:
        self.table = table
        self.digests: dict[str | None, str] = {}
        self._template = template
        self._named = named
        self._loaded: dict[str | None, nn.Module] = {}

    def __getitem__(self, name: str | None) -> nn.Module:
        """The network of a model, in evaluation mode.

        Raises:
            ScanError: if its weights are missing, damaged or of another network.
        """
        if name not in self._loaded:
            weights = self._named if name is None else self.table[name].weights
            if weights is None:
                raise ValueError("no weights were named; expected the name of a model")
            digest = file_digest(weights)  # of the weights that run, whatever becomes of the file
            network = self._empty(weights)
            load_weights(network, weights)
            self._loaded[name], self.digests[name] = network.eval(), digest
        return self._loaded[name]

    def __setitem__(self, name: str | None, network: nn.Module) -> None:
        """Use another network in place of a model's own."""
        self._loaded[name] = network

    def __len__(self) -> int:
        return len(self._loaded)

    def _empty(self, weights: str | Path) -> nn.Module:
        """A network for these weights: the template or a copy, unless the weights are of another shape."""
        if not self._loaded:
            return self._template
        shape = network_shape(weights) if isinstance(self._template, ReconstructionUNet) else None
        if shape is None or shape == network_shape_of(self._template.state_dict()):
            return copy.deepcopy(self._template)
        device = next(self._template.parameters()).device
        return fuse_upsampling(ReconstructionUNet(**shape, dropout=0.0).to(device))


def network_of(
    checkpoint: str | Path | None,
    models: ModelTable,
    *,
    channels: Sequence[int] | None = None,
    out_channels: int | None = None,
    dropout: float = 0.0,
) -> ReconstructionUNet:
    """The network of the shape that a checkpoint has, not yet with its weights.

    Args:
        checkpoint: plain state dict; ``None`` for that of the first model. Where there is none to read, the shape is
            the published one: whoever loads the weights hears what is wrong with them.
        models: the table of the bundle.
        channels, out_channels: instead of what the checkpoint says, for a network that is to get other weights.
        dropout: without effect in inference.
    """
    given = {"channels": channels, "out_channels": out_channels}
    read = network_shape(checkpoint or models[models.names[0]].weights) or {}
    shape = read | {key: value for key, value in given.items() if value is not None}
    return ReconstructionUNet(**shape, dropout=dropout)


def network_shape(checkpoint: str | Path) -> dict[str, Any] | None:
    """Arguments of :class:`itermask3d.method.network.ReconstructionUNet` that fit a plain state dict.

    Returns:
        ``None`` where the file cannot be read or belongs to another network.
    """
    try:
        return network_shape_of(torch.load(checkpoint, map_location="cpu", weights_only=True))
    except Exception:  # torch raises many kinds for a damaged file; load_weights names them
        return None


def network_shape_of(state: Any) -> dict[str, Any] | None:
    """:func:`network_shape` of weights in memory."""
    try:
        first = [state[f"conv_{level}.conv.unit0.conv.weight"].shape for level in range(1, 6)]
        last = state["up_stage_4.2.conv.weight"].shape
    except (KeyError, TypeError, AttributeError, IndexError):
        return None
    return {"in_channels": first[0][1], "out_channels": last[0], "channels": tuple(shape[0] for shape in first)}


def load_weights(network: nn.Module, checkpoint: str | Path) -> None:
    """Load a plain state dict strictly, in place.

    Raises:
        ScanError: if the file is missing, unreadable or belongs to another network.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise ScanError(f"weights '{path}' do not exist; expected a state dict such as models/model.pt")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ScanError(f"weights '{path}' cannot be read; expected a plain PyTorch state dict") from error
    try:
        network.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ScanError(
            f"weights '{path}' do not fit the network; expected a state dict of ReconstructionUNet, whose shape is "
            "read from it unless network_def::channels sets another"
        ) from error


def load_tissues(evidence: TissueEvidence, device: torch.device) -> None:
    """Read the weights of the tissue network now.

    Raises:
        ScanError: if they are missing, damaged or of another network.
    """
    try:
        evidence.network(device)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ScanError(
            f"weights '{evidence.weights}' of the tissue network cannot be used; expected those of the bundle's models"
        ) from error
