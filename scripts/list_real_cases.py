"""List scans of patients with their lesion masks for evaluation, one item a scan, told by their file names.

    python scripts/list_real_cases.py FOLDER [FOLDER …] OUT.json [--contrasts T1 FLAIR]

A patient is a folder with at least one scan and exactly one lesion mask, at any depth. The words of a file's name say
what it is: "lesion", "lesions", "label", "labels", "seg", "segmentation", "consensus", "otmulticlass" a lesion mask
(every class above 0 counts); "brainmask", or "brain" and "mask", a brain mask; "t1c", "t1ce", "t1gd" a T1 with contrast
agent; "t1", "t1w", "t2", "t2w", "flair" a scan. All other files are left out. Every item is of the group "real" and is
shown by itself. Folders without a lesion mask, or with two, are named and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from itermask3d.files.scans import SCAN_SUFFIXES, ScanError
from itermask3d.files.writing import write_atomically
from itermask3d.inference.results import RESEARCH_USE

LABEL_WORDS = {"lesion", "lesions", "label", "labels", "seg", "segmentation", "consensus", "otmulticlass"}
CONTRASTS = {
    "T1c": {"t1c", "t1ce", "t1gd"},
    "T1": {"t1", "t1w"},
    "T2": {"t2", "t2w"},
    "FLAIR": {"flair"},
}  # fmt: skip


def main() -> None:
    arguments = parse()
    try:
        items = [item for folder in arguments.folders for item in real_cases(Path(folder), arguments.contrasts)]
        if not items:
            places, wanted = ", ".join(arguments.folders), ", ".join(arguments.contrasts)
            raise ScanError(
                f"no scan of {wanted} with a lesion mask is in '{places}'; "
                "expected a folder a patient, see --help for the names of files"
            )
        repeated = [case for case, count in Counter(item["case"] for item in items).items() if count > 1]
        if repeated:
            raise ScanError(f"two scans are called '{repeated[0]}'; expected patients' folders of different names")
        output = Path(arguments.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(json.dumps(items, indent=1) + "\n", output)
    except (ScanError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{len(items)} scans of {len({item['subject'] for item in items})} patients in {output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="searched at any depth")
    parser.add_argument("output", help="the list to write")
    parser.add_argument("--contrasts", nargs="+", choices=list(CONTRASTS), default=list(CONTRASTS), metavar="CONTRAST")
    return parser.parse_args()


def real_cases(folder: Path, contrasts: Sequence[str] = tuple(CONTRASTS)) -> Iterator[dict[str, str]]:
    """Items of all patients below a folder, in the order of their names.

    Raises:
        ScanError: if the folder does not exist.
    """
    if not folder.is_dir():
        raise ScanError(f"'{folder}' is no folder; expected one with a folder a patient")
    for place, names, files in os.walk(folder.resolve()):
        names.sort()
        scans = [Path(place) / name for name in sorted(files) if name.lower().endswith(SCAN_SUFFIXES)]
        yield from _patient(Path(place), scans, contrasts)


def _patient(folder: Path, files: Sequence[Path], contrasts: Sequence[str]) -> Iterator[dict[str, str]]:
    kinds = {path: kind_of(path) for path in files}
    scans = [path for path in files if kinds[path] in contrasts]
    labels, masks = ([path for path in files if kinds[path] == kind] for kind in ("label", "brain_mask"))
    if not scans:
        return
    if len(labels) != 1 or len(masks) > 1:
        found = f"{len(labels)} lesion masks and {len(masks)} brain masks"
        print(f"left out: '{folder}' holds {found}; expected one lesion mask and at most one brain mask")
        return
    for path in scans:
        item = {"case": f"{folder.name}_{kinds[path]}", "subject": folder.name, "group": "real"}
        item |= {"contrast": str(kinds[path]), "image": str(path), "label": str(labels[0])}
        yield item | ({"brain_mask": str(masks[0])} if masks else {})


def kind_of(path: Path) -> str | None:
    """What a file is by the words of its name: ``"label"``, ``"brain_mask"``, a contrast, or ``None``.

    >>> kind_of(Path("Flair_subtrMeanDivStd.nii.gz"))
    'FLAIR'
    """
    words = set(re.split(r"[^a-z0-9]+", path.name.lower()))
    if words & LABEL_WORDS:
        return "label"
    if "brainmask" in words or {"brain", "mask"} <= words:
        return "brain_mask"
    return next((name for name, known in CONTRASTS.items() if words & known), None)


if __name__ == "__main__":
    main()
