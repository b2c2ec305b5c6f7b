"""The tissue network of a bundle goes along to the bundles that are made from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fast_bundle import write_tiny_bundle
from itermask3d import BUNDLE_ROOT
from itermask3d.files.scans import ScanError
from itermask3d.inference.model import load_model
from itermask3d.workflows.site.base_model import BaseModel
from itermask3d.workflows.site.bundle import TISSUES, Recipe, copy_bundle

TISSUE_WEIGHTS = Path(BUNDLE_ROOT, "models", TISSUES)


def with_tissues(bundle: Path) -> Path:
    """The tiny bundle with the evidence of the shipped one."""
    path = bundle / "configs" / "inference.json"
    shipped = json.loads(Path(BUNDLE_ROOT, "configs/inference.json").read_text())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"evidence": shipped["evidence"]}))
    return bundle


def test_a_copy_holds_the_tissue_network_and_no_other_weights(tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    copy_bundle(BUNDLE_ROOT, folder)
    assert [path.name for path in (folder / "models").iterdir()] == [TISSUES]
    assert (folder / "models" / TISSUES).read_bytes() == TISSUE_WEIGHTS.read_bytes()


def test_an_adapted_model_keeps_its_evidence_under_its_new_name_and_a_trained_one_has_none(tmp_path):
    bundle = with_tissues(write_tiny_bundle(tmp_path))
    shutil.copy(TISSUE_WEIGHTS, bundle / "models")
    kept = BaseModel(bundle, "t1").evidence_under("own")
    assert list(kept) == ["own"]
    assert kept["own"]["kinds"]["other"]["threshold"] == 1.15
    assert Recipe(2.0, (80, 96, 80), 10, 2).for_inference()["evidence"] == {}


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_a_bundle_without_its_tissue_network_is_refused_in_a_sentence(tmp_path, content):
    bundle = with_tissues(write_tiny_bundle(tmp_path))
    if content is not None:
        (bundle / "models" / TISSUES).write_bytes(content)
    for read in (lambda: BaseModel(bundle, "t1"), lambda: load_model(bundle, "t1")):
        with pytest.raises(ScanError, match=r"model_tissue.pt' of the tissue network cannot be used; expected"):
            read()
