"""The reference page on inputs lists what the table of inputs holds, neither more nor less."""

from __future__ import annotations

from pathlib import Path

from cases_dicom import DICOM_CASES
from cases_files import META_CASES, MGH_CASES, NIFTI_CASES, NRRD_CASES
from faulty import Case

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "inputs.md"
FORMATS = {
    "DICOM": DICOM_CASES,
    "NIfTI, Analyze": NIFTI_CASES,
    "MGH": MGH_CASES,
    "NRRD": NRRD_CASES,
    "MetaImage": META_CASES,
}
NAMES = ("dicom", "nifti", "mgh", "mgz", "nrrd", "mha", "mhd")


def short(case: Case) -> str:
    """The name without its format, which heads the row."""
    first, _, rest = case.name.partition(" ")
    return (rest or "as made") if first in NAMES else case.name


def rows() -> list[str]:
    """The table of the page, a line a format."""
    lines = ["| format | read | read, with a warning | refused |", "|---|---|---|---|"]
    for name, cases in FORMATS.items():
        kinds: dict[str, list[str]] = {"read": [], "warned": [], "refused": []}
        for case in cases:
            kind = "refused" if case.refused else "warned" if case.warned else "read"
            kinds[kind].append(short(case))
        lines.append(f"| {name} | " + " | ".join("; ".join(dict.fromkeys(names)) for names in kinds.values()) + " |")
    return lines


def test_page_lists_every_input_that_is_tested() -> None:
    table = "\n".join(rows())
    assert table in PAGE.read_text(), f"put this into {PAGE.name}:\n{table}"
