"""One call for one scan, for notebooks and programs."""

from __future__ import annotations

from pathlib import Path

from itermask3d import BUNDLE_ROOT
from itermask3d.files.scans import ScanError, list_scans
from itermask3d.inference.conclusion import conclude
from itermask3d.inference.model import load_model
from itermask3d.inference.overview import save_overview
from itermask3d.inference.preparation import prepare
from itermask3d.inference.results import ScanResult, write_result

__all__ = ["segment"]


def segment(
    path: str | Path,
    output: str | Path | None = None,
    model: str | None = None,
    *,
    brain_extraction: str | None = None,
    bundle: str | Path = BUNDLE_ROOT,
) -> ScanResult:
    """Segment one scan; many scans are better run by ``itermask3d segment`` or the four steps below, with one model.

    Args:
        path: a file, or a folder with one DICOM series.
        output: folder in which a folder of the scan's name gets the files; ``None`` writes nothing.
        model: ``t1``, ``agnostic`` or ``auto``; ``None`` for the bundle's.
        brain_extraction: how the brain is found; ``None`` for the bundle's way.
        bundle: folder of the bundle.

    Raises:
        ScanError: if the path holds no scan or several, or the scan or the weights cannot be used.
        ValueError: if there is no such model.
    """
    items = list_scans(path)
    if len(items) != 1:
        raise ScanError(f"'{path}' holds {len(items)} scans; expected one")
    extraction = {} if brain_extraction is None else {"brain_extraction": brain_extraction}
    loaded = load_model(bundle, model, overrides={"progress": False, **extraction})
    prepared = prepare(items[0], loaded.preprocessing)
    result = conclude(loaded.predict(prepared), prepared, loaded)
    if output is not None:
        write_result(result, Path(output) / result.case, draw=save_overview)
    return result
