"""``make ohif``: starts what it says, stops it cleanly, keeps its data, and says what is wrong in one sentence."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests
from helpers import head_phantom
from itermask3d.files.dicom import write_mr_series

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "ohif.py"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a series and a file that is no DICOM."""
    phantom = head_phantom(spacing_mm=(4, 4, 4))
    folder = tmp_path_factory.mktemp("study")
    write_mr_series(phantom.image.round(), phantom.affine, folder / "series", description="T1 phantom")
    (folder / "readme.txt").write_text("no DICOM")
    return folder


def start_script(output: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, SCRIPT, "--output", output, *arguments]
    return subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )


def read_until_ready(process: subprocess.Popen[str]) -> str:
    """The address that it prints; the process's end ends the wait."""
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if "StudyInstanceUIDs=" in line:
            return line.strip()
    pytest.fail("the script ended before it was ready:\n" + "".join(lines))


def orthanc_url(output: Path) -> str:
    return f"http://127.0.0.1:{json.loads((output / 'orthanc' / 'orthanc.json').read_text())['HttpPort']}"


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=10).ok
    except requests.ConnectionError:
        return False


@pytest.fixture
def needs_orthanc(services: ModuleType) -> None:
    try:
        services.find_orthanc()
    except services.ServiceError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("needs_orthanc")
def test_own_study_is_served_kept_and_everything_stops(study: Path, tmp_path: Path) -> None:
    first = start_script(tmp_path, "--study", study)
    address = read_until_ready(first)
    server = address.split("/ohif/")[0]
    pacs = orthanc_url(tmp_path)
    assert answers(address)
    assert answers(f"{server}/itermask3d/status")
    first.send_signal(signal.SIGINT)
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 0
    assert "Stopped." in said
    assert not answers(f"{pacs}/system")
    assert not answers(f"{server}/info/")

    again = start_script(tmp_path, "--no-demo")
    assert read_until_ready(again).split("=")[1] == address.split("=")[1], "the study survives a restart"
    assert orthanc_url(tmp_path) == pacs, "results are kept by the PACS's address"
    requests.post(f"{pacs}/tools/shutdown", timeout=60)
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 1
    assert "Orthanc ended" in said
    assert "orthanc.log" in said.replace("\n", "")


@pytest.mark.usefixtures("needs_orthanc")
@pytest.mark.parametrize("kind", ["missing", "no DICOM"])
def test_unusable_study_is_named(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "study"
    if kind == "no DICOM":
        folder.mkdir()
        (folder / "readme.txt").write_text("no DICOM")
    process = start_script(tmp_path / "out", "--study", folder)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in said
    assert ("does not exist" in said) == (kind == "missing")


def test_missing_orthanc_is_said_with_the_packages_to_install(
    services: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(services, "ORTHANC_PATHS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(services.ServiceError, match=r"apt install orthanc orthanc-dicomweb"):
        services.find_orthanc()


def test_taken_port_is_refused(services: ModuleType, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(services.ServiceError, match=f"port {port} is taken"):
            services.start_server("http://127.0.0.1:1/dicom-web", tmp_path, port=port)
        assert services.free_port(port) != port


def test_service_that_ends_at_its_start_names_its_log(services: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    service: Any = services.Service.start("it", command, url="http://127.0.0.1:1", log=tmp_path / "it.log")
    with pytest.raises(services.ServiceError, match=r"status 3 at its start; read .*it\.log"):
        service.wait_until_it_answers("/")
    service.stop()


def test_stopping_ends_what_the_service_started_and_may_be_repeated(services: ModuleType, tmp_path: Path) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)"
    command = [sys.executable, "-c", child]
    with services.running() as started:
        started.append(services.Service.start("it", command, url="http://127.0.0.1:1", log=tmp_path / "it.log"))
    assert started[0].process.returncode is not None
    started[0].stop()
