"""One scan kept ready: the same answer as the bundle's workflow, and what a person says on the scan's own grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import itermask3d
import numpy as np
import pytest
from fast_bundle import write_fast_bundle
from helpers import axes_of, dice, head_phantom
from itermask3d.files.discovery import discover
from itermask3d.files.scans import ScanError, list_scans
from itermask3d.inference.overview import save_overview
from itermask3d.inference.prompts import Prompts, balls
from itermask3d.inference.results import write_result
from itermask3d.inference.segmenter import Segmenter, prompted_threshold
from itermask3d.workflows.screening.journal import Status
from itermask3d.workflows.screening.screener import Screener
from monai.bundle import ConfigWorkflow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_fast_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def segmenter(bundle) -> Segmenter:
    return Segmenter(bundle)


@pytest.fixture(scope="module")
def sagittal():
    """Voxel axes that run otherwise than the network's, and voxels of another size."""
    return head_phantom(axes=axes_of("PIR"), spacing_mm=(1.8, 2.2, 2.6))


@pytest.fixture(scope="module")
def scan(segmenter, sagittal, tmp_path_factory):
    item = sagittal.save(tmp_path_factory.mktemp("scan"), keys=("image",))
    return segmenter.prepare({"image": item["image"], "case": "scan"})


@pytest.fixture(scope="module")
def automatic(segmenter, scan):
    return segmenter.segment(scan)[0]


def written_by_the_workflow(bundle: Path, source: Path, output: Path) -> Path:
    """MONAI's engine, as ``python -m monai.bundle run`` builds it."""
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(bundle),
        dataset_dir=str(source),
        output_dir=str(output),
        progress=False,
    )
    workflow.initialize()
    workflow.run()
    return output


def written_by_one_call(bundle: Path, source: Path, output: Path) -> Path:
    itermask3d.segment(source, output, bundle=bundle)
    return output


def written_by_a_screener(bundle: Path, source: Path, output: Path) -> Path:
    (scan,) = discover(source).scans
    record = Screener(bundle, {"progress": False}).screen(scan, output)
    assert record.status is Status.DONE, record.reason
    return (output / scan.folder).parent


def written_by_a_segmenter(bundle: Path, source: Path, output: Path) -> Path:
    segmenter = Segmenter(bundle, {"progress": False})
    (item,) = list_scans(source)
    result, _ = segmenter.segment(segmenter.prepare(item))
    write_result(result, output / result.case, draw=save_overview)
    return output


def test_one_scan_gives_the_same_bytes_whichever_way_it_takes(bundle, phantom, tmp_path):
    source = Path(phantom.save(tmp_path, keys=("image",))["image"])
    ways = (written_by_the_workflow, written_by_one_call, written_by_a_screener, written_by_a_segmenter)
    first, *others = [
        {
            path.name: path.read_bytes()
            for path in (way(bundle, source, tmp_path / way.__name__) / "scan_image").iterdir()
        }
        for way in ways
    ]
    assert len(first) == 6
    for other in others:
        assert [name for name in first if other.get(name) != first[name]] == []
        assert other.keys() == first.keys()


def test_progress_names_the_phases_in_order(segmenter, phantom, tmp_path):
    seen = []
    item = phantom.save(tmp_path, keys=("image",))
    prepared = segmenter.prepare({"image": item["image"], "case": "a"}, lambda *state: seen.append(state[0]))
    segmenter.segment(prepared, progress=lambda *state: seen.append(state[0]))
    assert list(dict.fromkeys(seen)) == ["reading", "brain extraction", "sweep", "shrink", "writing"]


def test_lesion_is_found_on_the_scans_own_grid(automatic, sagittal):
    assert automatic.mask.shape == sagittal.label.shape
    assert dice(automatic.mask, sagittal.label) > 0.6


def test_region_suspicious_and_normal_hold_to_the_voxel(segmenter, scan, automatic, sagittal):
    inside = np.argwhere(sagittal.brain_mask & ~sagittal.label)[3000]
    suspicious = balls([inside], sagittal.label.shape, sagittal.affine, radius_mm=3)
    region = np.zeros_like(sagittal.label)
    region[: sagittal.label.shape[0] // 2] = True
    normal = automatic.mask & region & (np.indices(region.shape)[1] % 2 == 0)
    prompts = Prompts(roi=region | suspicious, include=suspicious, exclude=normal)
    prompted, _ = segmenter.segment(scan, prompts=prompts, earlier=automatic.findings, min_volume_ml=0.0)
    assert prompted.mask[suspicious & sagittal.brain_mask & ~normal].all()
    assert not prompted.mask[normal].any()
    assert not prompted.mask[~region & ~suspicious].any()
    assert prompted.findings.percentile_among_normals is None


def test_earlier_findings_save_the_sweep_and_keep_the_threshold(segmenter, scan, automatic):
    phases = set()
    again, _ = segmenter.segment(scan, earlier=automatic.findings, progress=lambda phase, *_: phases.add(phase))
    assert phases == {"shrink", "writing"}
    assert again.findings.threshold == automatic.findings.threshold
    assert np.array_equal(again.mask, automatic.mask)


def test_threshold_of_a_person_is_used(segmenter, scan, automatic):
    everything = Prompts(threshold=1e-9)
    prompted, _ = segmenter.segment(scan, prompts=everything, earlier=automatic.findings, min_volume_ml=0.0)
    assert prompted.mask.sum() > 0.9 * prompted.brain_mask.sum()


def test_scan_without_threshold_is_judged_by_the_stated_quantile(automatic):
    findings = replace(automatic.findings, threshold=None, curve=tuple(range(101)))
    assert prompted_threshold(findings) == 95
    assert prompted_threshold(automatic.findings) == automatic.findings.threshold
    assert prompted_threshold(replace(findings, curve=())) == float("inf")


def test_settings_of_one_run_do_not_stay(segmenter, scan, automatic):
    changed, _ = segmenter.segment(scan, settings={"gamma": 5.0}, min_volume_ml=0.0)
    assert changed.settings["gamma"] == 5.0
    again, _ = segmenter.segment(scan)
    assert again.settings == automatic.settings
    with pytest.raises(ValueError, match="gamma"):
        segmenter.segment(scan, settings={"gamma": -1.0})


def test_mask_of_another_grid_is_refused(segmenter, scan):
    with pytest.raises(ValueError, match="expected the scan's"):
        segmenter.to_network(np.ones((2, 3, 4), dtype=bool), scan)


def test_unusable_scan_and_missing_weights_are_named(segmenter, bundle, tmp_path):
    with pytest.raises(ScanError, match="does not exist"):
        segmenter.prepare({"image": str(tmp_path / "nothing.nii.gz"), "case": "nothing"})
    with pytest.raises(ScanError, match="weights"):
        Segmenter(bundle, {"ckpt_path": str(tmp_path / "nothing.pt")})


CHANGES = {
    "times 1e30": lambda image: image * 1e30,
    "times 1e-30": lambda image: image * 1e-30,
    "plus 1e5": lambda image: image + 1e5,
    "less 2000": lambda image: image - 2000,
}


def segmented(segmenter, phantom, image, folder):
    folder.mkdir()
    item = replace(phantom, image=image).save(folder, keys=("image",))
    return segmenter.segment(segmenter.prepare({"image": item["image"], "case": "scan"}))[0]


@pytest.fixture(scope="module")
def whole_numbers(segmenter, phantom, tmp_path_factory):
    return segmented(segmenter, phantom, phantom.image.round(), tmp_path_factory.mktemp("whole") / "scan")


@pytest.mark.parametrize("change", CHANGES)
def test_unit_and_zero_of_a_scan_change_not_a_byte(segmenter, phantom, whole_numbers, change, tmp_path):
    plain = phantom.image.round().astype(np.float64)
    found = segmented(segmenter, phantom, CHANGES[change](plain), tmp_path / "scan")
    assert whole_numbers.mask.any()
    for name in ("mask", "anomaly_map", "brain_mask"):
        assert getattr(found, name).tobytes() == getattr(whole_numbers, name).tobytes(), name
    assert found.findings == whole_numbers.findings
    brain = found.brain_mask
    expected = CHANGES[change](whole_numbers.reconstruction.astype(np.float64))
    np.testing.assert_allclose(found.reconstruction[brain], expected[brain], rtol=1e-5)
