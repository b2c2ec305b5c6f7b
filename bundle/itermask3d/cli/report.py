"""``itermask3d report``: a page for finished scans, and DICOM objects for those that came as DICOM."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from itermask3d.cli.common import DONE, FAILED, print_json, refuse

__all__ = ["report"]

EXAMPLES = """
itermask3d report scan_itermask3d
itermask3d report out/night --dicom
"""


def report(
    folders: Annotated[list[Path], typer.Argument(help="A scan's result folder, or a folder of them.")],
    scan: Annotated[str | None, typer.Option(help="Where the scan lies, if result.json names another path.")] = None,
    dicom: Annotated[bool, typer.Option("--dicom", help="Also DICOM objects, for a DICOM series.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Write a report page for finished scans.

    Every scan's folder gets report.html (one file, opens without a network) and report.json; with --dicom also the
    folder dicom/ with a segmentation, a structured report and the picture.
    """
    found = [folder for given in folders for folder in find(given)]
    if not found:
        refuse("no folder with a result.json was found; expected the output of a run")
    if scan and len(found) > 1:
        refuse(f"--scan names one scan, and there are {len(found)} results")
    written = [write(folder, scan, dicom=dicom) for folder in found]
    for one in written:
        if "reason" in one:
            print(f"failed: {Path(one['folder']).name}: {one['reason']}", file=sys.stderr)
        elif not as_json:
            print("\n".join(one["files"]))
    if as_json:
        print_json(written)
    raise typer.Exit(FAILED if any("reason" in one for one in written) else DONE)


def write(folder: Path, scan: str | None, *, dicom: bool) -> dict[str, Any]:
    """Write what was asked for of one scan: its folder and files, or the reason why there are none."""
    from itermask3d.files.scans import ScanError
    from itermask3d.reports.dicom_out import write_dicom
    from itermask3d.reports.scan_report import write_scan_report

    try:
        files = [write_scan_report(folder, scan=scan), *(write_dicom(folder, scan=scan) if dicom else ())]
    except (ScanError, OSError) as error:
        return {"folder": str(folder), "reason": str(error)}
    return {"folder": str(folder), "files": [str(path) for path in files]}


def find(folder: Path) -> list[Path]:
    """The folder itself, or the finished scans below it."""
    if (folder / "result.json").is_file():
        return [folder]
    found = sorted(path.parent for path in folder.rglob("result.json"))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
