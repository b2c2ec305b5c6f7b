"""A release is refused until every file agrees on it; its files are then built and its tag prepared, never pushed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import load_script
from itermask3d import __version__

ROOT = Path(__file__).resolve().parents[2]
CHANGELOG = (
    "# Changelog\n\n## [Unreleased]\n\n## [9.8.7] - 2030-01-02\n\n### Added\n- Much.\n\n## [0.1.0] - 2026-11-23\n"
)


@pytest.fixture(scope="module")
def script():
    return load_script("release")


@pytest.fixture
def root(tmp_path) -> Path:
    """Copies of what is checked, all of them of version 9.8.7."""
    for name in ("pyproject.toml", "CITATION.cff", "bundle/itermask3d/__init__.py", "bundle/configs/metadata.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text().replace(__version__, "9.8.7"))
    path = tmp_path / "bundle" / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": "9.8.7", "changelog": {"9.8.7": "much"}}))
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    for folder in ("models", "docs"):
        (tmp_path / "bundle" / folder).mkdir()
    (tmp_path / "bundle" / "models" / "model.pt").write_bytes(b"weights")
    entry = {"version": "0.4.0", "weights": "model.pt", "sha256": hashlib.sha256(b"weights").hexdigest()}
    listed = {"note": "n", "t1": {**entry, "changelog": {"0.4.0": "new"}}}
    (tmp_path / "bundle" / "models" / "versions.json").write_text(json.dumps(listed))
    (tmp_path / "bundle" / "docs" / "README.md").write_text("version 0.4, `models/model.pt`")
    return tmp_path


def test_files_that_agree_are_a_release(script, root):
    assert script.complaints(root) == []
    assert script.section(CHANGELOG, "9.8.7") == "### Added\n- Much."


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("CITATION.cff", "9.8.7", "9.8.6", "CITATION.cff names version 9.8.6; expected 9.8.7"),
        ("bundle/itermask3d/__init__.py", "9.8.7", "1.0.0", "names version 1.0.0"),
        ("CHANGELOG.md", "2030-01-02", "soon", "no section '## [9.8.7] - YYYY-MM-DD'"),
        ("CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n\n- One more.\n", "changes under Unreleased"),
        ("bundle/configs/metadata.json", '{"9.8.7": "much"}', "{}", "metadata.json does not name 9.8.7"),
        ("bundle/models/model.pt", "weights", "other", "model.pt has changed; expected a new version of t1"),
        ("bundle/models/versions.json", '{"0.4.0": "new"}', "{}", "of the model t1 does not name its version"),
        ("bundle/models/versions.json", "model.pt", "absent.pt", "absent.pt of the model t1 are missing"),
        ("bundle/docs/README.md", "0.4", "0.3", "model card does not name model.pt and version 0.4"),
    ],
)
def test_what_disagrees_is_named(script, root, name, old, new, words):
    path = root / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert any(words in sentence for sentence in script.complaints(root)), script.complaints(root)


def test_every_model_of_this_repository_has_a_version_that_its_card_names(script):
    listed = json.loads((ROOT / "bundle" / "models" / "versions.json").read_text())
    models = {name: entry for name, entry in listed.items() if isinstance(entry, dict)}
    assert {entry["weights"] for entry in models.values()} == {p.name for p in (ROOT / "bundle/models").glob("*.pt")}
    assert not [sentence for sentence in script.complaints_of_models(ROOT) if "has changed" not in sentence]


@pytest.mark.slow
def test_the_files_of_a_release_are_built_and_summed(script, tmp_path):
    tree = tmp_path / "tree"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("bundle", "monailabel_app", "scripts"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tree)
    shutil.copy(ROOT / "CITATION.cff", tree)
    files = script.build(tree, tmp_path / "out")
    assert [path.suffix for path in files] == [".whl", ".zip", "", ".md"]
    for line in (tmp_path / "out" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        (path,) = [path for path in files if path.name == name]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


def test_the_command_ends_with_what_is_missing(root):
    (root / "CHANGELOG.md").write_text("# Changelog\n")
    command = [sys.executable, ROOT / "scripts" / "release.py", "--root", root, "--check-only"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: CHANGELOG.md has no section")
