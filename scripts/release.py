"""Check that a release is whole, build its files and prepare its tag; nothing is pushed or published.

One version in pyproject.toml, the package, the bundle's metadata and CITATION.cff; a dated section of the changelog and
an empty one above it; the model card names the version of every model, and weights are those of models/versions.json.
Then the wheel and the Model Zoo's zip are built, and SHA256SUMS and the notes are written beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def versions(root: Path) -> dict[str, str]:
    """The version that each file names."""
    patterns = {
        "pyproject.toml": r'^version = "(.+)"$',
        "bundle/itermask3d/__init__.py": r'^__version__ = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
    }
    found = {}
    for name, pattern in patterns.items():
        match = re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        found[name] = match[1] if match else "none"
    found["bundle/configs/metadata.json"] = metadata(root)["version"]
    return found


def metadata(root: Path) -> dict:
    """The bundle's metadata."""
    return dict(json.loads((root / "bundle" / "configs" / "metadata.json").read_text(encoding="utf-8")))


def section(changelog: str, name: str) -> str | None:
    """Text below the changelog's heading of a version; ``None`` without one."""
    match = re.search(rf"^## \[{re.escape(name)}\][^\n]*\n(.*?)(?=^## \[|\Z)", changelog, re.MULTILINE | re.DOTALL)
    return match[1].strip() if match else None


def short(version: str) -> str:
    """How the model card writes a model's version: ``0.4`` for ``0.4.0``."""
    return version.removesuffix(".0")


def complaints(root: Path) -> list[str]:
    """What stands in the way of a release, a sentence each."""
    named = versions(root)
    version = named["pyproject.toml"]
    found = [f"{name} names version {other}; expected {version}" for name, other in named.items() if other != version]
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        found.append(f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD'")
    if section(changelog, "Unreleased"):
        found.append(f"CHANGELOG.md lists changes under Unreleased; expected them under [{version}] or a later version")
    if version not in metadata(root)["changelog"]:
        found.append(f"the changelog of bundle/configs/metadata.json does not name {version}")
    return found + complaints_of_models(root)


def complaints_of_models(root: Path) -> list[str]:
    """What ``models/versions.json``, the weights and the model card do not agree on."""
    models = root / "bundle" / "models"
    card = (root / "bundle" / "docs" / "README.md").read_text(encoding="utf-8")
    found = []
    listed = json.loads((models / "versions.json").read_text(encoding="utf-8"))
    entries = {name: entry for name, entry in listed.items() if isinstance(entry, dict)}
    if unlisted := sorted({path.name for path in models.glob("*.pt")} - {e["weights"] for e in entries.values()}):
        found.append(f"models/versions.json does not name {', '.join(unlisted)}")
    for name, entry in entries.items():
        path = models / entry["weights"]
        if not path.is_file():
            found.append(f"the weights {entry['weights']} of the model {name} are missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            found.append(f"{entry['weights']} has changed; expected a new version of {name} in models/versions.json")
        if entry["version"] not in entry["changelog"]:
            found.append(f"the changelog of the model {name} does not name its version {entry['version']}")
        if (
            not re.search(rf"`models/{re.escape(entry['weights'])}`", card)
            or f"ersion {short(entry['version'])}" not in card
        ):
            found.append(f"the model card does not name {entry['weights']} and version {short(entry['version'])}")
    return found


def build(root: Path, output: Path) -> list[Path]:
    """The wheel and the zip, with their sums and the notes of the release."""
    output.mkdir(parents=True, exist_ok=True)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-deps", "--no-index")
    subprocess.run([*pip, "--no-build-isolation", str(root), "-w", str(output)], check=True)
    subprocess.run([sys.executable, str(root / "scripts" / "zoo.py"), str(output / "zoo")], check=True)
    version = versions(root)["pyproject.toml"]
    (wheel,) = output.glob(f"itermask3d-{version}-*.whl")
    (archive,) = (output / "zoo").glob(f"*_v{version}.zip")
    files = [wheel, archive]
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (output / "SHA256SUMS").write_text(sums)
    notes = section((root / "CHANGELOG.md").read_text(encoding="utf-8"), version) or ""
    (output / "notes.md").write_text(f"# IterMask3D {version}\n\n{notes}\n", encoding="utf-8")
    return [*files, output / "SHA256SUMS", output / "notes.md"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", default=Path("out/release"), help="folder for the files")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the repository")
    parser.add_argument("--check-only", action="store_true", help="build nothing")
    parser.add_argument("--tag", action="store_true", help="make the annotated tag in this clone; it is not pushed")
    arguments = parser.parse_args()
    if found := complaints(arguments.root):
        raise SystemExit("\n".join(f"error: {sentence}" for sentence in found))
    version = versions(arguments.root)["pyproject.toml"]
    print(f"version {version}: files, changelog, model card and weights agree")
    if arguments.check_only:
        return
    for path in build(arguments.root, arguments.output):
        print(path)
    tag = ["git", "-C", str(arguments.root), "tag", "-a", f"v{version}", "-m", f"IterMask3D {version}"]
    if arguments.tag:
        subprocess.run(tag, check=True)
    print(f"tag {'made' if arguments.tag else 'not made; --tag makes it'}; to publish it: git push origin v{version}")


if __name__ == "__main__":
    main()
