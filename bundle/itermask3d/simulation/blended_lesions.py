"""A second lesion simulator: tissue of another place or person, in the outline of a real lesion, blended into a scan.

It shares neither code nor a model of a lesion with :mod:`itermask3d.simulation.lesions` and
:mod:`itermask3d.simulation.synthetic_anomalies`: outlines are those of real lesions instead of random fields, the
texture is cut out of a real brain instead of drawn, and the border is a partial volume or a gradient-domain blend
instead of a smoothed mask. So a network that has learned what the first simulator does is not rewarded for it here. The
kinds are those of T1: fluid is dark, grey matter grey, white matter bright. All of it is semi-synthetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.cluster.vq import kmeans2

from itermask3d.files.scans import ScanError
from itermask3d.simulation.blending import alpha_blended, harmonic_continuation
from itermask3d.simulation.lesion_shapes import (
    LesionShape,
    Pose,
    fitting_centres,
    posed_to_volume,
    render,
    share_under,
)

__all__ = [
    "BLENDINGS",
    "KINDS",
    "Blended",
    "BlendedLesion",
    "TissueLevels",
    "blend_lesion",
    "draw_blended_lesion",
    "tissue_levels",
]

KINDS = ("dark", "grey", "bright")
"""Towards the scan's fluid, towards its grey matter inside white matter, brighter than its white matter."""

BLENDINGS = ("alpha", "poisson")

BRIGHT_STEPS = 1.5
"""How far a bright lesion lies above white matter, in distances from grey to white matter."""

_TRIES = 12
_FITTING = 4
_ENOUGH_HOST = 0.85
"""The first shape that can lie so far in its tissue is taken, else the best of so many that fit into the brain."""

_MAX_TURN_DEG = 25.0
_VOLUME_FACTOR = 8.0
"""Shapes of up to so many times the volume that is wanted, or so many times less, are drawn from."""


class TissueLevels(NamedTuple):
    """Typical intensities of a scan's three tissues, in its unit."""

    fluid: float
    grey: float
    white: float


@dataclass(frozen=True)
class BlendedLesion:
    """One lesion, ready to be put in. JSON-ready through :func:`dataclasses.asdict`.

    Attributes:
        shape: name of the outline.
        pose: how it is turned and sized.
        centre: voxel of the scan in which its middle lies.
        donor_centre: voxel of the donor in which the middle of the foreign tissue lies.
        kind: one of :data:`KINDS`.
        blending: one of :data:`BLENDINGS`.
        contrast: share of the way from the tissue there to the kind's intensity, 0 to 1.
        texture: standard deviation of the foreign texture, in distances from grey to white matter.
        border_mm: depth at which a Poisson blend has its full contrast.
        strength: 0 leaves the scan as it is, 1 is the lesion.

    Raises:
        ValueError: for an unknown kind or blending, or a value outside its range.
    """

    shape: str
    pose: Pose
    centre: tuple[int, int, int]
    donor_centre: tuple[int, int, int]
    kind: str
    blending: str = "alpha"
    contrast: float = 0.8
    texture: float = 0.4
    border_mm: float = 4.0
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.blending not in BLENDINGS:
            raise ValueError(
                f"kind must be one of {', '.join(KINDS)} and blending of {', '.join(BLENDINGS)}, "
                f"got '{self.kind}' and '{self.blending}'"
            )
        for name in ("contrast", "strength"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie from 0 to 1, got {getattr(self, name)}")
        if not (self.texture >= 0 and self.border_mm > 0):
            raise ValueError(
                f"texture must not be negative and border_mm be positive, got {self.texture} and {self.border_mm}"
            )


class Blended(NamedTuple):
    """A scan with a lesion ``(D, H, W)``.

    Attributes:
        image: float32, the scan's unit.
        alpha: share of each voxel that is lesion, 0 to 1, whatever the strength.
        truth: boolean, voxels of which half or more is lesion.
    """

    image: np.ndarray
    alpha: np.ndarray
    truth: np.ndarray


def tissue_levels(image: np.ndarray, brain: np.ndarray) -> TissueLevels:
    """Typical intensities of fluid, grey and white matter on T1: three means of the brain's voxels (k-means).

    Raises:
        ValueError: if the brain does not hold three intensities.
    """
    values = np.asarray(image[brain], dtype=np.float64)
    if np.unique(values).size < 3:
        raise ValueError(f"a brain of {values.size} voxels has fewer than three intensities; expected a scan")
    start = np.percentile(values, (3, 40, 80))
    if np.unique(start).size < 3:
        start = np.linspace(values.min(), values.max(), 3)
    means, _ = kmeans2(values, start, iter=30, minit="matrix", missing="raise")
    fluid, grey, white = (float(value) for value in np.sort(means))
    return TissueLevels(fluid, grey, white)


def draw_blended_lesion(
    image: np.ndarray,
    brain: np.ndarray,
    shapes: Mapping[str, LesionShape],
    *,
    spacing_mm: Sequence[float],
    volume_ml: float,
    kind: str,
    rng: np.random.Generator,
    donor_brain: np.ndarray | None = None,
) -> BlendedLesion:
    """Draw a lesion of a volume and kind, and a place where all of it is inside the brain.

    Args:
        image: scan ``(D, H, W)``, raw or normalised, T1.
        brain: boolean, same shape.
        shapes: outlines by name, see :func:`itermask3d.simulation.lesion_shapes.read_shapes`.
        spacing_mm: edges of a voxel.
        volume_ml: of the truth mask, met as nearly as voxels allow.
        kind: one of :data:`KINDS`; decides which tissue the lesion lies in, so that it can be seen.
        rng: source of everything random.
        donor_brain: brain of another scan that gives the texture; without one, it comes from another place of the scan.

    Raises:
        ScanError: if no shape of a dozen fits.
        ValueError: for an unknown kind or a volume that is not positive.
    """
    fit = _best_fit(brain, _host(image, brain, kind), shapes, volume_ml, spacing_mm, rng)
    centre = _one_of(fit.share >= min(_ENOUGH_HOST, 0.9 * fit.best), rng)
    donors = fitting_centres(brain if donor_brain is None else donor_brain, fit.footprint)
    return BlendedLesion(
        shape=fit.name,
        pose=fit.pose,
        centre=centre,
        donor_centre=_one_of(donors, rng) if donors.any() else centre,
        kind=kind,
        blending=str(rng.choice(BLENDINGS)),
        contrast=float(rng.uniform(0.6, 1.0)),
        texture=float(rng.uniform(0.2, 0.6)),
        border_mm=float(rng.uniform(2.0, 6.0)),
    )


def blend_lesion(
    image: np.ndarray,
    brain: np.ndarray,
    lesion: BlendedLesion,
    shape: LesionShape,
    *,
    spacing_mm: Sequence[float],
    donor: np.ndarray | None = None,
) -> Blended:
    """Put a drawn lesion into a scan; nothing is random here.

    Args:
        image, brain, spacing_mm: see :func:`draw_blended_lesion`.
        lesion: what was drawn.
        shape: the outline that it names.
        donor: scan that gives the texture, on a grid that holds ``donor_centre``; by default the scan itself.

    Returns:
        See :class:`Blended`; unchanged outside the lesion's partial volume and outside the brain.
    """
    alpha = np.zeros(image.shape, dtype=np.float32)
    patch = render(shape, lesion.pose, spacing_mm=spacing_mm)
    here, part = _overlap(image.shape, patch.shape, lesion.centre)
    alpha[here] = patch[part]
    alpha *= brain
    truth = alpha >= 0.5
    if lesion.strength == 0 or not truth.any():
        return Blended(np.array(image, dtype=np.float32), alpha, truth)
    texture = np.zeros(image.shape)
    texture[here] = _foreign_texture(image if donor is None else donor, patch, lesion.donor_centre)[part]
    levels = tissue_levels(image, brain)
    texture *= lesion.texture * (levels.white - levels.grey)
    level = _level(image, truth, levels, lesion)
    if lesion.blending == "alpha":
        content = level + texture
        return Blended(alpha_blended(image, content, lesion.strength * alpha), alpha, truth)
    content = _seamless(image, brain, alpha > 0, truth, texture, level, lesion.border_mm, spacing_mm)
    return Blended(alpha_blended(image, content, lesion.strength * (alpha > 0)), alpha, truth)


class _Fit(NamedTuple):
    name: str
    pose: Pose
    footprint: np.ndarray
    share: np.ndarray
    """Of the footprint in its tissue, by place of its middle; -1 where it does not fit into the brain."""

    @property
    def best(self) -> float:
        return float(self.share.max())


def _best_fit(
    brain: np.ndarray,
    host: np.ndarray,
    shapes: Mapping[str, LesionShape],
    volume_ml: float,
    spacing_mm: Sequence[float],
    rng: np.random.Generator,
) -> _Fit:
    """The first shape that lies well in its tissue, or the best of some."""
    fits: list[_Fit] = []
    for name in _candidates(shapes, volume_ml, rng):
        pose = posed_to_volume(
            shapes[name],
            volume_ml=volume_ml,
            rotation_deg=_turn(rng),
            flipped=bool(rng.random() < 0.5),
            spacing_mm=spacing_mm,
        )
        footprint = render(shapes[name], pose, spacing_mm=spacing_mm) > 0
        share = np.where(fitting_centres(brain, footprint), share_under(host, footprint), -1.0)
        if share.max() >= 0:
            fits.append(_Fit(name, pose, footprint, share))
            if fits[-1].best >= _ENOUGH_HOST or len(fits) >= _FITTING:
                break
    if not fits:
        raise ScanError(f"no lesion shape of {volume_ml:.1f} ml fits into a brain of {int(brain.sum())} voxels")
    return max(fits, key=lambda fit: fit.best)


def _host(image: np.ndarray, brain: np.ndarray, kind: str) -> np.ndarray:
    """Where a lesion of a kind differs from what is there."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got '{kind}'")
    levels = tissue_levels(image, brain)
    if kind == "grey":
        return brain & (image > (levels.grey + levels.white) / 2)
    return brain & (image > (levels.fluid + levels.grey) / 2)


def _candidates(shapes: Mapping[str, LesionShape], volume_ml: float, rng: np.random.Generator) -> list[str]:
    far = {name: abs(np.log(shape.volume_ml / volume_ml)) for name, shape in sorted(shapes.items())}
    near = [name for name, distance in far.items() if distance <= np.log(_VOLUME_FACTOR)]
    near = near or sorted(far, key=lambda name: far[name])[:_TRIES]
    return [near[index] for index in rng.permutation(len(near))[:_TRIES]]


def _turn(rng: np.random.Generator) -> tuple[float, float, float]:
    a, b, c = (float(value) for value in rng.uniform(-_MAX_TURN_DEG, _MAX_TURN_DEG, 3))
    return a, b, c


def _one_of(allowed: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int]:
    places = np.argwhere(allowed)
    a, b, c = (int(value) for value in places[rng.integers(len(places))])
    return a, b, c


def _overlap(
    grid: Sequence[int], patch: Sequence[int], centre: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a patch around a voxel lies in the grid, and which part of it does."""
    low = [middle - size // 2 for middle, size in zip(centre, patch, strict=True)]
    here = [slice(max(0, a), min(n, a + size)) for a, n, size in zip(low, grid, patch, strict=True)]
    part = [slice(place.start - a, place.stop - a) for place, a in zip(here, low, strict=True)]
    return tuple(here), tuple(part)


def _foreign_texture(donor: np.ndarray, patch: np.ndarray, centre: Sequence[int]) -> np.ndarray:
    """The donor's tissue under a patch, with mean 0 and standard deviation 1 in the lesion; zero beside it."""
    there, part = _overlap(donor.shape, patch.shape, centre)
    tissue = np.zeros(patch.shape)
    tissue[part] = donor[there]
    inside = patch >= 0.5
    spread = float(tissue[inside].std())
    if not spread > 0:
        return np.zeros(patch.shape)
    return np.where(patch > 0, np.clip((tissue - tissue[inside].mean()) / spread, -3, 3), 0.0)


def _level(image: np.ndarray, truth: np.ndarray, levels: TissueLevels, lesion: BlendedLesion) -> float:
    bright = levels.white + BRIGHT_STEPS * (levels.white - levels.grey)
    wanted = {"dark": levels.fluid, "grey": levels.grey, "bright": bright}[lesion.kind]
    host = float(image[truth].mean())
    return host + lesion.contrast * (wanted - host)


def _seamless(
    image: np.ndarray,
    brain: np.ndarray,
    region: np.ndarray,
    truth: np.ndarray,
    texture: np.ndarray,
    level: float,
    border_mm: float,
    spacing_mm: Sequence[float],
) -> np.ndarray:
    """The gradients of texture and contrast inside a region, the scan's values around it, a mean of ``level``."""
    around = harmonic_continuation(image, region & brain, brain)
    depth_mm = ndimage.distance_transform_edt(region, sampling=spacing_mm)
    ramp = np.clip(depth_mm / border_mm, 0, 1)
    missing = level - float((around + ramp * texture)[truth].mean())
    return around + ramp * (texture + missing / float(ramp[truth].mean()))
