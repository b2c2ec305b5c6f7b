"""The inference tasks that viewers see: automatic, refinement of a mask, points."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from itermask3d.files.scans import ScanError
from itermask3d.inference.preparation import PreparedScan
from itermask3d.inference.prompts import Prompts, balls, grown
from itermask3d.inference.segmenter import prompted_threshold
from itermask3d.preprocessing.brain_extraction import METHODS
from monai.data import MetaTensor
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.transform.writer import Writer

from lib.drawn import (
    MEANINGS,
    load_label,
    read_points,
    region_of_interest,
    regions_at,
    scribble_values,
)
from lib.errors import RequestError
from lib.local import LOCAL_MM, NO_EDIT, Edit
from lib.monitor import Run
from lib.options import Choice, Number, Option, Switch, declare, read
from lib.results import LABELS
from lib.workbench import Workbench

__all__ = ["AutomaticTask", "BatchInference", "PointsTask", "RefineTask"]

logger = logging.getLogger(__name__)

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha")
DTYPES = ("uint8", "uint16", "int16", "float32")
STRICTNESS = {"as found": 1.0, "stricter": 1.5, "looser": 0.67}
"""Factors on the threshold of the scan."""


class _Task(InferTask):
    """What the three tasks share: options, the turn, the answer's file."""

    model = ""
    options: Mapping[str, Option] = {}

    def __init__(self, workbench: Workbench, kind: InferType, labels: Mapping[str, int], description: str) -> None:
        super().__init__(kind, dict(labels), 3, description, config=declare(self.options))
        self.workbench = workbench

    def is_valid(self) -> bool:
        """Whether the weights are there and fit; a task that is not valid is not offered."""
        return not self.workbench.problem()

    def get_path(self, validate: bool = True) -> str | None:
        """The weights' file, which MONAI Label offers for download."""
        if not self.is_valid():
            return None
        model = self.workbench.segmenter().model
        return str(model.models.known[0].weights if model.chooses else model.variant(model.fixed_name).weights)

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Answer a request.

        Args:
            request: ``image`` (path), ``image_id`` and the viewer's parameters.

        Returns:
            Path of a label file on the image's own grid, and ``params``.

        Raises:
            RequestError: if the request cannot be answered; the message says why.
        """
        values, remarks = read(self.options | COMMON, request)
        values["series"] = request.get("series")
        path, image = str(request["image"]), str(request.get("image_id") or request["image"])
        with self.workbench.monitor.claim(self.model, image, values["wait"]) as run:
            params = self.answer(request, image, path, values, run)
            labels = self.workbench.results.mask(image)  # while nobody else may replace it
        params["warnings"] = [*params.get("warnings", []), *remarks]
        params["model"] = self.model
        if labels is None:
            raise RequestError(500, f"the result of '{image}' could not be read back")
        if not values.get("bands"):
            labels = (labels > 0).astype(np.uint8)
            params["label_names"] = {"anomaly": 1}
        return self._file(labels, params, request), params

    @abstractmethod
    def answer(
        self, request: Mapping[str, Any], image: str, path: str, values: Mapping[str, Any], run: Run
    ) -> dict[str, Any]:
        """Do the work; returns ``params``."""

    def _file(self, labels: np.ndarray, params: Mapping[str, Any], request: Mapping[str, Any]) -> str:
        extension, dtype = (str(request.get(key) or "") for key in ("result_extension", "result_dtype"))
        affine = torch.tensor(params["geometry"]["affine"], dtype=torch.float64)
        name, _ = Writer(label="pred", json="result")(
            {
                "pred": MetaTensor(torch.from_numpy(labels), affine=affine),
                "result": {},
                "result_extension": extension if extension in EXTENSIONS else ".nii.gz",
                "result_dtype": dtype if dtype in DTYPES else "uint8",
                "result_compress": bool(request.get("result_compress", False)),
                "logging": "WARNING",
            }
        )
        return str(name)


COMMON: dict[str, Option] = {"wait": Switch(True)}
"""Read from every request, not shown in the viewers."""


def automatic_options(workbench: Workbench) -> dict[str, Option]:
    """Options of the automatic run."""
    models = workbench.models()
    return {
        "bands": Switch(True),
        **({"model_choice": Choice(models)} if models else {}),
        "gamma": Number(None, 0.001, 10.0),
        "min_volume_ml": Number(None, 0.0, 100.0, " ml"),
        "brain_extraction": Choice([method for method in METHODS if method != "provided"]),
        "weights": Choice(list(workbench.weights)),
        "seed": Number(0, 0, 2**31 - 1),
        "fresh": Switch(False),
    }


class AutomaticTask(_Task):
    """The method on a whole scan."""

    model = "itermask3d"

    def __init__(self, workbench: Workbench) -> None:
        self.options = automatic_options(workbench)
        super().__init__(
            workbench,
            InferType.SEGMENTATION,
            LABELS,
            "Finds what does not belong in a scan of a brain. For research use only. Options: bands (three segments "
            "by severity, or one), gamma (0.001 to 10, lower flags more; blank: as calibrated), min_volume_ml (0 to "
            "100), fresh (compute again)",
        )

    def answer(
        self, request: Mapping[str, Any], image: str, path: str, values: Mapping[str, Any], run: Run
    ) -> dict[str, Any]:
        """Run, or find the answer of an equal run."""
        return self.workbench.automatic(image, path, values, run)


class _PromptedTask(_Task):
    """A run that starts from what a person says about a scan."""

    def answer(
        self, request: Mapping[str, Any], image: str, path: str, values: Mapping[str, Any], run: Run
    ) -> dict[str, Any]:
        """Make sure of an automatic result, gather what the person says, run."""
        defaults, _ = read(automatic_options(self.workbench), {})
        options, scan = self.workbench.ready(image, path, {**defaults, "series": values["series"]}, run)
        earlier = self.workbench.results.mask(image)
        previous = np.zeros(scan.shape, dtype=bool) if earlier is None else earlier > 0
        options = {**options, "series": values["series"]}

        def prompted(prompts: Prompts, zone: np.ndarray | None = None) -> dict[str, Any]:
            return self.workbench.prompted(image, options, scan, prompts, run, zone=zone)

        return self.from_there(request, scan, previous, values, prompted)

    @abstractmethod
    def from_there(
        self,
        request: Mapping[str, Any],
        scan: PreparedScan,
        previous: np.ndarray,
        values: Mapping[str, Any],
        prompted: Callable[..., dict[str, Any]],
    ) -> dict[str, Any]:
        """Call ``prompted`` with what the person says, on the scan's own grid, and where the map may change."""

    def _threshold(self, values: Mapping[str, Any], request: Mapping[str, Any]) -> float | None:
        if values["threshold"] is not None:
            return float(values["threshold"])
        findings = self.workbench.results.findings(str(request.get("image_id") or request["image"]))
        return None if findings is None else prompted_threshold(findings) * STRICTNESS[values["strictness"]]


class RefineTask(_PromptedTask):
    """Refine a drawn or a previous mask, or scribbles, within a region of interest where one is given.

    A drawn mask says roughly where; what the person erased from the previous mask stays erased. Scribbles say what is
    anomalous and what is not. Outside the region of interest, what was drawn stays as it is, and so does all that lies
    further from the edit than :data:`lib.local.LOCAL_MM`; without an edit nothing changes. Only who asks for another
    threshold asks about the whole mask.
    """

    model = "itermask3d_refine"

    def __init__(self, workbench: Workbench) -> None:
        self.options = {
            "grow_mm": Number(5, 0, 50, " mm"),
            "strictness": Choice(list(STRICTNESS)),
            "threshold": Number(None, 0.0, 25.0),
            "keep_drawn": Switch(False),
            "bands": Switch(False),
        }
        super().__init__(
            workbench,
            InferType.SCRIBBLES,
            {"anomaly": 1},
            "Refines a drawn or previous mask, or scribbles. Options: grow_mm (how far beyond the drawing to look, 0 "
            "to 50), strictness, threshold (0 to 25; blank: the scan's own), keep_drawn (nothing drawn is dropped)",
        )

    def from_there(
        self,
        request: Mapping[str, Any],
        scan: PreparedScan,
        previous: np.ndarray,
        values: Mapping[str, Any],
        prompted: Callable[..., dict[str, Any]],
    ) -> dict[str, Any]:
        """Read label and region of interest; run near the edit."""
        inside = region_of_interest(request.get("roi"), scan.shape)
        edit = Edit(previous, *self._drawn(request, scan, previous))
        image = str(request.get("image_id") or request["image"])
        if values["threshold"] is not None or values["strictness"] != "as found":
            zone = np.ones(scan.shape, dtype=bool)
        elif edit.voxels.any():
            zone = edit.zone(scan.affine, reach_mm=max(LOCAL_MM, values["grow_mm"]))
        else:
            known = self.workbench.results.params(image) or {}
            warnings = [NO_EDIT, *known.get("warnings", [])]
            return {**known, "change": edit.change_ml(previous, scan.affine), "warnings": warnings}
        params = prompted(self._prompts(edit, zone & inside, scan, values, request), zone)
        labels = self.workbench.results.mask(image)
        answer = previous if labels is None else labels > 0
        return {**params, "change": edit.change_ml(answer, scan.affine)}

    def _prompts(
        self, edit: Edit, where: np.ndarray, scan: PreparedScan, values: Mapping[str, Any], request: Mapping[str, Any]
    ) -> Prompts:
        return Prompts(
            roi=grown(edit.drawn | edit.suspicious, scan.affine, by_mm=values["grow_mm"]) & where,
            include=edit.suspicious | edit.drawn if values["keep_drawn"] else edit.suspicious,
            exclude=edit.normal | (edit.previous & ~edit.drawn & ~edit.suspicious),
            keep=edit.drawn if values["keep_drawn"] else edit.drawn & ~where,
            threshold=self._threshold(values, request),
        )

    def _drawn(
        self, request: Mapping[str, Any], scan: PreparedScan, previous: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What was drawn, forced as suspicious, and forced as normal."""
        nothing = np.zeros(scan.shape, dtype=bool)
        if not request.get("label"):
            return previous, nothing, nothing
        label = load_label(str(request["label"]), scan)
        said = scribble_values(request.get("label_info"))
        if not said:
            return label > 0, nothing, nothing
        marks = {meaning: np.isin(label, [v for v, m in said.items() if m == meaning]) for meaning in MEANINGS}
        drawn = (label > 0) & ~marks["suspicious"] & ~marks["normal"]
        return (drawn if drawn.any() else previous), marks["suspicious"], marks["normal"]


class PointsTask(_PromptedTask):
    """Points: a foreground point forces suspicion around it, a background point normality.

    Around a foreground point the method looks again; a background point also clears the whole flagged region that it
    lies in.
    """

    model = "itermask3d_points"

    def __init__(self, workbench: Workbench) -> None:
        self.options = {
            "radius_mm": Number(4, 0, 30, " mm"),
            "reach_mm": Number(25, 0, 80, " mm"),
            "strictness": Choice(list(STRICTNESS)),
            "threshold": Number(None, 0.0, 25.0),
            "bands": Switch(False),
        }
        super().__init__(
            workbench,
            InferType.DEEPGROW,
            {"anomaly": 1},
            "Foreground points force suspicion, background points normality. Options: radius_mm (of a point, 0 to 30), "
            "reach_mm (how far around a foreground point to look, 0 to 80), strictness, threshold (0 to 25)",
        )

    def from_there(
        self,
        request: Mapping[str, Any],
        scan: PreparedScan,
        previous: np.ndarray,
        values: Mapping[str, Any],
        prompted: Callable[..., dict[str, Any]],
    ) -> dict[str, Any]:
        """Read the points; run around them and in what was flagged."""
        return prompted(self._prompts(request, scan, previous, values))

    def _prompts(
        self, request: Mapping[str, Any], scan: PreparedScan, previous: np.ndarray, values: Mapping[str, Any]
    ) -> Prompts:
        foreground, background = (read_points(request.get(name), name) for name in ("foreground", "background"))
        try:
            suspicious = balls(foreground, scan.shape, scan.affine, radius_mm=values["radius_mm"])
            near = balls(foreground, scan.shape, scan.affine, radius_mm=values["reach_mm"])
            normal = balls(background, scan.shape, scan.affine, radius_mm=values["radius_mm"])
            spots = balls(background, scan.shape, scan.affine, radius_mm=0)
        except ValueError as error:
            raise RequestError(422, str(error)) from error
        brain = self.workbench.results.brain(str(request.get("image_id") or request["image"]))
        if foreground and not (suspicious & brain).any():
            raise RequestError(422, f"no foreground point of {foreground} lies in the brain; expected one inside")
        return Prompts(
            roi=previous | near,
            include=suspicious,
            exclude=(normal | regions_at(previous, spots)) & ~suspicious,
            threshold=self._threshold(values, request),
        )


class BatchInference(BatchInferTask):
    """Many scans of the datastore in a row; one that cannot be used is named in the answer and the others go on."""

    def __call__(
        self, request: Mapping[str, Any], datastore: Datastore, infer: Callable[..., dict[str, Any]]
    ) -> dict[str, Any]:
        """Answers by image, each with ``params``, or ``error`` with a sentence."""

        def one(request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
            try:
                return infer(request, datastore)
            except (RequestError, ScanError, OSError, RuntimeError, ValueError) as error:
                logger.error("%s: %s", request.get("image"), error)
                return {"error": str(error)}

        # One after the other: MONAI Label would divide by the number of GPUs, and the network uses all cores anyway.
        return dict(super().__call__({**request, "multi_gpu": False, "max_workers": 1}, datastore, one))
