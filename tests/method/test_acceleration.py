"""The network rewritten for inference: the same function inside the brain, whatever the checkpoint and the brain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ball
from itermask3d.method.acceleration.folding import fuse_upsampling
from itermask3d.method.acceleration.network import InferenceUNet
from itermask3d.method.inferer import IterMaskInferer
from itermask3d.method.network import ReconstructionUNet
from itermask3d.method.settings import RefinementSettings
from torch import nn

FLOAT32_ERROR = 1e-4
"""Bound on the largest error in standard deviations of the output (measured: 7e-6)."""

BFLOAT16_RMS_ERROR = 0.02
"""Bound on the root-mean-square error in standard deviations of the output (measured: 0.006)."""

GRID = (48, 64, 80)


def network(**kwargs) -> ReconstructionUNet:
    """Random weights and statistics, so that nothing that is folded is an identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ReconstructionUNet(**{"channels": (4, 6, 8, 10, 12), **kwargs})
        for name, parameter in net.named_parameters():
            if "adn.A" in name or "adn.N.weight" in name:
                nn.init.uniform_(parameter, 0.3, 1.5)
            elif "adn.N.bias" in name:
                nn.init.normal_(parameter, std=0.3)
        for name, buffer in net.named_buffers():
            if "running_var" in name:
                nn.init.uniform_(buffer, 0.5, 2.0)
            elif "running_mean" in name:
                nn.init.normal_(buffer, std=0.3)
    return net.eval()


def volume(batch: int = 1, channels: int = 2) -> torch.Tensor:
    return torch.randn((batch, channels, *GRID), generator=torch.Generator().manual_seed(1))


def brains() -> dict[str, np.ndarray]:
    corner, two = np.zeros(GRID, dtype=bool), np.zeros(GRID, dtype=bool)
    corner[:9, :7, -11:] = True
    two[3, 60, 70], two[40, 2, 5] = True, True
    return {
        "middle": ball(GRID, radius=17),
        "off centre": ball(GRID, radius=12, centre=(20, 40, 33)),
        "in a corner": corner,
        "two far voxels": two,
        "everywhere": np.ones(GRID, dtype=bool),
    }


@pytest.mark.parametrize("fused", [False, True])
def test_whole_field_equals_the_plain_network_to_rounding(fused):
    plain, inputs = network(), volume(2)
    with torch.inference_mode():
        expected = plain(inputs)
        output = InferenceUNet(fuse_upsampling(network()) if fused else network())(inputs)
    assert (output - expected).abs().max() < FLOAT32_ERROR * expected.std()


@pytest.mark.parametrize("name", list(brains()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_voxel_of_the_brain_equals_the_plain_network(name, dtype):
    plain, inputs = network().to(dtype), volume().to(dtype)
    brain = torch.from_numpy(brains()[name])[None, None]
    with torch.inference_mode():
        expected = plain(inputs)
        output = InferenceUNet(plain, brain, dtype=dtype)(inputs)
    assert (output - expected)[brain].abs().max() < FLOAT32_ERROR * expected.std()
    assert not output[~brain].any()


def test_scans_of_a_batch_get_what_they_get_alone():
    plain, inputs = network(), volume(2)
    brain = torch.zeros(2, 1, *GRID)
    brain[0, 0] = torch.from_numpy(ball(GRID, radius=9, centre=(12, 14, 60))).float()
    brain[1, 0] = torch.from_numpy(ball(GRID, radius=12, centre=(30, 40, 33))).float()
    with torch.inference_mode():
        together = InferenceUNet(plain, brain)(inputs)
        for index in range(2):
            one = slice(index, index + 1)
            alone = InferenceUNet(plain, brain[one])(inputs[one])
            inside = brain[one] > 0.5
            torch.testing.assert_close(together[one][inside], alone[inside], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("in_channels", "out_channels"), [(1, 1), (4, 3)])
def test_channel_numbers_are_free(in_channels, out_channels):
    plain, inputs = network(in_channels=in_channels, out_channels=out_channels), volume(2, in_channels)
    with torch.inference_mode():
        expected = plain(inputs)
        output = InferenceUNet(plain)(inputs)
    assert output.shape == expected.shape
    assert (output - expected).abs().max() < FLOAT32_ERROR * expected.std()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_output_channel_alone_is_the_first_of_all(dtype):
    fast = InferenceUNet(network(out_channels=2), torch.from_numpy(brains()["off centre"])[None, None], dtype=dtype)
    with torch.inference_mode():
        both, first = fast(volume()), fast(volume(), out_channels=1)
    assert (both.shape[1], first.shape[1]) == (2, 1)
    torch.testing.assert_close(first, both[:, :1])


def test_bfloat16_stays_within_its_stated_error_and_returns_float32():
    plain, inputs = network(), volume()
    brain = torch.from_numpy(ball(GRID, radius=20))[None, None]
    with torch.inference_mode():
        expected = plain(inputs)[brain]
        output = InferenceUNet(plain, brain, dtype=torch.bfloat16)(inputs)
    assert output.dtype == torch.float32
    assert (output[brain] - expected).square().mean().sqrt() < BFLOAT16_RMS_ERROR * expected.std()


def test_reference_checkpoint_gives_the_reference_s_output(golden_dir: Path):
    state = torch.load(golden_dir / "reference_unet_fp16.pt", weights_only=True)
    io = np.load(golden_dir / "reference_unet_io.npz")
    plain = ReconstructionUNet().eval()
    plain.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    )
    expected = torch.from_numpy(io["output"]).float()
    with torch.inference_mode():
        output = InferenceUNet(plain)(torch.from_numpy(io["input"]).float())
    assert (output - expected).abs().max() < FLOAT32_ERROR * expected.std()


def test_input_and_network_stay_as_they_are():
    plain, inputs = network(), volume()
    state, copy = {name: value.clone() for name, value in plain.state_dict().items()}, inputs.clone()
    with torch.inference_mode():
        InferenceUNet(plain)(inputs)
    assert torch.equal(inputs, copy)
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())


def test_a_network_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="training mode"):
        InferenceUNet(network().train())


def test_wrong_size_is_refused_as_the_plain_network_does():
    with pytest.raises(ValueError, match="divide by 16"):
        InferenceUNet(network())(torch.zeros(1, 2, 40, 32, 32))


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_inferer_gives_the_same_answer_with_and_without_acceleration(mixed_precision):
    image = volume(1, 1) * torch.from_numpy(ball(GRID, radius=18))
    settings = RefinementSettings(gamma=0.02, n_steps=8)
    results = [
        IterMaskInferer(settings, mixed_precision=mixed_precision, accelerate=accelerate)(image, network())
        for accelerate in (True, False)
    ]
    masks = [result["mask"].bool() for result in results]
    overlap = 2 * int((masks[0] & masks[1]).sum()) / int(masks[0].sum() + masks[1].sum())
    assert overlap > (0.98 if mixed_precision else 0.999)
    assert [result["findings"][0].outcome for result in results] == ["anomaly"] * 2


def test_inferer_predicts_the_variance_once_and_then_leaves_it_out():
    net, brain = network(out_channels=2), torch.from_numpy(brains()["off centre"])[None, None]
    reconstruct = IterMaskInferer().reconstructor(net, brain)
    image = volume(channels=1) * brain
    with torch.inference_mode():
        assert reconstruct(image, image).shape[1] == 2
        torch.testing.assert_close(reconstruct.reconstruct(image, image), reconstruct(image, image)[:, :1])
    settings = RefinementSettings(n_steps=8, relative_error=True, nested=True, error_window=3)
    runs = [IterMaskInferer(settings, accelerate=on)(image, net, brain_mask=brain) for on in (False, True)]
    torch.testing.assert_close(runs[1]["anomaly_map"], runs[0]["anomaly_map"], rtol=1e-2, atol=1e-3)


def test_inferer_runs_a_network_in_training_mode_and_other_callables_as_they_are():
    seen = []

    def other(inputs):
        seen.append(inputs.shape)
        return inputs[:, :1] * 0.5

    brain = torch.ones(1, 1, *GRID, dtype=torch.bool)
    for net in (other, network().train()):
        output = IterMaskInferer().reconstructor(net, brain)(volume(1, 1), volume(1, 1))
        assert output.shape == (1, 1, *GRID)
    assert seen == [(1, 2, *GRID)]
