"""A MONAI inferer around the refinement loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from tqdm import tqdm

from itermask3d.method.acceleration.network import InferenceUNet
from itermask3d.method.detection import find, remove_small_components, remove_weak_components
from itermask3d.method.error import Reconstructor
from itermask3d.method.frequency import PUBLISHED_RADIUS_CYCLES_PER_MM, high_frequency
from itermask3d.method.network import ReconstructionUNet
from itermask3d.method.refinement import IterationCallback, Refinement, Thresholding, refine
from itermask3d.method.settings import RefinementSettings
from itermask3d.method.shrink import Constraints

__all__ = ["IterMaskInferer"]


class IterMaskInferer(Inferer):
    """Segment anomalies in normalised scans with a trained reconstruction network.

    Args:
        settings: of the loop, see :class:`itermask3d.method.settings.RefinementSettings`.
        spacing_mm: isotropic spacing of the grid, for the guide and for volumes.
        radius_cycles_per_mm: radius of the guide.
        min_volume_ml: connected components below this are dropped from the final mask; with a ``peak_threshold``, those
            of which less exceeds it.
        mixed_precision: run the network in bfloat16.
        progress: show a progress bar.
        accelerate: compute a :class:`itermask3d.method.network.ReconstructionUNet` in evaluation mode through
            :class:`itermask3d.method.acceleration.network.InferenceUNet`, which equals it to rounding. Other networks
            run as they are.
    """

    def __init__(
        self,
        settings: RefinementSettings | None = None,
        *,
        spacing_mm: float = 2.0,
        radius_cycles_per_mm: float = PUBLISHED_RADIUS_CYCLES_PER_MM,
        min_volume_ml: float = 0.0,
        mixed_precision: bool = False,
        progress: bool = False,
        accelerate: bool = True,
    ) -> None:
        super().__init__()
        self.settings = settings or RefinementSettings()
        self.spacing_mm = (float(spacing_mm),) * 3
        self.radius_cycles_per_mm = radius_cycles_per_mm
        self.min_volume_ml = min_volume_ml
        self.mixed_precision = mixed_precision
        self.progress = progress
        self.accelerate = accelerate

    def with_settings(self, settings: RefinementSettings) -> IterMaskInferer:
        """The same with other settings of the loop."""
        changed = copy.copy(self)
        changed.settings = settings
        return changed

    @torch.no_grad()
    def __call__(
        self,
        inputs: torch.Tensor,
        network: Callable[..., Any],
        brain_mask: torch.Tensor | None = None,
        *args: Any,
        constraints: Constraints | None = None,
        thresholding: Thresholding | None = None,
        iter_callback: IterationCallback | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Run the loop on a batch.

        Args:
            inputs: normalised scans ``(B, 1, D, H, W)``, zero outside the brain.
            network: maps ``(B, 2, D, H, W)`` to ``(B, 1, D, H, W)``; used in its current mode.
            brain_mask: same shape as the scans; without one, every voxel that is not exactly zero.
            constraints, thresholding: see :func:`itermask3d.method.refinement.refine`.
            iter_callback: called after every iteration with phase, iterations done, iterations at most.

        Returns:
            ``mask`` (float, 0 or 1), ``anomaly_map`` and ``reconstruction``, each ``(B, 1, D, H, W)``, and
            ``findings``, a list of one :class:`itermask3d.method.detection.Findings` per scan. MONAI's engines cannot
            take those apart: give them ``decollate=False``.
        """
        image = _as_plain(inputs)
        brain = image != 0 if brain_mask is None else _as_plain(brain_mask).to(image.device) > 0.5
        guide = high_frequency(image, spacing_mm=self.spacing_mm, radius_cycles_per_mm=self.radius_cycles_per_mm)
        reconstruct = self.reconstructor(network, brain)
        with _Bar(self.progress, self.settings.n_steps, iter_callback) as bar:
            refinement = refine(
                image,
                brain,
                guide,
                reconstruct,
                settings=self.settings,
                iter_callback=bar.update,
                constraints=constraints,
                thresholding=thresholding,
            )
        mask = self._regions(refinement)
        if constraints is not None and constraints.always is not None:
            mask |= constraints.always & refinement.mask
        refinement = replace(refinement, mask=mask)
        return {
            "mask": mask.float(),
            "anomaly_map": refinement.anomaly_map,
            "reconstruction": refinement.reconstruction * brain,
            "findings": find(refinement, brain, score_quantile=self.settings.score_quantile),
        }

    def _regions(self, refinement: Refinement) -> torch.Tensor:
        """The mask without what is too small, or too weak, to be a finding."""
        if self.settings.peak_threshold is None:
            return remove_small_components(
                refinement.mask, min_volume_ml=self.min_volume_ml, spacing_mm=self.spacing_mm
            )
        return remove_weak_components(
            refinement.mask,
            refinement.anomaly_map,
            peak_threshold=self.settings.peak_threshold,
            min_volume_ml=self.min_volume_ml,
            spacing_mm=self.spacing_mm,
        )

    def reconstructor(self, network: Callable[..., Any], brain_mask: torch.Tensor) -> Reconstructor:
        """The network as the loop calls it: in the precision asked for, accelerated where that is possible.

        Args:
            network: as for a call.
            brain_mask: ``(B, 1, D, H, W)``, boolean; what lies outside it need not be reconstructed.
        """
        if self.accelerate and isinstance(network, ReconstructionUNet) and not network.training:
            dtype = torch.bfloat16 if self.mixed_precision else torch.float32
            return _Accelerated(InferenceUNet(network, brain_mask, dtype=dtype))

        def reconstruct(corrupted: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
            with torch.autocast(corrupted.device.type, dtype=torch.bfloat16, enabled=self.mixed_precision):
                reconstruction: torch.Tensor = network(torch.cat((corrupted, guide), dim=1))
                return reconstruction.float()

        return reconstruct


class _Accelerated:
    def __init__(self, network: InferenceUNet) -> None:
        self.network = network

    def __call__(self, corrupted: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
        return self.network(torch.cat((corrupted, guide), dim=1))

    def reconstruct(self, corrupted: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
        """Without the predicted variance."""
        return self.network(torch.cat((corrupted, guide), dim=1), out_channels=1)


class _Bar:
    def __init__(self, shown: bool, n_steps: int, also: IterationCallback | None = None) -> None:
        self.also = also
        self.bar = tqdm(total=n_steps, desc="refining", unit="step", leave=False, disable=None if shown else True)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()

    def update(self, phase: str, done: int, total: int) -> None:
        if self.also is not None:
            self.also(phase, done, total)
        if phase == "sweep":
            self.bar.total = total
            self.bar.n = done
            self.bar.refresh()
        else:
            self.bar.set_postfix_str(f"{phase} {done}")


def _as_plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
