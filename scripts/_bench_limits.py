"""What scripts/bench.py compares itself with: other compilers of the network, and what the arithmetic allows."""

from __future__ import annotations

import copy
import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from itermask3d.method.acceleration.folding import fuse_upsampling
from itermask3d.method.acceleration.network import InferenceUNet
from itermask3d.method.network import ReconstructionUNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Form", "floor", "in_turn", "other_compilers"]

Form = Callable[[torch.Tensor], torch.Tensor]
"""The network in one form: corrupted image and guide in, reconstruction out."""

MATRIX = 2048
"""Edge of the square matrices whose product stands for what the processor can do."""


class _Reconstruction(nn.Module):
    """The fused network without the predicted variance, which a pass of the loop does not need."""

    def __init__(self, network: ReconstructionUNet) -> None:
        super().__init__()
        self.network = fuse_upsampling(copy.deepcopy(network)).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)[:, :1]


def other_compilers(
    network: ReconstructionUNet, shape: Sequence[int], folder: Path, *, threads: int
) -> dict[str, Form]:
    """The network under every compiler that is installed; none of them is needed by the project.

    Args:
        network: in evaluation mode.
        shape: of the input, ``(B, C, D, H, W)``.
        folder: for the file that is exported.
        threads: for those that do not take torch's.

    Returns:
        Forms by name: ``torch.compile``, and OpenVINO and ONNX Runtime where they can be imported.
    """
    fused = _Reconstruction(network)
    forms: dict[str, Form] = {"torch.compile": torch.compile(fused)}
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        forms["ONNX Runtime"] = _onnx_runtime(fused, shape, folder / "network.onnx", threads)
    if importlib.util.find_spec("openvino"):
        forms["OpenVINO"] = _openvino(fused, shape, threads, "f32")
        forms["OpenVINO, bfloat16"] = _openvino(fused, shape, threads, "bf16")
    return forms


def _onnx_runtime(network: nn.Module, shape: Sequence[int], path: Path, threads: int) -> Form:
    import onnxruntime

    torch.onnx.export(network, (torch.zeros(tuple(shape)),), str(path), dynamo=False, opset_version=17)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def _openvino(network: nn.Module, shape: Sequence[int], threads: int, precision: str) -> Form:
    import openvino

    small = torch.zeros((*shape[:2], 32, 32, 32))
    model = openvino.convert_model(network, example_input=small, input=[list(shape)])
    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.compile_model(model, "CPU", hints)
    return lambda x: torch.from_numpy(compiled(x.numpy())[0])


def in_turn(forms: dict[str, Form], inputs: torch.Tensor, rounds: int) -> dict[str, float]:
    """Median seconds of a pass of each form, in turn so that all see the same machine; the first is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, form in forms.items():
                start = time.perf_counter()
                form(inputs)
                seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(taken[1:])) for name, taken in seconds.items()}


def floor(network: ReconstructionUNet, inputs: torch.Tensor, brain: torch.Tensor, rounds: int = 5) -> dict[str, Any]:
    """What the arithmetic of a pass would take at the speed of a large matrix product, beside what a pass takes.

    Args:
        network: in evaluation mode.
        inputs: corrupted image and guide, ``(B, C, D, H, W)``.
        brain: boolean, ``(B, 1, D, H, W)``.

    Returns:
        ``gflop`` of the plain network, of the accelerated one for the whole field and for the brain's part, as torch
        counts them; ``gflop_per_second`` of a matrix product and ``seconds`` of an accelerated pass, by precision.
    """
    reconstruct = {
        dtype: _one_channel(InferenceUNet(network, brain, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)
    }
    with torch.inference_mode():
        gflop = {
            "plain": _gflop(network, inputs),
            "accelerated, whole field": _gflop(_one_channel(InferenceUNet(network)), inputs),
            "accelerated, what the brain needs": _gflop(reconstruct[torch.float32], inputs),
        }
        precisions = {str(dtype).removeprefix("torch."): dtype for dtype in reconstruct}
        speeds = {name: _matrix_speed(dtype, rounds) for name, dtype in precisions.items()}
    seconds = in_turn({name: reconstruct[dtype] for name, dtype in precisions.items()}, inputs, rounds)
    return {"gflop": gflop, "gflop_per_second": speeds, "seconds": seconds}


def _one_channel(network: InferenceUNet) -> Form:
    return lambda x: network(x, out_channels=1)


def _gflop(form: Form, inputs: torch.Tensor) -> float:
    with FlopCounterMode(display=False) as counter:
        form(inputs)
    return counter.get_total_flops() / 1e9


def _matrix_speed(dtype: torch.dtype, rounds: int) -> float:
    a, b = (torch.rand((MATRIX, MATRIX)).to(dtype) for _ in range(2))
    seconds = in_turn({"product": lambda x: x @ b}, a, rounds)["product"]
    return float(2 * MATRIX**3 / seconds / 1e9)
