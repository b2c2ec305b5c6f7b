"""What an adaptation to a site's scans was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from itermask3d import BUNDLE_ROOT
from itermask3d.workflows.site.fine_tuning import FineTuning
from itermask3d.workflows.site.options import Options

__all__ = ["AdaptationOptions"]


@dataclass(frozen=True, kw_only=True)
class AdaptationOptions:
    """A whole run's choices.

    Attributes:
        scans: folder, list, BIDS dataset or DICOM tree of normal scans of one scanner and contrast.
        output: folder for all that is made.
        bundle: folder of the bundle that is adapted.
        model: of the bundle.
        command: as it was given, for the report.
        check_only: stop after the checks.
        exclude, exclude_suspects, force, subject, contrast, brain_masks, brain_extraction: see
            :class:`itermask3d.workflows.site.options.Options`.
        epochs: passes over the scans.
        folds: of the cross-fitting; so many networks are adapted beside the last one.
        seed: of folds and training.
        workers: processes that prepare scans at once.
        restart: drop an adaptation to other scans in the output folder.
    """

    scans: str
    output: Path
    bundle: Path = Path(BUNDLE_ROOT)
    model: str = "t1"
    command: str = ""
    check_only: bool = False
    exclude: tuple[str, ...] = ()
    exclude_suspects: bool = False
    force: bool = False
    subject: str | None = None
    contrast: str = "T1"
    brain_masks: str | None = None
    brain_extraction: str = "auto"
    epochs: int = 10
    folds: int = 4
    seed: int = 2026
    workers: int = 1
    restart: bool = False

    @property
    def tuning(self) -> FineTuning:
        """How far the model is adapted."""
        return FineTuning(epochs=self.epochs, seed=self.seed)

    def for_checks(self, *, spacing_mm: float, spatial_size: tuple[int, int, int], bias_correction: str) -> Options:
        """The checks of the scans, on the grid of the model that is adapted."""
        names = ("scans", "output", "exclude", "exclude_suspects", "force", "subject", "contrast", "brain_masks")
        return Options(
            **{name: getattr(self, name) for name in (*names, "brain_extraction", "seed", "workers")},
            scripts=Path(),  # no stage of an adaptation runs a script
            spacing_mm=spacing_mm,
            bias_correction=bias_correction,
            network_size=spatial_size,
        )
