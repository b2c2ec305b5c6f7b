"""Bundles whose network is fast, and scans for them: for tests of what stands around the network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from helpers import head_phantom
from itermask3d.method.network import ReconstructionUNet

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


PUBLISHED = {
    "gamma": 0.1,
    "min_r_squared": 0.85,
    "relative_error": False,
    "error_window": 1,
    "interpolate": False,
    "threshold_floor": 0.0,
    "threshold_ceiling": None,
    "peak_threshold": None,
    "score_quantile": None,
    "error_level": None,
    "residual_bias_order": None,
    "average_passes": False,
    "noise": 1.0,
    "schedule": "exact",
}
"""A convolution predicts no variance, so the error is the squared one and its threshold is found as published."""


def write_fast_bundle(root: Path) -> Path:
    """Write configs and weights of a bundle whose network blurs the image and adds half of the guide.

    It cannot copy a lesion's inside, so a lesion brighter than its surroundings is found.
    """
    shutil.copytree(BUNDLE / "configs", root / "configs")
    (root / "models").mkdir()
    path = root / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["network_def"] = {
        "_target_": "torch.nn.Conv3d",
        "in_channels": 2,
        "out_channels": 1,
        "kernel_size": 5,
        "padding": 2,
    }
    config["network"] = "$@network_def.to(@device)"
    config["spacing_mm"], config["spatial_size"] = 4.0, [48, 56, 48]
    config["settings"] |= {"n_steps": 20, **PUBLISHED}
    config["models"]["settings"], config["evidence"] = {}, {}
    path.write_text(json.dumps(config))
    taps = np.exp(-(np.arange(-2, 3) ** 2) / 8.0)
    weight = np.zeros((1, 2, 5, 5, 5), dtype=np.float32)
    weight[0, 0] = np.einsum("i,j,k->ijk", *[taps / taps.sum()] * 3)
    weight[0, 1, 2, 2, 2] = 0.5
    torch.save({"weight": torch.from_numpy(weight), "bias": torch.zeros(1)}, root / "models" / "model.pt")
    return root


TINY_CHANNELS = [2, 2, 2, 4, 4]


def write_tiny_bundle(root: Path) -> Path:
    """Write configs and weights of a bundle that can be trained: a tiny network of random weights, voxels of 6 mm."""
    shutil.copytree(BUNDLE / "configs", root / "configs")
    (root / "models").mkdir()
    path = root / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["network_def"]["channels"] = TINY_CHANNELS
    config |= {"spacing_mm": 6.0, "spatial_size": [32, 48, 32], "bias_correction": "none"}
    config["settings"] |= {"max_iterations": 2}
    config["evidence"] = {}
    path.write_text(json.dumps(config))
    torch.manual_seed(1)
    torch.save(ReconstructionUNet(out_channels=2, channels=TINY_CHANNELS).state_dict(), root / "models" / "model.pt")
    return root


def write_noisy_phantoms(folder: Path, n_scans: int) -> Path:
    """Write stripped phantoms of 4 mm, each with its own fine structure."""
    phantom = head_phantom(spacing_mm=(4, 4, 4))
    for seed in range(n_scans):
        noise = np.random.default_rng(seed).normal(0, 6, phantom.image.shape)
        image = np.where(phantom.brain_mask, phantom.image + noise, 0).astype(np.float32)
        nib.save(nib.Nifti1Image(image, phantom.affine), folder / f"sub-{seed}_T1w.nii.gz")
    return folder
