"""Which lesion goes into which scan: drawn once from a seed, balanced over sizes and kinds, for both simulators.

What a scan gets depends on the seed and on the list of all scans of its site alone, not on how many of them are
simulated in the end: so a quick run judges some of the cases of a full one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from itermask3d.simulation import blended_lesions, lesions
from itermask3d.simulation.blended_lesions import blend_lesion, draw_blended_lesion
from itermask3d.simulation.lesion_shapes import LesionShape
from itermask3d.simulation.lesions import draw_look, generated_shape, insert_lesion

__all__ = ["SIMULATORS", "VOLUMES_ML", "Donor", "PlannedLesion", "SimulatedScan", "plan_lesions", "simulate"]

SIMULATORS = {"field": tuple(lesions.KINDS), "blended": blended_lesions.KINDS}
"""Kinds of lesion by simulator: :mod:`itermask3d.simulation.lesions` with its random fields, and the blended ones."""

VOLUMES_ML = ((0.1, 1.0), (1.0, 5.0), (5.0, 10.0), (10.0, 50.0), (50.0, 150.0))
"""Ranges of volume, each drawn from equally often, log-uniformly."""


@dataclass(frozen=True)
class PlannedLesion:
    """A lesion for one scan, before anything is known of the scan.

    Attributes:
        subject: the scan.
        number: of the lesion among those of this scan and simulator.
        simulator, kind: see :data:`SIMULATORS`.
        volume_ml: wanted.
        donor: another scan of the site that gives foreign texture; ``None`` for the scan itself, and for ``field``.
        seed: of everything that is drawn later.
    """

    subject: str
    number: int
    simulator: str
    kind: str
    volume_ml: float
    donor: str | None
    seed: int

    @property
    def case(self) -> str:
        """Name of the scan with this lesion."""
        return f"{self.subject}__{self.simulator}{self.number}"


class Donor(NamedTuple):
    """A scan that gives texture, on the grid of the scan that gets it."""

    image: np.ndarray
    brain: np.ndarray


class SimulatedScan(NamedTuple):
    """A scan with a lesion.

    Attributes:
        image: float32 ``(D, H, W)``, the scan's unit.
        truth: boolean.
        about: what was drawn, JSON-ready.
    """

    image: np.ndarray
    truth: np.ndarray
    about: dict[str, Any]


def plan_lesions(
    subjects: Sequence[str], *, seed: int = 0, per_scan: int = 1, simulators: Sequence[str] = tuple(SIMULATORS)
) -> list[PlannedLesion]:
    """Draw what each scan of a site gets.

    Every range of volume is drawn equally often, and within it every kind, up to what does not divide.

    Args:
        subjects: all scans of the site, in a fixed order.
        seed: of the draw.
        per_scan: lesioned versions of each scan, by simulator.
        simulators: of :data:`SIMULATORS`.

    Raises:
        ValueError: for an unknown simulator, or a number below 1.
    """
    if per_scan < 1 or set(simulators) - SIMULATORS.keys():
        raise ValueError(
            f"per_scan must be at least 1 and simulators be of {', '.join(SIMULATORS)}, got {per_scan}, {simulators}"
        )
    planned = []
    for simulator in simulators:
        rng = np.random.default_rng(_seed(seed, simulator, *subjects))
        places = [(subject, number) for number in range(per_scan) for subject in subjects]
        first = int(rng.integers(len(VOLUMES_ML)))
        for turn, index in enumerate(rng.permutation(len(places))):
            subject, number = places[index]
            kinds, donors = SIMULATORS[simulator], [name for name in subjects if name != subject]
            low, high = VOLUMES_ML[(first + turn) % len(VOLUMES_ML)]
            foreign = simulator == "blended" and donors and rng.random() < 0.5
            planned.append(
                PlannedLesion(
                    subject=subject,
                    number=number,
                    simulator=simulator,
                    kind=kinds[turn // len(VOLUMES_ML) % len(kinds)],
                    volume_ml=float(np.exp(rng.uniform(np.log(low), np.log(high)))),
                    donor=donors[int(rng.integers(len(donors)))] if foreign else None,
                    seed=_seed(seed, simulator, subject, str(number)),
                )
            )
    return sorted(planned, key=lambda one: one.case)


def simulate(
    planned: PlannedLesion,
    image: np.ndarray,
    brain: np.ndarray,
    *,
    spacing_mm: Sequence[float],
    shapes: Mapping[str, LesionShape],
    donor: Donor | None = None,
) -> SimulatedScan:
    """Put a planned lesion into a scan.

    Args:
        planned: see :func:`plan_lesions`.
        image: ``(D, H, W)``, raw or normalised, T1.
        brain: boolean.
        spacing_mm: edges of a voxel.
        shapes: outlines for the blended simulator.
        donor: the scan that the plan names, if any.

    Raises:
        ScanError: if the lesion fits nowhere.
        ValueError: if the plan names a donor and none was given.
    """
    if planned.donor is not None and donor is None:
        raise ValueError(f"'{planned.case}' takes its texture from '{planned.donor}', which was not given")
    rng = np.random.default_rng(planned.seed)
    if planned.simulator == "field":
        affine = np.diag([*spacing_mm, 1.0])
        region = generated_shape(brain, affine, volume_ml=planned.volume_ml, rng=rng)
        look = draw_look(rng, [planned.kind])
        changed = insert_lesion(image, region, brain, affine, look=look, rng=rng)
        return SimulatedScan(changed, region, asdict(look))
    other = donor if planned.donor is not None else None
    lesion = draw_blended_lesion(
        image, brain, shapes, spacing_mm=spacing_mm, volume_ml=planned.volume_ml, kind=planned.kind, rng=rng,
        donor_brain=None if other is None else other.brain,
    )  # fmt: skip
    blended = blend_lesion(
        image, brain, lesion, shapes[lesion.shape], spacing_mm=spacing_mm, donor=None if other is None else other.image
    )
    return SimulatedScan(blended.image, blended.truth, asdict(lesion))


def _seed(seed: int, *words: str) -> int:
    return int.from_bytes(hashlib.sha256("/".join([str(seed), *words]).encode()).digest()[:6], "big")
