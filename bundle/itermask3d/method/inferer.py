"""A MONAI inferer around the refinement loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from tqdm import tqdm

from itermask3d.method.acceleration.network import InferenceUNet
from itermask3d.method.detection import find, grow_regions, remove_small_components, remove_weak_components
from itermask3d.method.error import Reconstructor, as_voxels
from itermask3d.method.evidence import Evidence, TissueEvidence, fused_map
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
            of which less exceeds it. A kind of contrast may have a volume of its own.
        mixed_precision: run the network in bfloat16.
        progress: show a progress bar.
        accelerate: compute a :class:`itermask3d.method.network.ReconstructionUNet` in evaluation mode through
            :class:`itermask3d.method.acceleration.network.InferenceUNet`, which equals it to rounding. Other networks
            run as they are.
        evidence: of the scan's tissues, fused with the error of the loop; needs ``relative_error``. Without it the
            error alone decides, as published.
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
        evidence: TissueEvidence | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings or RefinementSettings()
        self.spacing_mm = (float(spacing_mm),) * 3
        self.radius_cycles_per_mm = radius_cycles_per_mm
        self.min_volume_ml = min_volume_ml
        self.mixed_precision = mixed_precision
        self.progress = progress
        self.accelerate = accelerate
        self.evidence = evidence

    def with_settings(self, settings: RefinementSettings) -> IterMaskInferer:
        """The same with other settings of the loop."""
        changed = copy.copy(self)
        changed.settings = settings
        return changed.with_evidence(self.evidence)

    def with_evidence(self, evidence: TissueEvidence | None) -> IterMaskInferer:
        """The same with the evidence of tissues, or without.

        Raises:
            ValueError: if there is evidence, and the error is not relative.
        """
        if evidence is not None and not self.settings.relative_error:
            raise ValueError("evidence of tissues needs relative_error, so that both kinds have one unit")
        changed = copy.copy(self)
        changed.evidence = evidence
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
            constraints, thresholding: see :func:`itermask3d.method.refinement.refine`; a threshold holds for both maps.
            iter_callback: called after every iteration with phase, iterations done, iterations at most.

        Returns:
            ``mask`` (float, 0 or 1), ``anomaly_map`` and ``reconstruction``, each ``(B, 1, D, H, W)``, and
            ``findings``, a list of one :class:`itermask3d.method.detection.Findings` per scan. MONAI's engines cannot
            take those apart: give them ``decollate=False``. With tissues also ``evidence``, an :class:`Evidence` per
            scan, and ``error``, the loop's own map; ``anomaly_map`` is then the fused one.
        """
        image = _as_plain(inputs)
        brain = image != 0 if brain_mask is None else _as_plain(brain_mask).to(image.device) > 0.5
        guide = high_frequency(image, spacing_mm=self.spacing_mm, radius_cycles_per_mm=self.radius_cycles_per_mm)
        evidence = None if self.evidence is None else self.evidence.read(image, brain, spacing_mm=self.spacing_mm[0])
        with _Bar(self.progress, self.settings.n_steps, iter_callback) as bar:
            refinement = refine(
                image,
                brain,
                guide,
                self.reconstructor(network, brain),
                settings=self.settings,
                iter_callback=bar.update,
                constraints=constraints,
                thresholding=thresholding,
                signs=None if evidence is None else torch.tensor([one.sign for one in evidence]),
            )
        evidence, found = _as_asked(evidence, thresholding, refinement)
        refinement = self._decided(refinement, evidence, brain, constraints)
        return found | {
            "mask": refinement.mask.float(),
            "anomaly_map": refinement.anomaly_map,
            "reconstruction": refinement.reconstruction * brain,
            "findings": find(refinement, brain, score_quantile=self.settings.score_quantile),
        }

    def _decided(
        self,
        refinement: Refinement,
        evidence: Sequence[Evidence] | None,
        brain: torch.Tensor,
        constraints: Constraints | None,
    ) -> Refinement:
        """The refinement with what is marked in the end, and with the fused map where there are tissues."""
        if evidence is not None:
            refinement = _decided_by(evidence, refinement, brain, constraints)
        mask = self._regions(refinement, evidence)
        if evidence is not None:
            mask = self._grown(mask, refinement.anomaly_map, evidence, brain, constraints)
        if constraints is not None and constraints.always is not None:
            mask |= constraints.always & refinement.mask
        return replace(refinement, mask=mask)

    def _regions(self, refinement: Refinement, evidence: Sequence[Evidence] | None) -> torch.Tensor:
        """The mask without what is too small, or too weak, to be a finding."""
        volumes = [self.min_volume_ml] * len(refinement.mask)
        if evidence is not None:
            peaks = [one.used.peak_threshold for one in evidence]
            volumes = [
                self.min_volume_ml if one.used.min_volume_ml is None else one.used.min_volume_ml for one in evidence
            ]
        elif self.settings.peak_threshold is not None:
            peaks = [self.settings.peak_threshold] * len(refinement.mask)
        else:
            return remove_small_components(
                refinement.mask, min_volume_ml=self.min_volume_ml, spacing_mm=self.spacing_mm
            )
        scans = zip(refinement.mask, refinement.anomaly_map, peaks, volumes, strict=True)
        return torch.cat(
            [
                remove_weak_components(
                    mask[None],
                    anomaly_map[None],
                    peak_threshold=peak,
                    min_volume_ml=volume_ml,
                    spacing_mm=self.spacing_mm,
                )
                for mask, anomaly_map, peak, volume_ml in scans
            ]
        )

    def _grown(
        self,
        mask: torch.Tensor,
        anomaly_map: torch.Tensor,
        evidence: Sequence[Evidence],
        brain: torch.Tensor,
        constraints: Constraints | None,
    ) -> torch.Tensor:
        """The mask with the rims of large regions, as each scan's kind has them and as far as a person allows."""
        cuts: Sequence[torch.Tensor | None] = [None] * len(mask)
        if constraints is not None and constraints.start is not None:
            cuts = _rim(constraints.start & brain, brain).split(1)
        scans = zip(evidence, mask.split(1), anomaly_map.split(1), brain.split(1), cuts, strict=True)
        grown = torch.cat(
            [
                part
                if one.used.growth is None
                else grow_regions(part, values, inside, one.used.growth, spacing_mm=self.spacing_mm, cut=cut)
                for one, part, values, inside, cut in scans
            ]
        )
        return grown if constraints is None else constraints.apply(grown, brain)

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


def _as_asked(
    evidence: list[Evidence] | None, thresholding: Thresholding | None, refinement: Refinement
) -> tuple[list[Evidence] | None, dict[str, Any]]:
    """Evidence with the thresholds that are given, where they are, and what is told of it beside the result."""
    if evidence is None:
        return None, {}
    if thresholding is not None:
        evidence = [one.at(threshold) for one, threshold in zip(evidence, thresholding.thresholds, strict=True)]
    return evidence, {"evidence": evidence, "error": refinement.anomaly_map}


def _decided_by(
    evidence: Sequence[Evidence], refinement: Refinement, brain: torch.Tensor, constraints: Constraints | None
) -> Refinement:
    """The refinement with the fused map, and with what exceeds the threshold of each scan's kind as its mask."""
    anomaly_map = torch.stack([fused_map(*pair) for pair in zip(evidence, refinement.anomaly_map, strict=True)])
    thresholds = tuple(one.used.threshold for one in evidence)
    mask = brain & (anomaly_map > as_voxels(torch.tensor(thresholds).to(anomaly_map)))
    if constraints is not None:
        mask = constraints.apply(mask, brain)
    return replace(refinement, mask=mask, anomaly_map=anomaly_map, thresholds=thresholds)


def _rim(start: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
    """Voxels of a start, ``(B, 1, D, H, W)``, that touch brain beyond it: there a region may go on, unseen."""
    beyond = torch.nn.functional.max_pool3d((brain & ~start).float(), kernel_size=3, stride=1, padding=1) > 0
    return start & beyond


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
