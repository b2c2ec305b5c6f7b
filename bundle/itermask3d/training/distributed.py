"""Several processes that train one network, as torchrun starts them: a device, a place in the group and a copy each."""

from __future__ import annotations

import os

import torch
from torch import nn

__all__ = ["join", "own_device", "parallel"]


def own_device() -> torch.device:
    """The GPU of this process by its number on this machine (``LOCAL_RANK``); the CPU where there is none."""
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")


def join(device: torch.device) -> None:
    """Enter the group of processes; GPUs exchange gradients by NCCL, CPUs by Gloo.

    Args:
        device: of this process; where it is a GPU, CUDA uses it from here on.
    """
    torch.distributed.init_process_group(backend="nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        torch.cuda.set_device(device)


def parallel(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with gradients averaged over all processes of the group.

    Args:
        network: on ``device``.
        device: of this process.
    """
    return nn.parallel.DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
