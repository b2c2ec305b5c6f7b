"""What a run on a site's own scans was asked to do: what all share, and what a training adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Options", "SiteOptions", "Tell"]

Tell = Callable[[str], None]
"""Takes one message for the person who waits."""


@dataclass(frozen=True, kw_only=True)
class SiteOptions:
    """What any run on normal scans of a site is asked.

    Attributes:
        scans: folder, list, BIDS dataset or DICOM tree of normal scans of one scanner and contrast.
        output: folder for all that is made.
        command: as it was given, for the report.
        check_only: stop after the checks.
        exclude: cases to leave out.
        exclude_suspects: leave out what the checks suggest to.
        force: go on although the checks found something.
        subject: regular expression whose first group names the person in a case; ``None`` for BIDS names.
        contrast: chooses the tool for brain masks.
        brain_masks: folder with a brain mask of the same file name for every scan.
        brain_extraction: see :func:`itermask3d.preprocessing.pipeline.inference_transforms`.
        seed: of all that is drawn.
        workers: processes that look at scans at once.
        restart: drop what was made of other scans or settings in the output folder.
    """

    scans: str
    output: Path
    command: str = ""
    check_only: bool = False
    exclude: tuple[str, ...] = ()
    exclude_suspects: bool = False
    force: bool = False
    subject: str | None = None
    contrast: str = "T1"
    brain_masks: str | None = None
    brain_extraction: str = "auto"
    seed: int = 2026
    workers: int = 1
    restart: bool = False


@dataclass(frozen=True, kw_only=True)
class Options(SiteOptions):
    """A whole training's choices; ``None`` where the scans shall decide.

    Attributes:
        scripts: folder of the repository's scripts, which some stages run.
        bias_correction: see :func:`itermask3d.preprocessing.pipeline.inference_transforms`.
        spacing_mm: edge of the network's voxels.
        split_file: JSON of cases by subset.
        epochs, batch_size, channels: of the training.
        tune: choose the loop's settings on validation scans.
        network_size: keep every scan on a grid of so many voxels as well.
    """

    scripts: Path
    bias_correction: str = "n4"
    spacing_mm: float | None = None
    split_file: Path | None = None
    epochs: int | None = None
    batch_size: int = 2
    channels: tuple[int, ...] | None = None
    tune: bool = False
    network_size: tuple[int, int, int] | None = None
