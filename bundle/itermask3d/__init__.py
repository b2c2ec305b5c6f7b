"""IterMask3D: unsupervised anomaly segmentation of 3D brain MR, for research use only.

Importing this package has no side effects; each module is one idea (see ``docs/explanation/method.md``).
"""

from pathlib import Path

__all__ = ["BUNDLE_ROOT", "__version__"]

__version__ = "0.1.0"

BUNDLE_ROOT = str(Path(__file__).resolve().parents[1])
"""The MONAI bundle that holds this package."""
