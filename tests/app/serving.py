"""Start a MONAI Label server in a process of its own and wait until it serves."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

APP = Path(__file__).resolve().parents[2] / "monailabel_app"
READY = "Uvicorn running on"


@dataclass(frozen=True)
class Server:
    """A running server: its URL, the folder of its studies, its copy of the app, its log, its bundle."""

    url: str
    studies: Path
    app: Path
    log: Path
    bundle: Path


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_server(folder: Path, studies: Path | str, conf: Mapping[str, str]) -> Iterator[Server]:
    """Serve ``studies`` from a copy of the app, because MONAI Label writes into the app's folder."""
    app, log, port = folder / "monailabel_app", folder / "server.log", free_port()
    shutil.copytree(APP, app, ignore=shutil.ignore_patterns("model", "logs", "bin", "__pycache__"))
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", str(studies)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    for name, value in conf.items():
        command += ["--conf", name, value]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache"),
        "PYTHONUNBUFFERED": "1",
    }
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=folder, text=True
        )
        try:
            _wait_until_ready(process, stream)
            drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=stream)
            yield Server(f"http://127.0.0.1:{port}", Path(str(studies)), app, log, Path(conf["bundle"]))
        finally:
            process.terminate()
            process.wait(30)
            if "drain" in locals():
                drain.wait(30)


def _wait_until_ready(process: subprocess.Popen[str], stream: object) -> None:
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        stream.write(line)  # type: ignore[attr-defined]
        if READY in line:
            return
    raise RuntimeError("the server ended before it served:\n" + "".join(lines[-30:]))
