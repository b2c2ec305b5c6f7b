"""The task adapt of the training menu: from scans reviewed as normal to a bundle that is named and can be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from fast_bundle import write_noisy_phantoms, write_tiny_bundle
from itermask3d.inference.model import load_model


class Reviewed:
    """A datastore in which a person saved empty masks for some scans."""

    def __init__(self, folder: Path, reviewed: int) -> None:
        self.paths = {path.name: path for path in sorted(folder.glob("*.nii.gz"))}
        self.normal = set(sorted(self.paths)[:reviewed])

    def list_images(self):
        return list(self.paths)

    def get_labeled_images(self):
        return sorted(self.normal)

    def get_label_by_image_id(self, image, tag):
        return "label" if image in self.normal else ""

    def get_label_info(self, image, tag):
        return {"empty": True}

    def get_image_uri(self, image):
        return str(self.paths[image])


@pytest.fixture
def adapter(tmp_path):
    from lib.adapting import Adapter

    return Adapter(write_tiny_bundle(tmp_path / "base"), tmp_path / "adapting")


def test_reviewed_scans_become_a_bundle_that_is_named(adapter, tmp_path):
    (tmp_path / "scans").mkdir()
    store = Reviewed(write_noisy_phantoms(tmp_path / "scans", 6), reviewed=5)
    told = adapter({"epochs": "1", "folds": "2"}, store)
    assert (told["scans"], told["ended"], told["after"]["scans"]) == (5, True, 5)
    assert load_model(told["bundle"], overrides={"device": "cpu"}).fixed_name == "own"
    assert Path(told["report"]).is_file()
    assert adapter.stats()["bundle"] == told["bundle"]


def test_too_few_reviewed_scans_are_refused_in_one_sentence(adapter, tmp_path):
    from lib.errors import RequestError

    (tmp_path / "scans").mkdir()
    store = Reviewed(write_noisy_phantoms(tmp_path / "scans", 4), reviewed=4)
    with pytest.raises(RequestError, match="adapting is not possible: 4 people; expected 5 or more"):
        adapter({"epochs": "1"}, store)
