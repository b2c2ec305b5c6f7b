"""Every format and fault of everyday life: read right, with a warning where one is due, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases_dicom import DICOM_CASES
from cases_files import FILE_CASES
from faulty import UPRIGHT, Case, require_phantom, require_warning
from itermask3d.files.read import read_volume
from itermask3d.files.scans import ScanError

CASES = [*DICOM_CASES, *FILE_CASES]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_scan_is_read_right_or_refused_in_a_sentence(case: Case, tmp_path: Path) -> None:
    source = case.build(tmp_path)
    options = case.options or {}
    if case.refused is not None:
        with pytest.raises(ScanError, match=case.refused) as caught:
            read_volume(source, **options)
        sentence = str(caught.value)
        assert "\n" not in sentence
        assert len(sentence) < 400 + 2 * len(str(tmp_path))
        return
    volume = read_volume(source, **options)
    require_phantom(volume, UPRIGHT if case.affine is None else case.affine)
    require_warning(volume, case.warned)
