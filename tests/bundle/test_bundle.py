"""The bundle as its users meet it: metadata, properties, runs from any folder, export, resume, two processes.

Nothing here needs trained weights or real scans: a tiny network with random weights runs on phantoms of 4 mm at 8 mm.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import itermask3d
import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import CHANNELS, REPOSITORY, command
from helpers import head_phantom
from itermask3d.inference.cohort import ScanStream
from itermask3d.inference.networks import network_shape
from itermask3d.method.network import ReconstructionUNet
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, load, verify_metadata, verify_net_in_out
from monai.utils import set_determinism

BUNDLE = Path(itermask3d.BUNDLE_ROOT)
CONFIGS = BUNDLE / "configs"
METADATA = CONFIGS / "metadata.json"
WEIGHTS = BUNDLE / "models" / "model.pt"
SCHEMA = Path(__file__).parents[1] / "schema" / "meta_schema_equivalent.json"

TINY = {"network_def::channels": CHANNELS, "spacing_mm": 8.0, "spatial_size": [32, 32, 32]}
TINY_TRAIN = {**TINY, "batch_size": 1, "epochs": 1, "val_interval": 1}
TINY_INFERENCE = {**TINY, "settings::n_steps": 5, "settings::max_iterations": 3}
TRAINING_CASES = ("one", "two")
VALIDATION_CASES = ("three",)
FILES = {
    f"_{name}.nii.gz"
    for name in ("mask", "anomaly_map", "reconstruction", "brain_mask", "tissue_deviation", "reconstruction_error")
}

shipped_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"the bundle has no weights yet ({WEIGHTS.name})")


pytestmark = pytest.mark.usefixtures("kept_global_state")


@pytest.fixture(scope="session")
def scans(tmp_path_factory) -> Path:
    """A folder of three small skull-stripped phantoms that differ in their noise."""
    folder = tmp_path_factory.mktemp("scans")
    phantom = head_phantom(spacing_mm=(4, 4, 4))
    for seed, case in enumerate((*TRAINING_CASES, *VALIDATION_CASES)):
        noise = np.random.default_rng(seed).normal(0, 3, phantom.image.shape)
        image = np.where(phantom.brain_mask, phantom.image + noise, 0).astype(np.float32)
        nib.save(nib.Nifti1Image(image, phantom.affine), folder / f"{case}.nii.gz")
    return folder


@pytest.fixture(scope="session")
def split_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("split") / "split.json"
    path.write_text(json.dumps({"train": TRAINING_CASES, "validation": VALIDATION_CASES}))
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """Random weights of the tiny network."""
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(ReconstructionUNet(channels=CHANNELS, out_channels=2).state_dict(), path)
    return path


def workflow(*configs: str, **overrides: Any) -> ConfigWorkflow:
    """What ``python -m monai.bundle run`` builds, initialised, in this process and with logging left alone."""
    kind = "train" if configs[0] == "train" else "infer"
    files = [str(CONFIGS / f"{name}.json") for name in configs]
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in overrides.items()}
    built = ConfigWorkflow(files, workflow_type=kind, logging_file=False, **plain)
    built.initialize()
    return built


def run(*configs: str, **overrides: Any) -> None:
    """The whole of ``python -m monai.bundle run``, in this process."""
    built = workflow(*configs, **overrides)
    built.run()
    built.finalize()


def assert_complete(folder: Path, case: str) -> None:
    """Every file of a result is there, belongs to one run and opens."""
    names = {path.name for path in (folder / case).iterdir()}
    assert names == {case + suffix for suffix in FILES} | {"result.json", "overview.png"}
    result = json.loads((folder / case / "result.json").read_text())
    assert result["case"] == case
    assert len(result["curve"]) == TINY_INFERENCE["settings::n_steps"]
    for suffix in FILES:
        assert list(nib.load(folder / case / f"{case}{suffix}").get_fdata().shape) == result["geometry"]["shape"]


def assert_nothing_partial(folder: Path) -> None:
    assert not [path for path in folder.rglob("*") if path.name.startswith(".") or "partial" in path.name]


# The bundle's files


def metadata() -> dict[str, Any]:
    return json.loads(METADATA.read_text())


def test_metadata_follows_the_schema():
    verify_metadata(meta_file=str(METADATA), filepath=SCHEMA)


@pytest.mark.parametrize(
    "change", [{"authors": None}, {"task": 3}, {"required_packages_version": ["scipy"]}, {"nwe": ""}]
)
def test_schema_refuses_wrong_metadata(tmp_path, change):
    wrong = {key: value for key, value in {**metadata(), **change}.items() if value is not None}
    (tmp_path / "metadata.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=SCHEMA)


def test_metadata_names_the_versions_of_the_lock_file():
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    named = metadata()["required_packages_version"] | {
        "monai": metadata()["monai_version"],
        "torch": metadata()["pytorch_version"],
        "numpy": metadata()["numpy_version"],
    }
    assert {package: locked.get(package) for package in named} == named
    assert metadata()["version"] == itermask3d.__version__
    assert itermask3d.__version__ in metadata()["changelog"]


def test_metadata_names_the_grid_of_inference_and_the_network_input():
    inference = json.loads((CONFIGS / "inference.json").read_text())
    image = metadata()["network_data_format"]["inputs"]["image"]
    assert image["spatial_shape"] == inference["spatial_size"]
    assert image["num_channels"] == len(image["channel_def"]) == 2


def test_configs_describe_one_network_and_one_grid_spacing():
    train, inference = (json.loads((CONFIGS / f"{name}.json").read_text()) for name in ("train", "inference"))
    same = ("spacing_mm", "spatial_size", "radius_cycles_per_mm", "bias_correction", "brain_extraction")
    for key in same:  # the weights know the grid: on a larger one they are worse
        assert train[key] == inference[key], key
    shape = network_shape(WEIGHTS)  # inference reads it from the weights
    assert {key: train["network_def"][key] for key in ("channels", "out_channels")} == {
        "channels": list(shape["channels"]),
        "out_channels": shape["out_channels"],
    }
    assert not {"channels", "out_channels", "in_channels"} & inference["network_def"].keys()
    assert train["network"]["_target_"] == inference["network"]["_target_"]


def test_voxels_are_masked_in_training_as_the_loop_masks_them():
    train, inference = (json.loads((CONFIGS / f"{name}.json").read_text()) for name in ("train", "inference"))
    assert train["noise"] == inference["settings"]["noise"]
    parser = ConfigParser(train)
    parser["noise"] = 0.25
    preparers = [
        parser.get_parsed_content(f"{part}::prepare_batch::noise") for part in ("train", "validate::evaluator")
    ]
    assert preparers == [0.25, 0.25]


def test_bundle_holds_what_the_model_zoo_asks_for():
    assert (BUNDLE / "LICENSE").is_file()
    assert (BUNDLE / "docs" / "data_license.txt").is_file()
    assert all((CONFIGS / name).is_file() for name in ("metadata.json", "train.json", "inference.json", "logging.conf"))
    files = [path for path in BUNDLE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert not [path for path in files if path.stat().st_size > 25e6]


# MONAI's own checks


@pytest.mark.parametrize("configs", [("train",), ("inference",), ("inference", "evaluate")], ids="+".join)
def test_no_property_is_missing(configs, scans, split_file, tmp_path):
    overrides = {"split_file": split_file} if configs[0] == "train" else {}
    built = workflow(*configs, dataset_dir=scans, output_dir=tmp_path / "out", **overrides)
    assert built.check_properties() == []


@pytest.mark.parametrize("config", ["train", "inference"])
@pytest.mark.parametrize("network", ["network_def", "network"])
def test_network_takes_and_gives_what_the_metadata_say(config, network):
    files = {"meta_file": str(METADATA), "config_file": str(CONFIGS / f"{config}.json")}
    verify_net_in_out(network, **files, device="cpu", **{"network_def::channels": CHANNELS})


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_export_to_torchscript_keeps_the_output_and_the_refusal_of_wrong_sizes(checkpoint, tmp_path):
    path = tmp_path / "model.ts"
    files = {"meta_file": str(METADATA), "config_file": str(CONFIGS / "inference.json"), "ckpt_file": str(checkpoint)}
    ckpt_export("network_def", filepath=str(path), **files, **{"network_def::channels": CHANNELS})
    extra = {"metadata.json": "", "inference.json": ""}
    exported = torch.jit.load(path, _extra_files=extra).eval()
    assert json.loads(extra["metadata.json"])["version"] == itermask3d.__version__
    original = ReconstructionUNet(channels=CHANNELS, out_channels=2).eval()
    original.load_state_dict(torch.load(checkpoint, weights_only=True))
    inputs = torch.rand(1, 2, 32, 48, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(exported(inputs), original(inputs))
        with pytest.raises(torch.jit.Error, match=r"divide by 16 .*got shape \(1, 2, 32, 48, 31\)"):
            exported(inputs[..., :31])


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_load_gives_a_copy_of_the_bundle_its_own_weights(kind, checkpoint, tmp_path):
    shutil.copytree(CONFIGS, tmp_path / "copy" / "configs")
    (tmp_path / "copy" / "models").mkdir()
    shutil.copy(checkpoint, tmp_path / "copy" / "models" / "model.pt")
    options = {"bundle_dir": tmp_path, "device": "cpu", "net_override": {"channels": CHANNELS}}
    network = load("copy", workflow_type=kind, **options)
    assert_weights(network, checkpoint)


@shipped_weights
@pytest.mark.parametrize("kind", ["train", "inference"])
def test_load_gives_the_network_with_the_shipped_weights(kind):
    network = load(BUNDLE.name, bundle_dir=BUNDLE.parent, workflow_type=kind, device="cpu")
    assert isinstance(network, ReconstructionUNet)
    assert_weights(network, WEIGHTS)


@shipped_weights
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_shipped_weights_are_exported(tmp_path):
    ckpt_export(filepath=str(tmp_path / "m.ts"), config_file=str(CONFIGS / "inference.json"), bundle_root=str(BUNDLE))
    assert (tmp_path / "m.ts").stat().st_size > 0


def assert_weights(network: torch.nn.Module, path: Path) -> None:
    expected = torch.load(path, map_location="cpu", weights_only=True)
    actual = network.state_dict()
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name].to(actual[name].dtype)) for name in expected)


# Inference


@pytest.mark.parametrize(
    ("cwd", "config"),
    [(REPOSITORY, "bundle/configs/inference.json"), (BUNDLE, "configs/inference.json"), (Path("/"), None)],
    ids=["repository", "bundle", "root"],
)
def test_inference_runs_from_any_folder(cwd, config, scans, checkpoint, tmp_path):
    done = command(
        config or CONFIGS / "inference.json",
        cwd=cwd,
        dataset_dir=scans / "one.nii.gz",
        output_dir=tmp_path,
        ckpt_path=checkpoint,
        **TINY_INFERENCE,
    )
    assert done.returncode == 0, done.stderr
    assert_complete(tmp_path, "one")
    assert "1 of 1 scans done" in done.stdout
    assert "nvImageCodec" not in done.stdout + done.stderr


def test_bundle_folder_alone_runs_elsewhere_with_its_own_code_and_weights(scans, checkpoint, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(BUNDLE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "models"))
    (copy / "models").mkdir()
    shutil.copy(checkpoint, copy / "models" / "model.pt")
    shutil.copy(WEIGHTS.with_name("model_tissue.pt"), copy / "models")
    out = tmp_path / "out"
    done = command(
        "configs/inference.json", cwd=copy, dataset_dir=scans / "one.nii.gz", output_dir=out, **TINY_INFERENCE
    )
    assert done.returncode == 0, done.stderr
    assert_complete(out, "one")


def test_one_bad_scan_is_listed_and_the_good_one_is_done(scans, checkpoint, tmp_path, capsys):
    folder, out = tmp_path / "mixed", tmp_path / "out"
    folder.mkdir()
    shutil.copy(scans / "one.nii.gz", folder / "good.nii.gz")
    (folder / "bad.nii.gz").write_bytes((scans / "two.nii.gz").read_bytes()[:1000])
    with pytest.raises(SystemExit) as stop:
        run("inference", dataset_dir=folder, output_dir=out, ckpt_path=checkpoint, **TINY_INFERENCE)
    assert stop.value.code == 1
    assert list(json.loads((out / "failures.json").read_text())) == ["bad"]
    assert {path.name for path in out.iterdir()} == {"good", "failures.json"}
    assert_complete(out, "good")
    assert_nothing_partial(out)
    assert "1 of 2 scans done" in capsys.readouterr().out


def test_second_run_over_a_mended_folder_does_only_what_is_missing(scans, checkpoint, tmp_path):
    out = tmp_path / "out"
    options = {"output_dir": out, "ckpt_path": checkpoint, **TINY_INFERENCE}
    run("inference", dataset_dir=scans / "one.nii.gz", **options)
    before = (out / "one" / "result.json").stat().st_mtime_ns
    run("inference", dataset_dir=scans, **options)
    assert {path.name for path in out.iterdir()} == {"one", "two", "three"}
    assert (out / "one" / "result.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("config", ["inference", "train"])
def test_missing_dataset_is_one_clear_sentence(config, checkpoint, tmp_path, capsys):
    overrides = {"ckpt_path": checkpoint} if config == "inference" else {}
    with pytest.raises(SystemExit) as stop:
        run(config, dataset_dir=tmp_path / "nowhere", output_dir=tmp_path / "out", **TINY, **overrides)
    assert stop.value.code not in (0, None)
    said = f"{capsys.readouterr().out}{stop.value}"
    assert len(re.findall(r"nowhere' does not exist; expected a scan, a folder of scans or a list file", said)) == 1
    assert not (tmp_path / "out").exists()


def test_split_that_knows_none_of_the_scans_is_one_clear_sentence(scans, tmp_path):
    with pytest.raises(SystemExit, match="none of the 100 cases of subset 'train' is among the 3 scans"):
        run("train", dataset_dir=scans, output_dir=tmp_path / "out", **TINY_TRAIN)


@pytest.mark.parametrize("kind", ["folder", "txt", "json", "file"])
def test_every_kind_of_source_is_read(kind, scans, tmp_path):
    paths = sorted(scans.glob("*.nii.gz"))
    source = {"folder": scans, "txt": tmp_path / "list.txt", "json": tmp_path / "list.json", "file": paths[0]}[kind]
    (tmp_path / "list.txt").write_text("\n".join(map(str, paths)))
    (tmp_path / "list.json").write_text(json.dumps([{"image": str(path)} for path in paths]))
    stream = ScanStream(str(source), lambda item: item)
    expected = paths[:1] if kind == "file" else paths
    assert [item["image"] for item in stream] == list(map(str, expected))
    assert not stream.failures


# Training


def epoch_of(folder: Path) -> int:
    return torch.load(folder / "last.pt", weights_only=True)["epoch"]


def test_training_runs_from_the_root_of_the_file_system(scans, split_file, tmp_path):
    out = tmp_path / "out"
    options = {"dataset_dir": scans, "split_file": split_file, "output_dir": out, **TINY_TRAIN}
    done = command(CONFIGS / "train.json", cwd=Path("/"), **options)
    assert done.returncode == 0, done.stderr
    assert epoch_of(out) == 1
    assert list((out / "tensorboard").glob("events*"))
    assert "full_mask_mse" in done.stdout
    network = ReconstructionUNet(channels=CHANNELS, out_channels=2)
    network.load_state_dict(torch.load(out / "best.pt", weights_only=True))


def test_training_resumes_where_it_stopped(scans, split_file, tmp_path, caplog):
    options = {"dataset_dir": scans, "split_file": split_file, "output_dir": tmp_path, **TINY_TRAIN}
    run("train", **options)
    first = torch.load(tmp_path / "last.pt", weights_only=True)
    with caplog.at_level(logging.INFO, logger="itermask3d"):
        run("train", **options | {"epochs": 2})
    second = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert (first["iteration"], second["iteration"]) == (len(TRAINING_CASES), 2 * len(TRAINING_CASES))
    assert "after epoch 1" in caplog.text


SIGNALLER = """
import os, signal
from ignite.engine import Events

class SignalAt:
    def __init__(self, name, iteration):
        self.name, self.iteration = name, iteration

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.iteration), self)

    def __call__(self, engine):
        os.kill(os.getpid(), getattr(signal, self.name))
"""
"""A handler that sends the training process a real signal, always at the same place: no timer, no race."""


@pytest.fixture(scope="module")
def on_one_thread():
    """As in :func:`command`: sums over more threads may differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def uninterrupted(scans, split_file, tmp_path_factory, on_one_thread) -> Path:
    """A training of three epochs of two steps that nothing altered."""
    out = tmp_path_factory.mktemp("uninterrupted")
    with torch.random.fork_rng(devices=[]):
        run("train", dataset_dir=scans, split_file=split_file, output_dir=out, **TINY_TRAIN | {"epochs": 3})
        set_determinism(None)
    return out


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_training_stopped_by_a_signal_and_resumed_ends_in_the_same_weights(
    name, scans, split_file, tmp_path, uninterrupted
):
    (tmp_path / "signaller.py").write_text(SIGNALLER)
    handler = {"_target_": "signaller.SignalAt", "name": name, "iteration": 3}
    (tmp_path / "stopped.json").write_text(json.dumps({"+train::handlers": [handler]}))
    out = tmp_path / "out"
    options = {"dataset_dir": scans, "split_file": split_file, "output_dir": out, **TINY_TRAIN | {"epochs": 3}}
    stopped = command(CONFIGS / "train.json", tmp_path / "stopped.json", cwd=tmp_path, **options)
    assert stopped.returncode != 0
    assert epoch_of(out) == 1  # of the second epoch one step of two was done
    assert not list(out.glob(".*partial"))
    run("train", **options)
    whole, resumed = (torch.load(folder / "last.pt", weights_only=True) for folder in (uninterrupted, out))
    assert resumed["epoch"] == whole["epoch"] == 3
    assert resumed["best"] == whole["best"]
    for part in ("network", "optimizer", "scheduler"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    for name in whole["network"]:
        assert torch.equal(torch.load(out / "best.pt")[name], torch.load(uninterrupted / "best.pt")[name])


def test_multi_gpu_overlay_silences_every_reporting_handler_of_other_ranks_and_no_other(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    files = [str(CONFIGS / name) for name in ("train.json", "multi_gpu_train.json")]
    parser = ConfigWorkflow(files, workflow_type="train", logging_file=False).parser
    handlers = [*parser["train::handlers"], *parser["validate::handlers"]]
    silenced = [handler["_target_"] for handler in handlers if handler.get("_disabled_") == "@is_not_rank0"]
    reporting = ("StatsHandler", "TensorBoardStatsHandler", "ignite.handlers.ProgressBar")
    assert silenced == [handler["_target_"] for handler in handlers if handler["_target_"] in reporting]
    assert parser.get_parsed_content("is_not_rank0") is True


def test_two_processes_go_on_with_what_one_process_began(scans, split_file, tmp_path):
    options = {"dataset_dir": scans, "split_file": split_file, "output_dir": tmp_path, **TINY_TRAIN}
    run("train", **options)
    done = command(
        CONFIGS / "train.json",
        CONFIGS / "multi_gpu_train.json",
        cwd=tmp_path,
        launcher=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        **options | {"epochs": 2},
    )
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["epoch"] == 2
    assert not [name for name in state["network"] if name.startswith("module.")]
    assert done.stdout.count("Epoch[2] Metrics") == 1
