"""The shrink: one threshold applied again and again until the mask hardly changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from itermask3d.method.error import RefinementTask, as_voxels
from itermask3d.method.settings import RefinementSettings

__all__ = ["Constraints", "Shrink"]


@dataclass(frozen=True)
class Constraints:
    """What a person knows about a batch beforehand; each a boolean ``(B, 1, D, H, W)`` or ``None``.

    Attributes:
        start: the shrink begins here instead of with the whole brain, and the result lies inside; the rest of the brain
            is shown to the network as normal.
        always: voxels that stay masked: suspicious, whatever the network says.
        never: voxels that are never masked: normal. They win over ``always``.
    """

    start: torch.Tensor | None = None
    always: torch.Tensor | None = None
    never: torch.Tensor | None = None

    def first_mask(self, brain: torch.Tensor) -> torch.Tensor:
        """Where the shrink begins."""
        return self.apply(brain if self.start is None else self.start & brain, brain)

    def apply(self, mask: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        """A mask of an iteration as the person allows it; inside the brain."""
        if self.start is not None:
            mask = mask & self.start
        if self.always is not None:
            mask = mask | (self.always & brain)
        return mask if self.never is None else mask & ~self.never


class Shrink:
    """Apply one threshold per scan again and again, from the whole brain, until the mask hardly changes.

    With :class:`Constraints` it begins where a person says, and keeps to what the person says.
    """

    phase = "shrink"

    def __init__(
        self,
        task: RefinementTask,
        thresholds: Sequence[float],
        *,
        stop_ratio: float = 0.01,
        max_iterations: int = 50,
        nested: bool = False,
        average_passes: bool = False,
        constraints: Constraints | None = None,
    ) -> None:
        self.task = task
        self.constraints = constraints or Constraints()
        self.thresholds = as_voxels(torch.tensor(thresholds, dtype=task.image.dtype, device=task.image.device))
        self.stop_ratio = stop_ratio
        self.max_iterations = max_iterations
        self.nested = nested
        self.average_passes = average_passes
        self.mask = self.constraints.first_mask(task.brain)
        self.reconstruction = torch.zeros_like(task.image)
        self.anomaly_map = torch.zeros_like(task.image)
        self._mean_error = torch.zeros_like(task.image)
        self.iterations = [0] * len(task.image)
        self.converged = [False] * len(task.image)

    @classmethod
    def from_settings(
        cls,
        task: RefinementTask,
        thresholds: Sequence[float],
        settings: RefinementSettings,
        constraints: Constraints | None = None,
    ) -> Shrink:
        """The shrink that the settings ask for."""
        return cls(
            task,
            thresholds,
            stop_ratio=settings.stop_ratio,
            max_iterations=settings.max_iterations,
            nested=settings.nested,
            average_passes=settings.average_passes,
            constraints=constraints,
        )

    def progress(self) -> tuple[int, int]:
        """Iterations so far, and at most."""
        return max(self.iterations), self.max_iterations

    def done(self) -> bool:
        """Whether every scan has converged or the bound is reached."""
        return all(self.converged) or max(self.iterations) >= self.max_iterations

    def update(self) -> None:
        """One iteration for the scans that have not converged; the others keep what they have.

        As published, the iteration that meets the stop rule, or is the last allowed, does not replace its mask: so the
        mask, the map and the reconstruction of the result belong together. Nested, it does, and the map keeps for each
        voxel the error that unmasked it: so the mask is what exceeds the threshold in the map. With averaged passes
        that error is the mean over the iterations so far. Where nothing can exceed the threshold, the mask is empty
        after one iteration, and the map is that of the whole brain masked.
        """
        active = as_voxels(~torch.tensor(self.converged, device=self.mask.device))
        reconstruction = self.task.reconstruct(self.mask)
        error = self._averaged(self.task.error(reconstruction, self.mask))
        mask = error > self.thresholds
        if self.nested:
            mask &= self.mask
        mask = self.constraints.apply(mask, self.task.brain)
        removed = (_count(self.mask) - _count(mask)) / _count(self.mask).clamp(min=1)
        self.reconstruction = torch.where(active, reconstruction, self.reconstruction)
        self.anomaly_map = torch.where(active & self.mask if self.nested else active, error, self.anomaly_map)
        unreachable = self.thresholds.flatten().isinf()
        for index, share in enumerate(removed.tolist()):
            if not self.converged[index]:
                self.iterations[index] += 1
                self.converged[index] = share < self.stop_ratio or bool(unreachable[index])
        goes_on = ~torch.tensor(self.converged, device=self.mask.device) & (max(self.iterations) < self.max_iterations)
        replaced = active if self.nested else as_voxels(goes_on | unreachable)
        self.mask = torch.where(replaced, mask, self.mask)

    def _averaged(self, error: torch.Tensor) -> torch.Tensor:
        """The mean with the errors of all earlier iterations; a voxel that is masked now was masked in all of them."""
        if not self.average_passes:
            return error
        passes = as_voxels(torch.tensor(self.iterations, dtype=error.dtype, device=error.device) + 1)
        self._mean_error = self._mean_error + (error - self._mean_error) / passes
        return self._mean_error


def _count(mask: torch.Tensor) -> torch.Tensor:
    return mask.flatten(1).sum(1)
