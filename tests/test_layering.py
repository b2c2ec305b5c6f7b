"""The architecture, kept by a test: imports point down, and nothing in the repository knows the machine it grew on."""

from __future__ import annotations

import ast
import re
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "itermask3d"
PACKAGE_DIR = ROOT / "bundle" / PACKAGE
FILES = sorted(PACKAGE_DIR.rglob("*.py"))

LAYERS_ABOVE = {"scripts", "monailabel_app", "monailabel"}
"""What stands on the package; the package knows none of it."""

ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "acceleration": {"network"},
    "artefacts": {"artefacts_image", "artefacts_kspace", "artefacts_local"},
    "artefacts_image": set(),
    "artefacts_kspace": {"artefacts_image"},
    "artefacts_local": {"artefacts_image"},
    "bias": set(),
    "frequency": set(),
    "lesions": {"scans"},
    "masking": set(),
    "metrics": set(),
    "disturbance": {"masking"},
    "network": set(),
    "scans": set(),
    "discovery": {"scans"},
    "throughput": set(),
    "schedule": set(),
    "threshold": set(),
    "calibration": set(),
    "discrimination": set(),
    "domain": set(),
    "scan_features": set(),
    "registration": set(),
    "brain_extraction": {"scans"},
    "preprocessing": {"bias", "brain_extraction", "disturbance", "frequency", "masking", "scan_features", "scans"},
    "refinement": {"masking", "network", "schedule", "threshold"},
    "detection": {"refinement", "threshold"},
    "inferer": {"acceleration", "detection", "frequency", "network", "refinement"},
    "training": {"masking", "network"},
    "tissues": {"scans"},
    "contrasts": {"tissues"},
    "synthesis": {"contrasts", "tissues"},
}
"""Which of our modules each module may import."""

for _module in (
    "results",
    "models",
    "store",
    "reporting",
    "cohort",
    "evaluation",
    "baselines",
    "evaluation_run",
    "evaluation_cases",
    "evaluation_text",
    "evaluation_rows",
    "evaluation_detection",
    "evaluation_tables",
    "evaluation_plots",
    "evaluation_pictures",
    "evaluation_page",
    "evaluation_docs",
    "evaluation_compare",
    "tuning",
    "guidance",
    "segmenter",
    "dicom",
    "anatomy",
    "label_maps",
    "synthesis_data",
    "packed",
    "batches",
    "report_data",
    "report_images",
    "report_plots",
    "scan_report",
    "dicom_slices",
    "dicom_seg",
    "dicom_out",
    "journal",
    "screening",
    "cluster",
    "cohort_table",
    "cohort_report",
    "stages",
    "data_check",
    "own_data",
    "own_bundle",
    "own_report",
):  # the top: each may use all that stands before it
    ALLOWED[_module] = set(ALLOWED) - {"__init__"}

MODULES = set(ALLOWED) | {path.relative_to(PACKAGE_DIR).with_suffix("").parts[0] for path in FILES}

MACHINE_PATH = re.compile(r"(?<![\w.~})-])/(?:work/|tmp/work)")
"""Absolute paths that exist on one machine only, at the start of a path."""


def imported_names(source: str) -> set[str]:
    """Absolute dotted names of all that a module of the package imports, wherever in the file the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(part for part in (PACKAGE if node.level else "", node.module) if part)
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def own_modules(names: set[str]) -> set[str]:
    """Those of our modules that the dotted names lead to; the package itself (version, bundle root) is no module."""
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == PACKAGE and len(part) > 1 and part[1] in MODULES}


def tracked_files() -> list[Path]:
    """The files that git knows; skips the calling test where git or the repository is missing."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"needs git and a clone to list the repository's files: {error}")
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import itermask3d.masking", {"masking"}),
        ("import itermask3d.masking as m, os", {"masking"}),
        ("from itermask3d.masking import corrupt", {"masking"}),
        ("from itermask3d import masking, threshold", {"masking", "threshold"}),
        ("from . import masking", {"masking"}),
        ("from .masking import corrupt", {"masking"}),
        ("def f():\n    from itermask3d.masking import corrupt", {"masking"}),
        ("from itermask3d import BUNDLE_ROOT", set()),
        ("import monai", set()),
    ],
)
def test_every_form_of_import_is_seen(source: str, expected: set[str]) -> None:
    assert own_modules(imported_names(source)) == expected


def test_the_map_has_no_cycle() -> None:
    TopologicalSorter(ALLOWED).prepare()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE_DIR)))
def test_imports_point_down(path: Path) -> None:
    module = path.relative_to(PACKAGE_DIR).with_suffix("").parts[0]
    assert module in ALLOWED, f"'{module}' has no place yet: add it to ALLOWED in tests/test_layering.py"
    names = imported_names(path.read_text(encoding="utf-8"))
    forbidden = own_modules(names) - ALLOWED[module] - {module}
    assert not forbidden, f"{module} may import {sorted(ALLOWED[module]) or 'nothing of ours'}, not {sorted(forbidden)}"
    above = {name.split(".")[0] for name in names} & LAYERS_ABOVE
    assert not above, f"{module} imports {sorted(above)}, which stand on the package and not under it"


def test_the_package_was_found() -> None:
    assert FILES, f"no module in '{PACKAGE_DIR}'"


def test_scripts_is_not_a_package() -> None:
    assert not list((ROOT / "scripts").rglob("__init__.py")), "a package named 'scripts' is shadowed, or unloaded"


def test_no_file_names_a_path_of_a_machine() -> None:
    found = []
    for path in tracked_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}:{n}" for n, line in enumerate(lines, 1) if MACHINE_PATH.search(line)]
    assert not found, f"these lines hold only on one machine: {', '.join(found)}"
