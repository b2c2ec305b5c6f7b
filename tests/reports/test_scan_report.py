"""The report of a scan says what the result holds, needs nothing but itself, and survives every outcome."""

from __future__ import annotations

import base64
import io
import json
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import nibabel as nib
import numpy as np
import pytest
from helpers import Phantom, head_phantom, rotation, run_command, save_dicom
from itermask3d.files.scans import ScanError
from itermask3d.inference.results import RESEARCH_USE, write_result
from itermask3d.method.detection import Outcome
from itermask3d.reports.data import read_finished
from itermask3d.reports.images import comparison, embedded, focus, show
from itermask3d.reports.scan_report import report_schema, write_scan_report
from markupsafe import escape
from PIL import Image
from report_helpers import EVIDENCE, finished_scan

ROOT = Path(__file__).resolve().parents[2]
MAX_BYTES = 8_000_000


class Page(HTMLParser):
    """What a machine can check of a page: addresses, headings, pictures without words, ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.levels: list[int] = []
        self.unnamed: list[str] = []
        self.ids: list[str] = []
        self.named_by: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.addresses += [found[name] for name in ("href", "src", "action", "srcset") if name in found]
        self.ids += [found["id"]] if "id" in found else []
        self.named_by += " ".join(found.get(n, "") for n in ("aria-labelledby", "aria-describedby")).split()
        if re.fullmatch(r"h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag in ("img", "canvas") and not (found.get("alt") or found.get("aria-label")):
            self.unnamed.append(tag)


def report_of(folder: Path) -> tuple[str, dict[str, Any]]:
    page = write_scan_report(folder)
    data = json.loads((folder / "report.json").read_text())
    jsonschema.Draft7Validator(report_schema()).validate(data)
    return page.read_text(), data


def test_the_schema_is_one() -> None:
    jsonschema.Draft7Validator.check_schema(report_schema())


def test_page_needs_nothing_but_itself(phantom: Phantom, tmp_path: Path) -> None:
    text, _ = report_of(finished_scan(phantom, tmp_path))
    page = Page(text)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.findall(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text
    assert len(text) < MAX_BYTES


def test_page_can_be_heard(phantom: Phantom, tmp_path: Path) -> None:
    text, _ = report_of(finished_scan(phantom, tmp_path, warnings=["Look twice."]))
    page = Page(text)
    assert '<html lang="en">' in text
    assert not page.unnamed
    assert page.levels[0] == 1
    assert page.levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.levels, page.levels[1:], strict=False))
    assert len(page.ids) == len(set(page.ids))
    assert set(page.named_by) <= set(page.ids)


def luminance(colour: str) -> float:
    """Of ``#rrggbb``, WCAG 2.1."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("name", ["ink", "soft", "accent", "blue"])
@pytest.mark.parametrize("paper", ["#ffffff", "#fdf3e3"])
def test_words_stand_out_from_the_paper(name: str, paper: str) -> None:
    style = (ROOT / "bundle" / "itermask3d" / "reports" / "templates" / "report.css").read_text()
    colour = re.search(rf"--{name}: (#[0-9a-f]{{6}})", style)
    assert colour is not None
    light, dark = sorted((luminance(paper), luminance(colour[1])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # level AA


def test_report_says_what_the_result_says(phantom: Phantom, tmp_path: Path) -> None:
    folder = finished_scan(
        phantom, tmp_path, percentile=93.75, p_value=0.0625, in_distribution=True, warnings=["Look twice."]
    )
    text, data = report_of(folder)
    record = json.loads((folder / "result.json").read_text())
    for key in (
        "case",
        "scan",
        "outcome",
        "score",
        "percentile_among_normals",
        "p_value",
        "in_distribution",
        "volumes_ml",
        "note",
    ):
        assert data[key] == record[key]
    assert data["warnings"] == ["Look twice."]
    for ours, theirs in zip(data["components"], record["components"], strict=True):
        assert ours["index"] == theirs["index"]
        for key in ("volume_ml", "centroid_mm", "peak_error"):
            assert ours[key] == pytest.approx(theirs[key], abs=0.011)
    for words in (
        RESEARCH_USE,
        "Look twice.",
        "0.2000",
        "0123456789abcdef",
        ">94<",
        "0.062",
        "as in the training",
        str(escape(data["verdict"])),
    ):
        assert words in text
    assert data["acquisition"]["spacing_mm"] == [2, 2, 2]
    assert data["acquisition"]["orientation"] == "RAS"


def test_uncalibrated_scan_is_called_so(phantom: Phantom, tmp_path: Path) -> None:
    text, data = report_of(finished_scan(phantom, tmp_path))
    assert data["percentile_among_normals"] is None
    assert data["p_value"] is None
    assert "not calibrated" in text
    assert "<dt>p-value (conformal)</dt><dd>none</dd>" in text
    assert "<dt>Kind of scan</dt><dd>not checked</dd>" in text


def test_scan_unlike_the_training_is_told_first(phantom: Phantom, tmp_path: Path) -> None:
    row = {"feature": "noise", "group": "noise", "value": 0.5, "low": 0.0, "high": 0.1, "within": False}
    text, data = report_of(finished_scan(phantom, tmp_path, in_distribution=False, domain=[row]))
    assert data["in_distribution"] is False
    assert data["verdict"].startswith("Out-of-distribution")
    assert "<dt>Percentile among normals</dt><dd>not comparable</dd>" in text
    assert "<dt>Kind of scan</dt><dd>unlike the training</dd>" in text


def test_what_the_tissues_say_is_told_and_no_threshold_of_the_curve_is_drawn(phantom: Phantom, tmp_path: Path) -> None:
    plain, data = report_of(finished_scan(phantom, tmp_path))
    assert data["evidence"] is None
    assert '<line class="threshold"' in plain
    text, data = report_of(finished_scan(phantom, tmp_path, evidence=EVIDENCE))
    assert data["evidence"]["told"] == "contrast: FLAIR; what is brighter than its tissue counts"
    assert "Contrast: FLAIR; what is brighter than its tissue counts." in text
    assert "the tissues (share 80 %)" in text
    assert '<line class="threshold"' not in text
    shown = "slice of the deviation from the scan's own tissues"
    assert (plain.count(shown), text.count(shown), text.count("slice of the error of the reconstruction")) == (0, 3, 3)


def test_deviation_is_red_where_brighter_and_blue_where_darker(phantom: Phantom, tmp_path: Path) -> None:
    result = read_finished(finished_scan(phantom, tmp_path, evidence=EVIDENCE)).result
    for sign, strong, weak in ((1, 0, 2), (-1, 2, 0)):
        maps = {name: sign * volume for name, volume in result.evidence_maps.items()}
        shown = show(replace(result, evidence_maps=maps))
        tile = comparison(shown, focus(shown))[0]["tissue_deviation"]  # sagittal: no letters on it
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(tile.split(",")[1]))).convert("RGB"))
        colour = pixels.reshape(-1, 3)[pixels.max(axis=2).argmax()]
        assert colour[strong] > 150 > colour[weak]


def test_a_result_without_one_of_its_evidence_maps_is_refused(phantom: Phantom, tmp_path: Path) -> None:
    folder = finished_scan(phantom, tmp_path, evidence=EVIDENCE)
    (folder / "phantom_tissue_deviation.nii.gz").unlink()
    with pytest.raises(ScanError, match=r"lacks 'phantom_tissue_deviation\.nii\.gz'"):
        read_finished(folder)


def test_what_the_p_value_promises_is_said(phantom: Phantom, tmp_path: Path) -> None:
    text, _ = report_of(finished_scan(phantom, tmp_path, p_value=0.5, p_value_note="Valid if exchangeable."))
    assert "Valid if exchangeable." in text


@pytest.mark.parametrize(
    ("outcome", "words"),
    [(Outcome.NO_ANOMALY, "Nothing flagged"), (Outcome.FIT_FAILED, "the error curve could not be used")],
)
def test_empty_mask_is_reported(phantom: Phantom, outcome: Outcome, words: str, tmp_path: Path) -> None:
    text, data = report_of(finished_scan(phantom, tmp_path, outcome=outcome))
    assert data["components"] == []
    assert words in text
    assert "No region is flagged" in text


def test_oblique_scan_keeps_its_places(tmp_path: Path) -> None:
    straight, turned = head_phantom(), head_phantom(axes=rotation(degrees=(9, -12, 14)), spacing_mm=(2, 2.2, 2.6))
    places = []
    for name, phantom in (("straight", straight), ("turned", turned)):
        (tmp_path / name).mkdir()
        text, data = report_of(finished_scan(phantom, tmp_path / name))
        places.append([component["place"].split(",")[0].split(";")[0] for component in data["components"]])
    assert places[0] == places[1]
    assert places[0][0].startswith("right frontal")
    assert data["acquisition"]["oblique_degrees"] > 10
    assert "oblique" in text


def test_hostile_names_stay_text(phantom: Phantom, tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>\"' </script>"
    text, _ = report_of(finished_scan(phantom, tmp_path, warnings=[bad], scan=None, settings={"gamma": bad}))
    assert "<script>alert" not in text
    assert text.count("</script>") == 2


def test_dicom_facts_name_nobody(phantom: Phantom, tmp_path: Path) -> None:
    series = save_dicom(phantom, tmp_path / "series")
    text, data = report_of(finished_scan(read_back(phantom, series), tmp_path, scan=series, case="case"))
    assert data["acquisition"]["dicom"]["Modality"] == "MR"
    assert "Patient" not in "".join(data["acquisition"]["dicom"])
    assert ">Phantom<" not in text


def read_back(phantom: Phantom, series: Path) -> Phantom:
    """The phantom on the grid that the loader makes of its series."""
    from itermask3d.preprocessing.load import load_volume

    image = load_volume(series)
    to_phantom = np.linalg.inv(phantom.affine) @ np.asarray(image.affine)
    voxels = np.round(nib.affines.apply_affine(to_phantom, np.argwhere(np.ones(image.shape)))).astype(int)
    arrays = [np.asarray(a)[tuple(voxels.T)].reshape(image.shape) for a in (phantom.brain_mask, phantom.label)]
    return Phantom(image.numpy(), *arrays, np.asarray(image.affine, dtype=float))


def test_another_result_takes_the_reports_place(phantom: Phantom, tmp_path: Path) -> None:
    folder = finished_scan(phantom, tmp_path)
    write_scan_report(folder)
    write_result(read_finished(folder).result, folder)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "result.json").unlink(), "no result.json"),
        (lambda folder: (folder / "result.json").write_text("{}"), "lacks"),
        (lambda folder: (folder / "phantom_mask.nii.gz").unlink(), "complete result"),
        (lambda folder: (folder / "phantom_mask.nii.gz").write_bytes(b"\x1f\x8b cut off"), "cannot be read"),
        (lambda folder: (folder.parent / "phantom_scan.nii.gz").unlink(), "does not exist"),
    ],
)
def test_unfinished_folder_is_refused_with_a_reason(phantom: Phantom, spoil: Any, words: str, tmp_path: Path) -> None:
    folder = finished_scan(phantom, tmp_path)
    spoil(folder)
    with pytest.raises(ScanError, match=words):
        write_scan_report(folder)
    assert not list(folder.glob("*report*"))


def test_moved_scan_can_be_named(phantom: Phantom, tmp_path: Path) -> None:
    folder = finished_scan(phantom, tmp_path)
    moved = (tmp_path / "phantom_scan.nii.gz").rename(tmp_path / "elsewhere.nii.gz")
    assert write_scan_report(folder, scan=moved).is_file()


def test_another_scan_is_refused_wherever_it_lies(phantom: Phantom, tmp_path: Path) -> None:
    folder = finished_scan(phantom, tmp_path)
    other = tmp_path / "other.nii.gz"
    nib.save(nib.Nifti1Image(phantom.image[::-1], phantom.affine), other)
    with pytest.raises(ScanError, match="is not the scan that was segmented"):
        write_scan_report(folder, scan=other)
    other.replace(tmp_path / "phantom_scan.nii.gz")
    with pytest.raises(ScanError, match="is not the scan that was segmented"):
        write_scan_report(folder)
    assert not list(folder.glob("*report*"))


def test_a_result_in_memory_gives_the_page_that_its_files_give(phantom: Phantom, tmp_path: Path) -> None:
    folder = finished_scan(phantom, tmp_path)
    text, data = report_of(folder)
    result = read_finished(folder).result
    for path in folder.glob("*.nii.gz"):
        path.unlink()
    now = write_scan_report(folder, result=result).read_text()
    told = json.loads((folder / "report.json").read_text())
    times = (data["provenance"]["report_written"], told["provenance"]["report_written"])
    assert now.replace(times[1], times[0]) == text
    assert {**told, "provenance": None} == {**data, "provenance": None}


def test_relative_path_of_a_scan_is_refused(phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished_scan(phantom, tmp_path, scan=None, inputs={})
    record = json.loads((folder / "result.json").read_text()) | {"scan": "phantom_scan.nii.gz"}
    (folder / "result.json").write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScanError, match=r"by the relative path 'phantom_scan\.nii\.gz'"):
        write_scan_report(folder)


def inflated(text: str, shape: list[int]) -> np.ndarray:
    flat = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return np.cumsum(flat, dtype=np.uint8).reshape(shape, order="F")


def test_embedded_volumes_come_back(phantom: Phantom, tmp_path: Path) -> None:
    result = read_finished(finished_scan(phantom, tmp_path)).result
    viewer, shown = embedded(result), show(result)
    for name, volume in shown.volumes.items():
        np.testing.assert_array_equal(inflated(viewer["volumes"][name], viewer["shape"]), volume)
    voxels = np.argwhere(shown.volumes["mask"])
    assert len(voxels) == phantom.label.sum()
    source = nib.affines.apply_affine(np.linalg.inv(phantom.affine) @ shown.affine, voxels)
    assert phantom.label[tuple(np.round(source).astype(int).T)].all()
    assert shown.volumes["mask"][focus(shown)]


def test_small_budget_makes_it_coarser_and_loses_no_region(phantom: Phantom, tmp_path: Path) -> None:
    result = read_finished(finished_scan(phantom, tmp_path)).result
    viewer = embedded(result, budget_bytes=60_000)
    assert viewer["coarser"]
    assert sum(map(len, viewer["volumes"].values())) <= 60_000
    mask = inflated(viewer["volumes"]["mask"], viewer["shape"])
    volume = mask.sum() * abs(np.linalg.det(np.asarray(viewer["affine"])[:3, :3]))
    assert volume == pytest.approx(phantom.label.sum() * 8, rel=0.5)


def test_script_does_all_of_a_folder(
    phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = finished_scan(phantom, tmp_path)
    finished_scan(phantom, tmp_path, case="lost", scan=tmp_path / "nowhere.nii.gz")
    deep = finished_scan(phantom, tmp_path / "sub-01" / "anat", scan=tmp_path / "phantom_scan.nii.gz")
    status, told = run_command(monkeypatch, capsys, "report", tmp_path)
    assert status == 1
    assert (good / "report.html").is_file()
    assert (deep / "report.html").is_file()
    assert "failed: lost" in told
