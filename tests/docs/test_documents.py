"""What the documents say of the repository, held against it: links, files, targets, options, equations and words."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from itermask3d.cli.app import app
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ARCHITECTURE = DOCS / "reference" / "architecture.md"
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *DOCS.rglob("*.md"),
        ROOT / "configs" / "README.md",
        ROOT / "bundle" / "docs" / "README.md",
        ROOT / "monailabel_app" / "README.md",
    ]
)
READABLE = [ROOT / "README.md", DOCS / "tutorial.md"]
ROOTS = ("bundle/", "configs/", "scripts/", "docs/", "tests/", "monailabel_app/")
"""Where a name in a code span is meant as a path of the repository."""

OLD_WORDS = (
    "disturbance",
    "disturbances",
    "disturbed",
    "fault",
    "faults",
    "foretold",
    "foretell",
    "foretells",
    "expected error",
    "packed",
    "drawn batches",
    "outside the domain",
    "outside the training domain",
    "hidden",
    "painted back",
    "paint back",
    "first weights",
    "second weights",
    "third weights",
    "one-shot",
    "robust scales",
    "with agent",
    "own training",
)
"""Left column of the table of names; generated blocks, code and the changelog may still use them."""

LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_code(text: str) -> str:
    """The text without fenced blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def prose(text: str) -> str:
    """The running text: no code, generated block, formula, address, picture, table row or heading."""
    text = without_records(text)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]*\$", "", without_code(text), flags=re.DOTALL)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("|", "#")))


def anchor_of(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@cache
def anchors(path: Path) -> frozenset[str]:
    headings = re.findall(r"^#{1,6} (.+)$", FENCE.sub("", text_of(path)), re.MULTILINE)
    return frozenset(anchor_of(heading) for heading in headings)


def without_records(text: str) -> str:
    """The text without blocks that a run wrote: they name the command that made them, as it was called at the time."""
    return re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", text, flags=re.DOTALL)


def commands(text: str) -> list[str]:
    """The command lines of fenced blocks and code spans, continued lines joined."""
    blocks = [block.group().replace("\\\n", " ") for block in FENCE.finditer(text)]
    return [line.split("  #")[0] for block in blocks for line in block.splitlines()] + re.findall(
        r"`([^`\n]+)`", FENCE.sub("", text)
    )


@cache
def options_of(script: Path) -> frozenset[str]:
    """All strings with two dashes in a script: its argparse options, also those that it builds in a loop."""
    found = {node.value for node in ast.walk(ast.parse(text_of(script))) if isinstance(node, ast.Constant)}
    return frozenset(value for value in found if isinstance(value, str) and re.fullmatch(r"--[a-z][\w-]*", value))


@cache
def options_of_verb(verb: str) -> frozenset[str]:
    """The options of a verb of ``itermask3d``, hidden ones too."""
    return frozenset(name for part in get_command(app).commands[verb].params for name in part.opts)


def verbs() -> frozenset[str]:
    """The verbs that the application registers."""
    return frozenset(get_command(app).commands)


def unknown_options(line: str) -> list[str]:
    """Verbs and options of a command line that the command ``itermask3d`` or a script of ours has not."""
    if verb := re.search(r"(?:^|python -m )itermask3d ([a-z]\w*)(.*)", line.strip()):
        if verb[1] not in verbs():
            return [verb[1]]
        called, known, rest = verb[1], options_of_verb(verb[1]), verb[2]
    elif script := re.search(r"(?:^|python )(?:scripts/)?(\w+\.py)\b(.*)", line.strip()):
        path = ROOT / "scripts" / script[1]
        if not path.is_file():
            return []
        known = frozenset().union(*(options_of(source) for source in parser_sources(path)))
        called, rest = script[1], script[2]
    else:
        return []
    return [
        f"{called} {name}" for name in re.findall(r"(?<!\S)(--[a-z][\w-]*)", rest) if name not in {*known, "--help"}
    ]


@cache
def parser_sources(script: Path) -> tuple[Path, ...]:
    """A script and the modules of the repository that it takes its arguments from."""
    modules = re.findall(r"^from (itermask3d[\w.]*) import", text_of(script), re.MULTILINE)
    paths = [ROOT / "bundle" / f"{module.replace('.', '/')}.py" for module in modules]
    neighbours = [ROOT / "scripts" / f"{name}.py" for name in re.findall(r"^from (\w+) import", text_of(script), re.M)]
    return (script, *(path for path in [*paths, *neighbours] if path.is_file()))


def targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))


def test_the_readme_is_short() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) < 90


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_links_and_anchors_lead_somewhere(path: Path) -> None:
    broken = []
    for link in LINK.findall(without_code(text_of(path))):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken, f"{relative(path)} links to {broken}, which are not there"


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_files_that_documents_name_exist(path: Path) -> None:
    if path.name == "CHANGELOG.md":
        pytest.skip("names files of its time")
    text = without_records(text_of(path))
    spans = re.findall(r"`([\w./-]+)`", FENCE.sub("", text))
    in_commands = re.findall(r"(?<![\w/.])((?:scripts|configs)/[\w/]+\.\w+)", "\n".join(commands(text)))
    named = {span for span in spans if span.startswith(ROOTS)} | set(in_commands)
    missing = [name for name in sorted(named) if not (ROOT / name).exists() and not (ROOT / "bundle" / name).exists()]
    assert not missing, f"{relative(path)} names {missing}, which are not there"


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_make_targets_exist(path: Path) -> None:
    named = {found for line in commands(text_of(path)) for found in re.findall(r"^make ([a-z0-9-]+)", line.strip())}
    assert not named - targets(), f"{relative(path)} names targets that the Makefile has not"


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_options_of_shown_commands_exist(path: Path) -> None:
    if path.name == "CHANGELOG.md":
        pytest.skip("names options of its time")
    unknown = [found for line in commands(text_of(path)) for found in unknown_options(line)]
    assert not unknown, f"{relative(path)} shows options that are not there: {unknown}"


def test_a_wrong_verb_or_option_would_be_seen() -> None:
    assert unknown_options("itermask3d segment SCAN OUT --bundle B --json --help") == []
    assert unknown_options("itermask3d segment SCAN --grammar 2") == ["segment --grammar"]
    assert unknown_options("python -m itermask3d divide SCAN") == ["divide"]
    assert unknown_options("python scripts/tune.py A --grammar 2") == ["tune.py --grammar"]


def test_every_document_has_its_place_in_the_site() -> None:
    """``make docs`` takes a page that its table of contents does not name for a mistake."""
    contents = text_of(DOCS / "mkdocs.yml")
    script = text_of(ROOT / "scripts" / "docs.py")
    elsewhere = dict(re.findall(r'"([\w/.]+\.md)": "([\w/.]+\.md)"', script))
    pages = {elsewhere.get(relative(path), relative(path).removeprefix("docs/")) for path in DOCUMENTS}
    pages |= {f"notebooks/{path.stem}.md" for path in (DOCS / "notebooks").glob("*.ipynb")}
    missing = [page for page in sorted(pages) if not re.search(rf"[\s\[]{re.escape(page)}(?=[\s,\]])", contents)]
    assert not missing, f"docs/mkdocs.yml names no place for {missing}"


def equations() -> list[tuple[str, str]]:
    """File and dotted name of every row of the table of equations."""
    section = text_of(ARCHITECTURE.with_name("equations.md"))
    return re.findall(r"`(bundle/[\w/]+\.py):([\w.]+)`", section)


@pytest.mark.parametrize(("file", "name"), equations())
def test_functions_of_the_table_of_equations_exist(file: str, name: str) -> None:
    body = ast.parse(text_of(ROOT / file)).body
    for part in name.split("."):
        found = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part]
        assert found, f"{file} has no '{part}' (of '{name}')"
        body = found[0].body


def test_the_table_of_equations_is_not_empty() -> None:
    assert len(equations()) >= 15


@pytest.mark.parametrize("path", READABLE, ids=relative)
def test_sentences_are_short(path: Path) -> None:
    parts = re.split(r"(?<=[.!?:])\s+|\n\n|\n[-\d]", prose(text_of(path)))
    sentences = [part for part in parts if len(part.split()) > 2]
    words = sum(len(sentence.split()) for sentence in sentences)
    assert words / len(sentences) < 25


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_prose_uses_the_words_of_the_field(path: Path) -> None:
    if path.name == "CHANGELOG.md":
        pytest.skip("speaks of what was released under the names of its time")
    text = prose(text_of(path)).lower()
    found = [word for word in OLD_WORDS if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)]
    assert not found, f"{relative(path)} uses {found}; the table of names has the field's words"
