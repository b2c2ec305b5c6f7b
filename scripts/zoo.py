"""Write the bundle in the layout of the MONAI Model Zoo: a folder, its zip, and the folder of its Hugging Face form.

The Zoo wants a folder of the bundle's name with LICENSE, configs/, models/ and docs/, no file above 25 MB (larger ones
by link in large_files.yml), a version that the metadata's changelog names, and a zip whose bytes depend on nothing but
the files. Its Hugging Face repositories hold the same files with the model card as README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import yaml
from itermask3d import BUNDLE_ROOT

NAME = "brain_mri_anomaly_segmentation"
LIMIT_BYTES = 25_000_000
"""Larger files go by link."""

PARTS = ("LICENSE", "configs", "models", "docs", "itermask3d")
DATE = (2022, 5, 30, 0, 0, 0)
"""Time of every file in the zip, so that equal files give equal zips."""

CARD = {"license": "apache-2.0", "library_name": "monai", "tags": ["monai", "medical", "mri", "anomaly-detection"]}


def write_folder(bundle: Path, folder: Path, *, links: str | None) -> list[Path]:
    """Copy the bundle; files above the limit are named in ``large_files.yml`` instead.

    Args:
        bundle: folder of the bundle.
        folder: made anew.
        links: address below which the large files lie; needed where there are any.

    Returns:
        The large files, in the bundle.

    Raises:
        ValueError: if there is a large file and no address.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in PARTS:
        source = bundle / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.py[cod]", ".*"))
        else:
            shutil.copy(source, folder / part)
    large = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > LIMIT_BYTES)
    if large and links is None:
        raise ValueError(f"'{large[0].name}' is above 25 MB; expected --links with the address where it can be had")
    entries = []
    for path in large:
        inside = path.relative_to(folder).as_posix()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entries.append({"path": inside, "url": f"{links}/{inside}", "hash_val": digest, "hash_type": "sha256"})
        path.unlink()
    if entries:
        (folder / "large_files.yml").write_text(yaml.safe_dump({"large_files": entries}, sort_keys=False))
    return [bundle / entry["path"] for entry in entries]


def write_zip(folder: Path, large: list[Path], bundle: Path, target: Path) -> None:
    """Zip the folder under its own name with the large files in it, the same bytes for the same files."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files |= {path.relative_to(bundle).as_posix(): path for path in large}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for inside in sorted(files):
            entry = zipfile.ZipInfo(f"{folder.name}/{inside}", date_time=DATE)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, files[inside].read_bytes())


def write_hugging_face(folder: Path, large: list[Path], bundle: Path, target: Path) -> None:
    """The folder with the large files in it and the model card as ``README.md`` under its front matter."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    (target / "large_files.yml").unlink(missing_ok=True)
    for path in large:
        shutil.copy(path, target / path.relative_to(bundle))
    card = (folder / "docs" / "README.md").read_text().replace("](data_license.txt)", "](docs/data_license.txt)")
    pictures = {path.name for path in (folder / "docs").glob("*.png")}
    for name in pictures:
        card = card.replace(f"]({name})", f"](docs/{name})")
    (target / "README.md").write_text(f"---\n{yaml.safe_dump(CARD, sort_keys=False)}---\n{card}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", default=Path("out/zoo"), help="folder for the files")
    parser.add_argument("--bundle", type=Path, default=Path(BUNDLE_ROOT), help="folder of the bundle")
    parser.add_argument("--links", help="address below which files above 25 MB can be had")
    arguments = parser.parse_args()
    folder = arguments.output / "models" / NAME
    try:
        large = write_folder(arguments.bundle, folder, links=arguments.links)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    version = json.loads((folder / "configs" / "metadata.json").read_text())["version"]
    archive = arguments.output / f"{NAME}_v{version}.zip"
    write_zip(folder, large, arguments.bundle, archive)
    write_hugging_face(folder, large, arguments.bundle, arguments.output / "huggingface" / NAME)
    entry = {"checksum": hashlib.sha1(archive.read_bytes()).hexdigest(), "source": ""}
    (arguments.output / "model_info.json").write_text(json.dumps({archive.stem: entry}, indent=2) + "\n")
    print(f"{folder}\n{archive}: {archive.stat().st_size / 1e6:.1f} MB\n{arguments.output / 'huggingface' / NAME}")


if __name__ == "__main__":
    main()
