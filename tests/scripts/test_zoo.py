"""The Model Zoo's folder and zip, held against the Zoo's own rules (CONTRIBUTING.md and ci/verify_bundle.py there)."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from helpers import load_script
from monai.bundle import ConfigParser, verify_metadata, verify_net_in_out

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "tests" / "schema" / "meta_schema_equivalent.json"
INFERENCE_KEYS = ("bundle_root", "device", "network_def", "inferer", "output_dir")
TRAIN_KEYS = (
    "bundle_root", "device", "dataset_dir", "output_dir", "train::trainer", "train::trainer::max_epochs",
    "train::dataset", "train::dataset::data", "train::handlers", "validate::evaluator", "validate::handlers",
    "validate::dataset", "validate::dataset::data", "val_interval",
)  # fmt: skip


@pytest.fixture(scope="module")
def script():
    return load_script("zoo")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    """What the script writes, weights included."""
    output = tmp_path_factory.mktemp("zoo")
    subprocess.run([sys.executable, ROOT / "scripts" / "zoo.py", output], check=True, capture_output=True)
    return output


@pytest.fixture(scope="module")
def folder(script, zoo) -> Path:
    return zoo / "models" / script.NAME


def test_the_name_and_the_files_are_those_that_the_zoo_asks_for(folder):
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", folder.name)
    for name in ("LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md",
                 "docs/data_license.txt"):  # fmt: skip
        assert (folder / name).is_file(), name
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if path.stat().st_size > 25e6]
    assert not [path for path in files if "__pycache__" in path.parts or path.name.startswith(".")]


def test_the_metadata_follow_the_schema_and_the_changelog_names_the_version(folder):
    path = folder / "configs" / "metadata.json"
    verify_metadata(meta_file=str(path), filepath=SCHEMA)
    facts = json.loads(path.read_text())
    assert re.fullmatch(r"\d+\.\d+\.\d+", facts["version"])
    assert facts["version"] in facts["changelog"]


@pytest.mark.parametrize(("config", "keys"), [("inference", INFERENCE_KEYS), ("train", TRAIN_KEYS)])
def test_the_configs_have_the_zoos_keys_and_no_path_of_a_person(folder, config, keys):
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / f"{config}.json"))
    missing = [key for key in keys if parser.get(key.replace("::", "#"), "absent") == "absent"]
    assert not missing
    assert "/home/" not in (folder / "configs" / f"{config}.json").read_text()


def test_the_network_takes_and_gives_what_the_metadata_say(folder, monkeypatch):
    configs = folder / "configs"
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}
    monkeypatch.chdir(folder)
    small = {"network_def::channels": [2, 4, 4, 4, 4]}
    verify_net_in_out(net_id="network_def", **files, bundle_root=str(folder), **small)


def test_the_zip_holds_the_folder_and_its_bytes_depend_on_the_files_alone(script, zoo, folder, tmp_path):
    (archive,) = zoo.glob("*.zip")
    assert archive.name == f"{folder.name}_v{json.loads((folder / 'configs/metadata.json').read_text())['version']}.zip"
    with zipfile.ZipFile(archive) as opened:
        inside = {name.partition("/")[2] for name in opened.namelist()}
        assert all(name.startswith(f"{folder.name}/") for name in opened.namelist())
    assert inside == {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    small = tmp_path / "small"
    shutil.copytree(folder / "configs", small / "configs")
    for name in ("a.zip", "b.zip"):
        script.write_zip(small, [], small, tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    (entry,) = json.loads((zoo / "model_info.json").read_text()).values()
    assert entry["checksum"] == hashlib.sha1(archive.read_bytes()).hexdigest()


def test_the_hugging_face_form_opens_with_a_card_whose_links_lead_somewhere(script, zoo):
    target = zoo / "huggingface" / script.NAME
    text = (target / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "monai"
    links = re.findall(r"\]\(([\w./-]+\.(?:png|txt))\)", text)
    assert links
    assert not [link for link in links if not (target / link).is_file()]


def test_a_large_file_goes_by_link_and_into_the_zip(script, tmp_path, monkeypatch):
    bundle = tmp_path / "bundle"
    for part in ("configs", "models", "docs", "itermask3d"):
        (bundle / part).mkdir(parents=True)
    for name in ("LICENSE", "docs/README.md", "models/model.pt"):
        (bundle / name).write_text("x" * (200 if name.endswith(".pt") else 10))
    monkeypatch.setattr(script, "LIMIT_BYTES", 100)
    with pytest.raises(ValueError, match=r"'model\.pt' is above 25 MB; expected --links"):
        script.write_folder(bundle, tmp_path / "zoo", links=None)
    large = script.write_folder(bundle, tmp_path / "zoo", links="https://example.org/files")
    assert not (tmp_path / "zoo" / "models" / "model.pt").exists()
    (entry,) = yaml.safe_load((tmp_path / "zoo" / "large_files.yml").read_text())["large_files"]
    assert (entry["path"], entry["url"]) == ("models/model.pt", "https://example.org/files/models/model.pt")
    assert entry["hash_val"] == hashlib.sha256(b"x" * 200).hexdigest()
    script.write_zip(tmp_path / "zoo", large, bundle, tmp_path / "z.zip")
    assert "zoo/models/model.pt" in zipfile.ZipFile(tmp_path / "z.zip").namelist()
    script.write_hugging_face(tmp_path / "zoo", large, bundle, tmp_path / "hf")
    assert (tmp_path / "hf" / "models" / "model.pt").is_file()
    assert not (tmp_path / "hf" / "large_files.yml").exists()
