"""What an adaptation to a site's scans was asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from itermask3d import BUNDLE_ROOT
from itermask3d.workflows.site.fine_tuning import FineTuning
from itermask3d.workflows.site.options import Options, SiteOptions

__all__ = ["AdaptationOptions", "model_for"]


@dataclass(frozen=True, kw_only=True)
class AdaptationOptions(SiteOptions):
    """A whole adaptation's choices.

    Attributes:
        bundle: folder of the bundle that is adapted.
        model: of the bundle.
        epochs: passes over the scans.
        folds: of the cross-fitting; so many networks are adapted beside the last one.
    """

    bundle: Path = Path(BUNDLE_ROOT)
    model: str = "t1"
    epochs: int = 10
    folds: int = 4

    @property
    def tuning(self) -> FineTuning:
        """How far the model is adapted."""
        return FineTuning(epochs=self.epochs, seed=self.seed)

    def for_checks(self, *, spacing_mm: float, spatial_size: tuple[int, int, int], bias_correction: str) -> Options:
        """The checks of the scans, on the grid of the model that is adapted."""
        return Options(
            **{field.name: getattr(self, field.name) for field in fields(SiteOptions)},
            scripts=Path(),  # no stage of an adaptation runs a script
            spacing_mm=spacing_mm,
            bias_correction=bias_correction,
            network_size=spatial_size,
        )


def model_for(contrast: str, names: Sequence[str]) -> str:
    """The model to adapt to scans of a contrast, of a bundle's: its first to T1, its last, the widest, to others.

    >>> model_for("T1", ("t1", "agnostic")), model_for("FLAIR", ("t1", "agnostic"))
    ('t1', 'agnostic')
    """
    return names[0] if contrast == "T1" else names[-1]
