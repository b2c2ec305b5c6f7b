"""IterMask3D: unsupervised anomaly segmentation of 3D brain MR, for research use only.

Importing this package has no side effects and loads neither torch nor MONAI: a public name is imported when it is
first asked for. Each module is one idea (see ``docs/explanation/method.md``).

>>> import itermask3d
>>> result = itermask3d.segment("scan.nii.gz")  # doctest: +SKIP
>>> result.findings.outcome, result.mask.sum() * result.voxel_ml  # doctest: +SKIP
"""

from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_PACKAGE = Path(__file__).resolve().parent

BUNDLE_ROOT = str(_PACKAGE / "_bundle" if (_PACKAGE / "_bundle").is_dir() else _PACKAGE.parent)
"""The MONAI bundle of this package: inside it where a wheel was installed, around it in the repository."""

_HOMES = {
    "Findings": "method.detection",
    "IterMaskInferer": "method.inferer",
    "Outcome": "method.detection",
    "ReconstructionUNet": "method.network",
    "RefinementSettings": "method.settings",
    "ScanError": "files.scans",
    "ScanResult": "inference.results",
    "load_model": "inference.model",
    "refine": "method.refinement",
    "segment": "inference.single",
}
"""Module of each public name."""

__all__ = [
    "BUNDLE_ROOT",
    "Findings",
    "IterMaskInferer",
    "Outcome",
    "ReconstructionUNet",
    "RefinementSettings",
    "ScanError",
    "ScanResult",
    "__version__",
    "load_model",
    "refine",
    "segment",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
