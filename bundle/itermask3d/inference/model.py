"""A model: weights, settings, domain, calibration and preprocessing in one object that scans are segmented with."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from itermask3d import BUNDLE_ROOT
from itermask3d.files.identity import file_digest
from itermask3d.files.literals import as_literal
from itermask3d.files.scans import ScanError
from itermask3d.inference.calibration import Calibration, decisive
from itermask3d.inference.domain import Domain, DomainCheck
from itermask3d.inference.models import Choice, ModelTable
from itermask3d.inference.networks import Networks, load_tissues, network_shape_of
from itermask3d.inference.preparation import PreparedScan
from itermask3d.method.detection import Findings
from itermask3d.method.evidence import Evidence, TissueEvidence
from itermask3d.method.inferer import IterMaskInferer
from itermask3d.method.refinement import IterationCallback, Thresholding
from itermask3d.method.settings import RefinementSettings
from itermask3d.method.shrink import Constraints
from itermask3d.preprocessing.measure import ScanFeatures
from itermask3d.preprocessing.pipeline import Preprocessing

__all__ = ["Model", "Prediction", "Variant", "load_model"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What a model found in one scan, on the network's grid.

    Attributes:
        choice: which network was used, and why.
        findings: outcome, score, and the statistics behind them.
        mask: 0 or 1, float ``(1, *grid)``.
        anomaly_map: same shape, in squared normalised intensity or relative to the predicted variance.
        reconstruction: same shape, normalised intensity.
        evidence: of the scan's tissues; ``None`` for a model that does not look at them.
        error: with evidence of tissues the map of the loop alone, same shape.
    """

    choice: Choice
    findings: Findings
    mask: torch.Tensor
    anomaly_map: torch.Tensor
    reconstruction: torch.Tensor
    evidence: Evidence | None = None
    error: torch.Tensor | None = None


@dataclass(frozen=True)
class Variant:
    """One network of a model, and what makes its scores mean something.

    Attributes:
        name: see :class:`itermask3d.inference.models.Choice`; ``None`` where weights were named instead.
        inferer: with the settings of this network.
        weights, calibration, domain: files; the last two may be ``None`` or absent.
        described: values that describe the preprocessing.
        preferred: whether it is the bundle's first, or the weights that somebody named.
        weights_sha256: digest of the weights that were loaded; ``None`` where they were not: then of the file as it is.
    """

    name: str | None
    inferer: IterMaskInferer
    weights: str | Path
    calibration: str | Path | None
    domain: str | Path | None
    described: Mapping[str, Any]
    preferred: bool = True
    weights_sha256: str | None = None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What a result depends on beside the scan."""
        tissues = self.inferer.evidence
        evidence = {} if tissues is None else tissues.described() | {"weights_sha256": file_digest(tissues.weights)}
        return {
            "evidence": evidence,
            **asdict(self.inferer.settings),
            **self.described,
            "min_volume_ml": self.inferer.min_volume_ml,
            "radius_cycles_per_mm": self.inferer.radius_cycles_per_mm,
            "mixed_precision": self.inferer.mixed_precision,
            "weights_sha256": self.weights_sha256 or file_digest(self.weights),
            "calibration_sha256": file_digest(self.calibration) if self.calibration else "none",
            "domain_sha256": file_digest(self.domain) if self.domain else "none",
        }

    @property
    def caveats(self) -> tuple[str, ...]:
        """Why no score has a percentile or p-value, in sentences; none for the preferred network."""
        if self.preferred:
            return ()
        for what, path, told in (
            ("domain", self.domain, "nobody measured for which scans its score means something"),
            ("calibration", self.calibration, "its score cannot be compared with normal scans"),
        ):
            if path is None or not Path(path).is_file():
                return (f"The model '{self.name}' has no {what} file: {told}, so there is no percentile or p-value.",)
        return ()

    def applying_calibration(self) -> Calibration | None:
        """The calibration; ``None`` where there is none, or other weights or settings made its scores.

        Raises:
            ValueError: if the file is no calibration.
        """
        if self.calibration is None or not Path(self.calibration).exists():
            return None
        calibration = Calibration.read(self.calibration)
        return calibration if decisive(calibration.settings) == decisive(self.settings) else None

    def check_domain(self, features: ScanFeatures) -> DomainCheck | None:
        """Compare a scan with the training scans.

        Returns:
            ``None``, with a sentence in the log, without a domain or where it was fitted on another preprocessing.

        Raises:
            ValueError: if the file is no domain.
        """
        if self.domain is None or not Path(self.domain).exists():
            logger.info("no domain file '%s': no scan is compared with the training scans", self.domain)
            return None
        domain = Domain.read(self.domain)
        if not domain.applies(features.grid):
            logger.warning("not compared with the training scans: %s is for %s", self.domain, dict(domain.settings))
            return None
        return domain.check(features.values)


class Model:
    """What scans are segmented with: one network, or several of which each scan gets the one that knows its contrast.

    Args:
        preprocessing: the way to the network's grid.
        network: of the right shape, without weights; see :class:`itermask3d.inference.networks.Networks`.
        inferer: its settings are those of named weights; those of a table's model are put over ``settings``.
        settings: of the config, before a model's own.
        models: the table of the bundle.
        weights: a state dict; ``None`` where the network is chosen scan by scan.
        calibration: what ``itermask3d calibrate`` wrote; ``None`` or an absent file leaves percentile and p-value out.
            Where the network is chosen, it is that of the table's first model; others have their own.
        domain: what ``scripts/fit_domain.py`` wrote; ``None`` or an absent file leaves scans unchecked. Likewise.
        evidence: of tissues, by the model that it is for; models that are not named go by the error alone. Named
            weights get that of the model that the table would have used, and of the first where it would have chosen.
        device: where the network runs.
    """

    def __init__(
        self,
        *,
        preprocessing: Preprocessing,
        network: torch.nn.Module,
        inferer: IterMaskInferer,
        settings: RefinementSettings,
        models: ModelTable,
        weights: str | Path | None,
        calibration: str | Path | None = None,
        domain: str | Path | None = None,
        evidence: Mapping[str, TissueEvidence] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.preprocessing = preprocessing
        self.inferer = inferer
        self.models = models
        self.device = torch.device(device)
        self.networks = Networks(network, models, weights)
        self._settings = settings
        main = models.only or models[models.names[0]]
        given = main.weights if weights is None else weights
        self._files = {"weights": given, "calibration": calibration, "domain": domain}
        self._evidence = dict(evidence or {})
        self._configured = main.name
        named = weights is not None and (models.only is None or str(main.weights) != str(weights))
        self.requested = None if named else models.requested
        self._own_name = None if named else main.name
        self._changes: dict[str, Any] = {}

    def changed(
        self,
        settings: Mapping[str, Any] | None = None,
        min_volume_ml: float | None = None,
        requested: str | None = None,
    ) -> Model:
        """The same networks with other settings.

        Args:
            settings: fields of :class:`itermask3d.method.settings.RefinementSettings`; they go over those of whichever
                network is used.
            min_volume_ml: connected components below this are dropped, whatever the kind of contrast has of its own;
                ``None`` leaves it.
            requested: a name or ``auto``; ``None`` leaves it. Without effect where weights were named.

        Raises:
            ValueError: if there is no such model.
        """
        model = copy.copy(self)
        model._changes = {**self._changes, **(settings or {})}
        if min_volume_ml is not None:
            model.inferer = self.inferer.with_settings(self.inferer.settings)
            model.inferer.min_volume_ml = min_volume_ml
            model._evidence = {name: tissues.with_one_volume() for name, tissues in self._evidence.items()}
        if requested is not None and self.requested is not None:
            model.requested = self.models.checked(requested)
        return model

    def load(self) -> Model:
        """Load the weights of the first scan at the latest now; returns the model itself.

        Raises:
            ScanError: if they are missing, damaged or of another network.
        """
        self._network(self.models.names[0] if self.chooses else self.fixed_name)
        return self

    @property
    def fixed_name(self) -> str | None:
        """The network of every scan by name; ``None`` where it is chosen, or weights were named."""
        fixed = None if self.requested is None else self.models.fixed(self.requested)
        return None if fixed is None else fixed.name

    @property
    def chooses(self) -> bool:
        """Whether each scan's network is chosen."""
        return self.requested is not None and self.fixed_name is None

    def variant(self, name: str | None) -> Variant:
        """A network by name, with all that belongs to it; ``None`` for weights that were named.

        Raises:
            ValueError: if a setting is outside its range.
        """
        base = self.inferer.settings if name is None else self.models.adapted(self._settings, name)
        own = name is None or name == self._own_name
        table = None if name is None else self.models[name]
        files: Any = self._files if own or table is None else {kind: getattr(table, kind) for kind in self._files}
        return Variant(
            name=name,
            inferer=_inferer(
                self.inferer, replace(base, **self._changes), self._evidence.get(name or self._configured)
            ),
            described=self.preprocessing.described,
            preferred=table is None or table.preferred,
            weights_sha256=self.networks.digests.get(name),
            **files,
        )

    def choose(self, prepared: PreparedScan) -> Choice:
        """Which network a scan gets, and why; its weights are loaded if they are not yet.

        Raises:
            ScanError: if its weights are missing, damaged or of another network.
            ValueError: if a domain file is none.
        """
        if self.requested is None:
            return Choice.of_weights()
        if not self.chooses:
            return self.models.named(self.requested)
        choice = self.models.choose(prepared.features.values, prepared.features.grid)
        self._network(choice.name)
        logger.info("%s: model %s. %s", prepared.case, choice.name, choice.reason)
        return choice

    def predict(
        self,
        prepared: PreparedScan,
        constraints: Constraints | None = None,
        *,
        thresholding: Thresholding | None = None,
        iter_callback: IterationCallback | None = None,
    ) -> Prediction:
        """Find what does not belong in one scan.

        Args:
            prepared: the scan.
            constraints, thresholding, iter_callback: see :class:`itermask3d.method.inferer.IterMaskInferer`.

        Raises:
            ScanError: if the weights of the chosen network are missing, damaged or of another network.
            ValueError: if a setting is outside its range.
        """
        choice = self.choose(prepared)
        given = {"constraints": constraints, "thresholding": thresholding, "iter_callback": iter_callback}
        return self._run([prepared], [choice], **given)[0]

    def predict_batch(self, scans: Sequence[PreparedScan], choices: Sequence[Choice]) -> list[Prediction]:
        """:meth:`predict` for several scans at once, of which each network gets its own together.

        Args:
            scans: prepared.
            choices: of each, what :meth:`choose` says.
        """
        found: dict[int, Prediction] = {}
        for name in dict.fromkeys(choice.name for choice in choices):
            group = [index for index, choice in enumerate(choices) if choice.name == name]
            together = self._run([scans[i] for i in group], [choices[i] for i in group])
            found.update(zip(group, together, strict=True))
        return [found[index] for index in range(len(scans))]

    def _network(self, name: str | None) -> torch.nn.Module:
        """A network with its weights, which has to predict what the settings ask for."""
        network, used = self.networks[name], self.variant(name)
        shape = network_shape_of(network.state_dict())
        if used.inferer.settings.relative_error and shape is not None and shape["out_channels"] < 2:
            raise ScanError(
                f"weights '{used.weights}' predict no variance (one output channel); expected two channels, or the "
                "published settings of configs/reference_inference.yaml"
            )
        if used.inferer.evidence is not None:
            load_tissues(used.inferer.evidence, self.device)
        return network

    def _run(self, scans: Sequence[PreparedScan], choices: Sequence[Choice], **given: Any) -> list[Prediction]:
        name = choices[0].name
        network = self._network(name)
        image, brain = (
            torch.stack([getattr(scan, key).as_tensor() for scan in scans]).to(self.device)
            for key in ("image", "brain_mask")
        )
        out = self.variant(name).inferer(image, network, brain, **given)
        names = ("findings", "mask", "anomaly_map", "reconstruction", "evidence", "error")
        return [
            Prediction(choice, **{key: out[key][i] for key in names if key in out}) for i, choice in enumerate(choices)
        ]


def load_model(
    bundle: str | Path = BUNDLE_ROOT,
    requested: str | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    lazy: bool = False,
) -> Model:
    """The model that a bundle's ``configs/inference.json`` describes, with its weights.

    Args:
        bundle: the bundle's folder.
        requested: a model's name, or ``auto`` to choose it for each scan; ``None`` for the bundle's.
        overrides: config ids and values, such as ``{"settings::gamma": 0.05}``.
        lazy: load weights when they are first needed.

    Raises:
        ScanError: if the weights are missing, damaged or of another network.
        ValueError: if there is no such model, or a setting is outside its range.
    """
    parser = ConfigParser()
    parser.read_config(str(Path(bundle) / "configs" / "inference.json"))
    parser["bundle_root"] = as_literal(str(bundle))
    for key, value in {**({} if requested is None else {"model": requested}), **(overrides or {})}.items():
        parser[key] = value
    model: Model = parser.get_parsed_content("trained_model")
    return model if lazy else model.load()


def _inferer(
    inferer: IterMaskInferer, settings: RefinementSettings, evidence: TissueEvidence | None
) -> IterMaskInferer:
    """With the settings, and with the evidence where the error has the unit that it needs."""
    fused = evidence if settings.relative_error else None
    return inferer.with_evidence(None).with_settings(settings).with_evidence(fused)
