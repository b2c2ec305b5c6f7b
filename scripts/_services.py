"""A PACS (Orthanc) and the MONAI Label server as child processes on this machine, for scripts and tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
ORTHANC_PATHS = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")
PLUGIN_FOLDERS = (
    "/usr/share/orthanc/plugins",
    "/usr/local/share/orthanc/plugins",
    "/opt/homebrew/share/orthanc/plugins",
)
PLUGIN_NAMES = ("libOrthancDicomWeb.so", "libOrthancDicomWeb.dylib")
TRIES, TRY_SECONDS = 600, 0.25
"""How often a starting service is asked whether it is there, and how long each answer is waited for."""


class ServiceError(Exception):
    """A service could not be started or did not stay; the message is one sentence for people."""


@dataclass
class Service:
    """A running child process: its name, where it answers and where it logs."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @classmethod
    def start(
        cls, name: str, command: Sequence[str | Path], *, url: str, log: Path, env: dict[str, str] | None = None
    ) -> Service:
        """Start a program in a process group of its own, so that Ctrl-C in a terminal reaches us alone."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )
        return cls(name, process, url, log)

    def wait_until_it_answers(self, path: str) -> None:
        """Ask until it answers with success.

        Raises:
            ServiceError: if the process ends before, or does not answer in :data:`TRIES` tries.
        """
        for _ in range(TRIES):
            try:
                if requests.get(self.url + path, timeout=5).ok:
                    return
            except requests.RequestException:
                pass
            try:
                self.process.wait(timeout=TRY_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            raise ServiceError(f"{self.name} ended with status {self.process.returncode} at its start; read {self.log}")
        raise ServiceError(f"{self.name} does not answer at {self.url}{path}; read {self.log}")

    def stop(self, *, grace_seconds: float = 15) -> None:
        """End the process and what it started; harmless where it has ended."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sign)
                self.process.wait(timeout=grace_seconds)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()


@contextmanager
def running() -> Iterator[list[Service]]:
    """A list of services that are all stopped, the last first, however the block ends."""
    services: list[Service] = []
    try:
        yield services
    finally:
        for service in reversed(services):
            service.stop()


def find_orthanc() -> tuple[Path, Path]:
    """Orthanc's program and its DICOMweb plugin.

    Raises:
        ServiceError: if either is missing.
    """
    search = os.pathsep.join([os.environ.get("PATH", ""), *ORTHANC_PATHS])
    executable = shutil.which("Orthanc", path=search) or shutil.which("orthanc", path=search)
    plugins = [Path(folder) / name for folder in PLUGIN_FOLDERS for name in PLUGIN_NAMES]
    plugin = next((path for path in plugins if path.is_file()), None)
    if not executable or not plugin:
        missing = "Orthanc" if not executable else "Orthanc's DICOMweb plugin"
        raise ServiceError(f"{missing} was not found; on Debian or Ubuntu: sudo apt install orthanc orthanc-dicomweb")
    return Path(executable), plugin


def start_orthanc(executable: Path, plugin: Path, folder: Path, *, port: int) -> Service:
    """Start Orthanc on this machine alone, with its data in ``folder``; no DICOM network, only HTTP."""
    require_free(port)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "Name": "IterMask3D",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(plugin)],
        "HttpPort": port,
        "HttpBindAddresses": [HOST],  # of new versions of Orthanc; older ones pass over it and listen everywhere
        "RemoteAccessAllowed": False,  # so that those answer 401 to other machines
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "WebDavEnabled": False,
        "OverwriteInstances": True,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True, "Host": HOST, "Ssl": False},
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings, indent=1))
    return Service.start("Orthanc", [executable, path], url=f"http://{HOST}:{port}", log=folder / "orthanc.log")


def start_server(
    studies: str, folder: Path, *, port: int, conf: Sequence[tuple[str, str]] = (), within: Sequence[str | Path] = ()
) -> Service:
    """Start the MONAI Label server with our app.

    Args:
        studies: a DICOMweb address or a folder of scans.
        folder: for its cache, sessions and log.
        port: where it answers.
        conf: names and values of the app's settings.
        within: a command that runs the server's, in surroundings of its own.
    """
    require_free(port)
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),  # dcmqi's programs
        "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": json.dumps({"Modality": "MR"}),
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache"),
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
    }
    command = [*within, sys.executable, "-m", "monailabel.main", "start_server", "--app", ROOT / "monailabel_app"]
    command += ["--studies", studies, "--host", HOST, "--port", port]
    for name, value in conf:
        command += ["--conf", name, value]
    url = f"http://{HOST}:{port}"
    return Service.start("the MONAI Label server", command, url=url, log=folder / "server.log", env=environment)


def earlier_port(folder: Path) -> int:
    """Orthanc's port of the run before, as MONAI Label keeps its results by the PACS's address; 0 for the first run."""
    try:
        return int(json.loads((folder / "orthanc.json").read_text())["HttpPort"])
    except (OSError, ValueError, KeyError):
        return 0


def store(orthanc: Service, files: Sequence[Path]) -> list[str]:
    """Load files into Orthanc; what is no DICOM is left out.

    Returns:
        UIDs of the studies, each once.

    Raises:
        ServiceError: if nothing is DICOM.
    """
    studies: dict[str, None] = {}
    with requests.Session() as session:
        for path in files:
            answer = session.post(f"{orthanc.url}/instances", data=path.read_bytes(), timeout=60)
            if answer.ok:
                studies[answer.json()["ParentStudy"]] = None
    if not studies:
        raise ServiceError(f"none of the {len(files)} files is DICOM that Orthanc takes; expected a folder of a study")
    return [_study_uid(orthanc, identifier) for identifier in studies]


def stored_studies(orthanc: Service) -> list[str]:
    """UIDs of all studies that Orthanc holds."""
    return [_study_uid(orthanc, found) for found in requests.get(f"{orthanc.url}/studies", timeout=60).json()]


def _study_uid(orthanc: Service, identifier: str) -> str:
    answer = requests.get(f"{orthanc.url}/studies/{identifier}", timeout=60)
    answer.raise_for_status()
    return str(answer.json()["MainDicomTags"]["StudyInstanceUID"])


def await_first_end(services: Sequence[Service]) -> str:
    """Wait until a service ends, and say which; the others run on."""
    while True:
        for service in services:
            try:
                status = service.process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                continue
            return f"{service.name} ended with status {status}; read {service.log}"


def free_port(preferred: int = 0) -> int:
    """The preferred port of this machine if nothing listens there, else any free one."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a killed program take no port
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServiceError("this machine has no free port")


def require_free(port: int) -> None:
    """Refuse a port on which something listens: its answers would be taken for the service's.

    Raises:
        ServiceError: naming the port.
    """
    if free_port(port) != port:
        raise ServiceError(f"port {port} is taken; name another one")
