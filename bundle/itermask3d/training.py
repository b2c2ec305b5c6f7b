"""What training needs beside MONAI: the batch, the loss, the seeds of an epoch, checkpoints that survive anything."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from monai.utils import convert_to_tensor
from torch import nn

from itermask3d.masking import corrupt
from itermask3d.network import split_prediction

__all__ = [
    "AutocastInferer",
    "BrainMSELoss",
    "Checkpoints",
    "EpochSeed",
    "ExpectedErrorLoss",
    "FrozenNorm",
    "GradientClipping",
    "PrepareReconstruction",
    "use_fastest_kernels",
    "warm_start",
]

logger = logging.getLogger(__name__)


class PrepareReconstruction:
    """Turn a batch into network input and target; for ``prepare_batch`` of MONAI's engines.

    Input to the network: the corrupted image and the guide, ``(B, 2, D, H, W)``. Target: the image as it should be
    reconstructed, the brain mask, and the training mask inside the brain less what was disturbed there, ``(B, 3, D, H,
    W)``, so that a loss can be taken where it belongs.

    Args:
        seed: draw the noise from this seed in every call (validation); ``None`` draws fresh noise (training).
        noise: its standard deviation, which has to be that of the loop, :attr:`RefinementSettings.noise`.
    """

    def __init__(self, seed: int | None = None, noise: float = 1.0) -> None:
        self.seed = seed
        self.noise = noise

    def __call__(
        self, batch: Mapping[str, torch.Tensor], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        image, guide, mask, brain = (_on(batch[key], device, non_blocking) for key in _SAMPLE)
        target = _on(batch.get("target", image), device, non_blocking)
        undisturbed = 1 - _on(batch["disturbed"], device, non_blocking) if "disturbed" in batch else 1
        hidden = mask.to(image) * (brain > 0.5) * undisturbed
        corrupted = corrupt(image, mask, self._noise(image))
        return torch.cat((corrupted, guide), dim=1), torch.cat((target, brain, hidden), dim=1)

    def _noise(self, image: torch.Tensor) -> torch.Tensor:
        if self.noise == 0:
            return torch.zeros_like(image)
        if self.seed is None:
            return self.noise * torch.randn_like(image)
        return self.noise * torch.randn(image.shape, generator=torch.Generator().manual_seed(self.seed)).to(image)


_SAMPLE = ("image", "high_frequency", "mask", "brain_mask")


def _on(values: torch.Tensor, device: torch.device, non_blocking: bool) -> torch.Tensor:
    plain: torch.Tensor = convert_to_tensor(values, track_meta=False)
    return plain.to(device, non_blocking=non_blocking)


class BrainMSELoss(nn.Module):
    r"""Mean squared error over the brain, averaged over the batch's brain voxels.

    .. math:: L = \sum_{v \in B} (x_v - \hat x_v)^2 \,/\, |B|

    With ``whole_volume`` the sum runs over every voxel, as published; then heads of different size weigh differently.
    """

    def __init__(self, whole_volume: bool = False) -> None:
        super().__init__()
        self.whole_volume = whole_volume

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """``prediction`` is ``(B, C, D, H, W)``, reconstruction first; ``target`` is as from PrepareReconstruction."""
        error = (prediction[:, :1] - target[:, :1]).square()
        if self.whole_volume:
            return error.mean()
        return _mean_within(error, target[:, 1:2])


class ExpectedErrorLoss(nn.Module):
    r"""Mean squared error over the brain, and how well the network foretells its own error where it cannot see.

    .. math:: L = \frac{1}{|B|} \sum_B (x - \hat x)^2
              + \frac{w}{|M|} \sum_M \left[ (x - \hat x)_{\text{fixed}}^2 \, e^{-s} + s \right]

    The second output channel :math:`s` is the logarithm of the squared error to be expected at a masked voxel, fitted
    by the Gaussian likelihood. The residual is held fixed there: so the reconstruction is what it would be without.

    Args:
        weight: :math:`w`.

    Source: the likelihood of Kendall and Gal, Advances in Neural Information Processing Systems 30 (2017).
    """

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """``prediction`` is ``(B, 2, D, H, W)``, ``target`` as from :class:`PrepareReconstruction`."""
        reconstruction, log_error = split_prediction(prediction)
        if log_error is None:
            raise ValueError("the network has one output channel; expected two, the second the logarithm of the error")
        squared = (reconstruction - target[:, :1]).square()
        surprise = squared.detach() * torch.exp(-log_error) + log_error
        return _mean_within(squared, target[:, 1:2]) + self.weight * _mean_within(surprise, target[:, 2:3])


def _mean_within(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    return (values * where).sum() / where.sum().clamp(min=1)


class AutocastInferer(Inferer):
    """Run the network under autocast on any device; MONAI's own mixed precision serves CUDA only.

    Args:
        enabled: ``False`` runs in the network's own precision, and so does a device without fast bfloat16.
        dtype: ``"bfloat16"`` or ``"float16"``; bfloat16 needs no loss scaling.
    """

    def __init__(self, enabled: bool = True, dtype: str = "bfloat16") -> None:
        super().__init__()
        self.enabled = enabled
        self.dtype = getattr(torch, dtype)

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        enabled = self.enabled and _is_fast(inputs.device, self.dtype)
        with torch.autocast(inputs.device.type, dtype=self.dtype, enabled=enabled):
            return network(inputs, *args, **kwargs).float()


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
    """From an epoch on, normalise by the running statistics instead of those of the batch, as at test time.

    With two scans to a batch and masks from nearly nothing to everything, the statistics of a batch differ much from
    the running ones; what the network learns in the last epochs should hold for those that it is used with.

    Args:
        network: its batch normalisations are frozen; their weights still learn.
        from_epoch: first epoch, counted from 1; 0 never freezes.
    """

    def __init__(self, network: nn.Module, from_epoch: int) -> None:
        self.network = network
        self.from_epoch = from_epoch
        self.frozen = False

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if self.frozen or not 0 < self.from_epoch <= engine.state.epoch:
            return
        self.frozen = True
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                # The trainer puts the whole network into training mode before every batch.
                module.register_forward_pre_hook(_as_in_evaluation)


def _as_in_evaluation(module: nn.Module, inputs: Any) -> None:
    module.eval()


class GradientClipping:
    """Scale the gradients of a batch down to a norm; one odd batch then cannot undo an epoch.

    Args:
        network: whose gradients.
        max_norm: of all of them together.
    """

    def __init__(self, network: nn.Module, max_norm: float = 1.0) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


def warm_start(network: nn.Module, path: str | Path | None) -> nn.Module:
    """Begin training from weights that exist; a second output channel that they lack begins at zero.

    Args:
        network: changed in place and returned.
        path: a plain state dict; ``None`` leaves the network as it is.

    Raises:
        ValueError: if the file holds weights of another network.
    """
    if path is None:
        return network
    loaded, own = torch.load(path, map_location="cpu", weights_only=True), network.state_dict()
    last = {f"up_stage_4.2.conv.{name}" for name in ("weight", "bias")}
    for name, value in own.items():
        given = loaded.get(name)
        if given is not None and name in last and given.shape[1:] == value.shape[1:] and len(given) < len(value):
            given = torch.cat((given, given.new_zeros(len(value) - len(given), *given.shape[1:])))
        if given is None or given.shape != value.shape:
            raise ValueError(
                f"'{path}' holds weights of another network ('{name}' differs); expected those of this one"
            )
        value.copy_(given)
    return network


def use_fastest_kernels() -> None:
    """Let CUDA choose its convolutions by trial, after MONAI's ``set_determinism`` forbade it.

    What is drawn still follows from the seed; sums may be rounded in another order from run to run. Without CUDA
    nothing changes.
    """
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.benchmark = True


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


def save_atomically(state: Any, path: Path) -> None:
    """``torch.save`` to the side, then rename over ``path``."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        torch.save(state, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _is_fast(device: torch.device, dtype: torch.dtype) -> bool:
    if dtype is not torch.bfloat16:
        return True
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _unwrap(part: Any) -> Any:
    return part.module if isinstance(part, nn.parallel.DistributedDataParallel) else part


def _is_main_process() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
