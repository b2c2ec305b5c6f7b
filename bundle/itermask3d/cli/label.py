"""``itermask3d label``: the MONAI Label server for OHIF and 3D Slicer."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from itermask3d.cli.common import refuse, require_bundle

__all__ = ["label"]

EXAMPLES = """
itermask3d label path/to/scans --port 8000
itermask3d label https://pacs.example/dicom-web
"""
STATUS = "Exit status: that of the server; 2 nothing could start."

PACKAGE = Path(__file__).resolve().parents[1]
KEPT = shutil.ignore_patterns("model", "logs", "bin", "__pycache__")
"""What a server makes in the folder of its app."""


def label(
    studies: Annotated[str, typer.Argument(help="Folder of scans, or a DICOMweb URL.")],
    port: Annotated[int, typer.Option(help="To listen on.")] = 8000,
    host: Annotated[str, typer.Option(help="To listen on; others need a proxy before it.")] = "127.0.0.1",
    app: Annotated[Path | None, typer.Option(help="Folder of another app.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of another bundle.", show_default=False)] = None,
    conf: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Setting of the app; again for another.")
    ] = None,
) -> None:
    """Serve scans to OHIF and 3D Slicer through MONAI Label."""
    if find_spec("monailabel") is None:
        refuse("MONAI Label is not installed; expected pip install 'itermask3d[label]'")
    folder = app or own_app()
    if not (folder / "main.py").is_file():
        refuse(f"'{folder}' is no app; expected a folder with main.py")
    if bundle is not None:
        require_bundle(bundle)
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(folder), "--studies", studies]
    command += ["--host", host, "--port", str(port)]
    named = () if bundle is None else (f"bundle={bundle.absolute()}",)
    for setting in (*named, *(conf or ())):
        name, _, value = setting.partition("=")
        command += ["--conf", name, value]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.execve(sys.executable, command, {**os.environ, "PATH": path})


def own_app() -> Path:
    """The app of the repository, or a copy of the installed one in the user's folder: a server writes beside it."""
    shipped = PACKAGE / "_app"
    if not shipped.is_dir():
        return PACKAGE.parents[1] / "monailabel_app"
    folder = Path(typer.get_app_dir("itermask3d")) / "label"
    try:
        shutil.copytree(shipped, folder, ignore=KEPT, dirs_exist_ok=True)
    except OSError as error:
        refuse(f"the app cannot be copied to '{folder}' ({error.strerror or error}); expected --app with a copy")
    return folder
