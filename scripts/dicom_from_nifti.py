"""Turn a volume that nibabel reads into a DICOM MR series, to try a viewer or a PACS with it.

python scripts/dicom_from_nifti.py SCAN FOLDER [--description "T1 MPRAGE"] [--name demo]
"""

from __future__ import annotations

import argparse
import sys

import nibabel as nib
import numpy as np
from itermask3d.files.dicom import write_mr_series
from itermask3d.files.scans import ScanError


def main() -> None:
    arguments = parse()
    try:
        scan = nib.load(arguments.scan)
        volume = np.squeeze(np.asanyarray(scan.dataobj))
        written = write_mr_series(
            volume,
            scan.affine,
            arguments.folder,
            description=arguments.description,
            name=arguments.name,
            study_uid=arguments.study_uid,
            series_number=arguments.series_number,
        )
    except (ScanError, OSError, nib.filebasedimages.ImageFileError) as error:
        sys.exit(f"error: {error}")
    print(f"{len(written.files)} files in {written.folder}")
    print(f"study  {written.study_uid}\nseries {written.series_uid}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="The header is made up: timing of an MPRAGE, a patient named after --name. Not for clinical use.",
    )
    parser.add_argument("scan", help="a 3D volume in any format that nibabel reads")
    parser.add_argument("folder", help="empty or new folder for the files")
    parser.add_argument("--description", default="T1 MPRAGE", help="SeriesDescription")
    parser.add_argument("--name", default="demo", help="seed of the UIDs and name of the made-up patient")
    parser.add_argument("--study-uid", help="put the series into this study; default: the one of the name")
    parser.add_argument("--series-number", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
