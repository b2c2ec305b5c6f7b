"""``itermask3d report``: a page for finished scans, and DICOM objects for those that came as DICOM."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from itermask3d.cli.common import DONE, FAILED, refuse

__all__ = ["report"]


def report(
    folders: Annotated[list[Path], typer.Argument(help="A scan's result folder, or a folder of them.")],
    scan: Annotated[
        str | None, typer.Option(help="Where the scan lies now, if not at the path that result.json names.")
    ] = None,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Also DICOM objects; the scan must be a DICOM series.")
    ] = False,
) -> None:
    """Write a report page for finished scans.

    Every scan's folder gets report.html (one file, opens without a network) and report.json; with --dicom also the
    folder dicom/ with a segmentation, a structured report and the picture.

    Example: itermask3d report results --dicom
    """
    found = [folder for given in folders for folder in find(given)]
    if not found:
        refuse("no folder with a result.json was found; expected the output of a run")
    if scan and len(found) > 1:
        refuse(f"--scan names one scan, and there are {len(found)} results")
    from itermask3d.files.scans import ScanError
    from itermask3d.reports.dicom_out import write_dicom
    from itermask3d.reports.scan_report import write_scan_report

    failed = 0
    for folder in found:
        try:
            print(write_scan_report(folder, scan=scan))
            for path in write_dicom(folder, scan=scan) if dicom else ():
                print(path)
        except (ScanError, OSError) as error:
            failed += 1
            print(f"failed: {folder.name}: {error}", file=sys.stderr)
    raise typer.Exit(FAILED if failed else DONE)


def find(folder: Path) -> list[Path]:
    """The folder itself, or the finished scans below it."""
    if (folder / "result.json").is_file():
        return [folder]
    found = sorted(path.parent for path in folder.rglob("result.json"))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
