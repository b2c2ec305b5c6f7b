"""Training batches drawn where the network trains: augmentation, synthetic anomalies, guides and masks on the device.

What MONAI's transforms do to one sample after another costs more on a GPU than the network itself, since each of their
small steps waits for the one before. Here a batch takes each step at once, with the same ranges and probabilities, and
the next batch is drawn while the network learns from this one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable

from itermask3d.method.frequency import PUBLISHED_RADIUS_CYCLES_PER_MM, high_frequency
from itermask3d.method.masking import MaskMixture
from itermask3d.preprocessing.normalise import robust_normalised
from itermask3d.simulation.generator.synthesis import Ingredients, SynthesizeBraind
from itermask3d.simulation.synthetic_anomalies import RandSyntheticAnomalyd, SyntheticAnomalies
from itermask3d.training.augmentation import Augmentation
from itermask3d.training.prepared import PreparedDataset
from itermask3d.training.variation import Variation

__all__ = ["DeviceBatches"]


class DeviceBatches(Randomizable):
    """An endless supply of training batches in epochs, in place of a data loader.

    Each epoch goes through the scans once in random order, ``repeats`` times. A batch is what a data loader makes of
    samples of :func:`itermask3d.training.transforms.sample_transforms`, and depends on the random state alone, which
    :class:`itermask3d.training.handlers.EpochSeed` sets.

    Args:
        scans: prepared scans; of their transform no use is made.
        batch_size: of one batch.
        spacing_mm, radius_cycles_per_mm, mixture, synthetic_anomalies: see
            :func:`itermask3d.training.transforms.sample_transforms`.
        repeats: times that an epoch goes through the scans.
        generated, ingredients, generated_share: prepared label maps, what scans are made from them with, and the share
            of samples that give way to one.
        prefetch: batches drawn while the network learns, in a thread of their own; 0 draws each when it is asked for.
            On a CPU both would share the same cores, so there it is always 0.
        augment: change real scans by :class:`itermask3d.training.augmentation.Augmentation`; generated ones have
            changes of their own.
        variation: of head, brain mask and acquisition, in place of the changes of contrast; ``None`` varies nothing.
        evenly_by_site: draw from each site, the folder of a prepared scan, as often as from any other.

    Raises:
        ValueError: if there are fewer scans than a batch holds.
    """

    def __init__(
        self,
        scans: PreparedDataset,
        batch_size: int,
        *,
        spacing_mm: float = 2.0,
        radius_cycles_per_mm: float = PUBLISHED_RADIUS_CYCLES_PER_MM,
        mixture: MaskMixture | None = None,
        synthetic_anomalies: SyntheticAnomalies | None = None,
        repeats: int = 1,
        generated: PreparedDataset | None = None,
        ingredients: Ingredients | None = None,
        generated_share: float = 0.0,
        prefetch: int = 2,
        augment: bool = True,
        variation: Variation | None = None,
        evenly_by_site: bool = False,
    ) -> None:
        if not 1 <= batch_size <= len(scans) * repeats:
            raise ValueError(f"batch_size = {batch_size}; expected 1 to {len(scans) * repeats}, the scans of an epoch")
        if generated_share > 0 and (generated is None or ingredients is None):
            raise ValueError(f"generated_share = {generated_share} needs label maps and ingredients, got none")
        self.scans, self.batch_size, self.repeats = scans, batch_size, repeats
        self.spacing_mm, self.radius_cycles_per_mm = float(spacing_mm), radius_cycles_per_mm
        self.mixture = mixture or MaskMixture(blob=0, field=0, full=1)
        self.generated, self.generated_share = generated, generated_share
        self.augmentation = Augmentation(variation=variation, spacing_mm=float(spacing_mm)) if augment else None
        self.evenly_by_site = evenly_by_site
        altering = synthetic_anomalies is not None and synthetic_anomalies.probability > 0
        self._alter = (
            RandSyntheticAnomalyd("image", spacing_mm, synthetic_anomalies)
            if synthetic_anomalies and altering
            else None
        )
        self._synthesize = SynthesizeBraind("tissues", spacing_mm, ingredients) if ingredients else None
        self.prefetch = prefetch if scans.device.type == "cuda" else 0
        # One stream for all epochs: what is allocated on a stream is kept for it.
        self._stream = torch.cuda.Stream(scans.device) if self.prefetch else None

    def __len__(self) -> int:
        return len(self.scans) * self.repeats // self.batch_size

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> DeviceBatches:
        """Seed the order, and all that is drawn."""
        super().set_random_state(seed=seed, state=state)
        for part in (self._alter, self._synthesize):
            if part is not None:
                part.set_random_state(seed=int(self.R.randint(2**31 - 1)))
        return self

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        order = self._order()
        batches = order[: len(self) * self.batch_size].reshape(len(self), self.batch_size).tolist()
        drawn = (self.draw(indices) for indices in batches)
        return drawn if self._stream is None else _prefetched(drawn, self._stream, self.prefetch)

    def _order(self) -> np.ndarray:
        """Scans of an epoch in random order: each as often as any other, or each site as often as any other."""
        if not self.evenly_by_site:
            return np.concatenate([self.R.permutation(len(self.scans)) for _ in range(self.repeats)])
        sites: dict[str, list[int]] = {}
        for index, item in enumerate(self.scans.data):
            sites.setdefault(item["site"], []).append(index)
        share = -(-len(self.scans) * self.repeats // len(sites))
        drawn = [
            np.concatenate([self.R.permutation(members) for _ in range(-(-share // len(members)))])[:share]
            for members in sites.values()
        ]
        return self.R.permutation(np.concatenate(drawn))

    @torch.no_grad()
    def draw(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """One batch of these scans: ``image``, ``brain_mask``, ``high_frequency``, ``mask`` and, where scans are
        altered, ``target`` and ``altered``; each ``(B, 1, D, H, W)``."""
        real: list[int] = []
        made: list[int] = []
        for index in indices:
            (made if self.R.rand() < self.generated_share else real).append(index)
        image, brain = (torch.cat(parts) for parts in zip(*self._parts(real, len(made)), strict=True))
        batch = {"image": image, "brain_mask": brain}
        if self._alter is not None:
            samples = [
                self._alter({"image": scan, "brain_mask": mask}) for scan, mask in zip(image, brain, strict=True)
            ]
            changed, target = (torch.stack([sample[key] for sample in samples]) for key in ("image", "target"))
            batch["image"], batch["target"] = robust_normalised(changed, brain, target)
            batch["altered"] = torch.stack([sample["altered"] for sample in samples])
        spacing = (self.spacing_mm,) * 3
        batch["high_frequency"] = high_frequency(
            batch["image"], spacing_mm=spacing, radius_cycles_per_mm=self.radius_cycles_per_mm
        )
        rng = np.random.default_rng(self.R.randint(2**31))
        masks = [self.mixture.sample(mask[0], spacing_mm=spacing, rng=rng) for mask in brain]
        batch["mask"] = torch.stack(masks)[:, None]
        return {**batch, "brain_mask": brain.to(image)}

    def _parts(self, real: Sequence[int], n_generated: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Normalised images and boolean brains: of scans, then of generated ones."""
        if real:
            samples = [self.scans.prepared(index) for index in real]
            image, brain = (torch.stack([sample[key] for sample in samples]) for key in ("image", "brain_mask"))
            brain = brain > 0.5
            if self.augmentation is not None:
                image, brain = self.augmentation(image, brain, self.R)
            yield robust_normalised(image, brain)[0], brain
        if n_generated and self.generated is not None and self._synthesize is not None:
            chosen = [self.R.randint(len(self.generated)) for _ in range(n_generated)]
            scans = [self._synthesize(self.generated.prepared(int(index))) for index in chosen]
            image, brain = (torch.stack([scan[key].as_tensor() for scan in scans]) for key in ("image", "brain_mask"))
            yield robust_normalised(image, brain > 0.5)[0], brain > 0.5


def _prefetched(
    batches: Iterator[dict[str, torch.Tensor]], stream: torch.cuda.Stream, prefetch: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Draw in a thread and on a stream of its own, so that neither waits for the network nor the network for them."""
    waiting: queue.Queue[Any] = queue.Queue(maxsize=prefetch)
    stopped = threading.Event()
    device = stream.device

    def work() -> None:
        try:
            with torch.cuda.device(device), torch.cuda.stream(stream):
                for batch in batches:
                    waiting.put((batch, stream.record_event()))
                    if stopped.is_set():
                        return
            waiting.put(None)
        except BaseException as error:  # handed to the thread that waits for the batch
            waiting.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            batch, drawn = item
            current = torch.cuda.current_stream(device)
            current.wait_event(drawn)
            for volume in batch.values():
                volume.record_stream(current)
            yield batch
    finally:
        stopped.set()
        while not waiting.empty():
            waiting.get_nowait()
