"""Export the network of a bundle's model to TorchScript and ONNX, and hold both against the original.

Only the network is exported: the loop of masks, the threshold and the way back to the scan's grid are Python. Input
``image`` is ``(1, 2, D, H, W)``, the masked scan and the guide in normalised intensities on the bundle's grid; output
``reconstruction`` is ``(1, C, D, H, W)``, the reconstruction and, with two channels, the logarithm of its variance.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from itermask3d import BUNDLE_ROOT
from itermask3d.inference.models import NAMES, model_file
from itermask3d.inference.networks import load_weights
from monai.bundle import ConfigParser
from torch import nn

TOLERANCE = 1e-3
"""Largest difference of an export's output from the original's, in normalised intensities (a brain's spread is 1)."""


def read_network(bundle: Path, model: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A model's network with its weights in float32, and the shape of its input."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle)
    network = parser.get_parsed_content("network_def")
    load_weights(network, model_file(bundle / "models", "model.pt", model))
    return network.float().cpu().eval(), (1, 2, *parser.get_parsed_content("spatial_size"))


def to_torchscript(network: nn.Module, example: torch.Tensor, path: Path) -> torch.Tensor:
    """Write TorchScript; its output for the example."""
    torch.jit.save(torch.jit.script(network), path)
    with torch.no_grad():
        output: torch.Tensor = torch.jit.load(path, map_location="cpu")(example)
    return output


def to_onnx(network: nn.Module, example: torch.Tensor, path: Path) -> torch.Tensor:
    """Write ONNX, weights inside, for inputs of the example's shape; its output for the example."""
    import onnxruntime

    names = {"input_names": ["image"], "output_names": ["reconstruction"]}
    torch.onnx.export(network, (example,), str(path), dynamo=True, external_data=False, verbose=False, **names)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"image": example.numpy()})[0])


def export(network: nn.Module, shape: tuple[int, ...], folder: Path, name: str) -> dict[Path, float]:
    """Write both forms; the largest difference of each from the original on random input.

    Raises:
        ValueError: if a form differs by more than :data:`TOLERANCE`; its file is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    example = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = network(example)
    found = {}
    for suffix, write in ((".ts", to_torchscript), (".onnx", to_onnx)):
        path = folder / f"{name}{suffix}"
        found[path] = float((write(network, example, path) - expected).abs().max())
        if not found[path] <= TOLERANCE:
            path.unlink()
            raise ValueError(f"'{path.name}' differs from the network by {found[path]:.2g}; expected {TOLERANCE:g}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", default=Path("out/export"), help="folder for the files")
    parser.add_argument("--bundle", type=Path, default=Path(BUNDLE_ROOT), help="folder of the bundle")
    parser.add_argument("--model", choices=NAMES, default=NAMES[0], help="which model")
    arguments = parser.parse_args()
    network, shape = read_network(arguments.bundle, arguments.model)
    for path, difference in export(network, shape, arguments.output, f"itermask3d_{arguments.model}").items():
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, differs by at most {difference:.1e}")


if __name__ == "__main__":
    main()
