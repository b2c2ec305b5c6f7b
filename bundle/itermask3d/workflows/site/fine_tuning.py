"""Training on from existing weights with a few scans of a site: few steps, a low rate, every augmentation kept.

A run that is stopped goes on from its last epoch and ends with the bytes that it would have had without the stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from itermask3d.files.writing import save_atomically
from itermask3d.training.handlers import Checkpoints, EpochSeed, FrozenNorm, GradientClipping
from itermask3d.training.prepare import AutocastInferer, PrepareReconstruction
from itermask3d.training.prepared import PreparedDataset
from itermask3d.workflows.site.base_model import BaseModel

__all__ = ["FineTuning", "fine_tune"]


@dataclass(frozen=True)
class FineTuning:
    """How far a model is adapted.

    Attributes:
        epochs: passes over the scans.
        learning_rate: at the start; it falls to 0 along a cosine.
        batch_size: scans of a step.
        seed: of everything random.
    """

    epochs: int = 10
    learning_rate: float = 4e-4
    batch_size: int = 2
    seed: int = 2026

    def samples(self, n_scans: int) -> int:
        """How many samples a training on so many scans draws."""
        batch = min(self.batch_size, n_scans)
        return self.epochs * (n_scans // batch) * batch

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def fine_tune(
    base: BaseModel,
    scans: Sequence[Mapping[str, Any]],
    folder: Path,
    tuning: FineTuning,
    *,
    drawn: Callable[[int], None] = lambda samples: None,
) -> Path:
    """Train the base's weights on with some prepared scans.

    Args:
        base: the model to begin with.
        scans: items of :func:`itermask3d.training.prepared.list_prepared`.
        folder: of the checkpoint ``last.pt`` and of the result.
        tuning: see :class:`FineTuning`.
        drawn: told after every step how many samples it took, and once for those of an earlier, stopped run.

    Returns:
        The new weights, ``folder/weights.pt``, a plain state dict.
    """
    network = base.network()
    prepared = PreparedDataset(
        scans, device=base.device, volume="image", spacing_mm=base.value("spacing_mm"), spatial_size=base.spatial_size
    )
    batches = base.batches(prepared, min(tuning.batch_size, len(scans)))
    optimizer = torch.optim.Adam(network.parameters(), lr=tuning.learning_rate)
    recipe = base.recipe
    trainer = SupervisedTrainer(
        device=base.device,
        max_epochs=tuning.epochs,
        train_data_loader=batches,
        network=network,
        optimizer=optimizer,
        loss_function=recipe["loss"],
        inferer=AutocastInferer(bool(recipe["mixed_precision"])),
        prepare_batch=PrepareReconstruction(noise=float(recipe["noise"])),
        train_handlers=_handlers(batches, network, optimizer, folder, tuning, recipe),
        optim_set_to_none=True,
    )
    _tell_samples(trainer, batches.batch_size, drawn)
    trainer.run()
    weights = folder / "weights.pt"
    save_atomically({name: value.cpu() for name, value in network.state_dict().items()}, weights)
    return weights


def _handlers(
    batches: Any,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    tuning: FineTuning,
    recipe: Mapping[str, Any],
) -> list[Any]:
    """As in ``train.json``: seeds, rate, checkpoint, norms frozen towards the end, clipped gradients."""
    schedule: Any = CosineAnnealingLR(optimizer, T_max=tuning.epochs)
    return [
        EpochSeed(tuning.seed, batches),
        LrScheduleHandler(schedule, print_lr=False),
        Checkpoints(folder, network, optimizer, schedule),
        FrozenNorm(network, recipe["frozen_norm_after"]),
        GradientClipping(network, recipe["max_gradient_norm"]),
    ]


def _tell_samples(trainer: Engine, batch_size: int, drawn: Callable[[int], None]) -> None:
    """Tell of every step, and at the start of those that a checkpoint brings."""

    def began(engine: Engine) -> None:
        drawn(engine.state.iteration * batch_size)

    def stepped(engine: Engine) -> None:
        drawn(batch_size)

    trainer.add_event_handler(Events.STARTED, began)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, stepped)
