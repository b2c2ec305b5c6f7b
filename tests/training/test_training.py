"""Training: the batch, the loss, seeds of an epoch, and checkpoints that survive an interruption."""

from __future__ import annotations

import io
import operator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ball, volume
from ignite.engine import Events
from ignite.handlers import EMAHandler
from itermask3d.method.frequency import HighFrequencyd
from itermask3d.method.masking import MaskMixture, RandMaskd
from itermask3d.method.network import ReconstructionUNet
from itermask3d.training.handlers import Checkpoints, EpochSeed, FrozenNorm, GradientClipping
from itermask3d.training.losses import BrainMSELoss, PredictedVarianceLoss
from itermask3d.training.prepare import AutocastInferer, PrepareReconstruction, warm_start
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import IgniteMetricHandler, LrScheduleHandler, ValidationHandler, from_engine
from monai.transforms import Compose, RandFlipd
from torch import nn

CPU = torch.device("cpu")
SHAPE = (2, 1, 6, 7, 8)
N_EPOCHS = 4


@pytest.fixture(autouse=True)
def _keep_the_global_random_state():
    with torch.random.fork_rng(devices=[]):
        yield


def _rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def batch():
    return {
        "image": _rand(*SHAPE),
        "high_frequency": _rand(*SHAPE, seed=1),
        "mask": _rand(*SHAPE, seed=2) < 0.5,
        "brain_mask": (_rand(*SHAPE, seed=3) < 0.8).float(),
    }


def test_network_input_is_the_corrupted_image_and_the_guide(batch):
    inputs, target = PrepareReconstruction()(batch, CPU)
    assert inputs.shape == (2, 2, *SHAPE[2:])
    shown = ~batch["mask"]
    assert torch.equal(inputs[:, :1][shown], batch["image"][shown])
    assert torch.equal(inputs[:, 1:], batch["high_frequency"])
    masked_brain = batch["mask"] * (batch["brain_mask"] > 0.5)
    assert torch.equal(target, torch.cat((batch["image"], batch["brain_mask"], masked_brain), dim=1))


def test_hidden_voxels_carry_standard_normal_noise_and_nothing_of_the_image(batch):
    shape = (2, 1, 32, 32, 32)
    batch = {key: torch.zeros(shape) for key in batch} | {"image": torch.full(shape, 1e6), "mask": torch.ones(shape)}
    masked = PrepareReconstruction(seed=0)(batch, CPU)[0][:, 0]
    assert masked.mean().abs() < 0.02
    assert masked.std() == pytest.approx(1, abs=0.02)
    assert not torch.equal(masked[0], masked[1])


def test_noise_can_be_left_out_for_an_ablation(batch):
    masked = {**batch, "mask": torch.ones(SHAPE)}
    assert not PrepareReconstruction(noise=0.0)(masked, CPU)[0][:, 0].any()


def test_seeded_noise_repeats_and_leaves_the_global_state_alone(batch):
    before = torch.get_rng_state()
    prepare = PrepareReconstruction(seed=7)
    assert torch.equal(prepare(batch, CPU)[0], prepare(batch, CPU)[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(prepare(batch, CPU)[0], PrepareReconstruction(seed=8)(batch, CPU)[0])


def test_training_noise_is_fresh_in_every_call(batch):
    prepare = PrepareReconstruction()
    assert not torch.equal(prepare(batch, CPU)[0], prepare(batch, CPU)[0])


def test_batch_loses_its_metadata_so_that_losses_and_metrics_see_plain_tensors(batch):
    prepared = PrepareReconstruction(seed=0)({key: MetaTensor(value) for key, value in batch.items()}, CPU)
    assert [type(tensor) for tensor in prepared] == [torch.Tensor, torch.Tensor]


def test_preparing_a_batch_does_not_mutate_it(batch):
    kept = {key: value.clone() for key, value in batch.items()}
    PrepareReconstruction()(batch, CPU)
    assert all(torch.equal(batch[key], kept[key]) for key in kept)


@pytest.mark.parametrize("offset", [0.0, 0.5, -3.0])
def test_loss_of_a_constant_error_is_its_square(batch, offset):
    target = torch.cat((batch["image"], batch["brain_mask"]), dim=1)
    assert BrainMSELoss()(batch["image"] + offset, target).item() == pytest.approx(offset**2, rel=1e-5)
    assert BrainMSELoss(whole_volume=True)(batch["image"] + offset, target).item() == pytest.approx(offset**2, rel=1e-5)


def test_loss_is_the_mean_over_the_brain_voxels_of_the_batch(batch):
    prediction, brain = _rand(*SHAPE, seed=9), batch["brain_mask"] > 0.5
    target = torch.cat((batch["image"], batch["brain_mask"]), dim=1)
    expected = np.square(prediction[brain].numpy() - batch["image"][brain].numpy()).mean()
    assert BrainMSELoss()(prediction, target).item() == pytest.approx(expected, rel=1e-5)


def test_loss_ignores_the_background_and_its_padding(batch):
    target = torch.cat((batch["image"], batch["brain_mask"]), dim=1)
    prediction = _rand(*SHAPE, seed=9)
    loss = BrainMSELoss()(prediction, target)
    loud = torch.where(batch["brain_mask"] > 0.5, prediction, torch.full_like(prediction, 1e4))
    assert torch.equal(BrainMSELoss()(loud, target), loss)
    padded = [nn.functional.pad(tensor, (3,) * 6) for tensor in (prediction, target)]
    torch.testing.assert_close(BrainMSELoss()(*padded), loss)


def _prediction_and_target(log_error: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    prediction = torch.cat((_rand(*SHAPE), torch.full(SHAPE, log_error)), dim=1).requires_grad_()
    brain = (_rand(*SHAPE, seed=3) < 0.8).float()
    masked = brain * (_rand(*SHAPE, seed=2) < 0.5)
    return prediction, torch.cat((_rand(*SHAPE, seed=1), brain, masked), dim=1)


def test_predicted_variance_loss_is_its_formula():
    prediction, target = _prediction_and_target(log_error=0.7)
    squared = (prediction[:, :1] - target[:, :1]).square()
    inside, masked = squared[target[:, 1:2] > 0], squared[target[:, 2:] > 0]
    wanted = inside.mean() + 0.1 * (masked * np.exp(-0.7) + 0.7).mean()
    assert PredictedVarianceLoss(weight=0.1)(prediction, target).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_predicting_the_variance_does_not_change_what_the_reconstruction_learns():
    prediction, target = _prediction_and_target()
    PredictedVarianceLoss(weight=5.0)(prediction, target).backward()
    plain, _ = _prediction_and_target()
    BrainMSELoss()(plain, target).backward()
    torch.testing.assert_close(prediction.grad[:, :1], plain.grad[:, :1])
    assert prediction.grad[:, 1:].abs().sum() > 0


def test_the_best_forecast_is_the_logarithm_of_the_mean_squared_error():
    _, target = _prediction_and_target()
    squared = (_rand(*SHAPE) - target[:, :1]).square()[target[:, 2:] > 0].mean().item()
    losses = [
        PredictedVarianceLoss()(_prediction_and_target(np.log(squared) + shift)[0], target).item()
        for shift in (-0.3, 0.0, 0.3)
    ]
    assert losses[1] < min(losses[0], losses[2])


def test_predicted_variance_loss_needs_two_channels(batch):
    with pytest.raises(ValueError, match="one output channel; expected two"):
        PredictedVarianceLoss()(_rand(*SHAPE), PrepareReconstruction()(batch, CPU)[1])


def _trainer(network: nn.Module, epochs: int, seen: list[bool]) -> SupervisedTrainer:
    data = [{"image": _rand(1, 8, seed=i), "label": _rand(1, 8, seed=i)} for i in range(2)]
    trainer = SupervisedTrainer(
        device=CPU,
        max_epochs=epochs,
        train_data_loader=DataLoader(Dataset(data), batch_size=2),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=nn.MSELoss(),
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(network[1].training))
    return trainer


def test_norm_is_frozen_from_its_epoch_on_though_the_trainer_trains():
    seen: list[bool] = []
    network = nn.Sequential(nn.Conv1d(1, 1, 3, padding=1), nn.BatchNorm1d(1))
    trainer = _trainer(network, 4, seen)
    statistics = []
    FrozenNorm(network, after=0.5).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: statistics.append(network[1].running_mean.item()))
    trainer.run()
    assert seen == [True, True, False, False]
    assert statistics[0] != statistics[1] == statistics[2] == statistics[3]


def test_norm_is_never_frozen_after_all_epochs():
    seen: list[bool] = []
    network = nn.Sequential(nn.Conv1d(1, 1, 3, padding=1), nn.BatchNorm1d(1))
    trainer = _trainer(network, 2, seen)
    FrozenNorm(network, after=1.0).attach(trainer)
    trainer.run()
    assert seen == [True, True]


@pytest.mark.parametrize(("epochs", "after", "first"), [(10, 0.7, 8), (90, 0.7, 64), (1, 0.7, 1), (3, 0.0, 1)])
def test_norm_is_frozen_after_its_share_of_the_epochs_whatever_the_rounding(epochs, after, first):
    seen: list[bool] = []
    network = nn.Sequential(nn.Conv1d(1, 1, 3, padding=1), nn.BatchNorm1d(1))
    trainer = _trainer(network, epochs, seen)
    FrozenNorm(network, after=after).attach(trainer)
    trainer.run()
    assert seen == [True] * (first - 1) + [False] * (epochs - first + 1)


def test_share_of_the_epochs_is_a_share():
    with pytest.raises(ValueError, match="after = 3; expected a share of the epochs, 0 to 1"):
        FrozenNorm(nn.Identity(), after=3)


def test_gradients_are_clipped_before_the_step():
    network = nn.Sequential(nn.Conv1d(1, 1, 3, padding=1), nn.BatchNorm1d(1))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    trainer = _trainer(network, 1, [])
    GradientClipping(network, max_norm=1e-3).attach(trainer)
    trainer.run()
    moved = sum((a - b).square().sum() for a, b in zip(before, network.parameters(), strict=True)).sqrt().item()
    assert 0 < moved <= 0.1 * 1e-3 * 1.001


SMALL = (4, 4, 8, 8, 8)


def test_warm_start_takes_a_network_with_one_output_into_one_with_two(tmp_path):
    old, new = ReconstructionUNet(channels=SMALL), ReconstructionUNet(channels=SMALL, out_channels=2)
    torch.save(old.state_dict(), tmp_path / "old.pt")
    assert warm_start(new, tmp_path / "old.pt") is new
    scan = _rand(1, 2, 32, 32, 32)
    with torch.no_grad():
        wanted, found = old.eval()(scan), new.eval()(scan)
    torch.testing.assert_close(found[:, :1], wanted)
    assert not found[:, 1:].any()


def test_warm_start_without_a_file_changes_nothing():
    network = ReconstructionUNet(channels=SMALL)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    warm_start(network, None)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_warm_start_refuses_the_weights_of_another_network(tmp_path):
    torch.save(ReconstructionUNet(channels=SMALL).state_dict(), tmp_path / "small.pt")
    with pytest.raises(ValueError, match="holds weights of another network"):
        warm_start(ReconstructionUNet(channels=(8, 8, 8, 8, 8)), tmp_path / "small.pt")


def test_loss_of_an_empty_brain_is_zero_and_has_a_gradient():
    prediction = torch.ones(SHAPE, requires_grad=True)
    loss = BrainMSELoss()(prediction, torch.zeros(2, 2, *SHAPE[2:]))
    loss.backward()
    assert loss.item() == 0
    assert not prediction.grad.any()


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_autocast_inferer_returns_float32(enabled, dtype):
    seen = []
    convolution = nn.Conv3d(2, 1, 3, padding=1)
    convolution.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    output = AutocastInferer(enabled=enabled, dtype=dtype)(_rand(1, 2, 6, 6, 6), convolution)
    assert output.dtype == torch.float32
    assert seen == [getattr(torch, dtype) if enabled else torch.float32]


def test_disabled_autocast_changes_nothing():
    convolution, inputs = nn.Conv3d(2, 1, 3), _rand(1, 2, 6, 6, 6)
    assert torch.equal(AutocastInferer(enabled=False)(inputs, convolution), convolution(inputs))


def _dataset(n_items: int, *, random: bool) -> Dataset:
    shape = (32, 32, 32)
    brain = volume(ball(shape, radius=13))
    items = [{"image": volume(_rand(*shape, seed=index)) * brain, "brain_mask": brain} for index in range(n_items)]
    mixture = MaskMixture() if random else MaskMixture(blob=0, field=0, full=1)
    flips = [RandFlipd(["image", "brain_mask"], prob=0.5, spatial_axis=0)] if random else []
    guide = HighFrequencyd("image", spacing_mm=4)
    return Dataset(items, Compose([*flips, guide, RandMaskd("brain_mask", spacing_mm=4, mixture=mixture)]))


def _training(
    folder: Path, *, num_workers: int = 0, resume: bool = True, initial_seed: int = 0, average: bool = False
) -> SimpleNamespace:
    """The trainer of ``train.json`` in small: the same handlers in the same order."""
    torch.manual_seed(initial_seed)
    network = ReconstructionUNet(channels=(2, 2, 2, 2, 2))
    averaging = EMAHandler(network, momentum=0.2) if average else None
    averaged = averaging.ema_model if averaging else None
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=N_EPOCHS)
    dataset, loss = _dataset(4, random=True), BrainMSELoss()
    validator = SupervisedEvaluator(
        device=CPU,
        val_data_loader=DataLoader(_dataset(1, random=False), batch_size=1),
        network=averaged or network,
        prepare_batch=PrepareReconstruction(seed=1),
        key_val_metric={"mse": IgniteMetricHandler(loss_fn=loss, output_transform=from_engine(["pred", "label"]))},
        metric_cmp_fn=operator.lt,
        decollate=False,
    )
    checkpoints = Checkpoints(folder, network, optimizer, scheduler, validator, resume=resume, averaged=averaged)
    trainer = SupervisedTrainer(
        device=CPU,
        max_epochs=N_EPOCHS,
        train_data_loader=DataLoader(dataset, batch_size=2, shuffle=True, num_workers=num_workers),
        network=network,
        optimizer=optimizer,
        loss_function=loss,
        prepare_batch=PrepareReconstruction(),
        train_handlers=[
            EpochSeed(2026, dataset),
            ValidationHandler(interval=2, validator=validator, epoch_level=True),
            LrScheduleHandler(scheduler, print_lr=False),
            checkpoints,
            *([averaging] if averaging else []),
        ],
    )
    losses: list[float] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output[0]["loss"]))
    return SimpleNamespace(
        trainer=trainer,
        network=network,
        averaged=averaged,
        optimizer=optimizer,
        scheduler=scheduler,
        checkpoints=checkpoints,
        losses=losses,
    )


class Interruption(BaseException):
    """Stands for a power cut: nothing in the library may catch it."""


def _interrupt(trainer: SupervisedTrainer, *, iteration: int) -> None:
    @trainer.on(Events.ITERATION_STARTED(once=iteration))
    def _stop(engine):
        raise Interruption


def _assert_equal(a, b) -> None:
    assert list(a) == list(b)
    assert all(torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in zip(a.values(), b.values(), strict=True))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> SimpleNamespace:
    with torch.random.fork_rng(devices=[]):
        run = _training(tmp_path_factory.mktemp("uninterrupted"))
        run.trainer.run()
    return run


@pytest.mark.parametrize("iteration", [5, 6, 8], ids=["start_of_epoch_3", "middle_of_epoch_3", "end_of_epoch_4"])
def test_resumed_training_ends_in_the_same_weights_as_an_uninterrupted_one(tmp_path, uninterrupted, iteration):
    first = _training(tmp_path)
    _interrupt(first.trainer, iteration=iteration)
    with pytest.raises(Interruption):
        first.trainer.run()
    torch.rand(17)
    np.random.rand(5)
    second = _training(tmp_path, initial_seed=99)
    second.trainer.run()

    done = 2 * ((iteration - 1) // 2)
    assert second.trainer.state.epoch == N_EPOCHS
    assert second.trainer.state.iteration == uninterrupted.trainer.state.iteration == 2 * N_EPOCHS
    assert second.losses == uninterrupted.losses[done:]
    _assert_equal(second.network.state_dict(), uninterrupted.network.state_dict())
    assert second.scheduler.state_dict() == uninterrupted.scheduler.state_dict()
    assert second.checkpoints.best == uninterrupted.checkpoints.best


@pytest.mark.parametrize("further", [0, 1])
def test_more_epochs_after_a_finished_decay_are_said_to_learn_nothing(tmp_path, caplog, further):
    _training(tmp_path).trainer.run()
    second = _training(tmp_path)
    second.trainer.state.max_epochs = N_EPOCHS + further
    with caplog.at_level("WARNING", logger="itermask3d.training.handlers"):
        second.trainer.run()
    assert ("further epochs learn nothing" in caplog.text) is (further > 0)


def test_the_average_of_the_weights_is_what_is_kept_and_survives_an_interruption(tmp_path):
    whole = _training(tmp_path / "whole", average=True)
    whole.trainer.run()
    best = torch.load(tmp_path / "whole" / "best.pt", weights_only=True)
    assert best.keys() == whole.network.state_dict().keys()
    name = "conv_1.conv.unit0.conv.weight"
    assert not torch.equal(best[name], whole.network.state_dict()[name])
    first = _training(tmp_path / "cut", average=True)
    _interrupt(first.trainer, iteration=6)
    with pytest.raises(Interruption):
        first.trainer.run()
    second = _training(tmp_path / "cut", average=True, initial_seed=99)
    second.trainer.run()
    _assert_equal(second.averaged.state_dict(), whole.averaged.state_dict())
    _assert_equal(torch.load(tmp_path / "cut" / "best.pt", weights_only=True), best)


def test_two_runs_of_one_seed_are_identical(tmp_path, uninterrupted):
    again = _training(tmp_path)
    again.trainer.run()
    assert again.losses == uninterrupted.losses
    _assert_equal(again.network.state_dict(), uninterrupted.network.state_dict())


def test_resumed_training_is_the_same_with_a_worker_process(tmp_path):
    whole = _training(tmp_path / "whole", num_workers=1)
    whole.trainer.run()
    first = _training(tmp_path / "cut", num_workers=1)
    _interrupt(first.trainer, iteration=6)
    with pytest.raises(Interruption):
        first.trainer.run()
    second = _training(tmp_path / "cut", num_workers=1, initial_seed=99)
    second.trainer.run()
    _assert_equal(second.network.state_dict(), whole.network.state_dict())


def test_finished_training_is_not_trained_further_when_started_again(tmp_path, uninterrupted):
    first = _training(tmp_path)
    first.trainer.run()
    second = _training(tmp_path, initial_seed=99)
    second.trainer.run()
    assert second.losses == []
    _assert_equal(second.network.state_dict(), first.network.state_dict())


def test_training_starts_anew_where_resume_is_off(tmp_path, uninterrupted):
    _training(tmp_path).trainer.run()
    second = _training(tmp_path, resume=False)
    second.trainer.run()
    assert second.losses == uninterrupted.losses


def test_last_checkpoint_is_complete_after_every_epoch(tmp_path):
    run = _training(tmp_path)
    seen = []

    @run.trainer.on(Events.EPOCH_COMPLETED)
    def _look(engine):
        state = torch.load(tmp_path / "last.pt", weights_only=True)
        seen.append((state["epoch"], state["iteration"]))

    run.trainer.run()
    assert seen == [(1, 2), (2, 4), (3, 6), (4, 8)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "last.pt"]


def test_best_checkpoint_is_a_plain_state_dict_of_the_best_validation(tmp_path):
    run = _training(tmp_path)
    values, states = [], []

    @run.checkpoints.validator.on(Events.COMPLETED)
    def _record(engine):
        values.append(engine.state.metrics["mse"])
        states.append({name: value.clone() for name, value in run.network.state_dict().items()})

    run.trainer.run()
    assert len(values) == N_EPOCHS // 2
    assert run.checkpoints.best == min(values)
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    _assert_equal(best, states[values.index(min(values))])
    ReconstructionUNet(channels=(2, 2, 2, 2, 2)).load_state_dict(best, strict=True)


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    network = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(network.parameters())
    return Checkpoints(tmp_path, network, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))


def _validated(value: float) -> SimpleNamespace:
    return SimpleNamespace(state=SimpleNamespace(metrics={"mse": value}, key_metric_name="mse"))


def test_worse_or_nan_validation_leaves_the_best_checkpoint(checkpoints):
    checkpoints._save_best(_validated(0.5))
    written = (checkpoints.directory / "best.pt").read_bytes()
    checkpoints.parts["network"].weight.data += 1
    for value in (0.6, 0.5, float("nan"), float("inf")):
        checkpoints._save_best(_validated(value))
    assert checkpoints.best == 0.5
    assert (checkpoints.directory / "best.pt").read_bytes() == written


@pytest.mark.parametrize(
    "error", [OSError("no space left on device"), KeyboardInterrupt()], ids=["full_disk", "ctrl_c"]
)
def test_failed_write_keeps_the_old_checkpoint_and_leaves_no_part(checkpoints, monkeypatch, error):
    checkpoints._save_best(_validated(0.5))
    written = (checkpoints.directory / "best.pt").read_bytes()

    def failing(state, path):
        Path(path).write_bytes(b"half of")
        raise error

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(type(error)):
        checkpoints._save_best(_validated(0.1))
    assert (checkpoints.directory / "best.pt").read_bytes() == written
    assert [path.name for path in checkpoints.directory.iterdir()] == ["best.pt"]


def test_checkpoints_hold_no_pickled_code(tmp_path):
    run = _training(tmp_path)
    run.trainer.run()
    for name in ("last.pt", "best.pt"):
        torch.load(io.BytesIO((tmp_path / name).read_bytes()), weights_only=True)


def test_seed_of_an_epoch_depends_on_seed_and_epoch_only():
    dataset = _dataset(1, random=True)
    draws = {}
    for seed, epoch in ((1, 1), (1, 2), (2, 1), (1, 1)):
        torch.rand(int(7 * epoch))
        EpochSeed(seed, dataset)(SimpleNamespace(state=SimpleNamespace(epoch=epoch)))
        draws.setdefault((seed, epoch), []).append((torch.rand(3).tolist(), dataset[0]["mask"].numpy().tobytes()))
    assert draws[1, 1][0] == draws[1, 1][1]
    assert len({repr(values[0][0]) for values in draws.values()}) == 3
