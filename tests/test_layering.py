"""The architecture, kept by a test: ten rooms that import upwards only, and small things in them.

Nothing in the repository knows the machine it grew on.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "itermask3d"
PACKAGE_DIR = ROOT / "bundle" / PACKAGE
FILES = sorted(PACKAGE_DIR.rglob("*.py"))

LAYERS_ABOVE = {"scripts", "monailabel_app", "monailabel"}
"""What stands on the package; the package knows none of it."""

ARCHITECTURE = (ROOT / "docs" / "reference" / "architecture.md").read_text(encoding="utf-8")
ROOMS: dict[str, set[str]] = {
    room: set(re.findall(r"`(\w+)`", arrows))
    for room, arrows in re.findall(r"^\| `(\w+)` \| .*? \| ([^|]*) \|$", ARCHITECTURE, re.MULTILINE)
}
"""The rooms from the top row to the lowest, and which others each may import: the documents hold the table."""

MODULE_LINES, FUNCTION_LINES, PUBLIC_METHODS = 400, 50, 10

MACHINE_PATH = re.compile(r"(?<![\w.~})-])/(?:work/|tmp/work)")
"""Absolute paths that exist on one machine only, at the start of a path."""


def name_of(path: Path) -> str:
    """Dotted name of a module below the package; a package's is that of its folder."""
    parts = path.relative_to(PACKAGE_DIR).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imported_names(source: str, package: str = "") -> set[str]:
    """Absolute dotted names of all that a module of the package imports, wherever in the file the import stands.

    Args:
        source: of the module.
        package: dotted name below ours of the folder that it lies in, for relative imports.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folder = [PACKAGE, *(part for part in package.split(".") if part)]
            outer = folder[: len(folder) - node.level + 1] if node.level else []
            base = ".".join(part for part in (*outer, node.module) if part)
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def own_modules(names: set[str]) -> set[str]:
    """Those of our modules that the dotted names lead to; the package itself (version, bundle root) is none."""
    found = set()
    for name in names:
        first, *parts = name.split(".")
        if first == PACKAGE:
            longest = next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in MODULES), 0)
            found |= {".".join(parts[:longest])} if longest else set()
    return found


@cache
def imports_of(module: str) -> frozenset[str]:
    """Dotted names that one of our modules imports."""
    path = MODULES[module]
    folder = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return frozenset(imported_names(path.read_text(encoding="utf-8"), folder))


def definitions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """All functions and classes of a module, those inside others too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


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
        ("import itermask3d.method.masking", {"method.masking"}),
        ("import itermask3d.method.masking as m, os", {"method.masking"}),
        ("from itermask3d.method.masking import corrupt", {"method.masking"}),
        ("from itermask3d.method import masking, threshold", {"method.masking", "method.threshold"}),
        ("from itermask3d import method", {"method"}),
        ("from . import masking", {"method.masking"}),
        ("from .masking import corrupt", {"method.masking"}),
        ("from ..files.scans import ScanError", {"files.scans"}),
        ("def f():\n    from itermask3d.method.masking import corrupt", {"method.masking"}),
        ("from itermask3d import BUNDLE_ROOT", set()),
        ("import monai", set()),
    ],
)
def test_every_form_of_import_is_seen(source: str, expected: set[str]) -> None:
    assert own_modules(imported_names(source, "method")) == expected


def test_the_rooms_are_all_that_lies_in_the_package() -> None:
    found = {path.name for path in PACKAGE_DIR.iterdir() if not path.name.startswith((".", "__pycache__"))}
    assert found == {"__init__.py", "__main__.py", "py.typed", *ROOMS}
    assert len(ROOMS) == 10


def test_a_room_is_allowed_rows_above_it_only() -> None:
    rows = list(ROOMS)
    for row, (room, allowed) in enumerate(ROOMS.items()):
        assert allowed <= set(rows[:row]), f"{room} is allowed {sorted(allowed - set(rows[:row]))}, no rows above it"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_from_the_rooms_that_its_own_is_allowed(module: str) -> None:
    names = set(imports_of(module))
    room = module.split(".")[0]
    reached = {other.split(".")[0] for other in own_modules(names)}
    allowed = {"cli"} if room == "__main__" else ROOMS.get(room, set())
    forbidden = reached - allowed - {room}
    assert not forbidden, f"{module}: {room} may import {sorted(allowed)}, not {sorted(forbidden)}"
    above = {name.split(".")[0] for name in names} & LAYERS_ABOVE
    assert not above, f"{module} imports {sorted(above)}, which stand on the package and not under it"


def test_the_table_allows_no_arrow_that_nothing_needs() -> None:
    reached: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module in MODULES:
        if module.split(".")[0] in ROOMS:
            reached[module.split(".")[0]] |= {other.split(".")[0] for other in own_modules(set(imports_of(module)))}
    unused = {room: sorted(allowed - reached[room]) for room, allowed in ROOMS.items() if room != "cli"}
    assert not any(unused.values()), f"take these arrows out of ROOMS: { {k: v for k, v in unused.items() if v} }"


def test_no_import_runs_in_a_circle() -> None:
    TopologicalSorter({module: own_modules(set(imports_of(module))) - {module} for module in MODULES}).prepare()


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=name_of)
def test_a_room_opens_with_one_sentence_and_imports_nothing(path: Path) -> None:
    if path.parent == PACKAGE_DIR:
        return
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_modules_functions_and_classes_are_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES, f"{path.name} is too long: split it"
    for node in definitions(path):
        if isinstance(node, ast.ClassDef):
            methods = [part.name for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
            public = [name for name in methods if not name.startswith("_")]
            assert len(public) <= PUBLIC_METHODS, f"{node.name} has {len(public)} public methods: {', '.join(public)}"
        else:
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES, f"{node.name} has {lines} lines; expected at most {FUNCTION_LINES}"


def test_the_package_was_found() -> None:
    assert FILES, f"no module in '{PACKAGE_DIR}'"


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_no_script_imports_another(path: Path) -> None:
    """A helper of a script has a name that begins with an underscore, and is nothing to start."""
    names = {name.split(".")[0] for name in imported_names(path.read_text(encoding="utf-8"))}
    siblings = {other.stem for other in path.parent.glob("*.py")} & names
    scripts = {name for name in siblings if not name.startswith("_")}
    assert not scripts, f"{path.name} imports {sorted(scripts)}: what both need belongs into the package or a helper"
    if path.stem.startswith("_"):
        assert "__main__" not in path.read_text(encoding="utf-8"), f"{path.name} is a helper and a script at once"


def moves_files(source: str) -> bool:
    """Whether a module moves files over others: ``os.replace``, ``os.rename``, ``shutil.move`` or a path's own."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            words = (owner, node.func.attr)
            if words in {("os", "replace"), ("os", "rename"), ("shutil", "move")} or node.func.attr == "rename":
                return True
    return False


def test_only_the_one_writer_moves_files_over_others() -> None:
    folders = (PACKAGE_DIR, ROOT / "scripts", ROOT / "monailabel_app")
    found = {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in folder.rglob("*.py")
        if moves_files(path.read_text(encoding="utf-8"))
    }
    assert found == {"bundle/itermask3d/files/writing.py"}


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


DOORS = {"preprocessing.pipeline", "method.inferer"}
"""Where the way of a scan leaves the room of inference: one module a room, behind which its steps lie."""


def test_the_documents_count_the_arrows_between_rooms() -> None:
    (told,) = re.findall(r"These are (\d+) arrows", ARCHITECTURE)
    assert int(told) == sum(len(allowed) for allowed in ROOMS.values())


def test_the_documented_way_of_a_scan_is_what_its_one_call_imports_and_stays_short() -> None:
    way, waiting = set(DOORS), ["inference.single"]
    while waiting:
        module = waiting.pop()
        if module not in way:
            way.add(module)
            waiting += [other for other in own_modules(set(imports_of(module))) if other.startswith("inference.")]
    listed = ARCHITECTURE.split("<!-- way -->")[1]
    assert set(re.findall(r"`([\w.]+)`", listed)) == way
    assert len(way) <= 12
