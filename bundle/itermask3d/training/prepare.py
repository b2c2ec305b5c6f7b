"""What comes before the first step of a training: the batch, the precision, the weights to begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_tensor
from torch import nn

from itermask3d.method.masking import corrupt

__all__ = ["AutocastInferer", "PrepareReconstruction", "use_fastest_kernels", "warm_start"]


class PrepareReconstruction:
    """Turn a batch into network input and target; for ``prepare_batch`` of MONAI's engines.

    Input to the network: the corrupted image and the guide, ``(B, 2, D, H, W)``. Target: the image as it should be
    reconstructed, the brain mask, and the training mask inside the brain less what was altered there, ``(B, 3, D, H,
    W)``, so that a loss can be taken where it belongs.

    Args:
        seed: draw the noise from this seed in every call (validation); ``None`` draws fresh noise (training).
        noise: its standard deviation, which has to be that of the loop, ``noise`` of
            :class:`itermask3d.method.settings.RefinementSettings`.
    """

    def __init__(self, seed: int | None = None, noise: float = 1.0) -> None:
        self.seed = seed
        self.noise = noise

    def __call__(
        self, batch: Mapping[str, torch.Tensor], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        image, guide, mask, brain = (_on(batch[key], device, non_blocking) for key in _SAMPLE)
        target = _on(batch.get("target", image), device, non_blocking)
        unaltered = 1 - _on(batch["altered"], device, non_blocking) if "altered" in batch else 1
        masked = mask.to(image) * (brain > 0.5) * unaltered
        corrupted = corrupt(image, mask, self._noise(image))
        return torch.cat((corrupted, guide), dim=1), torch.cat((target, brain, masked), dim=1)

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


def _is_fast(device: torch.device, dtype: torch.dtype) -> bool:
    if dtype is not torch.bfloat16:
        return True
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
