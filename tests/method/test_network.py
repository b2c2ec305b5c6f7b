"""The reconstruction network and its accelerated form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from itermask3d.method.acceleration.folding import UpsampledConv3d, fuse_upsampling
from itermask3d.method.network import ReconstructionUNet
from torch import nn

NARROW = (4, 6, 8, 10, 12)

BFLOAT16_RMS_ERROR = 0.02
"""Bound on the root-mean-square error of bfloat16 autocast, in standard deviations of the output (measured: 0.009)."""


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """State dict, input and output of the reference's network."""
    state = torch.load(golden_dir / "reference_unet_fp16.pt", weights_only=True)
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    io = np.load(golden_dir / "reference_unet_io.npz")
    return state, torch.from_numpy(io["input"]).float(), torch.from_numpy(io["output"]).float()


def _network(seed: int = 0, **kwargs) -> ReconstructionUNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ReconstructionUNet(**{"channels": NARROW, **kwargs})
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2)
    return network


def _input(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_published_widths_have_the_published_number_of_parameters():
    assert sum(parameter.numel() for parameter in ReconstructionUNet().parameters()) == 8_902_626


def test_reference_checkpoint_loads_strictly_and_gives_the_reference_s_output(golden):
    state, inputs, expected = golden
    network = ReconstructionUNet().eval()
    network.load_state_dict(state, strict=True)
    with torch.inference_mode():
        error = (network(inputs) - expected).abs().max()
    assert error < 1e-4 * expected.std()


def test_accelerated_network_gives_the_reference_s_output_too(golden):
    state, inputs, expected = golden
    network = fuse_upsampling(ReconstructionUNet()).eval()
    network.load_state_dict(state, strict=True)
    with torch.inference_mode():
        error = (network(inputs) - expected).abs().max()
    assert error < 1e-4 * expected.std()


def test_bfloat16_stays_within_its_stated_error(golden):
    state, inputs, expected = golden
    network = fuse_upsampling(ReconstructionUNet()).eval()
    network.load_state_dict(state, strict=True)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(inputs).float()
    assert (output - expected).square().mean().sqrt() < BFLOAT16_RMS_ERROR * expected.std()


@pytest.mark.parametrize("shape", [(1, 2, 32, 32, 32), (2, 2, 32, 48, 64)])
def test_output_has_the_grid_of_the_input(shape):
    assert _network().eval()(_input(*shape)).shape == (shape[0], 1, *shape[2:])


@pytest.mark.parametrize(("in_channels", "out_channels"), [(1, 1), (2, 2), (4, 3)])
def test_channel_numbers_are_free(in_channels, out_channels):
    network = _network(in_channels=in_channels, out_channels=out_channels).eval()
    assert network(_input(1, in_channels, 32, 32, 32)).shape[1] == out_channels


@pytest.mark.parametrize(
    "shape", [(1, 2, 40, 32, 32), (1, 2, 32, 32, 31), (1, 2, 8, 32, 32), (2, 32, 32, 32), (1, 2, 32, 32)]
)
def test_wrong_size_is_refused_with_the_shape_and_the_divisor(shape):
    with pytest.raises(ValueError, match="divide by 16") as error:
        _network()(torch.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("shape", [(1, 2, 16, 32, 32), (1, 2, 32, 32, 0)])
def test_volume_too_small_for_four_halvings_is_refused_with_its_shape(shape):
    with pytest.raises(ValueError, match="at least 32") as error:
        _network()(torch.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    "channels", [(), (8, 16, 32, 64), (8, 16, 32, 64, 128, 256), (8, 16, 12, 64, 128), (1, 2, 4, 8, 16)]
)
def test_widths_that_the_shortcut_cannot_serve_are_refused(channels):
    with pytest.raises(ValueError, match="channels must hold five widths") as error:
        ReconstructionUNet(channels=channels)
    assert str(channels) in str(error.value)


def test_batch_items_do_not_see_each_other_in_eval_mode():
    network = _network().double().eval()
    batch = _input(3, 2, 32, 32, 32).double()
    with torch.inference_mode():
        together = network(batch)
        alone = torch.cat([network(batch[index : index + 1]) for index in range(3)])
    torch.testing.assert_close(alone, together)


def test_network_passes_gradients_to_every_parameter():
    network = _network(dropout=0.0)
    network(_input(2, 2, 32, 32, 32)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("shape", [(1, 3, 1, 1, 1), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_fused_convolution_equals_upsampling_then_convolution(shape, bias):
    fused = UpsampledConv3d(3, 4, kernel_size=3, padding=1, bias=bias).double()
    plain = nn.functional.conv3d(
        nn.functional.interpolate(_input(*shape).double(), scale_factor=2, mode="nearest"),
        fused.weight,
        fused.bias,
        padding=1,
    )
    torch.testing.assert_close(fused(_input(*shape).double()), plain)


def test_accelerated_network_equals_the_plain_one_to_rounding():
    plain, inputs = _network().eval(), _input(2, 2, 32, 48, 32)
    fused = fuse_upsampling(_network()).eval()
    with torch.inference_mode():
        expected = plain(inputs)
        error = (fused(inputs) - expected).abs().max()
    assert error < 1e-4 * expected.std()


def test_accelerated_network_is_exact_in_double_precision():
    plain, inputs = _network().double().eval(), _input(1, 2, 32, 32, 32).double()
    fused = fuse_upsampling(_network().double()).eval()
    with torch.inference_mode():
        expected, output = plain(inputs), fused(inputs)
    torch.testing.assert_close(output, expected, atol=1e-11 * float(expected.abs().max()), rtol=0)


def test_acceleration_keeps_state_dict_and_object():
    plain, network = _network(), _network()
    fused = fuse_upsampling(network)
    assert fused is network
    assert list(fused.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(fused.state_dict().values(), plain.state_dict().values(), strict=True))
    ReconstructionUNet(channels=NARROW).load_state_dict(fused.state_dict(), strict=True)


def test_acceleration_keeps_the_parameter_objects_that_an_optimiser_holds():
    network = _network()
    before = list(map(id, network.parameters()))
    assert list(map(id, fuse_upsampling(network).parameters())) == before


def test_accelerating_twice_changes_nothing():
    once = fuse_upsampling(_network().double().eval())
    inputs = _input(1, 2, 32, 32, 32).double()
    expected = once(inputs)
    assert torch.equal(fuse_upsampling(once)(inputs), expected)


def test_gradients_of_the_accelerated_network_are_those_of_the_plain_one():
    inputs = _input(2, 2, 32, 48, 32).double()
    gradients = []
    for network in (_network(dropout=0.0).double(), fuse_upsampling(_network(dropout=0.0).double())):
        network(inputs).square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    largest = max(float(gradient.abs().max()) for gradient in gradients[0].values())
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-6, atol=1e-10 * largest)
