"""Exports of the network run elsewhere and agree with it, or are not left behind."""

from __future__ import annotations

import pytest
import torch
from bundle_helpers import CHANNELS
from helpers import load_script
from itermask3d import BUNDLE_ROOT
from itermask3d.method.network import ReconstructionUNet

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, about what its two exporters will be in later versions


@pytest.fixture(scope="module")
def script():
    return load_script("export")


def test_both_forms_run_and_agree_with_the_network(script, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ReconstructionUNet(channels=CHANNELS, out_channels=2).eval()
    found = script.export(network, (1, 2, 32, 32, 32), tmp_path / "new", "m")
    assert {path.name for path in found} == {"m.ts", "m.onnx"}
    assert max(found.values()) < 1e-5
    inputs = onnxruntime.InferenceSession(tmp_path / "new" / "m.onnx").get_inputs()
    assert [(one.name, one.shape) for one in inputs] == [("image", [1, 2, 32, 32, 32])]


def test_a_form_that_differs_is_refused_and_removed(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "to_torchscript", lambda network, example, path: path.touch() or network(example) + 1)
    with pytest.raises(ValueError, match=r"'m\.ts' differs from the network by 1; expected 0.001"):
        script.export(torch.nn.Identity(), (1, 2, 4, 4, 4), tmp_path, "m")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["t1", "agnostic"])
def test_shipped_weights_agree_in_both_forms(script, tmp_path, model):
    network, shape = script.read_network(script.Path(BUNDLE_ROOT), model)
    found = script.export(network, shape, tmp_path, model)
    assert len(found) == 2
    assert max(found.values()) <= script.TOLERANCE
