"""Two models in one bundle: which one a scan gets and why, and that one model alone is as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from fast_bundle import write_fast_bundle
from helpers import run_command
from itermask3d.files.discovery import discover
from itermask3d.inference.model import load_model
from itermask3d.inference.models import ModelTable, model_file
from itermask3d.inference.networks import Networks
from itermask3d.inference.segmenter import Segmenter
from itermask3d.workflows.screening.screener import Screener

SCRIPTS = Path(__file__).parents[2] / "scripts"
GRID = {"spacing_mm": 4.0, "bias_correction": "none"}


def write_domain(path: Path, low: float, high: float) -> None:
    """A domain of one feature, the contrast of deep tissue."""
    features = {"depth_contrast": {"low": low, "high": high, "centre": (low + high) / 2}}
    path.write_text(json.dumps({"settings": GRID, "features": features}))


def write_table(folder: Path) -> Path:
    """Two models without weights that anyone could load, and their domains."""
    for name in ("model.pt", "model_agnostic.pt"):
        (folder / name).write_bytes(name.encode())
    write_domain(folder / "domain.json", 1.0, 2.0)
    write_domain(folder / "domain_agnostic.json", -1.0, 3.0)
    return folder


@pytest.fixture(scope="module")
def bundle(phantom_pair, tmp_path_factory) -> Path:
    """A fast bundle with a second model, whose network is the first's without the guide."""
    root = write_fast_bundle(tmp_path_factory.mktemp("bundle"))
    config = root / "configs" / "inference.json"
    content = json.loads(config.read_text()) | {"bias_correction": "none"}
    config.write_text(json.dumps(content))
    state = torch.load(root / "models" / "model.pt", weights_only=True)
    state["weight"][0, 1] = 0
    torch.save(state, root / "models" / "model_agnostic.pt")
    segmenter = Segmenter(root)
    values = {}
    for name in ("t1", "other"):
        prepared = segmenter.prepare({"image": str(phantom_pair / f"{name}.nii.gz"), "case": name})
        assert prepared.features.grid == GRID
        values[name] = prepared.features.values["depth_contrast"]
    assert abs(values["t1"] - values["other"]) > 0.2
    write_domain(root / "models" / "domain.json", values["t1"] - 0.1, values["t1"] + 0.1)
    return root


@pytest.fixture(scope="module")
def phantom_pair(tmp_path_factory) -> Path:
    """A ball with a bright core, and one with a dark core."""
    folder = tmp_path_factory.mktemp("scans")
    axes = np.meshgrid(*[np.linspace(-88, 88, 45)] * 3, indexing="ij")
    radius = np.sqrt(sum((axis / scale) ** 2 for axis, scale in zip(axes, (66, 80, 62), strict=True)))
    rng = np.random.default_rng(0)
    for name, core in (("t1", 140.0), ("other", 60.0)):
        image = np.where(radius < 0.75, core, 100.0) + rng.normal(0, 3, radius.shape)
        image = np.where(radius < 1, image, 0).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.diag([4.0, 4.0, 4.0, 1.0])), folder / f"{name}.nii.gz")
    return folder


@pytest.fixture
def copied(bundle, tmp_path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def read(output: Path, case: str) -> dict:
    return json.loads((output / case / "result.json").read_text())


def test_first_model_has_plain_file_names_and_others_carry_theirs(tmp_path):
    names = [model_file(tmp_path, "calibration.json", name).name for name in ("t1", "agnostic")]
    assert names == ["calibration.json", "calibration_agnostic.json"]


@pytest.mark.parametrize(
    ("value", "name", "words"),
    [
        (1.5, "t1", "The contrast is one that t1 knows."),
        (0.0, "agnostic", "The contrast is out-of-distribution for t1; the contrast is one that agnostic knows."),
        (9.0, "agnostic", "the contrast is out-of-distribution for agnostic; agnostic is the widest model."),
        (float("nan"), "agnostic", "agnostic is the widest model."),
    ],
)
def test_first_model_whose_domain_holds_the_scan_is_taken_else_the_last(tmp_path, value, name, words):
    choice = ModelTable(write_table(tmp_path), "auto").choose({"depth_contrast": value}, GRID)
    assert (choice.name, choice.requested) == (name, "auto")
    assert choice.reason.endswith(words)
    assert choice.candidates.keys() == {"t1", "agnostic"}


def test_model_without_domain_takes_the_rest_and_says_so(tmp_path):
    (write_table(tmp_path) / "domain_agnostic.json").unlink()
    choice = ModelTable(tmp_path, "auto").choose({"depth_contrast": 0.0}, GRID)
    assert choice.name == "agnostic"
    assert "agnostic has no measured domain" in choice.reason
    assert choice.candidates["agnostic"] == "none"


def test_domain_of_another_preprocessing_does_not_choose(tmp_path):
    choice = ModelTable(write_table(tmp_path), "auto").choose({"depth_contrast": 0.0}, GRID | {"spacing_mm": 1.0})
    assert choice.name == "t1", "nothing to choose by, so the first"
    assert "The domain of t1 is for another preprocessing" in choice.reason


def test_without_second_weights_auto_is_the_first_model(tmp_path):
    (write_table(tmp_path) / "model_agnostic.pt").unlink()
    table, plain = ModelTable(tmp_path, "auto"), ModelTable(tmp_path)
    assert table.weights == plain.weights == str(tmp_path / "model.pt")
    assert (table.domain, table.calibration) == (plain.domain, plain.calibration)
    assert table.named("auto").reason == "There is no other model than t1."


def test_wrong_requests_are_named_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="model must be one of auto, t1, agnostic, got 't2'"):
        ModelTable(tmp_path, "t2")
    (write_table(tmp_path) / "model_agnostic.pt").unlink()
    with pytest.raises(ValueError, match=r"'agnostic' lacks its weights .*model_agnostic.pt'; there are: t1"):
        assert ModelTable(tmp_path, "agnostic").weights


def test_without_a_domain_to_choose_by_the_first_model_serves_and_says_so(tmp_path):
    (write_table(tmp_path) / "domain.json").unlink()
    table = ModelTable(tmp_path, "auto")
    assert table.weights == str(tmp_path / "model.pt")
    assert "no measured domain, so there is nothing to choose by" in table.named("auto").reason


def test_noise_alone_changes_no_model(tmp_path):
    """Only another contrast does; what else is foreign is told with the result."""
    write_table(tmp_path)
    domain = json.loads((tmp_path / "domain.json").read_text())
    domain["features"]["noise"] = {"low": None, "high": 0.2, "centre": 0.1}
    (tmp_path / "domain.json").write_text(json.dumps(domain))
    assert ModelTable(tmp_path, "auto").choose({"depth_contrast": 1.5, "noise": 9.0}, GRID).name == "t1"


def test_networks_are_loaded_when_asked_for_and_stay_apart(tmp_path):
    for name, value in (("model.pt", 1.0), ("model_agnostic.pt", 2.0)):
        torch.save({"weight": torch.full((1, 1), value)}, tmp_path / name)
    networks = Networks(torch.nn.Linear(1, 1, bias=False), ModelTable(tmp_path))
    assert len(networks) == 0
    first = networks["agnostic"]
    assert len(networks) == 1
    assert networks["t1"].weight.item() == 1.0
    assert first.weight.item() == 2.0
    assert networks["agnostic"] is first
    assert networks.digests["t1"] != networks.digests["agnostic"]


def test_cohort_gets_a_model_a_scan_and_resumes(monkeypatch, capsys, bundle, phantom_pair, tmp_path):
    out = tmp_path / "auto"
    options = ("--bundle", bundle, "--no-overview", "--brain-extraction", "none")
    arguments = ("segment", phantom_pair, out, *options, "--batch-size", 2)
    assert run_command(monkeypatch, capsys, *arguments, "--model", "auto")[0] == 0
    found = {case: read(out, case) for case in ("t1", "other")}
    assert {case: result["model"]["name"] for case, result in found.items()} == {"t1": "t1", "other": "agnostic"}
    assert found["t1"]["settings"]["weights_sha256"] != found["other"]["settings"]["weights_sha256"]
    assert found["t1"]["in_distribution"] is True
    assert found["other"]["in_distribution"] is found["other"]["p_value"] is None
    assert any("no domain file" in sentence for sentence in found["other"]["warnings"])
    for case in found:
        alone = tmp_path / "alone"
        name = found[case]["model"]["name"]
        run_command(monkeypatch, capsys, "segment", phantom_pair / f"{case}.nii.gz", alone, *options, "--model", name)
        assert {key: value for key, value in read(alone, case).items() if key not in ("model", "inputs")} == {
            key: value for key, value in found[case].items() if key not in ("model", "inputs")
        }
    written = {path: path.stat().st_mtime_ns for path in out.glob("*/result.json")}
    assert run_command(monkeypatch, capsys, *arguments, "--model", "auto")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/result.json")} == written
    run_command(monkeypatch, capsys, *arguments, "--model", "t1")
    again = {path.parent.name for path, before in written.items() if path.stat().st_mtime_ns != before}
    assert again == {"other"}
    assert read(out, "other")["model"]["name"] == "t1"
    assert read(out, "other")["in_distribution"] is False


def test_screening_and_one_scan_at_a_time_choose_alike(bundle, phantom_pair, tmp_path):
    screener = Screener(bundle, {"model": "auto", "brain_extraction": "none", "progress": False}, overview=False)
    scans = discover(phantom_pair).scans
    for scan in scans:
        assert not screener.is_done(scan, tmp_path)
        assert screener.screen(scan, tmp_path).reason in (None, "")
        assert screener.is_done(scan, tmp_path)
    results = {scan.case: read(tmp_path, scan.folder) for scan in scans}
    assert {case: result["model"]["name"] for case, result in results.items()} == {"t1": "t1", "other": "agnostic"}
    (bundle / "models" / "domain_agnostic.json").write_text((bundle / "models" / "domain.json").read_text())
    try:
        later = Screener(bundle, {"model": "auto", "brain_extraction": "none"})
        assert {scan.case: later.is_done(scan, tmp_path) for scan in scans} == {"t1": True, "other": False}
    finally:
        (bundle / "models" / "domain_agnostic.json").unlink()


def test_segmenter_takes_a_model_for_one_scan(bundle, phantom_pair):
    segmenter = Segmenter(bundle, {"brain_extraction": "none", "progress": False})
    scan = segmenter.prepare({"image": str(phantom_pair / "other.nii.gz"), "case": "other"})
    names = {model: segmenter.segment(scan, model=model)[0].model["name"] for model in (None, "agnostic", "auto", "t1")}
    assert names == {None: "agnostic", "agnostic": "agnostic", "auto": "agnostic", "t1": "t1"}
    with pytest.raises(ValueError, match="model must be one of auto, t1, agnostic, got 'flair'"):
        segmenter.segment(scan, model="flair")


def test_named_weights_are_used_whatever_the_model(bundle, phantom_pair, tmp_path):
    weights = Path(shutil.copy(bundle / "models" / "model_agnostic.pt", tmp_path / "mine.pt"))
    for model in ("t1", "agnostic", "auto"):
        changes = {"model": model, "ckpt_path": str(weights), "brain_extraction": "none"}
        segmenter = Segmenter(bundle, changes | {"calibration": None, "domain": None, "progress": False})
        assert segmenter.model.requested is None
        assert segmenter.model.variant(None).weights == str(weights)
    scan = segmenter.prepare({"image": str(phantom_pair / "other.nii.gz"), "case": "other"})
    result = segmenter.segment(scan, model="t1")[0]
    assert result.model["reason"] == "Weights were named instead of a model."


def test_calibration_of_the_second_model_is_asked_for_beyond_its_domain(copied, phantom_pair):
    write_domain(copied / "models" / "domain_agnostic.json", -9.0, 9.0)
    segmenter = Segmenter(copied, {"model": "agnostic", "brain_extraction": "none", "progress": False})
    scan = segmenter.prepare({"image": str(phantom_pair / "other.nii.gz"), "case": "other"})
    result = segmenter.segment(scan)[0]
    assert result.in_distribution is True
    assert result.p_value is None
    assert any("no calibration file" in sentence for sentence in result.warnings)
    scores = {"normal_scores": [0.0, 1.0], "settings": json.loads(json.dumps(result.settings))}
    (copied / "models" / "calibration_agnostic.json").write_text(json.dumps(scores))
    calibrated = segmenter.segment(scan)[0]
    assert calibrated.p_value is not None
    assert not any("no calibration file" in sentence for sentence in calibrated.warnings)


@pytest.fixture
def adapted(copied) -> Path:
    """The bundle with settings of its own for the second model."""
    path = copied / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["models"]["settings"] = {"agnostic": {"noise": 0.5, "threshold_floor": 0.25}}
    path.write_text(json.dumps(config))
    return copied


@pytest.mark.parametrize("model", ["agnostic", "auto"])
def test_a_model_gets_its_own_settings_however_it_is_chosen(
    monkeypatch, capsys, adapted, phantom_pair, tmp_path, model
):
    options = ("--bundle", adapted, "--no-overview", "--brain-extraction", "none", "--model", model)
    status, printed = run_command(monkeypatch, capsys, "segment", phantom_pair, tmp_path / "out", *options)
    assert status == 0, printed
    read_settings = {case: read(tmp_path / "out", case)["settings"] for case in ("t1", "other")}
    assert (read_settings["other"]["noise"], read_settings["other"]["threshold_floor"]) == (0.5, 0.25)
    shared = (1.0, 0.0) if model == "auto" else (0.5, 0.25)
    assert (read_settings["t1"]["noise"], read_settings["t1"]["threshold_floor"]) == shared
    before = (tmp_path / "out" / "other" / "result.json").stat().st_mtime_ns
    run_command(monkeypatch, capsys, "segment", phantom_pair, tmp_path / "out", *options)
    assert (tmp_path / "out" / "other" / "result.json").stat().st_mtime_ns == before
    segmenter = Segmenter(adapted, {"model": "t1", "brain_extraction": "none", "progress": False})
    for case in ("t1", "other"):
        scan = segmenter.prepare({"image": str(phantom_pair / f"{case}.nii.gz"), "case": case})
        result = segmenter.segment(scan, model=model)[0]
        assert json.loads(json.dumps(result.settings)) == read_settings[case]
        assert result.findings.score == read(tmp_path / "out", case)["score"]


def test_what_a_run_changes_goes_over_the_settings_of_its_model(adapted, phantom_pair, tmp_path):
    for requested in ("t1", "agnostic", "auto"):
        segmenter = Segmenter(adapted, {"model": requested, "brain_extraction": "none", "progress": False})
        scan = segmenter.prepare({"image": str(phantom_pair / "other.nii.gz"), "case": "other"})
        result = segmenter.segment(scan, settings={"threshold_floor": 0.5, "gamma": 0.2}, model="agnostic")[0]
        assert [result.settings[name] for name in ("noise", "threshold_floor", "gamma")] == [0.5, 0.5, 0.2]
        plain = segmenter.segment(scan, model="t1")[0]
        assert [plain.settings[name] for name in ("noise", "threshold_floor", "gamma")] == [1.0, 0.0, 0.1]
        used = segmenter.store_for({"gamma": 0.2}, None, tmp_path, "auto").model.variant("agnostic")
        assert [used.settings[name] for name in ("noise", "threshold_floor", "gamma")] == [0.5, 0.25, 0.2]


@pytest.mark.parametrize("settings", [{"t2": {"noise": 0.0}}, {"agnostic": {"floor": 3.0}}])
def test_settings_of_no_model_or_no_setting_are_refused(tmp_path, settings):
    with pytest.raises(ValueError, match="models::settings has"):
        ModelTable(tmp_path, settings=settings)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "t2"), "model must be one of auto, t1, agnostic, got 't2'"),
        (("--model", "agnostic", "--weights", "x.pt"), "--model and --weights exclude each other"),
    ],
)
@pytest.mark.parametrize("script", ["segment", "screen"])
def test_scripts_refuse_what_is_no_model_in_one_sentence(
    monkeypatch, capsys, bundle, phantom_pair, tmp_path, script, options, words
):
    arguments = (phantom_pair, tmp_path / "out", "--bundle", bundle, *options)
    status, printed = run_command(monkeypatch, capsys, script, *arguments)
    assert status == 2
    assert words in " ".join(printed.split())
    assert "Traceback" not in printed
    assert not (tmp_path / "out").exists()


def test_damaged_second_weights_cost_only_the_scans_that_need_them(monkeypatch, capsys, copied, phantom_pair, tmp_path):
    (copied / "models" / "model_agnostic.pt").write_bytes(b"nothing of the kind")
    options = ("--bundle", copied, "--no-overview", "--brain-extraction", "none", "--model", "auto")
    status, printed = run_command(monkeypatch, capsys, "segment", phantom_pair, tmp_path / "out", *options)
    assert status == 1
    assert "model_agnostic.pt' cannot be read" in json.loads((tmp_path / "out" / "failures.json").read_text())["other"]
    assert read(tmp_path / "out", "t1")["model"]["name"] == "t1"
    assert "Traceback" not in printed


def test_calibrating_a_model_refuses_results_of_another(monkeypatch, capsys, bundle, phantom_pair, tmp_path):
    options = ("--bundle", bundle, "--no-overview", "--brain-extraction", "none", "--model", "agnostic")
    run_command(monkeypatch, capsys, "segment", phantom_pair / "other.nii.gz", tmp_path / "agnostic", *options)
    target = tmp_path / "calibration_agnostic.json"
    status, told = run_command(
        monkeypatch, capsys, "calibrate", tmp_path / "agnostic", "--model", "t1", "--output", target
    )
    assert status == 2
    assert told == "error: the results come from the model agnostic; expected 't1' alone\n"
    assert not target.exists()
    assert (
        run_command(monkeypatch, capsys, "calibrate", tmp_path / "agnostic", "--model", "agnostic", "--output", target)[
            0
        ]
        == 0
    )
    assert len(json.loads(target.read_text())["normal_scores"]) == 1


def test_shipped_default_looks_at_the_scan():
    config = json.loads((SCRIPTS.parent / "bundle" / "configs" / "inference.json").read_text())
    assert (config["model"], config["models"]["names"]) == ("auto", ["t1", "agnostic"])


FILES = [{}, {"calibration": "mine.json"}, {"calibration": None, "domain": None}]


@pytest.mark.parametrize("changes", FILES, ids=["not named", "named", "switched off"])
@pytest.mark.parametrize("named", [True, False], ids=["own weights", "chosen"])
def test_a_calibration_and_a_domain_belong_to_the_first_model_where_scans_choose(bundle, tmp_path, changes, named):
    weights = shutil.copy(bundle / "models" / "model_agnostic.pt", tmp_path / "mine.pt")
    given = changes | {"model": "auto", "brain_extraction": "none", "progress": False}
    model = load_model(bundle, overrides=given | ({"ckpt_path": weights} if named else {}))
    variant, models = model.variant(None if named else "t1"), bundle / "models"
    shipped = {name: str(models / f"{name}.json") for name in ("calibration", "domain")}
    assert {name: getattr(variant, name) for name in shipped} == shipped | changes
    assert str(variant.weights) == str(weights if named else models / "model.pt")
    assert model.variant("agnostic").domain == models / "domain_agnostic.json"
