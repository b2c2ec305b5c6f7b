r"""What each tissue looks like in an MR scan: signals from relaxation times and a sequence, or freely drawn.

Relaxation times are rounded means over published ones at 1.5 and 3 T, which differ by 10 to 30 % between methods; a
draw spreads them by :data:`RELAXATION_SPREAD`. Within the published ranges those of deep grey matter were chosen so
that its place between cortex and white matter in T1 is that of two training scans. Signals are those of the textbook:

.. math::
    \text{spin echo} &: \rho\,(1 - e^{-T_R/T_1})\,e^{-T_E/T_2} \\
    \text{inversion recovery} &: \rho\,\lvert 1 - 2e^{-T_I/T_1} + e^{-T_R/T_1}\rvert\,e^{-T_E/T_2} \\
    \text{prepared gradient echo} &: \rho\,\lvert 1 - k\,e^{-T_I/T_1}\rvert

In the last, :math:`k` (1 saturation, 2 inversion) stands for how far a train of readouts leaves the magnetisation from
a full inversion.

Sources: Stanisz et al., Magnetic Resonance in Medicine 54, 507 (2005), doi:10.1002/mrm.20605; Wansapura et al., Journal
of Magnetic Resonance Imaging 9, 531 (1999); Gelman et al., Magnetic Resonance in Medicine 45, 71 (2001); Bojorquez et
al., Magnetic Resonance Imaging 35, 69 (2017), doi:10.1016/j.mri.2016.08.021 (relaxation times); Bernstein, King, Zhou,
Handbook of MRI Pulse Sequences (2004) (signals); Billot et al., Medical Image Analysis 86, 102789 (2023),
doi:10.1016/j.media.2023.102789 (free draws).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from itermask3d.simulation.generator.tissues import Tissue

__all__ = ["CONTRASTS", "RELAXATION", "RELAXATION_SPREAD", "Contrast", "Relaxation", "draw_contrast"]


class Relaxation(NamedTuple):
    """Of one tissue: times in milliseconds, and water relative to fluid."""

    t1_ms: float
    t2_ms: float
    water: float


RELAXATION: Mapping[Tissue, Relaxation] = MappingProxyType(
    {
        Tissue.WHITE: Relaxation(850, 75, 0.70),
        Tissue.CORTEX: Relaxation(1400, 97, 0.82),
        Tissue.LIMBIC: Relaxation(1250, 101, 0.82),
        Tissue.THALAMUS: Relaxation(980, 80, 0.76),
        Tissue.STRIATUM: Relaxation(1080, 80, 0.79),
        Tissue.PALLIDUM: Relaxation(880, 66, 0.74),
        Tissue.VENTRICLE: Relaxation(4200, 1500, 1.0),
        Tissue.OUTER_FLUID: Relaxation(3900, 1000, 0.98),
        Tissue.CEREBELLAR_GREY: Relaxation(1350, 95, 0.82),
        Tissue.CEREBELLAR_WHITE: Relaxation(850, 77, 0.71),
        Tissue.BRAINSTEM: Relaxation(900, 80, 0.72),
        Tissue.VESSEL: Relaxation(1600, 120, 0.85),
        Tissue.LIMBIC_CORTEX: Relaxation(1370, 104, 0.82),
    }
)

RELAXATION_SPREAD = 0.03
"""Standard deviation of the logarithm by which a tissue's times differ from brain to brain and field to field."""

SHARED_SPREAD = 0.12
"""The same for all tissues together: field strength, temperature, imperfect pulses."""

FLOWING_SIGNAL = (0.0, 0.25)
"""Signal of flowing blood in a spin echo, relative to what it would be at rest."""

LIKENESS = (0.0, 0.6)
"""How far grey matter at the surface resembles white matter in T2, more than relaxation times say: 0 not at all, 1
wholly. Magnetisation transfer between slices and partial volume do so; the range covers one normal scan."""

SURROUNDINGS = (0.0, 0.3)
"""Signal of bone and membranes around the brain, where a mask is wide, relative to the largest tissue's."""

ENHANCED_SURROUNDINGS = (0.0, 0.9)
"""The same after contrast agent, which membranes take up."""

SMALLEST_STEP = 0.12
"""Least difference of cortex and white matter in a free draw, where the largest signal is 1."""

_OWN = [tissue for tissue in Tissue if tissue not in (Tissue.BACKGROUND, Tissue.VESSEL)]
"""Tissues of the brain itself."""

_PARENTS: Mapping[Tissue, Tissue] = MappingProxyType(
    {
        Tissue.LIMBIC: Tissue.CORTEX,
        Tissue.LIMBIC_CORTEX: Tissue.CORTEX,
        Tissue.THALAMUS: Tissue.CORTEX,
        Tissue.STRIATUM: Tissue.CORTEX,
        Tissue.CEREBELLAR_GREY: Tissue.CORTEX,
        Tissue.PALLIDUM: Tissue.WHITE,
        Tissue.CEREBELLAR_WHITE: Tissue.WHITE,
        Tissue.BRAINSTEM: Tissue.WHITE,
        Tissue.OUTER_FLUID: Tissue.VENTRICLE,
    }
)


@dataclass(frozen=True)
class Contrast:
    """What was drawn.

    Attributes:
        name: of the kind, see :data:`CONTRASTS`.
        parameters: of the sequence, in milliseconds; empty for a free draw.
        signals: by :class:`Tissue`, not negative; the largest is 1 among the brain's own. That of the
            background is bone and membranes.
    """

    name: str
    parameters: Mapping[str, float]
    signals: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "signals": [float(f"{value:.5g}") for value in self.signals]}


def draw_contrast(name: str, rng: np.random.RandomState) -> Contrast:
    """Draw the signal of every tissue.

    Args:
        name: a kind in :data:`CONTRASTS`.
        rng: source of everything random; a MONAI transform's own state serves.

    Raises:
        ValueError: if the kind is unknown.
    """
    if name not in CONTRASTS:
        raise ValueError(f"contrast = '{name}'; expected one of {', '.join(CONTRASTS)}")
    signals, parameters = CONTRASTS[name](rng)
    signals = signals / float(signals[_OWN].max())
    signals[Tissue.BACKGROUND] = rng.uniform(*(ENHANCED_SURROUNDINGS if name == "t1c" else SURROUNDINGS))
    return Contrast(name, parameters, tuple(float(value) for value in signals))


def _tissues(rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T1, T2 and water by tissue, spread; the background's are not used."""
    table = np.array([RELAXATION.get(tissue, Relaxation(1000, 100, 0)) for tissue in Tissue], dtype=float)
    spread = np.exp(RELAXATION_SPREAD * rng.randn(len(table), 2) + SHARED_SPREAD * rng.randn(1, 2))
    return table[:, 0] * spread[:, 0], table[:, 1] * spread[:, 1], table[:, 2]


def _spin_echo(tr: float, te: float, tissues: tuple[np.ndarray, ...]) -> np.ndarray:
    t1, t2, water = tissues
    return np.asarray(water * (1 - np.exp(-tr / t1)) * np.exp(-te / t2))


def _inversion(tr: float, te: float, ti: float, tissues: tuple[np.ndarray, ...]) -> np.ndarray:
    t1, t2, water = tissues
    return np.asarray(water * np.abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)) * np.exp(-te / t2))


def _nulling(t1: float, tr: float) -> float:
    """Inversion time at which a tissue gives no signal."""
    return float(t1 * (np.log(2) - np.log(1 + np.exp(-tr / t1))))


def _t1(rng: np.random.RandomState) -> tuple[np.ndarray, dict[str, float]]:
    t1, _, water = _tissues(rng)
    ti, inversion = rng.uniform(650, 1050), rng.uniform(1.0, 1.35)
    signals = water * np.abs(1 - inversion * np.exp(-ti / t1))
    signals[Tissue.VESSEL] *= rng.uniform(0.6, 2.2)  # fresh blood flows in bright, or has not been prepared
    return signals, {"ti_ms": ti, "inversion": inversion}


def _t1c(rng: np.random.RandomState) -> tuple[np.ndarray, dict[str, float]]:
    signals, parameters = _t1(rng)
    enhanced = rng.uniform(1.1, 2.0) * signals[Tissue.WHITE]
    signals[Tissue.VESSEL] = enhanced
    signals[Tissue.OUTER_FLUID] += rng.uniform(0.0, 0.2) * enhanced  # meninges and veins in the same voxels
    return signals, parameters | {"enhancement": float(enhanced / signals[Tissue.WHITE])}


def _t2(rng: np.random.RandomState) -> tuple[np.ndarray, dict[str, float]]:
    tr, te, likeness = rng.uniform(2500, 7000), rng.uniform(75, 130), rng.uniform(*LIKENESS)
    signals = _spin_echo(tr, te, _tissues(rng))
    grey = [Tissue.CORTEX, Tissue.LIMBIC_CORTEX, Tissue.LIMBIC, Tissue.CEREBELLAR_GREY]
    signals[grey] += likeness * (signals[Tissue.WHITE] - signals[grey])
    return _with_flow(signals, rng), {"tr_ms": tr, "te_ms": te, "likeness": likeness}


def _pd(rng: np.random.RandomState) -> tuple[np.ndarray, dict[str, float]]:
    tr, te = rng.uniform(2000, 4000), rng.uniform(10, 35)
    return _with_flow(_spin_echo(tr, te, _tissues(rng)), rng), {"tr_ms": tr, "te_ms": te}


def _flair(rng: np.random.RandomState) -> tuple[np.ndarray, dict[str, float]]:
    tissues = _tissues(rng)
    tr, te = rng.uniform(5000, 11000), rng.uniform(85, 150)
    ti = _nulling(tissues[0][Tissue.VENTRICLE], tr) * rng.uniform(0.92, 1.06)
    return _with_flow(_inversion(tr, te, ti, tissues), rng), {"tr_ms": tr, "te_ms": te, "ti_ms": ti}


def _white_nulled(rng: np.random.RandomState) -> tuple[np.ndarray, dict[str, float]]:
    tissues = _tissues(rng)
    tr, te = rng.uniform(3000, 6000), rng.uniform(15, 60)
    ti = _nulling(tissues[0][Tissue.WHITE], tr) * rng.uniform(0.9, 1.1)
    return _with_flow(_inversion(tr, te, ti, tissues), rng), {"tr_ms": tr, "te_ms": te, "ti_ms": ti}


def _with_flow(signals: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    signals[Tissue.VESSEL] *= rng.uniform(*FLOWING_SIGNAL)
    return signals


def _random(rng: np.random.RandomState) -> tuple[np.ndarray, dict[str, float]]:
    """Each tissue for itself, or each near the one that it resembles; cortex and white matter always differ."""
    signals = rng.uniform(0, 1, len(Tissue))
    white = signals[Tissue.WHITE]
    below, above = max(0.0, white - SMALLEST_STEP), max(0.0, 1 - white - SMALLEST_STEP)
    place = rng.uniform(0, below + above)
    signals[Tissue.CORTEX] = place if place < below else place - below + white + SMALLEST_STEP
    spread = rng.choice((0.03, 0.1, 1.0))
    if spread < 1:
        for tissue, parent in _PARENTS.items():
            signals[tissue] = np.clip(signals[parent] + spread * rng.randn(), 0, 1)
    return signals, {"spread": float(spread)}


CONTRASTS: Mapping[str, Callable[[np.random.RandomState], tuple[np.ndarray, dict[str, float]]]] = MappingProxyType(
    {
        "t1": _t1,
        "t1c": _t1c,
        "t2": _t2,
        "flair": _flair,
        "pd": _pd,
        "white_nulled": _white_nulled,
        "random": _random,
    }
)
"""Kinds of contrast: how each is drawn. ``pd`` (proton density) and ``white_nulled`` (an inversion recovery without
the signal of white matter) take no part in training as it is configured, so that there are unseen ones."""
