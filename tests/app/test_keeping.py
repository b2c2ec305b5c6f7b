"""Labels on disk: whole or not at all, an older one stays, and what cannot be read does not count."""

from __future__ import annotations

import errno
import gzip
import importlib
import json
import logging
import shutil
from collections import namedtuple
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel")

SHAPE = (4, 5, 6)


@pytest.fixture
def keeping(app_modules: None) -> ModuleType:
    return importlib.import_module("lib.keeping")


@pytest.fixture
def error(app_modules: None) -> type[Exception]:
    return importlib.import_module("lib.errors").RequestError


def write(path: Path, value: int = 1) -> Path:
    voxels = np.zeros(SHAPE, dtype=np.uint8)
    voxels[1, 2, 3] = value
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    return path


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    write(folder / "scan.nii.gz")
    return folder


@pytest.fixture
def open_store(keeping: ModuleType, studies: Path) -> Any:
    return lambda: keeping.KeptStore(str(studies), extensions=("*.nii.gz", "*.nii"))


def kept(store: Any) -> int:
    return int(np.asarray(nib.load(store.get_label_uri("scan", "final")).dataobj).max())


def test_a_label_is_kept_and_found_after_a_restart(open_store: Any, tmp_path: Path) -> None:
    store = open_store()
    store.save_label("scan", str(write(tmp_path / "label.nii.gz", 3)), "final", {"user": "Ann"})
    again = open_store()
    assert kept(again) == 3
    assert again.get_label_info("scan", "final")["user"] == "Ann"
    assert again.get_labeled_images() == ["scan"]


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "cannot be written")])
def test_a_failed_write_leaves_the_older_label(
    open_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], number: int, words: str
) -> None:
    store = open_store()
    store.save_label("scan", str(write(tmp_path / "label.nii.gz", 3)), "final", {})

    def half(source: Any, target: Any) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:20])
        raise OSError(number, "no")

    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(error, match=words) as raised:
        store.save_label("scan", str(write(tmp_path / "label.nii.gz", 5)), "final", {})
    assert raised.value.status == 507
    monkeypatch.undo()
    assert kept(open_store()) == 3
    assert [path.name for path in (tmp_path / "studies" / "labels" / "final").iterdir()] == ["scan.nii.gz"]


def test_a_failed_first_write_leaves_no_label(
    open_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    store = open_store()
    monkeypatch.setattr(shutil, "copyfile", lambda source, target: Path(target).write_bytes(b"\x1f\x8b"))
    with pytest.raises(error, match="cannot be read back"):
        store.save_label("scan", str(write(tmp_path / "label.nii.gz")), "final", {})
    monkeypatch.undo()
    assert open_store().get_unlabeled_images() == ["scan"]


@pytest.mark.parametrize("content", [b"", b"stub", gzip.compress(bytes(400))[:40]], ids=["empty", "no gzip", "half"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_label_that_cannot_be_read_is_ignored_with_a_warning(
    open_store: Any, tmp_path: Path, studies: Path, caplog: pytest.LogCaptureFixture, content: bytes, listed: bool
) -> None:
    store = open_store()
    if listed:
        store.save_label("scan", str(write(tmp_path / "label.nii.gz")), "final", {})
    (studies / "labels" / "final" / "scan.nii.gz").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again = open_store()
    assert again.get_unlabeled_images() == ["scan"]
    assert "cannot be read and is ignored" in caplog.text


def test_a_damaged_list_is_put_aside_and_made_anew(open_store: Any, tmp_path: Path, studies: Path) -> None:
    open_store().save_label("scan", str(write(tmp_path / "label.nii.gz", 4)), "final", {})
    path = studies / "datastore_v2.json"
    path.write_text(path.read_text()[:30])
    assert kept(open_store()) == 4
    assert json.loads(path.read_text())["objects"]["scan"]["labels"]["final"]
    assert (studies / "datastore_v2.json.unreadable").is_file()


def test_a_full_disk_is_told_before_a_run(
    keeping: ModuleType, error: type[Exception], studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping.require_space(tmp_path / "not" / "yet", studies / "scan.nii.gz")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**9, 10**9, 100))
    with pytest.raises(error, match="Nothing was started"):
        keeping.require_space(tmp_path / "not" / "yet", studies / "scan.nii.gz")


def test_the_cache_of_a_pacs_does_not_depend_on_its_address(app_modules: None, tmp_path: Path) -> None:
    folder = importlib.import_module("lib.datastores")._cache_folder
    first = folder(str(tmp_path), "http://127.0.0.1:8042/dicom-web")
    first.mkdir()
    assert folder(str(tmp_path), "http://127.0.0.1:9000/dicom-web") == first


@pytest.fixture
def pacs_store(app_modules: None, tmp_path: Path) -> Any:
    """A store on a PACS that never answers, with one series in its cache."""
    module = importlib.import_module("lib.datastores")

    class Store(module.DicomStore):
        def get_image_uri(self, image_id: str) -> str:
            return str(tmp_path / "series" / f"{image_id}.nii.gz")

    (tmp_path / "series").mkdir()
    write(tmp_path / "series" / "1.2.nii.gz")
    store = Store(SimpleNamespace(base_url="http://127.0.0.1:1/dicom-web"), str(tmp_path))
    yield store
    store._observer.stop()


@pytest.mark.parametrize("reason", ["the PACS did not take the DICOM SEG (refused)", "no DICOM SEG could be made"])
def test_a_label_is_kept_although_the_pacs_has_none(
    pacs_store: Any, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    def refuse(*_: Any) -> None:
        raise error(503, reason)

    monkeypatch.setattr(pacs_store, "_store_seg", refuse)
    pacs_store.save_label("1.2", str(write(tmp_path / "label.nii.gz", 7)), "final", {"user": "Ann"})
    info = pacs_store.get_label_info("1.2", "final")
    assert info["not_in_pacs"] == reason
    assert "SeriesInstanceUID" not in info
    assert int(np.asarray(nib.load(pacs_store.get_label_uri("1.2", "final")).dataobj).max()) == 7
