"""Random training masks: inside the brain, of every size, reproducible, without wrap-around."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ball, volume
from itermask3d.method.masking import BlobMask, FieldMask, FullMask, MaskMixture, RandMaskd, corrupt
from itermask3d.training.handlers import EpochSeed
from monai.data import DataLoader, Dataset

SPACING = (4.0, 4.0, 4.0)
BRAIN = ball((40, 48, 40), radius=17.5)
SAMPLERS = [BlobMask(), BlobMask(quarter_turn_probability=1), FieldMask(), FullMask(), MaskMixture()]
AWKWARD_BRAINS = {
    "ball": BRAIN,
    "one_voxel": ball((20, 20, 20), radius=0.1, centre=(3, 4, 5)),
    "corner": ball((17, 23, 9), radius=4, centre=(0, 0, 8)),
    "whole_volume": np.ones((13, 15, 11), dtype=bool),
    "two_parts": ball((30, 12, 12), radius=3, centre=(3, 6, 6)) | ball((30, 12, 12), radius=3, centre=(26, 6, 6)),
}


def _draw(sampler, brain=BRAIN, seed=0, spacing_mm=SPACING):
    rng = np.random.default_rng(seed)
    return sampler.sample(torch.from_numpy(brain), spacing_mm=spacing_mm, rng=rng).numpy()


@pytest.mark.parametrize("brain", AWKWARD_BRAINS.values(), ids=AWKWARD_BRAINS)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_mask_lies_inside_the_brain(sampler, brain):
    for seed in range(4):
        mask = _draw(sampler, brain, seed)
        assert mask.shape == brain.shape
        assert mask.dtype == bool
        assert not (mask & ~brain).any()


@pytest.mark.parametrize("spacing_mm", [(0.7, 0.7, 5.0), (1.0, 1.0, 1.0), (20.0, 20.0, 20.0)])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_mask_lies_inside_the_brain_on_any_spacing(sampler, spacing_mm):
    assert not (_draw(sampler, spacing_mm=spacing_mm) & ~BRAIN).any()


def test_mixture_covers_everything_from_tiny_to_the_full_mask():
    rng = np.random.default_rng(11)
    brain = torch.from_numpy(BRAIN)
    masks = (MaskMixture().sample(brain, spacing_mm=SPACING, rng=rng) for _ in range(150))
    coverage = np.array([float(mask.sum() / BRAIN.sum()) for mask in masks])
    full = coverage == 1
    assert 0.15 < full.mean() < 0.40
    assert (coverage < 0.05).sum() >= 5
    assert ((coverage > 0.60) & ~full).sum() >= 5
    filled_bins = np.histogram(coverage[~full], bins=10, range=(0, 1))[0] > 0
    assert filled_bins.sum() >= 9


def test_full_mask_is_the_brain_in_a_new_array():
    mask = _draw(FullMask())
    assert np.array_equal(mask, BRAIN)
    assert not np.shares_memory(mask, BRAIN)


@pytest.mark.parametrize("share", [0.0, 0.005, 0.3, 0.77, 1.0])
@pytest.mark.parametrize("brain", [BRAIN, np.ones((40, 48, 40), dtype=bool)], ids=["ball", "whole_volume"])
def test_field_mask_hides_the_share_that_was_asked_for(brain, share):
    for seed in range(3):
        mask = _draw(FieldMask(coverage=(share, share)), brain, seed)
        assert abs(int(mask.sum()) - share * brain.sum()) <= 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_blob_at_one_face_never_marks_the_opposite_face(axis):
    shape = [24, 24, 24]
    shape[axis] = 160
    brain = np.zeros(shape, dtype=bool)
    faces = [[slice(2, -2)] * 3 for _ in range(2)]
    faces[0][axis], faces[1][axis] = slice(0, 2), slice(-2, None)
    first, last = map(tuple, faces)
    brain[first] = brain[last] = True
    sampler = BlobMask(quarter_turn_probability=0)
    for seed in range(12):
        mask = _draw(sampler, brain, seed, spacing_mm=(2, 2, 2))
        assert mask[first].any() != mask[last].any()


def test_blob_surrounds_its_centre():
    brain = ball((40, 40, 40), radius=0.1, centre=(11, 20, 33))
    sampler = BlobMask(quarter_turn_probability=0, variance_range=(1.0, 1.0))
    assert all(np.array_equal(_draw(sampler, brain, seed), brain) for seed in range(10))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_same_seed_gives_the_same_mask(sampler):
    assert np.array_equal(_draw(sampler, seed=5), _draw(sampler, seed=5))


@pytest.mark.parametrize("sampler", [BlobMask(), FieldMask()], ids=lambda sampler: type(sampler).__name__)
def test_different_seeds_give_different_masks(sampler):
    masks = [_draw(sampler, seed=seed).tobytes() for seed in range(8)]
    assert len(set(masks)) == 8


def _masks_of_epoch(loader: DataLoader, handler: EpochSeed, epoch: int) -> list[bytes]:
    handler(SimpleNamespace(state=SimpleNamespace(epoch=epoch)))
    return [item.numpy().tobytes() for batch in loader for item in batch["mask"]]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_every_epoch_draws_fresh_masks_that_its_number_brings_back(num_workers):
    mixture = MaskMixture(blob=0, field=1, full=0)
    data = [{"brain_mask": volume(BRAIN, spacing_mm=SPACING)} for _ in range(3)]
    dataset = Dataset(data, RandMaskd("brain_mask", spacing_mm=4, mixture=mixture))
    with torch.random.fork_rng(devices=[]):
        loader = DataLoader(dataset, batch_size=1, num_workers=num_workers)
        handler = EpochSeed(2026, dataset)
        first, second, again = (_masks_of_epoch(loader, handler, epoch) for epoch in (1, 2, 1))
    assert len({*first, *second}) == 6
    assert first == again


def test_rand_mask_follows_its_random_state():
    sample = {"brain_mask": volume(BRAIN)}
    transform = RandMaskd("brain_mask", spacing_mm=4, mixture=MaskMixture(blob=0, field=1, full=0))
    draws = [transform.set_random_state(seed)(sample)["mask"] for seed in (1, 2, 1)]
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])
    assert draws[0].dtype == torch.bool
    assert draws[0].shape == (1, *BRAIN.shape)
    assert set(sample) == {"brain_mask"}


def test_global_random_state_is_neither_read_nor_written():
    sample = {"brain_mask": volume(BRAIN)}
    transform = RandMaskd("brain_mask", spacing_mm=4).set_random_state(0)
    before = (np.random.get_state()[1].copy(), torch.get_rng_state(), random.getstate())
    for sampler in SAMPLERS:
        _draw(sampler)
    transform(sample)
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert random.getstate() == before[2]


@pytest.mark.parametrize(
    "weights", [(0.5, 0.5, 0.5), (1.2, -0.2, 0.0), (0.0, 0.0, 0.0), (float("nan"), 0.5, 0.5)], ids=str
)
def test_invalid_probabilities_are_named(weights):
    blob, field, full = weights
    with pytest.raises(ValueError, match="mask probabilities must be non-negative and sum to 1"):
        MaskMixture(blob=blob, field=field, full=full)


@pytest.mark.parametrize("shape", [(8, 8, 8), (8, 8), (1, 8, 8, 8)])
def test_empty_or_flat_brain_mask_is_refused(shape):
    brain = np.zeros(shape, dtype=bool) if len(shape) == 3 else np.ones(shape, dtype=bool)
    with pytest.raises(ValueError, match="brain_mask must be 3D with at least one voxel"):
        _draw(MaskMixture(), brain)


def test_sampling_leaves_the_brain_mask_alone():
    brain = BRAIN.copy()
    for sampler in SAMPLERS:
        _draw(sampler, brain)[:] = True
    assert np.array_equal(brain, BRAIN)


def test_corrupt_shows_the_noise_where_masked_and_the_image_elsewhere():
    image, noise = (
        torch.randn(2, 1, 4, 5, 6, generator=torch.Generator().manual_seed(0)),
        torch.full((2, 1, 4, 5, 6), 7.0),
    )
    mask = torch.rand(image.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    masked = corrupt(image, mask, noise)
    assert torch.equal(masked[mask], noise[mask])
    assert torch.equal(masked[~mask], image[~mask])
    assert torch.equal(masked, corrupt(image, mask.float(), noise))


def test_corrupt_with_an_empty_mask_is_the_identity_in_a_new_tensor():
    image = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    masked = corrupt(image, torch.zeros_like(image), torch.ones_like(image))
    assert torch.equal(masked, image)
    assert masked.data_ptr() != image.data_ptr()


def test_corrupt_hides_even_nan():
    image = torch.full((2, 2, 2), float("nan"))
    assert torch.equal(corrupt(image, torch.ones_like(image), torch.ones_like(image)), torch.ones(2, 2, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_corrupt_keeps_the_dtype_of_the_image(dtype):
    image = torch.zeros(2, 2, 2, dtype=dtype)
    assert corrupt(image, torch.ones(2, 2, 2), torch.ones(2, 2, 2)).dtype == dtype
