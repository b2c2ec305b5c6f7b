"""The checks before a training on a site's own scans: measure, compare, leave out, divide by person."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from itermask3d.files.discovery import FoundScan, discover
from itermask3d.files.identity import source_of
from itermask3d.files.scans import ScanError
from itermask3d.files.writing import write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.preprocessing.load import load_volume
from itermask3d.workflows.site.data import Measurement, derived_spacing, split_by_subject, subject_of
from itermask3d.workflows.site.data_check import (
    Finding,
    Level,
    MeasuredScan,
    check_number,
    check_scans,
    check_split,
    related,
    suggested,
)
from itermask3d.workflows.site.options import Options, Tell
from itermask3d.workflows.site.report import check_page
from itermask3d.workflows.site.stages import Stages

__all__ = ["ScanChecks", "given_split"]

BIDS_SUFFIX = {"T1": ("T1w",), "T2": ("T2w",), "FLAIR": ("FLAIR",)}


class ScanChecks:
    """The scans of a run, measured once and compared with each other.

    Args:
        options: of the run.
        stages: where the spacing that follows from the scans is kept.
        tell: takes messages.

    Attributes:
        excluded: reason by case, of the scans that are left out.
        items: what training takes, by case.
        spacing_mm: edge of the network's voxels; set by :meth:`check`.
        measurement: what was measured, and where it is kept; set by :meth:`check`.
    """

    def __init__(self, options: Options, stages: Stages, tell: Tell) -> None:
        self.options = options
        self.output = options.output.absolute()
        self.stages = stages
        self.tell = tell
        self.excluded: dict[str, str] = {}
        self.items: dict[str, dict[str, Any]] = {}
        self.spacing_mm = 0.0
        self.measurement: Measurement | None = None

    def check(self) -> tuple[list[MeasuredScan], list[Finding]]:
        """Measure every scan and compare them; unusable and excluded ones are left out."""
        options = self.options
        found = discover(
            options.scans,
            suffixes=BIDS_SUFFIX.get(options.contrast, ("T1w", "T2w", "FLAIR")),
            brain_mask_dir=options.brain_masks,
            ignore=self.output,
        )
        names = {scan.case for scan in found.scans}
        unknown = sorted(set(options.exclude) - names)
        if unknown:
            raise ScanError(f"--exclude names {', '.join(unknown)}, which is among none of the {len(names)} scans")
        self.excluded = dict.fromkeys(sorted(options.exclude), "named by --exclude")
        found_scans = [scan for scan in found.scans if scan.case not in self.excluded]
        for scan in found_scans:
            subject_of(scan.case, options.subject)
        spacing_mm = options.spacing_mm or self._spacing(found_scans)
        measurement = Measurement(
            self.output / "check",
            spacing_mm=spacing_mm,
            contrast=options.contrast,
            brain_extraction=options.brain_extraction,
            bias_correction=options.bias_correction,
            subject=options.subject,
            network_size=options.network_size,
        )
        results = measurement.measure_all(found_scans, options.workers)
        findings = [result for result in results if isinstance(result, Finding)]
        scans = [result for result in results if isinstance(result, MeasuredScan)]
        self.excluded |= {finding.case: finding.sentence for finding in findings}
        between = check_scans(scans) if scans else []
        if options.exclude_suspects:
            dropped = suggested(between)
            self.excluded |= {
                case: next(finding.sentence for finding in between if finding.case == case and finding.exclude)
                for case in dropped
            }
            scans = [scan for scan in scans if scan.case not in dropped]
            between = [finding for finding in between if finding.case not in dropped]
        findings += between
        self.items = {scan.case: measurement.item(scan) for scan in found_scans}
        self.measurement = measurement
        self.spacing_mm = spacing_mm
        return scans, findings

    def _spacing(self, scans: Sequence[FoundScan]) -> float:
        """From the voxels of the scans that can be read; kept for the same scans."""
        cases, known = [scan.case for scan in scans], self.stages.made_from.get("spacing", {})
        if known.get("cases") == cases:
            return float(known["spacing_mm"])
        voxels = []
        for scan in tqdm(scans, unit="scan", desc="voxel sizes"):
            try:
                voxels.append(load_volume(source_of(scan.item) or scan.image).pixdim.tolist()[:3])
            except ScanError:
                continue  # told when it is measured
        if not voxels:
            raise ScanError(f"none of the {len(scans)} scans can be read; expected normal MR scans")
        spacing_mm = derived_spacing(voxels)
        self.stages.enter("spacing", {"cases": cases, "spacing_mm": spacing_mm})
        return spacing_mm

    def split(self, scans: Sequence[MeasuredScan], findings: list[Finding]) -> dict[str, list[str]]:
        """By person; adds to the findings where there are too few, or a given split parts what belongs together."""
        groups = related(scans, findings)
        number = check_number(len(groups))
        findings += number
        if any(finding.level is Level.UNUSABLE for finding in number):
            self.write(scans, findings)
            raise ScanError(number[0].sentence)
        if self.options.split_file is None:
            return split_by_subject(groups, seed=self.options.seed)
        splits = given_split(self.options.split_file, {scan.case for scan in scans})
        findings += check_split(splits, groups)
        return splits

    def write(self, scans: Sequence[MeasuredScan], findings: Sequence[Finding]) -> None:
        """check.md and check.json, and the suspects and notes on the screen."""
        folder = self.output / "check"
        content = {
            "note": RESEARCH_USE,
            "findings": [finding.to_json() for finding in findings],
            "excluded": self.excluded,
            "suggested_exclusion": suggested(findings),
            "scans": [
                {name: value for name, value in asdict(replace(scan, thumbnail=None)).items() if name != "thumbnail"}  # type: ignore[arg-type]
                for scan in scans
            ],
        }
        write_atomically(json.dumps(content, indent=1) + "\n", folder / "check.json")
        write_atomically(check_page(scans, findings, self.excluded), folder / "check.md")
        for finding in findings:
            self.tell(f"{finding.level.value}: {finding.sentence}")
        self.tell(f"{len(scans)} scans checked, {len(self.excluded)} left out: {folder / 'check.md'}")

    def look_first(self, findings: Sequence[Finding]) -> bool:
        """Whether a person has to look before anything is trained."""
        suspects = [finding for finding in findings if finding.level is Level.SUSPECT]
        if not suspects or self.options.force:
            return False
        names = " ".join(suggested(findings))
        self.tell("Look at these first. Then " + (f"--exclude {names}, or " if names else "") + "--force to go on.")
        return True


def given_split(path: Path, cases: set[str]) -> dict[str, list[str]]:
    """A split that somebody wrote, less the scans that were left out.

    Raises:
        ScanError: if it cannot be read or a subset that is needed has no scan.
    """
    try:
        given = json.loads(path.read_text())
        splits = {subset: [case for case in listed if case in cases] for subset, listed in given.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ScanError(f"split file '{path}' cannot be read ({error}); expected a JSON object of lists") from error
    for subset, least in (("train", 2), ("validation", 1), ("calibration", 1)):
        if len(splits.get(subset, [])) < least:
            raise ScanError(
                f"subset '{subset}' of '{path}' has {len(splits.get(subset, []))} of the scans; expected "
                f"{least} or more"
            )
    return splits
