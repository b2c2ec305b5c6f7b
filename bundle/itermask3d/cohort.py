"""Many scans through one pipeline: a bad scan is listed and the others go on; finished scans are not done again."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.engines import Evaluator, PrepareBatchExtraInput
from monai.inferers import Inferer
from monai.transforms import Compose, EnsureTyped, FlattenSubKeysd, Invertd, MapTransform
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn
from torch.utils.data import IterableDataset, get_worker_info

from itermask3d.detection import Findings, Outcome
from itermask3d.domain import DomainCheck
from itermask3d.inferer import IterMaskInferer
from itermask3d.models import Choice, Networks, load_weights
from itermask3d.preprocessing import load_volume, scan_loader
from itermask3d.reporting import save_picture
from itermask3d.results import (
    RESEARCH_USE,
    ScanResult,
    foreign_files,
    settle,
    write_atomically,
    write_result,
)
from itermask3d.scan_features import measure_acquisition, measure_prepared
from itermask3d.scans import ScanError, list_scans
from itermask3d.store import ResultStore, input_files

__all__ = [
    "ChooseModeld",
    "ChosenModels",
    "ResultStore",
    "SaveResultd",
    "ScanStream",
    "SegmentationRun",
    "first_cause",
    "inference_postprocessing",
    "input_files",
    "load_weights",
    "measured_figures",
    "scan_error",
]

logger = logging.getLogger(__name__)

OUTPUTS = ("mask", "anomaly_map", "reconstruction")

OUTSIDE = "The score has no percentile or p-value: it means something only for scans like those of the training."


class ScanStream(IterableDataset[Any]):
    """Items one by one through a transform; a scan that cannot be used is recorded and left out.

    Args:
        source: see :func:`itermask3d.scans.list_scans`; read when the iteration starts.
        transform: from item to network input.
        store: scans that are done there are not processed again.
        brain_mask_dir, label_dir: see :func:`itermask3d.scans.list_scans`.

    Attributes:
        failures: sentence by case, of the scans that could not be used.
        finished: cases that were done before.
    """

    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        transform: Callable[[dict[str, Any]], Any],
        *,
        store: ResultStore | None = None,
        brain_mask_dir: str | Path | None = None,
        label_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.transform = transform
        self.source = source
        self.store = store
        self.brain_mask_dir = brain_mask_dir
        self.label_dir = label_dir
        self.failures: dict[str, str] = {}
        self.finished: list[str] = []

    def items(self) -> list[dict[str, Any]]:
        """The listed scans.

        Raises:
            ScanError: see :func:`itermask3d.scans.list_scans`.
        """
        return list_scans(self.source, brain_mask_dir=self.brain_mask_dir, label_dir=self.label_dir)

    def __iter__(self) -> Iterator[Any]:
        if get_worker_info() is not None:
            raise ValueError("a stream of scans needs a loader without workers, got num_workers above 0")
        items = self.items()
        for number, item in enumerate(items, start=1):
            case = item["case"]
            if self.store is not None and self.store.is_done(item):
                logger.info("scan %d of %d, %s: done before", number, len(items), case)
                self.finished.append(case)
                continue
            logger.info("scan %d of %d, %s", number, len(items), case)
            try:
                yield self.transform(item | {"inputs": json.dumps(input_files(item))})
            except Exception as error:
                reason = scan_error(error)
                if reason is None:
                    raise
                logger.error("%s: %s", case, reason)
                self.failures[case] = str(reason)


class MeasureScand(MapTransform):
    """Measure what tells a scan's kind, while the brain mask lies on the network's grid.

    Adds ``figures``: JSON text with ``figures`` of :func:`itermask3d.scan_features.measure_prepared` and, where the
    scan has its head, what the preprocessing measured beside the brain mask; and the ``spacing_mm`` and
    ``bias_correction`` under which they were measured.
    """

    def __init__(self, key: str = "image", mask_key: str = "brain_mask") -> None:
        super().__init__([key, mask_key])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        image, brain = (sample[key][0].numpy(force=True) for key in self.keys)
        spacing_mm = round(float(sample[self.keys[1]].pixdim[0]), 4)
        bias = sample.get("bias_field")
        log_sd = None if bias is None else float(bias["log_sd"])
        figures = measure_prepared(image, brain > 0.5, spacing_mm=spacing_mm, bias_log_sd=log_sd)
        left_out = {name: float(value) for name, value in sample.get("left_out", {}).items()}
        figures |= {name: value for name, value in left_out.items() if not math.isnan(value)}
        correction = "none" if bias is None else "n4"
        measured = {"figures": figures, "spacing_mm": spacing_mm, "bias_correction": correction}
        return {**sample, "figures": json.dumps(measured)}


def measured_figures(sample: Mapping[Any, Any], preprocessing: Any) -> dict[str, Any]:
    """All figures of a prepared scan, those of its own grid included, as a run measures them.

    Args:
        sample: what ``preprocessing`` made of a scan.
        preprocessing: whose inverse leads to the scan's own grid.

    Returns:
        ``figures`` by name, and the ``spacing_mm`` and ``bias_correction`` under which they were measured.
    """
    measured = json.loads(MeasureScand()(sample)["figures"])
    back = Invertd("brain_mask", transform=preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True)
    mask = back(dict(sample))["brain_mask"]
    acquisition = measure_acquisition(mask[0].numpy(force=True) > 0.5, mask.affine.numpy(force=True))
    return {**measured, "figures": measured["figures"] | acquisition}


class ChooseModeld(MapTransform):
    """Choose the model for a prepared scan, by the domains, and load its weights if they are not yet.

    Adds ``model``: JSON text of a :class:`itermask3d.models.Choice`.

    Raises:
        ScanError: from a call, if the weights are missing, damaged or of another network.
    """

    def __init__(self, preprocessing: Callable[..., Any], networks: Networks) -> None:
        super().__init__(["image", "brain_mask"])
        self.preprocessing = preprocessing
        self.networks = networks

    def __call__(self, data: Mapping[Any, Any]) -> dict[Hashable, Any]:
        measured = measured_figures(data, self.preprocessing)
        choice = self.networks.table.choose(measured["figures"], measured)
        self.networks[str(choice.name)]
        logger.info("%s: model %s. %s", data.get("case"), choice.name, choice.reason)
        return {**data, "model": json.dumps(choice.to_json())}


class ChosenModels(Inferer):
    """Every scan of a batch through the network that was chosen for it.

    Args:
        inferer: with the settings of the config; each model's own are put over them.
        networks: by name of the model.
    """

    def __init__(self, inferer: IterMaskInferer, networks: Networks) -> None:
        super().__init__()
        self.inferer = inferer
        self.networks = networks

    def __call__(
        self, inputs: torch.Tensor, network: Any, brain_mask: torch.Tensor, model: Sequence[str], **kwargs: Any
    ) -> dict[str, Any]:
        """Run the inferer once a model.

        Args:
            inputs, brain_mask: ``(B, 1, D, H, W)``.
            network: not used.
            model: of each scan, what :class:`ChooseModeld` added.

        Returns:
            What the inferer returns, in the order of the scans.
        """
        names = [Choice.from_json(json.loads(text)).name for text in model]
        groups = [[i for i, other in enumerate(names) if other == name] for name in dict.fromkeys(names)]
        found = []
        for group in groups:
            name = str(names[group[0]])
            inferer = self.inferer.with_settings(self.networks.table.adapted(self.inferer.settings, name))
            found.append(
                inferer(torch.as_tensor(inputs)[group], self.networks[name], torch.as_tensor(brain_mask)[group])
            )
        order = np.argsort([i for group in groups for i in group]).tolist()
        joined: dict[str, Any] = {key: torch.cat([part[key] for part in found])[order] for key in OUTPUTS}
        texts = [text for part in found for text in part["findings"]]
        return joined | {"findings": [texts[i] for i in order]}


class SaveResultd(MapTransform):
    """Write the result of one scan, on its own grid, through a :class:`ResultStore`.

    Expects ``mask``, ``anomaly_map``, ``reconstruction`` and ``brain_mask`` inverted to the scan's grid, ``findings``
    as JSON text, ``figures`` of :class:`MeasureScand`, ``path``, ``case``, ``normalisation`` and ``brain_extraction``.
    What was written as mask and findings
    goes back under these keys, so that figures are taken from what the user gets.
    """

    def __init__(self, store: ResultStore, picture: bool = True) -> None:
        super().__init__(OUTPUTS)
        self.store = store
        self.picture = picture
        self.loader = scan_loader()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        result = self.result(sample)
        write_result(result, self.store.folder(result.case), draw=save_picture if self.picture else None)
        sample["mask"] = torch.from_numpy(result.mask)[None].float()
        sample["findings"] = json.dumps(result.findings.to_json())
        return sample

    def result(self, sample: Mapping[Hashable, Any], store: ResultStore | None = None) -> ScanResult:
        """The result of a sample, not yet written; settings and calibration are those of ``store``."""
        store = store or self.store
        choice = Choice.from_json(json.loads(sample["model"])) if "model" in sample else store.choice
        store = store.for_model(choice.name)
        image = load_volume(sample["path"], self.loader)
        voxels = {key: sample[key][0].numpy(force=True) for key in (*OUTPUTS, "brain_mask")}
        brain = voxels["brain_mask"] > 0.5
        normalisation = {key: float(value) for key, value in sample["normalisation"].items()}
        intensity = voxels["reconstruction"] * normalisation["scale"] + normalisation["median"]
        findings = Findings.from_json(json.loads(sample["findings"]))
        affine = np.asarray(image.affine, dtype=float)
        domain = _domain(sample, store, brain, affine)
        outside = domain is not None and not domain.in_domain
        comparable = findings.outcome is not Outcome.FIT_FAILED and not outside and not store.caveats
        calibration = store.applying_calibration() if comparable else None
        p_value = None if calibration is None else store.p_value(findings.score)
        if calibration is not None:
            findings = replace(findings, percentile_among_normals=store.percentile(findings.score))
        mask = (voxels["mask"] > 0.5) & brain
        return ScanResult(
            case=str(sample["case"]),
            path=str(sample["path"]),
            findings=findings,
            image=image.numpy(force=True),
            mask=mask,
            anomaly_map=np.where(brain, voxels["anomaly_map"], 0).astype(np.float32),
            reconstruction=np.where(brain, intensity, 0).astype(np.float32),
            brain_mask=brain,
            affine=affine,
            preprocessing={"brain_extraction": str(sample["brain_extraction"]), **normalisation},
            settings=store.settings,
            inputs=json.loads(str(sample.get("inputs", "{}"))),
            warnings=_warnings(findings, mask, domain, () if outside else store.caveats),
            p_value=p_value,
            p_value_note=None if calibration is None or p_value is None else calibration.guarantee,
            domain=domain,
            model=choice.to_json(),
        )


class SegmentationRun:
    """The whole run behind ``python -m monai.bundle run`` and ``scripts/segment.py``.

    Args:
        evaluator: MONAI engine over a loader of ``dataset``.
        dataset: the scans.
        store: where results go.
        network, checkpoint: weights are loaded strictly before the first scan. Without a checkpoint the model is chosen
            scan by scan; weights of others than the preferred model are loaded when the first scan needs them.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        dataset: ScanStream,
        store: ResultStore,
        network: nn.Module,
        checkpoint: str | Path | None,
    ) -> None:
        self.evaluator = evaluator
        self.dataset = dataset
        self.store = store
        self.network = network
        self.checkpoint = checkpoint
        self.console = Console(soft_wrap=True)

    def run(self) -> None:
        """Process every scan, write ``failures.json`` where there are any, print a summary.

        Raises:
            SystemExit: with status 1 if a scan failed, 2 if nothing could start; the reason is printed.
        """
        try:
            cases = [item["case"] for item in self.dataset.items()]
            if self.checkpoint is None:
                self._choose_models()
            else:
                load_weights(self.network, self.checkpoint)
            self._prepare_folder(cases)
        except ScanError as error:
            self.console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
            raise SystemExit(2) from error
        try:
            self.evaluator.run()
        finally:
            self._record_failures()
        self._summarise(cases)
        if self.dataset.failures:
            raise SystemExit(1)

    def _choose_models(self) -> None:
        """Put the choice behind the preprocessing, and the networks behind the inferer."""
        if self.store.models is None:
            raise ValueError("a run without weights needs a table of models to choose from")
        networks = Networks(self.network, self.store.models)
        networks[self.store.models.names[0]]
        prepare = self.dataset.transform
        choose = ChooseModeld(prepare, networks)
        self.dataset.transform = lambda item: choose(prepare(item))
        self.evaluator.inferer = ChosenModels(self.evaluator.inferer, networks)  # type: ignore[attr-defined]
        self.evaluator.prepare_batch = PrepareBatchExtraInput({"brain_mask": "brain_mask", "model": "model"})

    def _prepare_folder(self, cases: Sequence[str]) -> None:
        for case in cases:
            folder = self.store.folder(case)
            foreign = foreign_files(folder, case)
            if foreign:
                raise ScanError(
                    f"'{folder}' holds files of others ({foreign[0]} …); expected a folder for results only"
                )
        try:
            self.store.directory.mkdir(parents=True, exist_ok=True)
            write_atomically("", self.store.directory / ".probe")
            (self.store.directory / ".probe").unlink()
        except OSError as error:
            raise ScanError(f"results cannot be written to '{self.store.directory}' ({error.strerror})") from error
        for case in cases:
            settle(self.store.folder(case))

    def _record_failures(self) -> None:
        path = self.store.directory / "failures.json"
        if not self.dataset.failures:
            path.unlink(missing_ok=True)
            return
        write_atomically(json.dumps(self.dataset.failures, indent=1) + "\n", path)
        for case, reason in self.dataset.failures.items():
            self.console.print(f"[red]failed:[/red] {escape(f'{case}: {reason}')}", highlight=False)

    def _summarise(self, cases: Sequence[str]) -> None:
        table = Table(title="IterMask3D", caption=RESEARCH_USE)
        for name, justify in (("scan", "left"), ("outcome", "left"), ("flagged ml", "right"), ("score", "right")):
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for name in ("above % of normals", "p"):
            table.add_column(name, justify="right")
        done = [case for case in cases if case not in self.dataset.failures]
        for case in done:
            result = self.store.read(case)
            if result is not None:
                percentile, p_value = result["percentile_among_normals"], result.get("p_value")
                table.add_row(
                    escape(case),
                    result["outcome"] if result.get("in_domain") is not False else f"{result['outcome']} *",
                    f"{result['volumes_ml']['anomaly']:.2f}",
                    f"{result['score']:.4f}",
                    "-" if percentile is None else f"{percentile:.0f}",
                    "-" if p_value is None else f"{p_value:.2g}",
                )
        if done:
            self.console.print(table)
            if any((self.store.read(case) or {}).get("in_domain") is False for case in done):
                self.console.print("* outside the training domain, see the warnings in its result.json: not comparable")
            self.console.print(f"{len(done)} of {len(cases)} scans done, {escape(self._used())}")
            self.console.print(f"results in {escape(str(self.store.directory))}")

    def _used(self) -> str:
        if self.checkpoint is None and self.store.models is not None:
            return f"model chosen of {', '.join(model.name for model in self.store.models.known)}"
        return f"weights {self.checkpoint}"


def inference_postprocessing(preprocessing: Compose, store: ResultStore | None, picture: bool = True) -> Compose:
    """Compose the way back: to the scan's own grid, then to files.

    Args:
        preprocessing: the transforms that made the network's input; their inverse is exact.
        store: where results go; ``None`` writes nothing.
        picture: draw ``picture.png``.
    """
    keys = [*OUTPUTS, "brain_mask"]
    return Compose(
        [
            FlattenSubKeysd("pred"),
            EnsureTyped(keys, dtype=torch.float32, track_meta=True, device=torch.device("cpu")),
            MeasureScand(),
            Invertd(keys, transform=preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True),
            *([SaveResultd(store, picture=picture)] if store is not None else []),
        ]
    )


def first_cause(error: BaseException) -> BaseException:
    """What others wrapped: the exception at the start of the chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def scan_error(error: BaseException | None) -> ScanError | None:
    """Find the :class:`ScanError` behind an exception; MONAI wraps what a transform raises."""
    while error is not None and not isinstance(error, ScanError):
        error = error.__cause__
    return error


def _domain(
    sample: Mapping[Hashable, Any], store: ResultStore, brain: np.ndarray, affine: np.ndarray
) -> DomainCheck | None:
    measured = json.loads(str(sample["figures"]))
    return store.check_domain(measured["figures"] | measure_acquisition(brain, affine), measured)


def _warnings(
    findings: Findings, mask: np.ndarray, domain: DomainCheck | None, caveats: Sequence[str]
) -> tuple[str, ...]:
    sentences = [] if domain is None else [deviation.sentence for deviation in domain.deviations]
    if sentences:
        sentences.append(OUTSIDE)
    sentences += caveats
    if not findings.converged:
        sentences.append(f"The refinement was stopped after {findings.iterations} iterations before it settled.")
    if findings.flagged_share > 0 and not mask.any():
        sentences.append("The flagged region is smaller than a voxel of the scan and vanished on its grid.")
    return tuple(sentences)
