"""Simulated acquisition artefacts over a scale of severity: draw one into a record, then apply the record.

A record is plain values: written to JSON and read again it gives the same voxels. Severity 0 is the scan as it is; at
3 a rater would call the artefact clearly visible. Levels are physical (millimetres, shares) or, for intensities, in
units of the brain's robust SD.

>>> import numpy as np
>>> brain = np.ones((20, 20, 20), dtype=bool)
>>> record = draw("missing_top", 3, brain, np.diag([4.0, 4.0, 4.0, 1.0]), rng=np.random.default_rng(0))
>>> record.parameters
{'axis': 2, 'start': 15, 'stop': 20}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import numpy as np

from itermask3d.simulation.artefacts.image import IMAGE_ARTEFACTS
from itermask3d.simulation.artefacts.kspace import KSPACE_ARTEFACTS
from itermask3d.simulation.artefacts.local import LOCAL_ARTEFACTS, MASK_ARTEFACTS

__all__ = ["ARTEFACTS", "SEVERITIES", "Artefact", "ArtefactRecord", "ArtefactScan", "Reach", "apply", "draw"]

SEVERITIES = ("none", "barely visible", "mild", "clearly visible", "strong", "extreme")
"""What each severity is called."""


class Reach(StrEnum):
    """What an artefact changes."""

    WHOLE = "whole"
    """The whole image; there is no label."""
    REGION = "region"
    """A place in the image, which is the label."""
    MASK = "mask"
    """The brain mask; the label is what it gained or lost."""


@dataclass(frozen=True)
class Artefact:
    """A kind of artefact.

    Attributes:
        what: one line for a reader.
        unit: of the levels.
        levels: at severities 1 to 5.
        reach: see :class:`Reach`.
        draw, apply: see :mod:`itermask3d.simulation.artefacts.image`.
    """

    what: str
    unit: str
    levels: tuple[float, float, float, float, float]
    reach: Reach
    draw: Any
    apply: Any


def _artefacts() -> dict[str, Artefact]:
    how = {**IMAGE_ARTEFACTS, **KSPACE_ARTEFACTS, **LOCAL_ARTEFACTS, **MASK_ARTEFACTS}
    whole, region, mask = Reach.WHOLE, Reach.REGION, Reach.MASK
    table: dict[str, tuple[str, str, tuple[float, float, float, float, float], Reach]] = {
        "noise": ("Rician noise", "standard deviation in robust SDs", (0.1, 0.25, 0.5, 0.9, 1.5), whole),
        "bias_field": ("smooth gain", "largest over smallest gain in the brain", (1.5, 2.0, 3.0, 5.0, 8.0), whole),
        "blur": ("loss of detail", "full width at half maximum in mm", (1.5, 2.5, 4.0, 6.0, 9.0), whole),
        "thick_slices": ("thick slices", "mm", (3.0, 4.0, 6.0, 9.0, 13.0), whole),
        "spike": ("one bright point of k-space", "amplitude in robust SDs", (0.1, 0.2, 0.4, 0.8, 1.5), whole),
        "zipper": ("radio interference", "amplitude in robust SDs", (0.3, 0.7, 1.5, 3.0, 6.0), whole),
        "ghosting": ("copies along one axis", "loss of every n-th line", (0.2, 0.4, 0.7, 1.2, 2.0), whole),
        "motion": ("head movement", "mm and degrees", (0.7, 1.5, 3.0, 5.0, 8.0), whole),
        "gibbs": ("ringing at edges", "resolution kept in mm", (3.0, 3.6, 4.5, 6.0, 8.0), whole),
        "wrap_around": ("folded field of view", "share of the brain's extent", (1.08, 1.0, 0.94, 0.87, 0.78), whole),
        "missing_top": ("field of view too low", "mm", (5.0, 10.0, 20.0, 35.0, 55.0), region),
        "missing_slab": ("lost slab", "mm", (4.0, 8.0, 15.0, 25.0, 40.0), region),
        "missing_slices": ("lost slices of 4 mm", "number", (1, 2, 4, 8, 14), region),
        "drop_out": ("lost signal around a place", "radius in mm", (5.0, 9.0, 15.0, 24.0, 36.0), region),
        "inversion": ("turned contrast in a ball", "radius in mm", (5.0, 9.0, 15.0, 22.0, 30.0), region),
        "remnants": ("non-brain kept in the mask", "mm", (2.0, 4.0, 8.0, 13.0, 20.0), mask),
        "missing_brain": ("brain missing from the mask", "radius in mm", (6.0, 10.0, 16.0, 24.0, 34.0), mask),
    }
    return {name: Artefact(*words, *how[name]) for name, words in table.items()}


ARTEFACTS: Mapping[str, Artefact] = MappingProxyType(_artefacts())
"""Every artefact by name."""


@dataclass(frozen=True)
class ArtefactRecord:
    """What was drawn; enough to make the same artefact again on the same scan.

    Attributes:
        artefact: a name in :data:`ARTEFACTS`.
        severity: 0 to 5.
        shape: of the scan.
        parameters: keyword arguments of the artefact's ``apply``; empty at severity 0.
    """

    artefact: str
    severity: int
    shape: tuple[int, int, int]
    parameters: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the words for the severity."""
        return {**asdict(self), "shape": list(self.shape), "words": SEVERITIES[self.severity]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ArtefactRecord:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: if the artefact or the severity is unknown.
        """
        _require_known(data["artefact"], data["severity"])
        depth, height, width = data["shape"]
        return cls(data["artefact"], data["severity"], (depth, height, width), dict(data["parameters"]))


@dataclass(frozen=True)
class ArtefactScan:
    """A scan with an artefact.

    Attributes:
        image: of the type of the scan where that is floating, else float32 ``(D, H, W)``.
        brain_mask: boolean, same grid; another than before only where the artefact is one of the mask.
        label: boolean ground truth; ``None`` for an artefact of the whole image, empty at severity 0 of the others.
    """

    image: np.ndarray
    brain_mask: np.ndarray
    label: np.ndarray | None


def draw(
    artefact: str, severity: int, brain_mask: np.ndarray, affine: np.ndarray, *, rng: np.random.Generator
) -> ArtefactRecord:
    """Draw the parameters of an artefact.

    Args:
        artefact: a name in :data:`ARTEFACTS`.
        severity: 0 (none) to 5. Generators in one state give the same artefact at every severity, only stronger.
        brain_mask: boolean ``(D, H, W)``; places are drawn in it and extents measured on it.
        affine: voxel to RAS millimetres.
        rng: source of everything random.

    Raises:
        ValueError: for an unknown artefact or severity, a mask that is not 3D or empty, or an unusable affine.
    """
    _require_known(artefact, severity)
    brain_mask = _checked_mask(brain_mask, affine)
    kind = ARTEFACTS[artefact]
    parameters = kind.draw(kind.levels[severity - 1], brain_mask, np.asarray(affine), rng) if severity else {}
    depth, height, width = brain_mask.shape
    return ArtefactRecord(artefact, severity, (depth, height, width), parameters)


def apply(record: ArtefactRecord, image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray) -> ArtefactScan:
    """Make a drawn artefact; the same arguments give the same voxels, and no argument is changed.

    Args:
        record: from :func:`draw` on this scan, or read again.
        image: the scan, any intensity unit, ``(D, H, W)``.
        brain_mask: boolean, same grid.
        affine: voxel to RAS millimetres.

    Raises:
        ValueError: if the shapes differ, or the mask is empty, the affine unusable or a voxel not finite.
    """
    _require_known(record.artefact, record.severity)
    brain_mask = _checked_mask(brain_mask, affine)
    image = np.array(image, dtype=image.dtype if np.issubdtype(image.dtype, np.floating) else np.float32)
    if not image.shape == brain_mask.shape == tuple(record.shape):
        raise ValueError(
            f"image, brain_mask and record must have one shape, got {image.shape}, {brain_mask.shape} and "
            f"{tuple(record.shape)}"
        )
    if not np.isfinite(image).all():
        raise ValueError(f"image must be finite, got {int((~np.isfinite(image)).sum())} NaN or infinite voxels")
    kind = ARTEFACTS[record.artefact]
    if record.severity == 0:
        return ArtefactScan(image, brain_mask, None if kind.reach is Reach.WHOLE else np.zeros_like(brain_mask))
    changed = kind.apply(image, brain_mask, np.asarray(affine), **record.parameters)
    if kind.reach is Reach.MASK:
        return ArtefactScan(image, *changed)
    voxels, label = (changed, None) if kind.reach is Reach.WHOLE else changed
    return ArtefactScan(voxels.astype(image.dtype), brain_mask, label)


def _require_known(artefact: str, severity: int) -> None:
    if artefact not in ARTEFACTS:
        raise ValueError(f"artefact must be one of {', '.join(ARTEFACTS)}, got '{artefact}'")
    if severity not in range(len(SEVERITIES)):
        raise ValueError(f"severity must be a whole number from 0 to {len(SEVERITIES) - 1}, got {severity!r}")


def _checked_mask(brain_mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    mask = np.array(brain_mask) > 0.5
    if mask.ndim != 3 or not mask.any():
        raise ValueError(f"brain_mask must be 3D and hold a voxel, got shape {mask.shape} with {int(mask.sum())}")
    linear = np.asarray(affine, dtype=float)
    if linear.shape != (4, 4) or not np.isfinite(linear).all() or abs(np.linalg.det(linear[:3, :3])) < 1e-6:
        raise ValueError(f"affine must be 4 x 4, finite and span a volume, got {np.asarray(affine).tolist()}")
    return mask
