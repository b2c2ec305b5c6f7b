"""Training batches drawn where the network trains: augmentation, disturbances, guides and masks on the device.

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
from monai.transforms.utils import create_rotate, create_scale
from torch.nn.functional import affine_grid, grid_sample

from itermask3d.method.frequency import PUBLISHED_RADIUS_CYCLES_PER_MM, high_frequency
from itermask3d.method.masking import MaskMixture
from itermask3d.simulation.disturbance import Disturbances, RandDisturbd
from itermask3d.simulation.generator.synthesis import Ingredients, SynthesizeBraind
from itermask3d.training.packed import PackedDataset
from itermask3d.training.variation import Variation, displaced_grid, vary

__all__ = ["Augmentation", "DrawnBatches", "normalised"]


class Augmentation:
    """Flips, rotations, scalings and changes of contrast of a batch, as those of one sample in
    :func:`itermask3d.training.transforms.sample_transforms`.

    Attributes:
        flip_probability: left-right.
        affine_probability, rotation_rad, scaling: of a rotation about every axis up to an angle, and a scaling of every
            axis by up to a share.
        gamma_probability, gamma: of a change of the gamma curve.
        histogram_probability, control_points: of a random monotone curve through so many points.
    """

    flip_probability = 0.5
    affine_probability = 0.5
    rotation_rad = 0.15
    scaling = 0.1
    gamma_probability = 0.3
    gamma = (0.75, 1.35)
    histogram_probability = 0.2
    control_points = (6, 10)

    def __init__(self, variation: Variation | None = None, spacing_mm: float = 2.0) -> None:
        self.variation = variation
        self.spacing_mm = spacing_mm

    def __call__(
        self, image: torch.Tensor, brain: torch.Tensor, rng: np.random.RandomState
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change a batch.

        Args:
            image: normalised scans ``(B, 1, D, H, W)``, left to right along the first spatial axis.
            brain: boolean, same shape.
            rng: source of everything random.

        Returns:
            New image, to be normalised again, and new boolean brain.
        """
        image, brain = self._move(image, brain, rng)
        if self.variation is None:
            return torch.stack([self._contrast(scan, rng) for scan in image]), brain
        scans = zip(image[:, 0], brain[:, 0], strict=True)
        varied = [vary(scan, mask, self.variation, rng, spacing_mm=self.spacing_mm) for scan, mask in scans]
        images, masks = (torch.stack(volumes)[:, None] for volumes in zip(*varied, strict=True))
        return images, masks

    def _move(
        self, image: torch.Tensor, brain: torch.Tensor, rng: np.random.RandomState
    ) -> tuple[torch.Tensor, torch.Tensor]:
        matrices = np.stack([self._matrix(rng) for _ in image])
        half = (np.array(image.shape[2:]) - 1) / 2
        unit = matrices * half[None, None, :] / half[None, :, None]  # places in units of the half grid
        theta = np.zeros((len(image), 3, 4))
        theta[:, :, :3] = unit[:, ::-1, ::-1]  # torch counts axes from the last one
        grid = affine_grid(torch.from_numpy(theta).to(image), list(image.shape), align_corners=True)
        if self.variation is not None:
            grid = displaced_grid(grid, brain, self.variation, rng, spacing_mm=self.spacing_mm)
        moved = grid_sample(torch.cat((image, brain.to(image)), dim=1), grid, mode="bilinear", align_corners=True)
        return moved[:, :1], moved[:, 1:] > 0.5

    def _matrix(self, rng: np.random.RandomState) -> np.ndarray:
        matrix = np.eye(3)
        if rng.rand() < self.affine_probability:
            angles = rng.uniform(-self.rotation_rad, self.rotation_rad, 3).tolist()
            factors = rng.uniform(1 - self.scaling, 1 + self.scaling, 3).tolist()
            matrix = np.asarray(create_rotate(3, angles) @ create_scale(3, factors))[:3, :3]
        return matrix * [-1 if rng.rand() < self.flip_probability else 1, 1, 1]

    def _contrast(self, scan: torch.Tensor, rng: np.random.RandomState) -> torch.Tensor:
        if rng.rand() < self.gamma_probability:
            low, span = _span(scan)
            scan = ((scan - low) / span) ** float(rng.uniform(*self.gamma)) * span + low
        if rng.rand() < self.histogram_probability:
            low, span = _span(scan)
            points = _monotone(int(rng.randint(self.control_points[0], self.control_points[1] + 1)), rng)
            heights = torch.as_tensor(points, dtype=scan.dtype, device=scan.device)
            place = (scan - low) / span * (len(points) - 1)
            left = place.floor().clamp(0, len(points) - 2)
            below = left.long()
            scan = low + span * torch.lerp(heights[below], heights[below + 1], place - left)
        return scan


def normalised(
    image: torch.Tensor, brain: torch.Tensor, *others: torch.Tensor, clip: float = 5.0
) -> tuple[torch.Tensor, ...]:
    """Median and interquartile range of each brain, as :class:`itermask3d.preprocessing.normalise.RobustNormalized`.

    Args:
        image: ``(B, 1, D, H, W)``.
        brain: boolean, same shape.
        others: brought to the image's scale.
        clip: bound in normalised units.

    Returns:
        The image and the others, zero outside the brain. The scale of a flat brain is held at 1e-3.
    """
    ordered = image.masked_fill(~brain, torch.inf).flatten(1).sort(dim=1).values
    last = brain.flatten(1).sum(1, keepdim=True) - 1
    places = last * torch.tensor((0.25, 0.5, 0.75), device=image.device)
    below, above = places.floor().long(), places.ceil().long()
    quartiles = torch.lerp(ordered.gather(1, below), ordered.gather(1, above), (places - below).to(ordered))
    low, median, high = (quartiles[:, index].view(-1, 1, 1, 1, 1) for index in range(3))
    scale = ((high - low) / 1.349).clamp(min=1e-3)
    return tuple(((volume - median) / scale).clamp(-clip, clip) * brain for volume in (image, *others))


class DrawnBatches(Randomizable):
    """An endless supply of training batches in epochs, in place of a data loader.

    Each epoch goes through the scans once in random order, ``repeats`` times. A batch is what a data loader makes of
    samples of :func:`itermask3d.training.transforms.sample_transforms`, and depends on the random state alone, which
    :class:`itermask3d.training.handlers.EpochSeed` sets.

    Args:
        scans: prepared scans; of their transform no use is made.
        batch_size: of one batch.
        spacing_mm, radius_cycles_per_mm, mixture, disturbances: see
            :func:`itermask3d.training.transforms.sample_transforms`.
        repeats: times that an epoch goes through the scans.
        generated, ingredients, generated_share: prepared label maps, what scans are made from them with, and the share
            of samples that give way to one.
        ahead: batches drawn while the network learns, in a thread of their own; 0 draws each when it is asked for. On
            a CPU both would share the same cores, so there it is always 0.
        augment: change real scans by :class:`Augmentation`; generated ones have changes of their own.
        variation: of head, brain mask and acquisition, in place of the changes of contrast; ``None`` varies nothing.
        evenly_by_site: draw from each site, the folder of a packed scan, as often as from any other.

    Raises:
        ValueError: if there are fewer scans than a batch holds.
    """

    def __init__(
        self,
        scans: PackedDataset,
        batch_size: int,
        *,
        spacing_mm: float = 2.0,
        radius_cycles_per_mm: float = PUBLISHED_RADIUS_CYCLES_PER_MM,
        mixture: MaskMixture | None = None,
        disturbances: Disturbances | None = None,
        repeats: int = 1,
        generated: PackedDataset | None = None,
        ingredients: Ingredients | None = None,
        generated_share: float = 0.0,
        ahead: int = 2,
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
        self.augmentation = Augmentation(variation, float(spacing_mm)) if augment else None
        self.evenly_by_site = evenly_by_site
        disturbing = disturbances is not None and disturbances.probability > 0
        self._disturb = RandDisturbd("image", spacing_mm, disturbances) if disturbances and disturbing else None
        self._synthesize = SynthesizeBraind("tissues", spacing_mm, ingredients) if ingredients else None
        self.ahead = ahead if scans.device.type == "cuda" else 0
        # One stream for all epochs: what is allocated on a stream is kept for it.
        self._stream = torch.cuda.Stream(scans.device) if self.ahead else None

    def __len__(self) -> int:
        return len(self.scans) * self.repeats // self.batch_size

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> DrawnBatches:
        """Seed the order, and all that is drawn."""
        super().set_random_state(seed=seed, state=state)
        for part in (self._disturb, self._synthesize):
            if part is not None:
                part.set_random_state(seed=int(self.R.randint(2**31 - 1)))
        return self

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        order = self._order()
        batches = order[: len(self) * self.batch_size].reshape(len(self), self.batch_size).tolist()
        drawn = (self.draw(indices) for indices in batches)
        return drawn if self._stream is None else _drawn_ahead(drawn, self._stream, self.ahead)

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
        disturbed, ``target`` and ``disturbed``; each ``(B, 1, D, H, W)``."""
        real: list[int] = []
        made: list[int] = []
        for index in indices:
            (made if self.R.rand() < self.generated_share else real).append(index)
        image, brain = (torch.cat(parts) for parts in zip(*self._parts(real, len(made)), strict=True))
        batch = {"image": image, "brain_mask": brain}
        if self._disturb is not None:
            samples = [
                self._disturb({"image": scan, "brain_mask": mask}) for scan, mask in zip(image, brain, strict=True)
            ]
            changed, target = (torch.stack([sample[key] for sample in samples]) for key in ("image", "target"))
            batch["image"], batch["target"] = normalised(changed, brain, target)
            batch["disturbed"] = torch.stack([sample["disturbed"] for sample in samples])
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
            yield normalised(image, brain)[0], brain
        if n_generated and self.generated is not None and self._synthesize is not None:
            chosen = [self.R.randint(len(self.generated)) for _ in range(n_generated)]
            scans = [self._synthesize(self.generated.prepared(int(index))) for index in chosen]
            image, brain = (torch.stack([scan[key].as_tensor() for scan in scans]) for key in ("image", "brain_mask"))
            yield normalised(image, brain > 0.5)[0], brain > 0.5


def _drawn_ahead(
    batches: Iterator[dict[str, torch.Tensor]], stream: torch.cuda.Stream, ahead: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Draw in a thread and on a stream of its own, so that neither waits for the network nor the network for them."""
    waiting: queue.Queue[Any] = queue.Queue(maxsize=ahead)
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


def _span(scan: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    low = scan.amin()
    return low, (scan.amax() - low).clamp(min=1e-6)


def _monotone(n_points: int, rng: np.random.RandomState) -> np.ndarray:
    """Heights from 0 to 1 of which each lies between its neighbours."""
    heights = np.linspace(0, 1, n_points)
    for index in range(1, n_points - 1):
        heights[index] = rng.uniform(heights[index - 1], heights[index + 1])
    return heights
