"""Write a report page for finished scans, and DICOM objects for those that came as DICOM.

    python scripts/report.py OUT/case […] [--dicom]
    python scripts/report.py OUT

Every scan's folder gets report.html (one file, opens without a network) and report.json; with --dicom also the folder
dicom/ with a segmentation, a structured report and the picture. A folder of several scans' results does all of them.
Exit status: 0 all written, 1 some scan failed, 2 nothing to do.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from itermask3d.files.scans import ScanError
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.reports.dicom_out import write_dicom
from itermask3d.reports.scan_report import write_scan_report


def main() -> None:
    arguments = parse()
    folders = [folder for given in arguments.folders for folder in find(Path(given))]
    if not folders:
        print("error: no folder with a result.json was found; expected the output of a run", file=sys.stderr)
        sys.exit(2)
    if arguments.scan and len(folders) > 1:
        print(f"error: --scan names one scan, and there are {len(folders)} results", file=sys.stderr)
        sys.exit(2)
    failed = 0
    for folder in folders:
        try:
            print(write_scan_report(folder, scan=arguments.scan))
            if arguments.dicom:
                for path in write_dicom(folder, scan=arguments.scan):
                    print(path)
        except (ScanError, OSError) as error:
            failed += 1
            print(f"failed: {folder.name}: {error}", file=sys.stderr)
    sys.exit(1 if failed else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", help="a scan's result folder, or a folder of them")
    parser.add_argument("--scan", help="where the scan lies now, if not at the path that result.json names")
    parser.add_argument(
        "--dicom", action="store_true", help="also write DICOM objects; the scan must be a DICOM series"
    )
    return parser.parse_args()


def find(folder: Path) -> list[Path]:
    """The folder itself, or the finished scans below it."""
    if (folder / "result.json").is_file():
        return [folder]
    found = sorted(path.parent for path in folder.rglob("result.json"))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


if __name__ == "__main__":
    main()
