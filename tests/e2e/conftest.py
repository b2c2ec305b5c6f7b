"""A PACS and a server for the tests of the whole chain; what is not installed skips them, with the reason."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]  # fmt: skip
"""A browser that asks nothing of the outside and draws without a graphics card."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, or the one that playwright has."""
    playwright = pytest.importorskip("playwright.sync_api", reason="this test needs playwright")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with playwright.sync_playwright() as driver:
        if not executable and not os.path.exists(driver.chromium.executable_path):
            pytest.skip("this test needs a browser (sudo apt install chromium)")
        launched = driver.chromium.launch(executable_path=executable, headless=True, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def services() -> Iterator[ModuleType]:
    """``scripts/_services.py``, which starts what the tests talk to."""
    sys.path.insert(0, str(ROOT / "scripts"))
    yield importlib.import_module("_services")
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def orthanc(services: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An empty PACS."""
    try:
        executable, plugin = services.find_orthanc()
    except services.ServiceError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("orthanc")
    with services.running() as started:
        started.append(services.start_orthanc(executable, plugin, folder, port=services.free_port()))
        started[0].wait_until_it_answers("/system")
        yield started[0]


@pytest.fixture(scope="module")
def start(services: ModuleType, orthanc: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Starts the MONAI Label server on :func:`orthanc`, with settings of the app by keyword."""
    pytest.importorskip("monailabel", reason="this test needs monailabel")
    with services.running() as started:

        def start_server(**conf: str) -> Any:
            folder = tmp_path_factory.mktemp("server")
            studies = f"{orthanc.url}/dicom-web"
            server = services.start_server(studies, folder, port=services.free_port(), conf=tuple(conf.items()))
            started.append(server)
            server.wait_until_it_answers("/info/")
            return server

        yield start_server


@pytest.fixture(scope="module")
def quick_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle as shipped, but for a coarser sweep: a quarter of the time on a CPU."""
    root = tmp_path_factory.mktemp("bundle")
    for name in ("configs", "models"):
        shutil.copytree(ROOT / "bundle" / name, root / name)
    path = root / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["settings"]["n_steps"] = 25
    path.write_text(json.dumps(config))
    return root
