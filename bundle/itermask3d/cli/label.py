"""``itermask3d label``: the MONAI Label server for OHIF and 3D Slicer."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from itermask3d.cli.common import refuse

__all__ = ["label"]

EXAMPLES = """
itermask3d label path/to/scans --port 8000
itermask3d label https://pacs.example/dicom-web
"""
STATUS = "Exit status: that of the server; 2 nothing could start."

APP = Path("monailabel_app")


def label(
    studies: Annotated[str, typer.Argument(help="Folder of scans, or a DICOMweb URL.")],
    port: Annotated[int, typer.Option(help="To listen on.")] = 8000,
    host: Annotated[str, typer.Option(help="To listen on; others need a proxy before it.")] = "127.0.0.1",
    app: Annotated[Path, typer.Option(help="Folder of the app.")] = APP,
    conf: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Setting of the app; again for another.")
    ] = None,
) -> None:
    """Serve scans to OHIF and 3D Slicer through MONAI Label."""
    if find_spec("monailabel") is None:
        refuse("MONAI Label is not installed; expected pip install 'itermask3d[label]'")
    if not (app / "main.py").is_file():
        refuse(f"'{app}' is no app; expected the repository's folder monailabel_app, named by --app")
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", studies]
    command += ["--host", host, "--port", str(port)]
    for setting in conf or ():
        name, _, value = setting.partition("=")
        command += ["--conf", name, value]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.execve(sys.executable, command, {**os.environ, "PATH": path})
