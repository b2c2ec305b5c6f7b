"""Open a scan in OHIF: starts a PACS (Orthanc) and the MONAI Label server on this machine, with a demo study in it.

python scripts/ohif.py [--study FOLDER | --no-demo] [--port 8000] [--output out/ohif] [--fresh]

Ctrl-C stops both. Neither answers other machines.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import requests
from _services import (
    Service,
    ServiceError,
    await_first_end,
    earlier_port,
    find_orthanc,
    free_port,
    running,
    start_orthanc,
    start_server,
    store,
    stored_studies,
)
from itermask3d.files.dicom import write_mr_series
from itermask3d.files.scans import ScanError
from itermask3d.files.writing import replaced_folder
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.simulation.demo import packaged_scan, write_demo
from rich.console import Console

console = Console(highlight=False)


def main() -> None:
    arguments = parse()
    for sign in (signal.SIGINT, signal.SIGTERM):  # a shell may have told a job in the background to ignore the first
        signal.signal(sign, signal.default_int_handler)
    try:
        run(arguments)
    except KeyboardInterrupt:
        console.print("\nStopped.")
    except (ServiceError, ScanError, OSError, requests.RequestException) as error:
        sys.exit(f"error: {error}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=RESEARCH_USE)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--study", type=Path, help="a folder of DICOM files to load instead of the demo")
    source.add_argument("--no-demo", action="store_true", help="load nothing: use what was loaded before")
    parser.add_argument("--port", type=int, help="of the MONAI Label server; default: 8000 if free, else a free one")
    parser.add_argument("--orthanc-port", type=int, help="of Orthanc; default: the one of the run before, if free")
    parser.add_argument("--output", type=Path, default=Path("out/ohif"), help="folder for all data and logs")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs left in that folder")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    """Start everything, say where it is, and stay until a service ends or somebody stops us."""
    output = arguments.output.resolve()
    if arguments.study and not arguments.study.is_dir():
        raise ServiceError(f"folder '{arguments.study}' does not exist; expected the DICOM files of a study")
    if arguments.fresh:
        forget(output)
    executable, plugin = find_orthanc()
    with running() as services:
        port = arguments.orthanc_port or free_port(earlier_port(output / "orthanc"))
        orthanc = start_orthanc(executable, plugin, output / "orthanc", port=port)
        services.append(orthanc)
        orthanc.wait_until_it_answers("/system")
        studies = load(orthanc, arguments, output)
        console.print("Starting the MONAI Label server (half a minute the first time) …")
        port = arguments.port or free_port(8000)
        server = start_server(f"{orthanc.url}/dicom-web", output / "server", port=port)
        services.append(server)
        server.wait_until_it_answers("/info/")
        announce(server, studies)
        raise ServiceError(await_first_end(services))


def forget(output: Path) -> None:
    """Remove what earlier runs wrote, and nothing else."""
    for name in ("orthanc", "server", "demo"):
        shutil.rmtree(output / name, ignore_errors=True)


def load(orthanc: Service, arguments: argparse.Namespace, output: Path) -> list[str]:
    """Put the study that was asked for into Orthanc; returns the UIDs of the studies to open."""
    if arguments.no_demo:
        return stored_studies(orthanc)
    if arguments.study:
        files = [path for path in sorted(arguments.study.rglob("*")) if path.is_file()]
        return store(orthanc, files)
    folder = output / "demo" / "series"
    if not folder.is_dir():
        console.print("Making the demo study: the ICBM152 template with a simulated lesion …")
        make_demo(output / "demo")
    return store(orthanc, sorted(folder.glob("*.dcm")))


def make_demo(folder: Path) -> None:
    """Write the demo's scan with its simulated lesion as DICOM files into ``folder/series``, all or none."""
    inputs = folder / "nifti"
    inputs.mkdir(parents=True, exist_ok=True)
    write_demo(nib.load(packaged_scan()), inputs)
    scan = nib.load(inputs / "with_lesion.nii.gz")
    with replaced_folder(folder / "series") as partial:
        write_mr_series(scan.get_fdata(), scan.affine, partial, description="T1 template, simulated lesion")


def announce(server: Service, studies: Sequence[str]) -> None:
    """Tell where to look."""
    console.print("\n[bold]Ready.[/bold] Open in a browser on this machine:")
    for study in studies:
        console.print(f"  {server.url}/ohif/monai-label?StudyInstanceUIDs={study}", soft_wrap=True)
    console.print(f"All studies: {server.url}/ohif/    Log: {server.log}", soft_wrap=True)
    console.print(f"Ctrl-C stops the server and the PACS. {RESEARCH_USE}")


if __name__ == "__main__":
    main()
