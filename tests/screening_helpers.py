"""A screener whose answer is known at once, for tests of all that stands around the network; workers can import it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from itermask3d.files.discovery import FoundScan
from itermask3d.files.identity import input_files
from itermask3d.files.scans import ScanError
from itermask3d.inference.results import ScanResult
from itermask3d.method.detection import Findings, Outcome
from itermask3d.method.threshold import CurveFit, SlopeSource, ThresholdEstimate, ThresholdStatus
from itermask3d.workflows.screening.screener import Screener

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


class KnownScreener(Screener):
    """Flags what is above 1; scans named ``deadly…`` kill their worker and ``slow…`` ones take a second."""

    def __init__(self, bundle_root: Any, overrides: Any = None, **options: Any) -> None:
        super().__init__(bundle_root, None, **{**options, "overview": False})

    def _segment(self, scan: FoundScan) -> ScanResult:
        if scan.case.startswith("deadly"):
            time.sleep(1)  # as a scan that runs out of memory would: a worker that dies while it starts stays away
            os.kill(os.getpid(), signal.SIGKILL)
        if scan.case.startswith("slow"):
            time.sleep(1)
        if scan.case.startswith("interrupt") and not (Path(scan.image).parent / "once").exists():
            (Path(scan.image).parent / "once").touch()
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(3)
        if scan.case.startswith("bug"):
            raise KeyError("a bug")
        try:
            image = np.asarray(nib.load(scan.image).dataobj, dtype=np.float32)
        except Exception as error:
            raise ScanError(f"'{scan.image}' cannot be read; expected a scan") from error
        mask = image > 1
        return ScanResult(
            case=scan.case,
            path=scan.image,
            findings=findings(float(mask.mean()), bool(mask.any())),
            image=image,
            mask=mask,
            anomaly_map=np.where(mask, image, 0).astype(np.float32),
            reconstruction=np.zeros_like(image),
            brain_mask=np.ones_like(mask),
            affine=AFFINE,
            preprocessing={"brain_extraction": "none"},
            settings=self.model.variant(self.model.fixed_name).settings,
            inputs=input_files(scan.item),
        )


def findings(score: float, flagged: bool) -> Findings:
    """Findings of a score, with a short curve."""
    estimate = ThresholdEstimate(
        ThresholdStatus.FOUND, 1.0, 2, SlopeSource.FIT, (0.1, 0.2), CurveFit(1.0, 0.01, 0.9, 2)
    )  # fmt: skip
    outcome = Outcome.ANOMALY if flagged else Outcome.NO_ANOMALY
    return Findings(
        outcome=outcome,
        score=score,
        flagged_share=score,
        mean_error=score,
        error_p99=score,
        threshold=1.0,
        estimate=estimate,
        curve=(0.1, 0.2),
        iterations=3,
        converged=True,
    )


def write_scans(folder: Path, names: list[str]) -> Path:
    """Small volumes, each with a box of its own size above 1; a name that begins with ``bad`` is no scan."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        volume = np.full((8, 8, 8), 0.5, dtype=np.float32)
        volume[: index % 4, :4, :4] = 2 + index
        if name.startswith("bad"):
            (folder / f"{name}.nii.gz").write_bytes(b"nothing of the kind")
        else:
            nib.save(nib.Nifti1Image(volume, AFFINE), folder / f"{name}.nii.gz")
    return folder


def contents(output: Path) -> dict[str, bytes]:
    """The files of all results, by name; volumes without the time stamp of their compression."""
    found = {}
    for path in sorted(output.rglob("*")):
        if path.is_file() and (path.parent / "result.json").exists():
            voxels = np.asarray(nib.load(path).dataobj).tobytes() if path.name.endswith(".nii.gz") else b""
            found[str(path.relative_to(output))] = voxels or path.read_bytes()
    return found
