"""A scan is known again by what it holds, wherever it lies."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from faulty import mr_slices, nifti_bytes, save
from itermask3d.files.digest import Identity, describe_difference, identify
from itermask3d.files.read import read_volume
from itermask3d.files.scans import ScanError


def test_file_has_its_own_sha256(tmp_path: Path) -> None:
    file = tmp_path / "scan.nii"
    file.write_bytes(nifti_bytes())
    identity = identify(file)
    assert identity == Identity((str(file),), file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
    assert read_volume(file).source == identity


def test_series_is_the_same_under_other_names(tmp_path: Path) -> None:
    slices = mr_slices()
    first = save(slices, tmp_path / "a")
    second = save(slices[::-1], tmp_path / "b")
    identities = [identify(sorted(folder.iterdir())) for folder in (first, second)]
    assert describe_difference(*identities) == ""
    assert read_volume(first).source.digest == identities[0].digest


def test_identity_survives_json(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    identity = identify(tmp_path / "x")
    assert Identity.from_record(json.loads(json.dumps(identity.record))) == identity


@pytest.mark.parametrize(
    ("change", "sentence"),
    [(b"abce", "as many bytes .* but others"), (b"abcdef", "had 4 bytes when it was read and has 6 now")],
)
def test_difference_is_told_in_a_sentence(tmp_path: Path, change: bytes, sentence: str) -> None:
    file = tmp_path / "scan"
    file.write_bytes(b"abcd")
    before = identify(file)
    file.write_bytes(change)
    found = describe_difference(before, identify(file))
    assert re.search(sentence, found)


def test_lost_file_is_told(tmp_path: Path) -> None:
    folder = save(mr_slices(), tmp_path / "a")
    files = sorted(folder.iterdir())
    assert "had 9 files when it was read and has 8 now" in describe_difference(identify(files), identify(files[1:]))


@pytest.mark.parametrize("paths", ["nowhere", []])
def test_nothing_cannot_be_identified(paths: object) -> None:
    with pytest.raises(ScanError, match="expected"):
        identify(paths)  # type: ignore[arg-type]


def test_odd_record_is_refused() -> None:
    with pytest.raises(ScanError, match="lacks 'size'"):
        Identity.from_record({"paths": []})
