"""The panel in OHIF, in a real browser against a stand-in for OHIF and for the server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import Browser, Page, Request, Response, Route, expect, sync_playwright

PANEL = Path(__file__).resolve().parents[2] / "monailabel_app" / "lib" / "panel"
ORIGIN = "http://127.0.0.1:8765"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND"]

RESULT: dict[str, Any] = {
    "outcome": "anomaly",
    "verdict": "1.2 ml flagged <img src=x onerror=alert(1)>",
    "score": 0.00463,
    "percentile_among_normals": 93.2,
    "volumes_ml": {"anomaly": 1.2},
    "threshold": 0.713,
    "headline": "2 unusual regions <img src=x onerror=alert(1)>",
    "components": [
        {
            "index": 2,
            "volume_ml": 1.2,
            "centroid_mm": [10, 20, 30],
            "centre_mm": [11, 20, 30],
            "severity": "severe",
            "place": "right frontal lobe",
        },
        {"index": 1, "volume_ml": 7.04, "centroid_mm": [-1, -2, 3], "severity": "mild", "place": "left insular region"},
        {"index": 3, "volume_ml": 0.04, "centroid_mm": [0, 0, 0], "severity": "mild", "place": ""},
    ],
    "warnings": ["The scan is small.", "It is tilted.", "It is old."],
    "deviations": ["noise 3.2; expected at most 2"],
}
INFO = {
    "labels": ["anomaly 1 mild", "anomaly 2 moderate", "anomaly 3 severe", "anomaly"],
    "models": {"itermask3d": {"type": "segmentation", "labels": {"anomaly 1 mild": 1}}},
}

VIEWER = """
<!doctype html><html><head><link rel="stylesheet" href="/itermask3d/panel.css"></head><body>
<div class="cornerstone-viewport-element" tabindex="0"></div><div id="side"></div>
<script>window.config = {extensions: []};</script><script src="/itermask3d/dock.js"></script><script>
  const displaySets = {
    a: {Modality: 'MR', SeriesInstanceUID: '1.1', StudyInstanceUID: '1', SeriesDescription: 'T1', imageIds: ['a0']},
    b: {Modality: 'MR', SeriesInstanceUID: '1.2', StudyInstanceUID: '1', SeriesDescription: 'T2', imageIds: ['b0']},
  };
  window.fake = {
    shown: 'a', segmentations: [], voxels: new Uint8Array(8), jumps: [], events: [], tool: 'WindowLevel', painted: 0,
  };
  const grid = () => ({
    activeViewportId: 'v', viewports: new Map([['v', {displaySetInstanceUIDs: [fake.shown]}]]),
  });
  window.services = {
    viewportGridService: {getState: grid, setDisplaySetsForViewports: ([{id}]) => { fake.shown = id; }},
    displaySetService: {
      getDisplaySetByUID: id => displaySets[id],
      activeDisplaySets: Object.entries(displaySets).map(([id, one]) => ({displaySetInstanceUID: id, ...one})),
    },
    hangingProtocolService: {getViewportsRequireUpdate: (viewport, id) => [{viewport, id}]},
    toolbarService: {refreshToolbarState() {}},
    toolGroupService: {getToolGroupForViewport: () => ({getActivePrimaryMouseButtonTool: () => fake.tool})},
    cornerstoneViewportService: {
      getCornerstoneViewport: () => ({
        type: 'orthographic', getAllVolumeIds: () => ['scan'], jumpToWorld: point => fake.jumps.push(point),
      }),
    },
    segmentationService: {
      getSegmentations: () => fake.segmentations,
      getSegmentation: id => fake.segmentations.find(one => one.segmentationId === id),
      getActiveSegmentation: () => fake.segmentations[0],
      getViewportIdsWithSegmentation: () => ['v'],
      setSegmentColor() { fake.painted += 1; },
      addSegment(id, segment) { this.getSegmentation(id).segments[segment.segmentIndex] = segment; },
      getLabelmapVolume: () => ({voxelManager: {
        getCompleteScalarDataArray: () => fake.voxels,
        setCompleteScalarDataArray: values => { fake.voxels = values; },
      }}),
    },
  };
  // What OHIF does with an extension: it asks for its panel, and makes an element of what the panel returns.
  const [extension] = window.config.extensions;
  const [panel] = extension.getPanelModule();
  const side = document.querySelector('#side');
  window.fake.panels = {left: ['studies'], right: ['monailabel']};
  window.fake.showPanel = () => {
    const {type, ref, props} = panel.component();
    const place = Object.assign(document.createElement(type), props);
    side.replaceChildren(place);
    ref(place);
    window.fake.hidePanel = () => { side.replaceChildren(); ref(null); };
  };
  window.services.panelService = {
    getPanels: where => window.fake.panels[where].map(id => ({id})),
    setPanels: panels => { window.fake.panels = panels; window.fake.showPanel(); },
    activatePanel: id => window.fake.panels.right.includes(id) && window.fake.showPanel(),
  };
  extension.onModeEnter({servicesManager: {services: window.services}});
  window.commandsManager = {runCommand: (name, options) => {
    if (name === 'setToolActiveToolbar') { fake.tool = options.toolName; return; }
    const {segmentationId, config} = options.segmentations[0];
    const representationData = {Labelmap: {imageIds: ['seg-' + fake.shown]}};
    fake.segmentations.push({segmentationId, segments: config.segments, representationData});
  }};
  window.cornerstone = {
    cache: {getImage: id => ({referencedImageId: id.split('-')[1] + '0'}), 
      getVolume: id => id === 'scan' ? {loadStatus: {loaded: true}} : null,
    },
    eventTarget: new EventTarget(),
    triggerEvent: (target, name, detail) => {
      fake.events.push(detail.segmentationId);
      target.dispatchEvent(new Event(name));
    },
    utilities: {},
  };
  window.fake.stroke = values => { // what a brush leaves
    fake.voxels = Uint8Array.from(values);
    window.cornerstone.eventTarget.dispatchEvent(new Event('modified'));
  };
  window.cornerstoneTools = {
    Enums: {SegmentationRepresentations: {Labelmap: 'Labelmap'}, Events: {SEGMENTATION_DATA_MODIFIED: 'modified'}},
    utilities: {segmentation: {setBrushSizeForToolGroup() {}}},
  };
</script><script type="module" src="/itermask3d/panel.js"></script></body></html>
"""


def drawing_of(sent: bytes) -> bytes:
    """The voxels of a draft that comes as runs."""
    numbers, shift, number = [], 0, 0
    for byte in sent:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(number)
            shift = number = 0
    length, _, *pairs = numbers
    voxels, place = bytearray(length), 0
    for gap, value in zip(pairs[::2], pairs[1::2], strict=True):
        place += gap
        voxels[place:] = bytes([value]) * (length - place)
    return bytes(voxels)


class Backend:
    """What the server answers; tests change it."""

    def __init__(self) -> None:
        self.result: dict[str, Any] | None = None
        self.status: dict[str, Any] = {"running": None, "waiting": 0, "finished": None}
        self.failures: dict[str, tuple[int, Any]] = {}
        self.saved = {"seg_series_uid": "1.2.3", "empty": False}
        self.mask = bytes([0, 1, 2, 3, 0, 0, 0, 0])
        self.posted: list[tuple[str, dict[str, list[str]], bytes]] = []
        self.refined = RESULT
        self.draft: bytes | None = None
        self.drafted: list[bytes] = []
        self.draft_steps: list[int] = []
        self.dropped = 0
        self.is_silent = False
        self.outside: list[str] = []

    def answer(self, route: Route, request: Request) -> None:
        url = urlsplit(request.url)
        if not request.url.startswith(ORIGIN):
            self.outside.append(request.url)
            route.abort()
        elif self.is_silent:
            route.abort("connectionrefused")
        elif url.path in self.failures:
            status, body = self.failures[url.path]
            route.fulfill(status=status, json=body)
        elif url.path.startswith("/ohif"):
            route.fulfill(body=VIEWER, content_type="text/html")
        elif (PANEL / Path(url.path).name).is_file():
            route.fulfill(path=PANEL / Path(url.path).name)
        else:
            self._data(route, request, url.path)

    def _data(self, route: Route, request: Request, path: str) -> None:
        if request.method == "POST":
            self.posted.append((path, parse_qs(urlsplit(request.url).query), request.post_data_buffer or b""))
        if path == "/itermask3d/draft":
            self._draft(route, request)
        elif path == "/itermask3d/result" and self.result is None:
            route.fulfill(status=204)
        elif path == "/itermask3d/mask":
            route.fulfill(body=self.mask, content_type="application/octet-stream")
        elif path == "/itermask3d/series":
            chosen = {"uid": "1.1", "description": "T1", "number": 3}
            route.fulfill(json={"chosen": chosen, "series": [{"uid": "1.2", "reason": "it is T2."}]})
        elif path == "/itermask3d/save":
            route.fulfill(json=self.saved)
        else:
            known = {"/itermask3d/status": self.status, "/itermask3d/result": self.result, "/info/": INFO}
            known["/itermask3d/refine"] = self.refined
            route.fulfill(json=known.get(path, RESULT))

    def _draft(self, route: Route, request: Request) -> None:
        if request.method == "GET" and self.draft is not None:
            route.fulfill(body=self.draft, headers={"X-Kept": "2026-01-02T03:04:05+00:00"})
            return
        if request.method == "PUT":
            sent = request.post_data_buffer or b""
            start = sent.index(b"\r\n\r\n") + 4
            self.drafted.append(drawing_of(sent[start : sent.rindex(b"\r\n--")]))
            self.draft_steps.append(int(parse_qs(urlsplit(request.url).query)["step"][0]))
        if request.method == "DELETE":
            self.draft = None
            self.dropped += 1
        route.fulfill(status=204)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("this test needs chromium on the PATH")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def page(browser: Browser, backend: Backend) -> Iterator[Page]:
    """A page of the stand-in viewer; a script error fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    made = context.new_page()
    errors: list[str] = []
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on("dialog", lambda dialog: errors.append(dialog.message))
    made.route("**/*", backend.answer)
    yield made
    context.close()
    assert errors == []
    assert backend.outside == []


def open_viewer(page: Page) -> None:
    page.goto(f"{ORIGIN}/ohif/monai-label")
    expect(page.locator("#itermask3d-card")).to_be_visible()


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def status(page: Page) -> Any:
    return page.locator(".itermask3d-status")


def test_idle_panel_names_the_series_and_offers_what_can_be_done(page: Page) -> None:
    open_viewer(page)
    card = page.locator("#itermask3d-card")
    for words in ("IterMask3D", "research use only", "Series: T1", "No result for this series yet."):
        expect(card).to_contain_text(words)
    expect(page.get_by_role("button", name="Find anomalies")).to_be_enabled()
    expect(page.get_by_role("link", name="Open report")).to_be_hidden()
    expect(page.locator(".itermask3d-bar")).to_be_hidden()


def test_panel_is_the_first_tab_of_the_right_side_and_keeps_its_state_when_folded(page: Page) -> None:
    open_viewer(page)
    assert page.evaluate("fake.panels") == {
        "left": ["studies"], "right": ["itermask3d.panelModule.answer", "monailabel"]
    }  # fmt: skip
    page.get_by_label("Your name, stored with the saved mask").fill("Reader One")
    page.evaluate("fake.hidePanel()")
    expect(page.locator("#itermask3d-card")).to_have_count(0)
    page.evaluate("fake.showPanel()")
    expect(page.get_by_label("Your name, stored with the saved mask")).to_have_value("Reader One")


def test_shortcut_leads_to_the_panel_even_when_folded_and_escape_leads_back(page: Page) -> None:
    open_viewer(page)
    page.locator(".cornerstone-viewport-element").focus()
    page.keyboard.press("Alt+p")
    expect(page.locator("#itermask3d-card")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".cornerstone-viewport-element")).to_be_focused()
    page.evaluate("fake.hidePanel()")
    page.keyboard.press("Alt+p")
    expect(page.locator("#itermask3d-card")).to_be_focused()


def test_server_address_is_set_for_the_panel_of_monai_label(page: Page) -> None:
    page.context.add_cookies(
        [
            {
                "name": "MONAILABEL_SERVER_URL",
                "value": "http%3A%2F%2F127.0.0.1%3A8000%2F",
                "domain": "127.0.0.1",
                "path": "/ohif",
            }
        ]
    )
    open_viewer(page)
    assert page.evaluate("document.cookie") == "MONAILABEL_SERVER_URL=http%3A%2F%2F127.0.0.1%3A8765%2F"


def test_progress_of_a_run_is_shown_and_nothing_else_can_start(page: Page, backend: Backend) -> None:
    run = {"model": "itermask3d", "image": "1.1", "phase": "sweep", "share": 0.4, "seconds_left": 23}
    backend.status = {"running": run, "waiting": 0, "finished": None}
    open_viewer(page)
    expect(status(page)).to_have_text("Sweeping the mask")  # a screen reader says each phase once, and no figures
    expect(page.locator(".itermask3d-bar")).to_have_js_property("value", 0.4)
    expect(page.locator("#itermask3d-card")).to_contain_text("about 25 s left")
    expect(page.get_by_role("button", name="Find anomalies")).to_be_disabled()


def test_options_are_sent_only_where_somebody_chose_them(page: Page, backend: Backend) -> None:
    open_viewer(page)
    press(page, "Find anomalies")
    expect(status(page)).to_have_text("Done: the mask is shown.")
    assert b"{}" in backend.posted[-1][2]
    page.get_by_text("Options").click()
    page.get_by_label("Drop regions below (ml)").fill("2,5")
    page.get_by_label("Compute again although there is a result").check()
    press(page, "Find anomalies")
    expect(status(page)).to_have_text("Done: the mask is shown.")
    assert b'{"min_volume_ml":"2.5","fresh":"true"}' in backend.posted[-1][2]
    page.get_by_label("Limit when refining").select_option("stricter")
    press(page, "Refine from my edit")
    expect(status(page)).to_have_text("Refined from your edit.")
    assert b'"strictness":"stricter"' in backend.posted[-1][2]


def test_a_run_is_cancelled_by_a_button(page: Page, backend: Backend) -> None:
    backend.status = {"running": {"image": "1.1", "phase": "shrink", "share": 0.8}, "waiting": 0, "finished": None}
    open_viewer(page)
    with page.expect_request("**/itermask3d/cancel?image=1.1"):
        press(page, "Cancel")
    backend.status = {"running": None, "waiting": 0, "finished": None}
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()


def test_a_run_that_waits_for_its_turn_is_cancelled_by_a_button(page: Page, backend: Backend) -> None:
    other = {"image": "1.2", "phase": "sweep", "share": 0.2}
    backend.status = {"running": other, "waiting": 1, "waits": True, "finished": None}
    open_viewer(page)
    expect(status(page)).to_have_text("Waiting for another run to end")
    with page.expect_request("**/itermask3d/cancel?image=1.1"):
        press(page, "Cancel")


def test_why_the_last_run_failed_is_still_told_after_a_reload(page: Page, backend: Backend) -> None:
    backend.status = {**backend.status, "failure": "the scan holds no brain"}
    open_viewer(page)
    expect(page.get_by_role("alert")).to_have_text("The last run failed: the scan holds no brain")


def test_an_earlier_result_opens_on_its_most_severe_region_as_text_and_never_as_html(
    page: Page, backend: Backend
) -> None:
    backend.result = RESULT
    open_viewer(page)
    expect(page.locator(".itermask3d-verdict")).to_have_text(RESULT["headline"])
    expect(status(page)).to_have_text("The mask is shown.")
    assert page.evaluate("[...fake.voxels]") == [0, 2, 3, 4, 0, 0, 0, 0]
    assert page.evaluate("fake.jumps") == [[-11, -20, 30]]
    expect(page.get_by_role("link", name="Open report")).to_have_attribute("href", "/itermask3d/report?image=1.1")


def test_regions_are_rows_that_lead_to_their_place(page: Page, backend: Backend) -> None:
    backend.result = RESULT
    open_viewer(page)
    expect(status(page)).to_have_text("The mask is shown.")
    rows = page.locator(".itermask3d-region")
    expect(rows).to_have_text(["severe · right frontal lobe 1.2 ml", "mild · left insular region 7.0 ml"])
    expect(page.locator(".itermask3d-result")).to_contain_text("1 smaller than 0.1 ml not listed")
    press(page, "mild · left insular region 7.0 ml")
    assert page.evaluate("fake.jumps.at(-1)") == [1, 2, 3]


def test_figures_and_all_but_two_warnings_are_folded_until_asked_for(page: Page, backend: Backend) -> None:
    backend.result = RESULT
    open_viewer(page)
    expect(page.locator(".itermask3d-warning:visible")).to_have_text(["The scan is small.", "It is tilted."])
    expect(page.locator(".itermask3d-facts")).to_be_hidden()
    page.get_by_text("1 more to know").click()
    expect(page.locator(".itermask3d-warning:visible")).to_have_count(3)
    page.get_by_text("What is this score?").click()
    expect(page.locator(".itermask3d-result")).to_contain_text("Score 0.005, higher than 93 % of normal scans.")
    page.get_by_text("Technical values").click()
    expect(page.locator(".itermask3d-facts")).to_contain_text("0.0046")
    expect(page.locator(".itermask3d-result")).to_contain_text("noise 3.2; expected at most 2")


def test_find_runs_the_model_and_puts_the_mask_into_the_viewer(page: Page, backend: Backend) -> None:
    open_viewer(page)
    press(page, "Find anomalies")
    expect(status(page)).to_have_text("Done: the mask is shown.")
    assert backend.posted[0][:2] == ("/infer/itermask3d", {"image": ["1.1"], "output": ["json"]})
    assert page.evaluate("fake.segmentations.map(one => one.segmentationId)") == ["1"]
    assert page.evaluate("fake.events") == ["1"]
    assert page.evaluate("[...fake.voxels]") == [0, 2, 3, 4, 0, 0, 0, 0]  # "anomaly" sorts first and is segment 1
    assert page.evaluate("fake.jumps.length") == 1


def test_refine_sends_what_is_drawn_as_the_servers_values(page: Page, backend: Backend) -> None:
    open_viewer(page)
    press(page, "Find anomalies")
    expect(status(page)).to_have_text("Done: the mask is shown.")
    page.evaluate("fake.voxels = Uint8Array.from([1, 2, 3, 4, 0, 0, 0, 9])")
    press(page, "Refine from my edit")
    expect(status(page)).to_have_text("Refined from your edit.")
    path, query, body = backend.posted[-1]
    assert (path, query) == ("/itermask3d/refine", {"image": ["1.1"]})
    assert b'filename="label.bin"' in body
    assert bytes([1, 1, 2, 3, 0, 0, 0, 1]) in body
    assert page.evaluate("[...fake.voxels]") == [0, 2, 3, 4, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("saved", "sentence"),
    [
        ({"seg_series_uid": "1.2.3", "empty": False}, "Mask saved in the PACS as series 1.2.3."),
        ({"seg_series_uid": "1.2.3", "empty": True}, "Empty mask saved: no finding, in the PACS as series 1.2.3."),
        ({"seg_series_uid": None, "empty": False}, "Mask saved in the datastore."),
        (
            {"seg_series_uid": None, "empty": False, "warnings": ["The mask is kept on this server, not in the PACS."]},
            "Mask saved in the datastore. The mask is kept on this server, not in the PACS.",
        ),
    ],
)
def test_save_says_where_the_mask_went_and_remembers_the_name(
    page: Page, backend: Backend, saved: dict[str, Any], sentence: str
) -> None:
    backend.saved = saved
    open_viewer(page)
    press(page, "Find anomalies")
    expect(status(page)).to_have_text("Done: the mask is shown.")
    page.get_by_label("Your name, stored with the saved mask").fill("Reader One")
    press(page, "Save to PACS")
    expect(status(page)).to_have_text(sentence)
    assert backend.posted[-1][:2] == ("/itermask3d/save", {"image": ["1.1"], "user": ["Reader One"]})
    page.reload()
    expect(page.get_by_label("Your name, stored with the saved mask")).to_have_value("Reader One")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"detail": "the scan holds no brain"}, "the scan holds no brain"),
        ({"detail": [{"loc": []}]}, "The server answered 422."),
        ({}, "The server answered 422."),
    ],
)
def test_an_error_of_the_server_is_a_sentence_in_the_panel(
    page: Page, backend: Backend, body: dict[str, Any], sentence: str
) -> None:
    backend.failures["/infer/itermask3d"] = (422, body)
    open_viewer(page)
    press(page, "Find anomalies")
    expect(page.get_by_role("alert")).to_have_text(sentence)
    expect(page.get_by_role("button", name="Find anomalies")).to_be_enabled()


def test_saving_nothing_drawn_says_what_to_do(page: Page) -> None:
    open_viewer(page)
    press(page, "Save to PACS")
    expect(page.get_by_role("alert")).to_contain_text("Nothing is drawn on this series yet")


def test_a_mask_of_another_size_is_refused(page: Page, backend: Backend) -> None:
    backend.mask = bytes(7)
    open_viewer(page)
    press(page, "Find anomalies")
    expect(page.get_by_role("alert")).to_contain_text("The mask has 7 voxels and the viewer 8")


def test_panel_follows_the_series_and_names_a_better_one(page: Page, backend: Backend) -> None:
    backend.result = RESULT
    open_viewer(page)
    expect(page.locator(".itermask3d-verdict")).to_be_visible()
    expect(page.locator(".itermask3d-hint")).to_be_hidden()
    backend.result = None
    page.evaluate("fake.shown = 'b'")
    expect(page.locator(".itermask3d-series")).to_have_text("Series: T2")
    expect(page.locator(".itermask3d-hint")).to_have_text("Series 3 (T1) suits the model better. It is T2.")
    expect(page.locator(".itermask3d-verdict")).to_have_count(0)
    press(page, "Show series 3")
    expect(page.locator(".itermask3d-series")).to_have_text("Series: T1")
    expect(page.get_by_role("button", name="Show series 3")).to_be_hidden()
    page.evaluate("fake.shown = 'none'")
    expect(page.locator("#itermask3d-card")).to_be_hidden()


def test_a_second_series_gets_a_segmentation_of_its_own(page: Page) -> None:
    open_viewer(page)
    press(page, "Find anomalies")
    expect(status(page)).to_have_text("Done: the mask is shown.")
    page.evaluate("fake.shown = 'b'")
    expect(page.locator(".itermask3d-series")).to_have_text("Series: T2")
    press(page, "Find anomalies")
    expect(status(page)).to_have_text("Done: the mask is shown.")
    assert page.evaluate("fake.segmentations.map(one => one.segmentationId)") == ["1", "itermask3d-1.2"]


def test_a_run_that_somebody_else_asked_for_is_shown_when_it_ends(page: Page, backend: Backend) -> None:
    with page.expect_response("**/itermask3d/status?*"):
        open_viewer(page)
    expect(page.locator(".itermask3d-empty")).to_be_visible()
    backend.result = RESULT
    finished = {"image": "1.1", "model": "itermask3d", "id": 1, "ok": True, "message": ""}
    backend.status = {"running": None, "waiting": 0, "finished": finished}
    expect(page.locator(".itermask3d-verdict")).to_be_visible()
    backend.status = backend.status | {"finished": finished | {"id": 2, "ok": False, "message": "No brain was found."}}
    expect(page.get_by_role("alert")).to_have_text("No brain was found.")


def test_brush_is_switched_on_and_off(page: Page) -> None:
    open_viewer(page)
    press(page, "Brush")
    expect(page.get_by_role("button", name="Brush")).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("fake.tool") == "SphereBrush"
    press(page, "Brush")
    expect(page.get_by_role("button", name="Brush")).to_have_attribute("aria-pressed", "false")


def draw(page: Page, backend: Backend, voxels: list[int], draft: list[int]) -> None:
    """A stroke, and wait until it is the draft on the server."""

    def is_kept(answer: Response) -> bool:
        return answer.request.method == "PUT" and backend.drafted[-1] == bytes(draft)

    with page.expect_response(is_kept):
        page.evaluate("voxels => fake.stroke(voxels)", voxels)


def find_and_draw(page: Page, backend: Backend) -> None:
    """A run, then a stroke beside it: segment 1 is what a person draws, which the server hears of as 4."""
    open_viewer(page)
    press(page, "Find anomalies")
    expect(status(page)).to_have_text("Done: the mask is shown.")
    draw(page, backend, [1, 2, 3, 4, 0, 0, 0, 0], [4, 1, 2, 3, 0, 0, 0, 0])


def test_strokes_are_undone_and_redone_by_keyboard_and_keep_their_segment(page: Page, backend: Backend) -> None:
    find_and_draw(page, backend)
    draw(page, backend, [1, 2, 3, 4, 1, 0, 0, 0], [4, 1, 2, 3, 4, 0, 0, 0])
    for keys, voxels in (
        ("Control+z", [1, 2, 3, 4, 0, 0, 0, 0]),
        ("Control+z", [0, 2, 3, 4, 0, 0, 0, 0]),
        ("Control+Shift+Z", [1, 2, 3, 4, 0, 0, 0, 0]),
    ):
        page.keyboard.press(keys)
        page.wait_for_function("wanted => [...fake.voxels].join() === wanted.join()", arg=voxels)


def test_a_refinement_is_undone_with_what_the_panel_said(page: Page, backend: Backend) -> None:
    find_and_draw(page, backend)
    backend.mask = bytes([3, 3, 3, 3, 3, 0, 0, 0])
    backend.refined = RESULT | {"headline": "Refined."}
    with page.expect_response("**/itermask3d/refine?*"):
        press(page, "Refine from my edit")
    expect(status(page)).to_have_text("Refined from your edit.")
    assert page.evaluate("[...fake.voxels]") == [4, 4, 4, 4, 4, 0, 0, 0]
    expect(page.locator(".itermask3d-verdict")).to_have_text("Refined.")
    press(page, "Undo")
    page.wait_for_function("[...fake.voxels].join() === '1,2,3,4,0,0,0,0'")
    expect(page.locator(".itermask3d-verdict")).to_have_text(RESULT["headline"])


def test_a_run_is_undone_to_nothing_and_redone(page: Page) -> None:
    open_viewer(page)
    press(page, "Find anomalies")
    expect(status(page)).to_have_text("Done: the mask is shown.")
    press(page, "Undo")
    expect(page.locator(".itermask3d-empty")).to_be_visible()
    assert page.evaluate("fake.voxels.some(Boolean)") is False
    press(page, "Redo")
    expect(page.locator(".itermask3d-verdict")).to_have_text(RESULT["headline"])
    assert page.evaluate("[...fake.voxels]") == [0, 2, 3, 4, 0, 0, 0, 0]


def test_strokes_become_a_draft_on_the_server_and_saving_ends_the_question(page: Page, backend: Backend) -> None:
    find_and_draw(page, backend)
    draw(page, backend, [1, 2, 3, 4, 1, 0, 0, 0], [4, 1, 2, 3, 4, 0, 0, 0])
    assert page.evaluate("!dispatchEvent(new Event('beforeunload', {cancelable: true}))")
    press(page, "Save to PACS")
    expect(status(page)).to_contain_text("Mask saved")
    assert page.evaluate("dispatchEvent(new Event('beforeunload', {cancelable: true}))")


def test_a_draft_is_offered_after_a_reload_and_comes_back_with_its_colours(page: Page, backend: Backend) -> None:
    backend.result, backend.draft = RESULT, bytes([4, 4, 2, 3, 0, 0, 0, 0])
    open_viewer(page)
    expect(page.locator(".itermask3d-question")).to_contain_text("was not saved")
    press(page, "Restore it")
    expect(status(page)).to_contain_text("Your drawing is back")
    assert page.evaluate("[...fake.voxels]") == [1, 1, 3, 4, 0, 0, 0, 0]
    assert page.evaluate("!dispatchEvent(new Event('beforeunload', {cancelable: true}))")


def test_a_draft_that_is_not_wanted_is_gone(page: Page, backend: Backend) -> None:
    backend.draft = bytes(8)
    open_viewer(page)
    with page.expect_request(lambda request: request.method == "DELETE"):
        press(page, "Discard it")
    expect(page.locator(".itermask3d-question")).to_be_hidden()
    assert backend.draft is None


def test_nothing_unsaved_is_replaced_without_a_question(page: Page, backend: Backend) -> None:
    find_and_draw(page, backend)
    runs = len(backend.posted)
    press(page, "Find anomalies")
    press(page, "Keep it")
    assert len(backend.posted) == runs
    assert page.evaluate("[...fake.voxels]") == [1, 2, 3, 4, 0, 0, 0, 0]
    press(page, "Find anomalies")
    press(page, "Replace it")
    page.wait_for_function("[...fake.voxels].join() === '0,2,3,4,0,0,0,0'")


def finish_a_run_of_somebody_else(backend: Backend) -> None:
    finished = {"image": "1.1", "model": "itermask3d", "id": 1, "ok": True, "message": ""}
    backend.status = {"running": None, "waiting": 0, "finished": finished}


def asks_before_leaving(page: Page) -> bool:
    return not page.evaluate("dispatchEvent(new Event('beforeunload', {cancelable: true}))")


def test_a_run_of_somebody_else_leaves_unsaved_strokes_and_their_draft(page: Page, backend: Backend) -> None:
    find_and_draw(page, backend)
    before = page.evaluate("fake.painted")
    finish_a_run_of_somebody_else(backend)
    page.wait_for_function("before => fake.painted > before", arg=before)
    draw(page, backend, [1, 2, 3, 4, 1, 0, 0, 0], [4, 1, 2, 3, 4, 0, 0, 0])
    assert backend.dropped == 0
    assert asks_before_leaving(page)


def test_a_mask_that_another_panel_shows_is_no_drawing(page: Page, backend: Backend) -> None:
    with page.expect_response("**/itermask3d/status?*"):
        open_viewer(page)
    press(page, "Brush")  # makes the segmentation, as the other panel does
    expect(page.get_by_role("button", name="Brush")).to_have_attribute("aria-pressed", "true")
    backend.result = RESULT
    finish_a_run_of_somebody_else(backend)
    page.evaluate("fake.stroke([0, 2, 3, 4, 0, 0, 0, 0])")
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()
    page.wait_for_function("dispatchEvent(new Event('beforeunload', {cancelable: true}))")
    assert backend.drafted == []
    draw(page, backend, [1, 2, 3, 4, 0, 0, 0, 0], [4, 1, 2, 3, 0, 0, 0, 0])


ANSWER_OF_BEFORE = """() => {
  const real = window.fetch;
  window.fetch = async (...asked) => {
    if (!String(asked[0]).includes('/itermask3d/status')) {
      return real(...asked);
    }
    window.fetch = real;
    setTimeout(() => fake.stroke([0, 2, 3, 4, 0, 0, 0, 0]));
    await new Promise(resolve => setTimeout(resolve, 50));
    return new Response(JSON.stringify({ running: null, waiting: 0, finished: null }));
  };
  fake.stroke([0, 0, 0, 0, 0, 0, 0, 0]);
}"""
"""The next status is of before a run of the other panel ended, and that panel shows its mask meanwhile."""


def test_a_mask_that_comes_while_the_server_is_asked_is_no_drawing(page: Page, backend: Backend) -> None:
    with page.expect_response("**/itermask3d/status?*"):
        open_viewer(page)
    press(page, "Brush")
    expect(page.get_by_role("button", name="Brush")).to_have_attribute("aria-pressed", "true")
    backend.result = RESULT
    page.evaluate(ANSWER_OF_BEFORE)
    finish_a_run_of_somebody_else(backend)
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()
    page.wait_for_function("dispatchEvent(new Event('beforeunload', {cancelable: true}))")
    assert backend.drafted == []


def test_the_last_stroke_is_kept_when_the_page_is_left_at_once(page: Page, backend: Backend) -> None:
    find_and_draw(page, backend)
    leave = "[fake.stroke([1, 2, 3, 4, 1, 0, 0, 0]), dispatchEvent(new Event('beforeunload', {cancelable: true}))]"
    with page.expect_response(lambda answer: answer.request.method == "PUT"):
        assert page.evaluate(leave)[1] is False
    assert backend.drafted[-1] == bytes([4, 1, 2, 3, 4, 0, 0, 0])


HANG = """part => {
  const real = window.fetch;
  window.fetch = (...asked) => {
    if (!String(asked[0]).includes(part)) {
      return real(...asked);
    }
    real(...asked);
    return new Promise(() => {});
  };
}"""
"""Requests whose path has a part arrive, and the page does not hear of it."""

STROKE_AND_QUIET = "voxels => new Promise(done => [fake.stroke(voxels), setTimeout(done, 450)])"
"""A stroke, and what the panel does a moment after it has begun."""


def test_a_stroke_is_kept_when_the_page_is_left_while_the_server_is_asked(page: Page, backend: Backend) -> None:
    open_viewer(page)
    press(page, "Find anomalies")
    expect(status(page)).to_have_text("Done: the mask is shown.")
    page.evaluate(HANG, "/status")
    page.evaluate(STROKE_AND_QUIET, [1, 2, 3, 4, 0, 0, 0, 0])
    assert backend.drafted == []
    with page.expect_response(lambda answer: answer.request.method == "PUT"):
        assert asks_before_leaving(page)
    assert backend.drafted == [bytes([4, 1, 2, 3, 0, 0, 0, 0])]


def test_a_stroke_does_not_wait_for_the_draft_before_it(page: Page, backend: Backend) -> None:
    find_and_draw(page, backend)
    page.evaluate(HANG, "/draft")
    for voxels, draft in (([1, 2, 3, 4, 1, 0, 0, 0], [4, 1, 2, 3, 4, 0, 0, 0]), ([1] * 8, [4] * 8)):
        draw(page, backend, voxels, draft)
    assert backend.draft_steps == sorted(set(backend.draft_steps))


def test_the_last_stroke_on_a_series_is_kept_when_another_is_shown(page: Page, backend: Backend) -> None:
    find_and_draw(page, backend)
    with page.expect_request(lambda request: request.method == "PUT") as sent:
        page.evaluate("[fake.stroke([1, 2, 3, 4, 1, 0, 0, 0]), fake.shown = 'b', document.title = 'b']")
    assert parse_qs(urlsplit(sent.value.url).query)["image"] == ["1.1"]


def test_a_drawing_that_the_server_did_not_take_is_sent_again_when_it_answers(page: Page, backend: Backend) -> None:
    find_and_draw(page, backend)
    backend.is_silent = True
    page.evaluate("fake.stroke([1, 2, 3, 4, 1, 0, 0, 0])")
    expect(page.get_by_role("alert")).to_have_text("The server does not answer; is it still running?")
    assert asks_before_leaving(page)
    with page.expect_response(lambda answer: answer.request.method == "PUT"):
        backend.is_silent = False
    assert backend.drafted[-1] == bytes([4, 1, 2, 3, 4, 0, 0, 0])
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_full_disk_for_the_draft_is_told_once_and_the_drawing_stays(page: Page, backend: Backend) -> None:
    find_and_draw(page, backend)
    backend.failures["/itermask3d/draft"] = (507, {"detail": "the disk is full: the draft was not kept"})
    page.evaluate("fake.stroke([1, 2, 3, 4, 1, 0, 0, 0])")
    expect(page.get_by_role("alert")).to_have_text("the disk is full: the draft was not kept")
    assert asks_before_leaving(page)
    backend.failures.clear()
    draw(page, backend, [1, 2, 3, 4, 1, 1, 0, 0], [4, 1, 2, 3, 4, 4, 0, 0])
    expect(page.get_by_role("alert")).to_be_hidden()


def test_strokes_beside_an_unanswered_draft_wait_for_the_answer(page: Page, backend: Backend) -> None:
    backend.result, backend.draft = RESULT, bytes([4, 4, 2, 3, 0, 0, 0, 0])
    open_viewer(page)
    expect(page.locator(".itermask3d-question")).to_contain_text("was not saved")
    page.evaluate("fake.stroke([1, 2, 3, 4, 0, 0, 0, 0])")
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()
    page.wait_for_function("!dispatchEvent(new Event('beforeunload', {cancelable: true}))")
    assert backend.drafted == []
    with page.expect_response(lambda answer: answer.request.method == "PUT"):
        press(page, "Discard it")
    assert backend.drafted == [bytes([4, 1, 2, 3, 0, 0, 0, 0])]
    assert backend.dropped == 0


def test_strokes_that_are_all_taken_back_are_nothing_unsaved(page: Page, backend: Backend) -> None:
    find_and_draw(page, backend)
    with page.expect_request(lambda request: request.method == "DELETE"):
        press(page, "Undo")
    expect(page.get_by_role("button", name="Redo")).to_be_enabled()
    page.wait_for_function("dispatchEvent(new Event('beforeunload', {cancelable: true}))")
