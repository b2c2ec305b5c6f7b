"""Training of the tissue network on a CPU or a GPU, step by step, so that it can stop and go on."""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from itermask3d.files.writing import write_atomically
from itermask3d.method.tissue_network import CLASSES, PRIOR_SIZE, TissueUNet, in_box
from itermask3d.training.prepared import PreparedDataset
from itermask3d.training.tissue_samples import TissueLoss, TissueSamples, class_shares

__all__ = ["TissueTraining", "TissueTrainingSettings", "mean_shares", "save_tissue_weights"]

logger = logging.getLogger(__name__)

WARM_UP = 50
"""Steps over which the learning rate rises."""


@dataclass(frozen=True)
class TissueTrainingSettings:
    """How long and how fast.

    Attributes:
        steps: of the optimiser; the learning rate falls to 0 over them, along a cosine.
        batch_size: samples of a step.
        learning_rate, weight_decay: of AdamW.
        average: decay of the running mean of the weights, which is what is kept.
        mixed_precision: compute the network in bfloat16, which halves the time of a CPU that can.
        seed: of the weights, of the order and of all that is drawn.

    Raises:
        ValueError: for a value outside its range.
    """

    steps: int
    batch_size: int = 1
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    average: float = 0.99
    mixed_precision: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and self.batch_size >= 1 and self.learning_rate > 0 and 0 <= self.average < 1):
            raise ValueError(f"{self} is outside its range, see TissueTrainingSettings")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rising = min(1.0, (step + 1) / WARM_UP)
        return self.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * step / self.steps))


class TissueTraining:
    """An optimisation that can be saved after any step and gone on with; the result is the same.

    Args:
        maps: prepared tissue maps of the training's people.
        samples: how a sample is drawn from one.
        settings: see :class:`TissueTrainingSettings`.
        channels: of the network.
    """

    def __init__(
        self,
        maps: PreparedDataset,
        samples: TissueSamples,
        settings: TissueTrainingSettings,
        *,
        channels: Sequence[int] = (16, 32, 48, 64),
    ) -> None:
        self.maps, self.samples, self.settings = maps, samples, settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = TissueUNet(channels).to(maps.device)
        self.network.prior.copy_(mean_shares(maps))
        self.averaged = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(settings.average))
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.loss = TissueLoss()
        self.step = 0

    def update(self) -> float:
        """Take one step; returns its loss."""
        rng = np.random.RandomState([self.settings.seed, self.step])
        with torch.no_grad():
            chosen = rng.randint(len(self.maps), size=self.settings.batch_size)
            drawn = [self.samples.draw(self.maps.prepared(int(index)), rng) for index in chosen]
            image, brain, shares = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate(self.step)
        with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=self.settings.mixed_precision):
            logits = self.network.train()(image, brain).float()
        loss = self.loss(logits, shares, brain)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.averaged.update_parameters(self.network)
        self.step += 1
        return float(loss.detach())

    def run(
        self,
        checkpoint: Path | None = None,
        *,
        every_s: float = 180.0,
        tell: Callable[[int, float], None] | None = None,
    ) -> None:
        """Go on to the last step; the state is saved now and then, and at the end."""
        saved = time.monotonic()
        while self.step < self.settings.steps:
            loss = self.update()
            if tell is not None:
                tell(self.step, loss)
            late = time.monotonic() - saved > every_s or self.step == self.settings.steps
            if checkpoint is not None and late:
                self.save(checkpoint)
                saved = time.monotonic()

    def save(self, path: Path) -> None:
        """Everything that the rest of the training depends on, in one file."""
        write_atomically(_bytes(self.state()), path)

    def state(self) -> dict[str, Any]:
        """Step, weights, their running mean and the optimiser's state."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def resume(self, path: Path) -> None:
        """Go on where :meth:`save` left off."""
        state = torch.load(path, map_location=self.maps.device, weights_only=True)
        self.step = int(state["step"])
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])


def mean_shares(maps: PreparedDataset) -> torch.Tensor:
    """Mean share of each class among the brains' voxels in each cell of their boxes, the same left and right.

    Returns:
        ``(K, *PRIOR_SIZE)``; the sum over the classes is 1, cells that no brain reaches are ``other``.
    """
    total = torch.zeros((len(CLASSES) + 1, *PRIOR_SIZE), device=maps.device)
    for index in range(len(maps)):
        sample = maps.prepared(index)
        brain = sample["brain_mask"]
        total += in_box(torch.cat((class_shares(sample["tissues"]) * brain, brain)), brain)
    total = total + total.flip(1)
    inside = total[-1:]
    mean = total[:-1] / inside.clamp(min=1e-6)
    mean[CLASSES.index("other")] += (inside[0] <= 1e-6).float()
    return mean


def save_tissue_weights(network: torch.nn.Module, path: Path) -> None:
    """Write a plain state dict in half precision, which is all that the few digits of a trained weight need."""
    state = {name: value.detach().half().cpu() for name, value in network.state_dict().items()}
    write_atomically(_bytes(state), path)


def _bytes(state: Any) -> bytes:
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()
