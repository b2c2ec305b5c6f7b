"""What the tests of the MONAI Label app share: the app's modules, and a bundle whose network is known and fast."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fast_bundle import write_fast_bundle
from helpers import Phantom
from serving import Server, running_server

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "monailabel_app"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs MONAI Label, which only the environment of the lock is sure to hold."""
    try:
        import monailabel  # noqa: F401
    except ImportError:
        skip = pytest.mark.skip(reason="this test needs monailabel (pip install 'itermask3d[label]')")
        for item in items:
            if APP.name in str(item.path) or "tests/app" in item.path.as_posix():
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def app_modules() -> Iterator[None]:
    """The app's folder on the path, as MONAI Label puts it there."""
    sys.path.insert(0, str(APP))
    yield
    sys.path.remove(str(APP))


@pytest.fixture(scope="session")
def blur_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fast bundle, whose training is small as well."""
    root = write_fast_bundle(tmp_path_factory.mktemp("bundle"))
    path = root / "configs" / "train.json"
    training = json.loads(path.read_text())
    training["network_def"]["channels"] = [2, 2, 2, 2, 2]
    training["spatial_size"] = [32, 32, 32]
    path.write_text(json.dumps(training))
    return root


@pytest.fixture(scope="module")
def server(blur_bundle: Path, phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server on a folder of five volumes, in a process of its own."""
    folder = tmp_path_factory.mktemp("server")
    studies = folder / "studies"
    studies.mkdir()
    for number in range(1, 5):
        noise = np.random.default_rng(number).normal(0, 3, phantom.image.shape) * phantom.brain_mask
        strength = {1: 0.0, 2: 1.0, 3: 0.5, 4: 0.0}[number]
        image = phantom.image + noise - (1 - strength) * 60 * phantom.label
        volume = nib.Nifti1Image(image.astype(np.float32), phantom.affine)
        nib.save(volume, studies / f"sub-0{number}_T1w.nii.gz")
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), studies / "sub-05_FLAIR.nii.gz")
    with running_server(folder, studies, {"bundle": str(blur_bundle)}) as running:
        yield running
