"""Tissue classes out of anatomical label maps, as a mixture of two tissues in every voxel.

Left and right structures share a class, so a mirrored map needs no exchange of labels. What a map calls a lesion is
taken for the white matter that it replaced: only normal brains are made from these maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType

import numpy as np
import torch
from scipy import ndimage

from itermask3d.files.scans import ScanError

__all__ = ["SCHEMES", "Tissue", "brain_of", "guess_scheme", "refine", "tissues_of", "two_tissues"]


class Tissue(IntEnum):
    """Classes that share a signal; the value is the index into a contrast's signals."""

    BACKGROUND = 0
    WHITE = 1
    CORTEX = 2
    LIMBIC = 3
    """Hippocampus and amygdala."""
    THALAMUS = 4
    STRIATUM = 5
    """Caudate, putamen, accumbens, basal forebrain."""
    PALLIDUM = 6
    VENTRICLE = 7
    OUTER_FLUID = 8
    """Fluid around the brain, with the membranes and small vessels in it."""
    CEREBELLAR_GREY = 9
    CEREBELLAR_WHITE = 10
    BRAINSTEM = 11
    """With the ventral diencephalon."""
    VESSEL = 12
    """Vessels and choroid plexus."""
    LIMBIC_CORTEX = 13
    """Cortex of cingulum, insula, medial and polar temporal lobe and below the genu. Its T2 is longer than that of the
    rest (Georgiades et al., American Journal of Neuroradiology 22, 1732 (2001)), so it is brighter on FLAIR."""


LIMBIC_CORTEX_CODES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "cingulum": (100, 101, 138, 139, 166, 167),
        "insula and planum polare": (102, 103, 172, 173, 180, 181),
        "entorhinal, parahippocampal and polar temporal cortex": (116, 117, 170, 171, 202, 203),
        "gyrus rectus and subcallosal area": (124, 125, 186, 187),
    }
)
"""Labels of DLMUSE, right and left."""


def _dlmuse() -> dict[Tissue, tuple[int, ...]]:
    limbic = tuple(code for codes in LIMBIC_CORTEX_CODES.values() for code in codes)
    return {
        Tissue.WHITE: (69, *range(81, 96)),
        Tissue.CORTEX: tuple(code for code in range(100, 208) if code not in limbic),
        Tissue.LIMBIC_CORTEX: limbic,
        Tissue.LIMBIC: (31, 32, 47, 48),
        Tissue.THALAMUS: (59, 60),
        Tissue.STRIATUM: (23, 30, 36, 37, 57, 58, 75, 76),
        Tissue.PALLIDUM: (55, 56),
        Tissue.VENTRICLE: (4, 11, 49, 50, 51, 52),
        Tissue.OUTER_FLUID: (1, 46),
        Tissue.CEREBELLAR_GREY: (38, 39, 71, 72, 73),
        Tissue.CEREBELLAR_WHITE: (40, 41),
        Tissue.BRAINSTEM: (35, 61, 62),
        Tissue.VESSEL: (63, 64),
    }


def _synthseg() -> dict[Tissue, tuple[int, ...]]:
    return {
        Tissue.WHITE: (2, 25, 41, 57, 85),
        Tissue.CORTEX: (3, 42),
        Tissue.LIMBIC: (17, 18, 53, 54),
        Tissue.THALAMUS: (10, 49),
        Tissue.STRIATUM: (11, 12, 26, 50, 51, 58),
        Tissue.PALLIDUM: (13, 52),
        Tissue.VENTRICLE: (4, 5, 14, 15, 43, 44, 72),
        Tissue.OUTER_FLUID: (24,),
        Tissue.CEREBELLAR_GREY: (8, 47),
        Tissue.CEREBELLAR_WHITE: (7, 46),
        Tissue.BRAINSTEM: (16, 28, 60),
        Tissue.VESSEL: (30, 62, 136, 137, 163, 164),
        Tissue.BACKGROUND: tuple(range(500, 600)),
    }


def _plain() -> dict[Tissue, tuple[int, ...]]:
    return {tissue: (tissue.value,) for tissue in Tissue if tissue}


SCHEMES: Mapping[str, Mapping[Tissue, tuple[int, ...]]] = MappingProxyType(
    {"dlmuse": _dlmuse(), "synthseg": _synthseg(), "tissues": _plain()}
)
"""Labels by tissue: those of DLMUSE (Neuromorphometrics with lobes of white matter), those of the label maps of
SynthSeg (FreeSurfer's, outside the brain from 500 on), and the classes themselves."""

LARGEST_LABEL = 600

_ROUNDING = 1e-3
"""Shares below this come from the arithmetic of resampling."""

_PURE = 0.12
"""Shares of the second tissue below this are taken for spread within the first."""

_FLUIDS = (Tissue.VENTRICLE, Tissue.OUTER_FLUID)
_CORTICES = (Tissue.CORTEX, Tissue.LIMBIC_CORTEX)
_DEEP = (Tissue.LIMBIC, Tissue.THALAMUS, Tissue.STRIATUM, Tissue.PALLIDUM, Tissue.BRAINSTEM)


def guess_scheme(labels: np.ndarray) -> str:
    """Tell a map's naming from the labels in it.

    Raises:
        ScanError: if the labels are those of no scheme, naming one that is unknown.
    """
    found = {int(value) for value in np.unique(labels)} - {0}
    known = {name: {code for codes in scheme.values() for code in codes} for name, scheme in SCHEMES.items()}
    for name in ("tissues", "synthseg", "dlmuse"):
        if found and found <= known[name]:
            return name
    strange = sorted(found - known["dlmuse"] - known["synthseg"]) or sorted(found)
    raise ScanError(
        f"the label map holds {strange[:5] or 'no label'}; expected the labels of one of {', '.join(SCHEMES)}"
    )


def tissues_of(labels: np.ndarray, scheme: str) -> np.ndarray:
    """Group labels into tissues.

    Args:
        labels: whole numbers ``(D, H, W)``.
        scheme: a name in :data:`SCHEMES`.

    Returns:
        Values of :class:`Tissue`, uint8, same shape; labels that the scheme does not know are background.
    """
    if scheme not in SCHEMES:
        raise ScanError(f"scheme = '{scheme}'; expected one of {', '.join(SCHEMES)}")
    table = np.zeros(LARGEST_LABEL, dtype=np.uint8)
    for tissue, codes in SCHEMES[scheme].items():
        table[list(codes)] = tissue
    codes_in_range = np.where((labels >= 0) & (labels < LARGEST_LABEL), labels, 0)
    return table[codes_in_range.astype(np.int64)]


def brain_of(tissues: np.ndarray, *, spacing_mm: Sequence[float], reach_mm: float = 4.0) -> np.ndarray:
    """A brain mask as an extraction tool would draw it: the tissue, and the fluid in its sulci, closed and filled.

    Args:
        tissues: from :func:`tissues_of`.
        spacing_mm: edges of a voxel.
        reach_mm: gaps of up to twice this are closed.

    Raises:
        ScanError: if there is no tissue.
    """
    solid = (tissues != Tissue.BACKGROUND) & (tissues != Tissue.OUTER_FLUID)
    if not solid.any():
        raise ScanError("the label map holds no brain tissue; expected a labelled brain")
    margin = [int(np.ceil(reach_mm / edge)) + 1 for edge in spacing_mm]
    padded = np.pad(solid, [(m, m) for m in margin])
    near = ndimage.distance_transform_edt(~padded, sampling=spacing_mm) <= reach_mm
    closed = ndimage.distance_transform_edt(near, sampling=spacing_mm) > reach_mm
    filled = ndimage.binary_fill_holes(closed | padded)
    return np.asarray(filled[tuple(slice(m, -m) for m in margin)])


def two_tissues(shares: torch.Tensor) -> torch.Tensor:
    """Keep the two tissues that fill most of a voxel.

    Args:
        shares: of every :class:`Tissue` in every voxel, ``(K, D, H, W)``, not negative.

    Returns:
        Float32 ``(3, D, H, W)``: the first tissue, the second, and the share of the first of what both fill (0.5 to 1).
    """
    values, indices = shares.topk(2, dim=0)
    first = values[:1] / values.sum(dim=0, keepdim=True).clamp(min=1e-6)
    empty = values[:1] <= _ROUNDING
    kept = torch.where(empty, torch.zeros_like(indices), indices).float()
    return torch.cat((kept, torch.where(empty, torch.ones_like(first), first).float()))


def refine(mixture: np.ndarray, image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Find what share of fluid, grey and white matter voxels hold, from the T1-weighted scan that a map was made of.

    A label map at 2 mm knows no sulci: they share their voxels with the cortex. The scan tells how much of each.

    Args:
        mixture: from :func:`two_tissues`, ``(3, D, H, W)``.
        image: that scan on the same grid, without its bias field, any unit.
        brain: boolean, same grid.

    Returns:
        A mixture of the same kind. Deep white matter is left as it is, so that what is dark in it does not become grey
        matter; so is all where the scan's tissues do not rise from fluid over grey to white matter.
    """
    first = mixture[0].astype(np.uint8)
    levels = _levels(first, image, brain)
    if levels is None:
        return mixture
    second, share = mixture[1].astype(np.uint8), mixture[2].copy()
    fluid = np.where(first == Tissue.VENTRICLE, Tissue.VENTRICLE, Tissue.OUTER_FLUID).astype(np.uint8)
    out = [first.copy(), second, share]

    def put(where: np.ndarray, dark: np.ndarray | int, bright: np.ndarray | int, low: float, high: float) -> None:
        part = np.clip(((image - low) / (high - low) - _PURE) / (1 - 2 * _PURE), 0, 1)
        out[0][where] = np.broadcast_to(bright, first.shape)[where]
        out[1][where] = np.broadcast_to(dark, first.shape)[where]
        out[2][where] = part[where]

    outer = brain & np.isin(first, (*_CORTICES, Tissue.WHITE, Tissue.OUTER_FLUID, Tissue.BACKGROUND))
    outer &= ~ndimage.binary_erosion(first == Tissue.WHITE)
    cerebellum = brain & np.isin(first, (Tissue.CEREBELLAR_GREY, Tissue.CEREBELLAR_WHITE))
    places = (
        (outer, Tissue.CORTEX, Tissue.WHITE, _cortex_names(mixture)),
        (cerebellum, Tissue.CEREBELLAR_GREY, Tissue.CEREBELLAR_WHITE, np.full_like(first, Tissue.CEREBELLAR_GREY)),
    )
    for where, grey, white, name in places:
        if grey in levels and white in levels and levels[Tissue.OUTER_FLUID] < levels[grey] < levels[white]:
            put(where & (image < levels[grey]), fluid, name, levels[Tissue.OUTER_FLUID], levels[grey])
            brighter = where & (image >= levels[grey]) & (first != Tissue.OUTER_FLUID)
            put(brighter, name, white, levels[grey], levels[white])
            _name_bright_fluid(out, where & (first == Tissue.OUTER_FLUID), image, levels[grey], levels[white])
    fluid_level = levels[Tissue.OUTER_FLUID]
    put(brain & (first == Tissue.VENTRICLE), Tissue.VENTRICLE, Tissue.WHITE, fluid_level, levels[Tissue.WHITE])
    for tissue in _DEEP:
        if tissue in levels:
            darker = image < (levels[tissue] + fluid_level) / 2
            put(brain & (first == tissue) & darker, fluid, tissue, fluid_level, levels[tissue])
    return np.stack([part.astype(np.float32) for part in out])


def _cortex_names(mixture: np.ndarray) -> np.ndarray:
    """Which cortex each voxel's grey matter is."""
    limbic = (mixture[:2] == Tissue.LIMBIC_CORTEX).any(axis=0)
    return np.where(limbic, Tissue.LIMBIC_CORTEX, Tissue.CORTEX).astype(np.uint8)


def _name_bright_fluid(out: list[np.ndarray], where: np.ndarray, image: np.ndarray, grey: float, white: float) -> None:
    """Fluid as bright as grey matter is cortex that the map missed; brighter than white matter, a vessel."""
    for tissue, bright in ((Tissue.CORTEX, where & (image >= grey)), (Tissue.VESSEL, where & (image > white))):
        out[0][bright], out[1][bright], out[2][bright] = tissue, tissue, 1.0


def _levels(first: np.ndarray, image: np.ndarray, brain: np.ndarray) -> dict[Tissue, float] | None:
    """Intensity of each pure tissue; ``None`` where fluid, cortex and white matter are not in the order of T1."""
    levels = {}
    for tissue in set(Tissue) - {Tissue.BACKGROUND, *_FLUIDS}:
        inside = brain & (first == tissue)
        core = ndimage.binary_erosion(inside)
        values = image[core if core.sum() >= 20 else inside]
        if values.size:
            levels[tissue] = float(np.median(values))
    fluid = image[brain & np.isin(first, _FLUIDS)]
    if not fluid.size or not {Tissue.CORTEX, Tissue.WHITE} <= levels.keys():
        return None
    levels[Tissue.OUTER_FLUID] = float(np.percentile(fluid, 20))
    cortex = image[brain & np.isin(first, _CORTICES)]
    if not levels[Tissue.OUTER_FLUID] < levels[Tissue.WHITE]:
        return None
    counts, edges = np.histogram(cortex, 96, (levels[Tissue.OUTER_FLUID], levels[Tissue.WHITE]))
    peak = int(ndimage.gaussian_filter1d(counts.astype(float), 5).argmax())
    levels[Tissue.CORTEX] = float(edges[peak])
    ordered = levels[Tissue.OUTER_FLUID] < levels[Tissue.CORTEX] < levels[Tissue.WHITE]
    return levels if ordered else None
