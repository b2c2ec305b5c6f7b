"""What a screening was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itermask3d.files.literals import as_literals
from itermask3d.workflows.screening.cluster import SlurmJob

__all__ = ["Options"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """A whole run's choices; ``None`` where the bundle or the machine decides.

    Attributes:
        data: see :func:`itermask3d.files.discovery.discover`.
        output: folder for the results; absolute.
        bundle: folder of the bundle.
        suffix: of a BIDS dataset, the scans that are taken.
        brain_masks: folder with a brain mask for every scan.
        brain_extraction, model, weights, gamma, schedule: of the inference config.
        retry_failed: try scans again that failed before.
        overwrite: do finished scans again.
        report_only: screen nothing, write page and table anew.
        overview: write the overview of every scan.
        title: of the page; ``None`` for the name of the data.
        workers: at once; ``None`` for one a GPU, else one.
        threads: of each worker.
        scheduler: address of a running Dask cluster.
        slurm: the job of each worker; ``None`` for workers on this machine.
        only: the cases that are screened; ``None`` for all.
    """

    data: Path
    output: Path
    bundle: Path
    suffix: tuple[str, ...] = ("T1w",)
    brain_masks: str | None = None
    brain_extraction: str | None = None
    model: str | None = None
    weights: Path | None = None
    gamma: float | None = None
    schedule: str | None = None
    retry_failed: bool = False
    overwrite: bool = False
    report_only: bool = False
    overview: bool = True
    title: str | None = None
    workers: int | None = None
    threads: int | None = None
    scheduler: str | None = None
    slurm: SlurmJob | None = None
    only: frozenset[str] | None = None

    def overrides(self) -> dict[str, Any]:
        """Ids of the inference config and the values that were given for them."""
        values = {
            "brain_extraction": self.brain_extraction,
            "model": self.model,
            "ckpt_path": None if self.weights is None else str(self.weights.absolute()),
            "settings::gamma": self.gamma,
            "settings::schedule": self.schedule,
        }
        return as_literals({key: value for key, value in values.items() if value is not None})
