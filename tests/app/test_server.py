"""The routes of the app, over a stand-in for the app that honours their contract: no network runs here."""

from __future__ import annotations

import gzip
import importlib
import json
import stat
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel")

from fastapi import FastAPI
from fastapi.testclient import TestClient
from itermask3d.files.scans import ScanError
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.utils.sessions import Sessions

SHAPE = (4, 5, 6)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
LOCAL = {"base_url": "http://127.0.0.1:8000", "client": ("127.0.0.1", 50000), "raise_server_exceptions": False}
PATIENCE_S = 60
"""Only reached where a test fails: nothing here waits for a clock."""

PARAMS: dict[str, Any] = {
    "outcome": "anomaly",
    "verdict": "1.2 ml flagged <b>",
    "score": 0.004,
    "percentile_among_normals": 93.0,
    "flagged_share": 0.003,
    "threshold": 0.71,
    "threshold_status": "found",
    "curve": [0.01 * step for step in range(99)] + [None],
    "fit": {"a": 0.08, "b": 0.015, "r_squared": 0.97},
    "volumes_ml": {"brain": 1400.0, "anomaly": 1.2, "mild": 1.0, "moderate": 0.2, "severe": 0.0},
    "components": [{"index": 1, "volume_ml": 1.2, "centroid_mm": [1.0, 2.0, 3.0], "peak_error": 1.5}],
    "warnings": ["The scan is small."],
    "note": "For research use only.",
    "image": "scan",
    "series": None,
    "versions": {"itermask3d": "0.1"},
    "latencies": {"total": 1.0},
}


class StandIn:
    """What the routes use of the app."""

    def __init__(self, folder: Path, request_error: type[Exception]) -> None:
        self.request_error = request_error
        self.store = folder
        self.conf: dict[str, str] = {}
        self.requests: list[dict[str, Any]] = []
        self.labels: list[np.ndarray] = []
        self.saved: list[dict[str, Any]] = []
        self.modes: list[int] = []
        self.mask = np.zeros(SHAPE, dtype=np.uint8)
        self.mask[1, 2, 3] = 2
        self.known: dict[str, dict[str, Any]] = {}
        self.running: dict[str, Any] | None = None
        self.monitor = SimpleNamespace(
            status=lambda: {"running": self.running, "waiting": 0, "finished": None}, waits=lambda image: False
        )
        self.results = SimpleNamespace(
            params=self.known.get,
            folder=lambda image: folder / "results",
            mask=lambda image: self.mask,
        )
        self.dropped_drafts: list[str] = []
        self.drafts = SimpleNamespace(drop=self.dropped_drafts.append)
        self.obstacle: Exception | None = None
        self.entered, self.release = threading.Event(), threading.Event()
        self.release.set()
        nib.save(nib.Nifti1Image(np.ones(SHAPE, dtype=np.float32), AFFINE), folder / "scan.nii.gz")

    def datastore(self) -> StandIn:
        return self

    def get_image_uri(self, image: str) -> str:
        path = self.store / f"{image}.nii.gz"
        return str(path) if path.is_file() else ""

    def sessions(self) -> Sessions:
        session = SimpleNamespace(image="scan", to_json=lambda: {"name": "one"})
        kept = Sessions(str(self.store / "sessions"))
        kept.get_session = {"one": session}.get
        return kept

    def info(self) -> dict[str, Any]:
        return {"models": {"itermask3d": {}}, "trainers": {"itermask3d": {}}, "strategies": {"random": {}}}

    def infer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.entered.set()
        assert self.release.wait(PATIENCE_S)
        if self.obstacle:
            raise self.obstacle
        if not request["model"].startswith("itermask3d"):
            raise MONAILabelException(MONAILabelError.INVALID_INPUT, f"There is no model '{request['model']}'")
        if request["image"] != "scan" and not Path(request["image"]).is_absolute():
            raise self.request_error(404, f"there is no image '{request['image']}'")
        self.requests.append(request)
        if "label" in request:
            self.labels.append(np.asarray(nib.load(request["label"]).dataobj))
        handle, name = tempfile.mkstemp(suffix=".nii.gz")
        open(handle, "wb").close()
        nib.save(nib.Nifti1Image(self.mask, AFFINE), name)
        self.known["scan"] = PARAMS
        return {"label": name, "tag": "original", "file": name, "params": PARAMS}

    def save_correction(self, image: str, label_path: Path, *, user: str = "", comment: str = "") -> dict[str, Any]:
        mask = np.asarray(nib.load(label_path).dataobj)
        self.saved.append({"image": image, "user": user, "comment": comment, "mask": mask})
        return {"image": image, "label": image, "user": user, "seg_series_uid": None, "empty": not mask.any()}

    def add_image(self, name: str, path: str, info: dict[str, Any]) -> str:
        self.modes.append(stat.S_IMODE(Path(path).stat().st_mode))
        if self.obstacle:
            raise self.obstacle
        return name

    def save_label(self, image: str, path: str, tag: str, info: dict[str, Any]) -> str:
        return self.add_image(image, path, info)

    def on_save_label(self, image: str, label: str) -> None:
        """Nothing that a test looks at."""

    def suggest_series(self, study: str) -> dict[str, Any]:
        raise self.request_error(404, f"a folder knows no study '{study}'")


@pytest.fixture
def server(app_modules: None) -> ModuleType:
    return importlib.import_module("lib.server")


@pytest.fixture
def instance(server: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    return StandIn(tmp_path, server.RequestError)


@pytest.fixture
def app(server: ModuleType, instance: StandIn) -> FastAPI:
    """An app like MONAI Label's, in which ours is installed as it starts."""
    made = FastAPI()

    @made.post("/infer/{model}")
    async def theirs(model: str) -> None:
        raise AssertionError("MONAI Label's own route must not be reached")

    @made.post("/activelearning/{strategy}")
    async def next_sample(strategy: str) -> dict[str, str]:
        return {"strategy": strategy}

    @made.get("/info/")
    async def info() -> dict[str, str]:
        return {"name": "app"}

    @made.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError("of something\nand a second line")

    server.install(made, instance)
    return made


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, **LOCAL) as made:
        yield made


def raw(mask: np.ndarray) -> dict[str, tuple[str, bytes]]:
    """A mask as OHIF posts it."""
    return {"label": ("label.bin", mask.astype(np.uint8).tobytes(order="F"))}


def scratch_files() -> list[Path]:
    return list(Path(tempfile.gettempdir()).iterdir())


@pytest.mark.parametrize("output", ["", "none", "all", "image", "json"])
@pytest.mark.parametrize("empty", [False, True])
def test_infer_answers_in_every_form_also_with_an_empty_mask(
    client: TestClient, instance: StandIn, output: str, empty: bool
) -> None:
    if empty:
        instance.mask[:] = 0
    answer = client.post("/infer/itermask3d", params={"image": "scan", "output": output})
    assert answer.status_code == 200, answer.text
    if output == "json":
        assert answer.json()["verdict"] == PARAMS["verdict"]
    elif output == "image":
        assert nib.Nifti1Image.from_bytes(_unzipped(answer.content)).shape == SHAPE
    else:
        assert answer.headers["content-type"].startswith("multipart/form-data")
        assert b'name="params"' in answer.content
        assert b'name="image"' in answer.content
    assert scratch_files() == []


def test_infer_passes_options_but_no_path_or_other_image_in_them(client: TestClient, instance: StandIn) -> None:
    params = {"gamma": "0.1", "image": "/etc/passwd", "model": "other", "label": "/etc/passwd"}
    client.post("/infer/itermask3d", params={"image": "scan", "output": "json"}, data={"params": json.dumps(params)})
    assert instance.requests == [{"gamma": "0.1", "image": "scan", "model": "itermask3d"}]


def test_infer_takes_an_upload_and_removes_it(client: TestClient, instance: StandIn) -> None:
    content = (instance.store / "scan.nii.gz").read_bytes()
    answer = client.post("/infer/itermask3d?output=json", files={"file": ("odd name.v2.nii.gz", content)})
    assert answer.status_code == 200
    assert instance.requests[0]["image"].endswith(".nii.gz")
    assert "odd" not in instance.requests[0]["image"]
    assert scratch_files() == []


@pytest.mark.parametrize("path", ["/datastore/", "/datastore/image"])
def test_a_new_scan_is_handed_on_in_a_file_of_ours_alone(client: TestClient, instance: StandIn, path: str) -> None:
    answer = client.put(path, files={"file": ("new.nii.gz", b"scan")})
    assert (answer.status_code, answer.json()) == (200, {"image": "new"})
    assert instance.modes == [0o600]
    assert scratch_files() == []


@pytest.mark.parametrize(
    ("query", "file", "status"),
    [
        ("?image=..%2Fnew", "new.nii.gz", 404),
        ("?image=.hidden", "new.nii.gz", 404),
        ("", ".nii.gz", 404),
        ("", "new.exe", 422),
        ("?image=scan", "new.nii.gz", 409),
        ("?image=full", "new.nii.gz", 507),
    ],
)
def test_a_refused_scan_leaves_nothing_behind(
    client: TestClient, instance: StandIn, query: str, file: str, status: int
) -> None:
    instance.obstacle = OSError(28, "No space left on device")
    before = (instance.store / "scan.nii.gz").read_bytes()
    answer = client.put(f"/datastore/{query}", files={"file": (file, b"scan")})
    assert answer.status_code == status, answer.text
    assert str(instance.store) not in answer.text
    assert scratch_files() == []
    assert (instance.store / "scan.nii.gz").read_bytes() == before


@pytest.mark.parametrize(("tag", "status"), [("original", 200), ("..", 422)])
def test_a_label_of_a_kind_is_kept_or_refused_and_its_upload_goes(
    client: TestClient, instance: StandIn, tag: str, status: int
) -> None:
    answer = client.put(f"/datastore/label?image=scan&tag={tag}", files={"label": ("l.nii.gz", b"label")})
    assert answer.status_code == status, answer.text
    assert instance.modes == [0o600] * (status == 200)
    assert scratch_files() == []


@pytest.mark.parametrize(
    ("names", "query", "status"),
    [(["a.nii.gz"], "", 200), (["a.dcm", "b.dcm"], "", 200), ([".a"], "", 404), (["a.zip"], "?uncompress=true", 422)],
)
def test_a_session_is_private_and_a_refused_one_leaves_nothing(
    client: TestClient, instance: StandIn, names: list[str], query: str, status: int
) -> None:
    files = [("files", (name, b"no archive")) for name in names]
    answer = client.put(f"/session/{query}", files=files)
    assert answer.status_code == status, answer.text
    assert status == 200 or str(instance.store) not in answer.text
    kept = instance.store / "sessions"
    assert [path for path in scratch_files() if any(path.rglob("a*"))] == []
    assert not kept.exists() or stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert len([path for path in kept.rglob("*") if path.suffix in (".gz", ".dcm")]) == len(names) * (status == 200)


def test_temporary_files_of_the_server_lie_in_a_folder_of_its_user_alone(
    app_modules: None, instance: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "")
    folder = importlib.import_module("lib.intake").private_scratch()
    assert folder.parent == instance.store / "scratch"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert tempfile.gettempdir() == str(folder)


def test_infer_takes_the_image_of_a_session(client: TestClient, instance: StandIn) -> None:
    assert client.post("/infer/itermask3d?output=json&session_id=one").status_code == 200
    assert instance.requests[0]["session"] == {"name": "one"}
    assert client.post("/infer/itermask3d?session_id=two").status_code == 404


def test_a_painted_label_arrives_on_the_grid_of_the_image(client: TestClient, instance: StandIn) -> None:
    drawn = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3
    answer = client.post("/infer/itermask3d_refine?image=scan&output=json", files=raw(drawn))
    assert answer.status_code == 200
    np.testing.assert_array_equal(instance.labels[0], drawn)
    assert scratch_files() == []


@pytest.mark.parametrize(
    ("query", "sent", "status", "words"),
    [
        ({"image": "scan", "output": "overview"}, {}, 422, "output is 'overview'"),
        ({"image": "scan", "output": "dicom_seg"}, {}, 422, "PACS"),
        ({}, {}, 422, "names no image"),
        ({"image": "other"}, {}, 404, "no image 'other'"),
        ({"image": "../scan"}, {}, 404, "not the name of an image"),
        ({"image": "/etc/passwd"}, {}, 404, "not the name of an image"),
        ({"image": ".hidden"}, {}, 404, "not the name of an image"),
        ({"image": "a\x00b"}, {}, 404, "not the name of an image"),
        ({"image": "scan"}, {"data": {"params": "{"}}, 422, "not readable as JSON"),
        ({"image": "scan"}, {"data": {"params": "[" * 100_000}}, 422, "not readable as JSON"),
        ({"image": "scan"}, {"data": {"params": "[1]"}}, 422, "expected an object"),
        ({}, {"files": {"file": ("scan.exe", b"MZ")}}, 422, "of no known type"),
        ({"image": "scan"}, {"files": {"label": ("label.bin", b"\0" * 7)}}, 422, "7 voxels"),
        ({"image": "other"}, {"files": {"label": ("label.bin", b"\0" * 7)}}, 404, "no image 'other'"),
    ],
)
def test_infer_says_what_is_wrong(
    client: TestClient, query: dict[str, str], sent: dict[str, Any], status: int, words: str
) -> None:
    answer = client.post("/infer/itermask3d", params=query, **sent)
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert scratch_files() == []


def test_an_unknown_model_is_not_found(client: TestClient) -> None:
    answer = client.post("/infer/other?image=scan")
    assert (answer.status_code, answer.json()["detail"]) == (404, "There is no model 'other'")


def test_every_failure_of_a_run_is_a_sentence(
    client: TestClient, instance: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    for obstacle, status in [
        (instance.request_error(503, "busy with another scan"), 503),
        (ScanError("the scan holds no brain"), 422),
        (RuntimeError("out of memory\nat line 3"), 500),
        (TimeoutError(), 500),
    ]:
        instance.obstacle = obstacle
        answer = client.post("/infer/itermask3d?image=scan&output=json")
        sentence = answer.json()["detail"]
        assert answer.status_code == status
        assert sentence
        assert "\n" not in sentence
        assert "Traceback" not in sentence
        if str(obstacle):
            assert str(obstacle).splitlines()[0] in sentence
            assert str(obstacle).splitlines()[0] in caplog.text
    instance.obstacle = None
    assert client.post("/infer/itermask3d?image=scan&output=json").status_code == 200


def test_an_error_names_no_temporary_file(client: TestClient, instance: StandIn) -> None:
    instance.obstacle = ScanError("'/tmp/itermask3d_ab12_xyz.nii.gz' cannot be read")
    answer = client.post("/infer/itermask3d", files={"file": ("scan.nii.gz", b"garbage")})
    assert (answer.status_code, answer.json()["detail"]) == (422, "the upload cannot be read")


def test_other_requests_are_answered_during_a_run(client: TestClient, instance: StandIn) -> None:
    instance.release.clear()
    with ThreadPoolExecutor(2) as pool:
        run = pool.submit(client.post, "/infer/itermask3d?image=scan&output=json")
        assert instance.entered.wait(PATIENCE_S)
        instance.running = {"model": "itermask3d", "image": "scan", "phase": "sweep", "done": 3, "total": 100}
        for path in ("/itermask3d/status", "/info/", "/ohif/app-config.js"):
            assert pool.submit(client.get, path).result(PATIENCE_S).status_code == 200
        assert pool.submit(client.get, "/itermask3d/status").result(PATIENCE_S).json()["running"]["done"] == 3
        assert not run.done()
        instance.release.set()
        assert run.result(PATIENCE_S).status_code == 200


def test_waiting_runs_leave_threads_for_the_others(client: TestClient, instance: StandIn, server: ModuleType) -> None:
    instance.release.clear()
    with ThreadPoolExecutor(server.MAX_WAITING + 2) as pool:
        path = "/infer/itermask3d?image=scan&output=json"
        runs = [pool.submit(client.post, path) for _ in range(server.MAX_WAITING + 1)]
        refused = next(run for run in iter_finished(runs))
        assert refused.status_code == 503
        assert "waiting" in refused.json()["detail"]
        assert pool.submit(client.get, "/itermask3d/status").result(PATIENCE_S).status_code == 200
        instance.release.set()
        assert sorted(run.result(PATIENCE_S).status_code for run in runs)[:-1] == [200] * server.MAX_WAITING


def iter_finished(runs: list[Any]) -> Iterator[Any]:
    for run in as_completed(runs, timeout=PATIENCE_S):
        yield run.result()


def test_refine_sends_the_edit_to_the_model_and_answers_with_params(client: TestClient, instance: StandIn) -> None:
    drawn = np.zeros(SHAPE)
    drawn[3, 0, 5] = 1
    answer = client.post(
        "/itermask3d/refine?image=scan", files=raw(drawn), data={"params": json.dumps({"grow_mm": "3"})}
    )
    assert answer.json() == PARAMS
    assert (instance.requests[0]["model"], instance.requests[0]["grow_mm"]) == ("itermask3d_refine", "3")
    np.testing.assert_array_equal(instance.labels[0], drawn)
    assert scratch_files() == []


@pytest.mark.parametrize("empty", [False, True])
def test_save_keeps_the_mask_with_the_name_of_who_drew_it(client: TestClient, instance: StandIn, empty: bool) -> None:
    drawn = np.full(SHAPE, 0 if empty else 1)
    answer = client.post("/itermask3d/save?image=scan&user=Reader%20One", files=raw(drawn))
    assert answer.status_code == 200
    assert answer.json()["empty"] is empty
    assert instance.saved[0]["user"] == "Reader One"
    np.testing.assert_array_equal(instance.saved[0]["mask"], drawn)
    assert instance.dropped_drafts == ["scan"]


@pytest.mark.parametrize("user", ["x" * 65, "a\nb", "a\\b"])
def test_save_refuses_a_name_that_dicom_cannot_hold(client: TestClient, instance: StandIn, user: str) -> None:
    answer = client.post("/itermask3d/save", params={"image": "scan", "user": user}, files=raw(np.zeros(SHAPE)))
    assert answer.status_code == 422
    assert instance.saved == []
    assert instance.dropped_drafts == []


@pytest.mark.parametrize("path", ["/itermask3d/save", "/itermask3d/refine"])
def test_a_label_is_needed_and_must_fit(client: TestClient, path: str) -> None:
    assert client.post(path, params={"image": "scan"}).status_code == 422
    assert isinstance(client.post(path, params={"image": "scan"}).json()["detail"], str)
    assert client.post(path, params={"image": "scan"}, files={"label": ("a.bin", b"")}).status_code == 422
    assert client.post(path, params={"image": "../scan"}, files=raw(np.zeros(SHAPE))).status_code == 404


def test_the_official_client_saves_an_empty_final_label(client: TestClient, instance: StandIn) -> None:
    path = instance.store / "drawn.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, dtype=np.uint8), AFFINE), path)
    files = {"label": ("drawn.nii.gz", path.read_bytes())}
    data = {"params": json.dumps({"user": "Reader", "comment": "nothing there"})}
    answer = client.put("/datastore/label?image=scan", files=files, data=data)
    assert answer.json()["empty"] is True
    assert (instance.saved[0]["user"], instance.saved[0]["comment"]) == ("Reader", "nothing there")


def test_a_label_of_another_tag_is_kept_on_the_grid_of_the_image_and_is_no_final_one(
    client: TestClient, instance: StandIn
) -> None:
    answer = client.put("/datastore/label?image=scan&tag=original", files=raw(np.zeros(SHAPE)))
    assert answer.json() == {"image": "scan", "label": "scan"}
    assert instance.saved == []
    assert scratch_files() == []


def test_result_is_empty_before_the_first_run_and_then_what_it_said(client: TestClient, instance: StandIn) -> None:
    before = client.get("/itermask3d/result?image=scan")
    assert (before.status_code, before.content) == (204, b"")
    instance.known["scan"] = PARAMS
    assert client.get("/itermask3d/result?image=scan").json() == PARAMS


def test_mask_is_raw_bytes_with_the_first_axis_fastest(client: TestClient, instance: StandIn) -> None:
    instance.known["scan"] = PARAMS
    answer = client.get("/itermask3d/mask?image=scan")
    shape = tuple(int(length) for length in answer.headers["x-shape"].split(","))
    np.testing.assert_array_equal(np.frombuffer(answer.content, np.uint8).reshape(shape, order="F"), instance.mask)


@pytest.mark.parametrize("change", [{}, {"curve": [None] * 100, "fit": {}, "threshold": None}, {"curve": []}])
def test_curve_is_a_picture_whatever_was_found(client: TestClient, instance: StandIn, change: dict[str, Any]) -> None:
    instance.known["scan"] = PARAMS | change
    answer = client.get("/itermask3d/curve.png?image=scan")
    assert answer.content.startswith(b"\x89PNG")


def test_picture_is_the_file_of_the_result(client: TestClient, instance: StandIn) -> None:
    instance.known["scan"] = PARAMS
    assert client.get("/itermask3d/overview.png?image=scan").status_code == 404
    (instance.store / "results").mkdir()
    (instance.store / "results" / "overview.png").write_bytes(b"\x89PNG")
    assert client.get("/itermask3d/overview.png?image=scan").content == b"\x89PNG"


def test_report_stands_alone_and_escapes_what_it_shows(client: TestClient, instance: StandIn) -> None:
    folder = instance.store / "results"
    folder.mkdir()
    (folder / "overview.png").write_bytes(b"\x89PNG")
    (folder / "result.json").write_text(json.dumps({"settings": {"gamma": 0.1, "more": {"seed": 0}}}))
    instance.known["scan"] = PARAMS | {"series": {"uid": "1.2", "description": "<script>alert(1)</script>"}}
    page = client.get("/itermask3d/report?image=scan").text
    for words in (
        "1.2 ml flagged &lt;b&gt;",
        "&lt;script&gt;",
        "For research use only.",
        "The scan is small.",
        "more.seed",
    ):
        assert words in page
    assert "<script" not in page
    assert "http" not in page
    assert page.count("<img") == page.count(' alt="Curve') + page.count(' alt="Three') == 2


@pytest.mark.parametrize("outcome", ["no_anomaly", "fit_failed"])
def test_report_copes_with_a_run_without_a_finding(client: TestClient, instance: StandIn, outcome: str) -> None:
    nothing = {"outcome": outcome, "verdict": "Nothing flagged", "score": None, "threshold": None, "components": []}
    instance.known["scan"] = nothing
    answer = client.get("/itermask3d/report?image=scan")
    assert answer.status_code == 200
    assert "Nothing flagged" in answer.text


@pytest.mark.parametrize("name", ["mask", "curve.png", "overview.png", "report"])
def test_what_is_not_there_is_not_found(client: TestClient, name: str) -> None:
    for image, words in (("scan", "no result yet"), ("../scan", "not the name of an image")):
        answer = client.get(f"/itermask3d/{name}", params={"image": image})
        assert (answer.status_code, words in answer.json()["detail"]) == (404, True)
    assert client.get(f"/itermask3d/{name}").status_code == 422


def test_series_of_a_folder_are_not_found(client: TestClient) -> None:
    assert client.get("/itermask3d/series?study=1.2.3").status_code == 404


def test_ohif_loads_the_panel_after_its_own_configuration(client: TestClient, server: ModuleType) -> None:
    text = client.get("/ohif/app-config.js").text
    shipped = importlib.import_module("lib.ohif").FOLDER / "app-config.js"
    assert text.startswith(shipped.read_text())
    for name in ("panel.js", "panel.css"):
        assert f"/itermask3d/{name}" in text
    for name in ("panel.js", "viewer.js", "panel.css"):
        assert client.get(f"/itermask3d/{name}").status_code == 200


def test_the_page_asks_nobody_else_and_builds_no_html_from_text(server: ModuleType) -> None:
    for path in server.PANEL.iterdir():
        text = path.read_text()
        for word in ("http:", "https:", "eval(", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"):
            assert word not in text


@pytest.mark.parametrize(
    ("client_host", "headers", "allowed"),
    [
        ("127.0.0.1", {}, True),
        ("::1", {"host": "[::1]:8000"}, True),
        ("::ffff:127.0.0.1", {"host": "localhost:8000"}, True),
        ("127.0.0.1", {"origin": "http://localhost:3000"}, True),
        ("192.0.2.7", {}, False),
        ("127.0.0.1", {"host": "rebound.example"}, False),
        ("127.0.0.1", {"origin": "https://elsewhere.example"}, False),
        ("127.0.0.1", {"origin": "null"}, False),
    ],
)
def test_only_this_machine_is_answered(app: FastAPI, client_host: str, headers: dict[str, str], allowed: bool) -> None:
    client = TestClient(app, **(LOCAL | {"client": (client_host, 50000)}))
    for path in ("/info/", "/itermask3d/status"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == (200 if allowed else 403)
        assert allowed or "--conf remote true" in answer.json()["detail"]


def test_remote_opens_the_server_to_others(app: FastAPI, instance: StandIn, server: ModuleType) -> None:
    instance.conf["remote"] = "true"
    server.install(app, instance)
    assert TestClient(app, **(LOCAL | {"client": ("192.0.2.7", 50000)})).get("/info/").status_code == 200


def test_a_second_install_replaces_the_first(app: FastAPI, instance: StandIn, server: ModuleType) -> None:
    before = len(app.router.routes), len(app.user_middleware)
    server.install(app, instance)
    assert (len(app.router.routes), len(app.user_middleware)) == before


@pytest.mark.parametrize("path", ["/train/x", "/scoring/x", "/activelearning/x", "/batch/infer/x"])
def test_unknown_names_are_not_found(client: TestClient, path: str) -> None:
    answer = client.post(path, json={})
    assert answer.status_code == 404
    assert "There is no 'x'" in answer.json()["detail"]


def test_known_names_reach_monai_label(client: TestClient) -> None:
    assert client.post("/activelearning/random").json() == {"strategy": "random"}


def test_an_unexpected_failure_anywhere_is_a_sentence(client: TestClient) -> None:
    answer = client.get("/broken")
    assert answer.status_code == 500
    assert answer.json()["detail"].startswith("The server failed unexpectedly (ZeroDivisionError: of something)")


def _unzipped(content: bytes) -> bytes:
    return gzip.decompress(content)


def test_why_a_run_failed_is_kept_until_the_next_one_and_cancelling_is_no_failure(
    client: TestClient, instance: StandIn
) -> None:
    def failure() -> Any:
        return client.get("/itermask3d/status?image=scan").json()["failure"]

    for status, message, kept in ((422, "no brain", "no brain"), (409, "cancelled", None)):
        instance.obstacle = instance.request_error(status, message)
        assert client.post("/infer/itermask3d?image=scan&output=json").status_code == status
        assert failure() == kept
    instance.obstacle = instance.request_error(422, "no brain")
    client.post("/infer/itermask3d?image=scan&output=json")
    instance.obstacle = None
    assert client.post("/infer/itermask3d?image=scan&output=json").status_code == 200
    assert failure() is None


def test_a_run_is_cancelled_by_its_image(client: TestClient, instance: StandIn) -> None:
    cancelled: list[str] = []
    instance.monitor.cancel = cancelled.append
    assert client.post("/itermask3d/cancel?image=scan").json() == {"image": "scan", "cancelled": True}
    assert cancelled == ["scan"]
    assert client.post("/itermask3d/cancel?image=../x").status_code == 404
