"""What a training does between its steps: seeds of an epoch, checkpoints that survive anything."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.engines.utils import IterationEvents
from torch import nn

from itermask3d.files.writing import save_atomically

__all__ = ["Checkpoints", "EpochSeed", "FrozenNorm", "GradientClipping"]

logger = logging.getLogger(__name__)


class EpochSeed:
    """Reseed every random act of training at the start of each epoch, from one seed and the epoch's number.

    Masks, augmentation, shuffling, noise and dropout then differ from epoch to epoch and from process to process, and
    a run that was interrupted draws in epoch ``n`` what it would have drawn without the interruption. The first process
    draws what a single one would.
    """

    def __init__(self, seed: int, dataset: Any) -> None:
        self.seed = seed
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Register on an ignite engine."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        seed = self.seed + 100_003 * engine.state.epoch + 1_009 * idist.get_rank()
        torch.manual_seed(seed)
        set_rnd(self.dataset, seed)


class FrozenNorm:
    """After a share of the epochs, normalise by the running statistics instead of those of the batch, as at test time.

    With two scans to a batch and masks from nearly nothing to everything, the statistics of a batch differ much from
    the running ones; what the network learns in the last epochs should hold for those that it is used with.

    Args:
        network: its batch normalisations are frozen; their weights still learn.
        after: share of the epochs that is trained before; 1 never freezes.

    Raises:
        ValueError: if that is no share.
    """

    def __init__(self, network: nn.Module, after: float) -> None:
        if not 0 <= after <= 1:
            raise ValueError(f"after = {after}; expected a share of the epochs, 0 to 1")
        self.network = network
        self.after = after
        self.frozen = False

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        whole = math.floor(self.after * (engine.state.max_epochs or 0) + _ROUNDING)
        if self.frozen or engine.state.epoch <= whole:
            return
        self.frozen = True
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                # The trainer puts the whole network into training mode before every batch.
                module.register_forward_pre_hook(_as_in_evaluation)


_ROUNDING = 1e-9
"""Seven tenths of 90 epochs are 63, though not in floating point."""


def _as_in_evaluation(module: nn.Module, inputs: Any) -> None:
    module.eval()


class GradientClipping:
    """Scale the gradients of a batch down to a norm; one odd batch then cannot undo an epoch.

    Args:
        network: whose gradients.
        max_norm: of all of them together; ``None`` leaves them as they are.
    """

    def __init__(self, network: nn.Module, max_norm: float | None = 1.0) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


class Checkpoints:
    """Write ``last.pt`` after every epoch and ``best.pt`` after every better validation; resume from ``last.pt``.

    ``last.pt`` holds all that training needs to go on. ``best.pt`` is a plain state dict of the network. Both are
    written to the side and then renamed, so an interruption leaves the old file or the new one, never half of one.

    Args:
        directory: where both files lie; made if absent.
        network: the model.
        optimizer, scheduler: restored with it.
        validator: the evaluator whose first metric (smaller is better) chooses ``best.pt``.
        resume: continue from ``last.pt`` when there is one.
        averaged: a running average of the network; then ``best.pt`` is of it, as the validation has to be.
    """

    def __init__(
        self,
        directory: str | Path,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        validator: Engine | None = None,
        resume: bool = True,
        averaged: nn.Module | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.parts = {"network": network, "optimizer": optimizer, "scheduler": scheduler}
        if averaged is not None:
            self.parts["averaged"] = averaged
        self.validator = validator
        self.resume = resume
        self.best = float("inf")

    def attach(self, engine: Engine) -> None:
        """Register on the trainer, after validation and learning-rate handlers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, self._save_best)

    def _load(self, engine: Engine) -> None:
        path = self.directory / "last.pt"
        if not (self.resume and path.exists()):
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["scheduler"].pop("T_max", None)  # a longer run than the first one planned would rise again after it
        for name, part in self.parts.items():
            _unwrap(part).load_state_dict(state[name])
        self.best = state["best"]
        engine.state.epoch = state["epoch"]
        rates = [group["lr"] for group in state["optimizer"]["param_groups"]]
        if max(rates) < 1e-12 and state["epoch"] < (engine.state.max_epochs or 0):
            logger.warning("the learning rate of %s has come to its end: further epochs learn nothing", path)
        # With another batch size or number of processes an epoch has another number of iterations than it had.
        engine.state.iteration = state["epoch"] * engine.state.epoch_length
        logger.info("resumed from %s after epoch %d", path, state["epoch"])

    def _save(self, engine: Engine) -> None:
        if not _is_main_process():
            return
        state: dict[str, Any] = {name: _unwrap(part).state_dict() for name, part in self.parts.items()}
        state |= {"best": self.best, "epoch": engine.state.epoch, "iteration": engine.state.iteration}
        save_atomically(state, self.directory / "last.pt")

    def _save_best(self, engine: Engine) -> None:
        value = next(iter(engine.state.metrics.values()))
        if value < self.best and _is_main_process():
            self.best = float(value)
            network = self.parts.get("averaged", self.parts["network"])
            save_atomically(_unwrap(network).state_dict(), self.directory / "best.pt")


def _unwrap(part: Any) -> Any:
    return part.module if isinstance(part, nn.parallel.DistributedDataParallel) else part


def _is_main_process() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
