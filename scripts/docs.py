"""Build the documentation site: stage the documents with what is generated, then mkdocs, warnings as errors.

The documents live where a reader of the repository finds them; the site needs them in one folder. Links between them
are turned, links to other files of the repository lead to copies, and formulas become MathML, so that pages need no
script from elsewhere.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import itermask3d
import yaml
from _docs_pages import ROOMS, command_page, names_page, notebook_page, room_page, schema_page
from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bundle" / "itermask3d"
SCHEMA = PACKAGE / "reports" / "schemas" / "report.schema.json"

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "bundle/docs/README.md": "model_card.md",
    "configs/README.md": "reference/overlays.md",
    "monailabel_app/README.md": "reference/app.md",
    "docs/proxy/README.md": "reference/proxy.md",
    "docs/benchmarks/judge.md": "judge.md",
    "docs/benchmarks/misses.md": "misses.md",
    "docs/benchmarks/adaptation.md": "adaptation.md",
}
"""Documents that stand elsewhere in the site than below ``docs/``."""

SLUGIFY = "!!python/object/apply:pymdownx.slugs.slugify {kwds: {case: lower}}"
"""Anchors as GitHub makes them, which the documents use."""

LINK = re.compile(r"(\]\()([^)\s]+)(\))")
FENCE = re.compile(r"^( *)```.*?^\1```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$([^$\n]+?)\$(?![\w$])", re.DOTALL)


def place_of(name: str) -> str | None:
    """Where a document of the repository stands in the site; ``None`` for anything else."""
    if name in PAGES:
        return PAGES[name]
    return name.removeprefix("docs/") if name.startswith("docs/") and name.endswith(".md") else None


def turned(text: str, name: str, target: Path) -> str:
    """A document's text with links that hold in the site; files that it names are copied beside it.

    Args:
        text: of the document.
        name: its path in the repository.
        target: folder of the staged site.
    """
    here = PurePosixPath(place_of(name) or name).parent

    def turn(link: re.Match[str]) -> str:
        address, _, anchor = link[2].partition("#")
        if not address or "://" in address or address.startswith("mailto:"):
            return link[0]
        path = os.path.normpath(PurePosixPath(name).parent / address)
        place = place_of(path)
        if place is None:
            place = path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}"
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, target / place)
        relative = os.path.relpath(place, here)
        return f"{link[1]}{relative}{'#' + anchor if anchor else ''}{link[3]}"

    return outside_code(text, lambda part: formulas(LINK.sub(turn, part)))


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Apply a change to what is neither a fenced block nor a code span."""
    parts, end = [], 0
    for code in FENCE.finditer(text):
        parts += [change(text[end : code.start()]), code.group()]
        end = code.end()
    return "".join([*parts, change(text[end:])])


def formulas(text: str) -> str:
    """Formulas as MathML, which browsers draw by themselves."""

    def draw(found: re.Match[str]) -> str:
        return str(convert(found[1] or found[2], display="block" if found[1] else "inline"))

    return FORMULA.sub(draw, text)


def stage(target: Path) -> None:
    """Write all pages, turned and generated, into a folder made anew."""
    shutil.rmtree(target, ignore_errors=True)
    named = [*PAGES, *(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
    pages = {place_of(name): turned((ROOT / name).read_text(encoding="utf-8"), name, target) for name in named}
    pages["reference/command.md"] = command_page()
    pages["reference/report_schema.md"] = schema_page(SCHEMA)
    pages["python/index.md"] = names_page(list(itermask3d.__all__))
    pages |= {f"python/{room}.md": room_page(PACKAGE, room) for room in ROOMS}
    for path in (ROOT / "docs" / "notebooks").glob("*.ipynb"):
        pages[f"notebooks/{path.stem}.md"] = notebook_page(path, target / "notebooks")
        shutil.copy(path, target / "notebooks")
    for place, text in pages.items():
        assert place is not None
        path = target / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def configure(output: Path) -> Path:
    """Write the configuration of the site with all that depends on the folders; its path."""
    config = yaml.safe_load((ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8"))
    python = ["python/index.md", *({f"itermask3d.{room}": f"python/{room}.md"} for room in ROOMS)]
    config["nav"] = [{"Python": python} if "Python" in entry else entry for entry in config["nav"]]
    handler = next(one["mkdocstrings"] for one in config["plugins"] if isinstance(one, dict))["handlers"]["python"]
    handler["paths"] = [str(ROOT / path) for path in handler["paths"]]
    handler["options"]["extensions"] = [str(ROOT / path) for path in handler["options"]["extensions"]]
    text = yaml.safe_dump(config, sort_keys=False).replace("slugify: SLUGIFY", f"slugify: {SLUGIFY}")
    path = output / "mkdocs.yml"
    path.write_text(text, encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", default=Path("out/docs"), help="folder; the site is in site/")
    arguments = parser.parse_args()
    output = arguments.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    stage(output / "src")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean", "--quiet", "-f", str(configure(output))]
    status = subprocess.run(command, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}).returncode
    if status:
        raise SystemExit(status)
    print(output / "site" / "index.html")


if __name__ == "__main__":
    main()
