"""The models of a bundle: their files by name, and which one a scan gets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from itermask3d import BUNDLE_ROOT
from itermask3d.files.identity import file_digest
from itermask3d.inference.domain import CONTRAST, Domain
from itermask3d.method.evidence import TissueEvidence
from itermask3d.method.settings import RefinementSettings

__all__ = [
    "AUTO",
    "NAMES",
    "Choice",
    "ModelFiles",
    "ModelTable",
    "domain_digests",
    "evidence_of",
    "model_file",
    "shipped_settings",
]

AUTO = "auto"
"""Asks for the model to be chosen for each scan."""

NAMES = ("t1", "agnostic")
"""Models of the shipped bundle, the preferred first, the widest last."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model: weights, and what was measured for them. They need not exist.

    Attributes:
        name: such as ``t1``.
        weights: state dict.
        domain: of ``scripts/fit_domain.py``.
        calibration: of ``itermask3d calibrate``.
        preferred: whether it is the first of its bundle.
    """

    name: str
    weights: Path
    domain: Path
    calibration: Path
    preferred: bool


@dataclass(frozen=True)
class Choice:
    """Which model a scan gets, and why.

    Attributes:
        name: of the model; ``None`` where weights were named instead.
        requested: ``auto``, or a model's name; ``None`` where weights were named instead.
        reason: one sentence.
        candidates: digests of the domain files that were looked at, by model; empty where nothing was chosen.
    """

    name: str | None
    requested: str | None
    reason: str
    candidates: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Choice:
        """Inverse of :meth:`to_json`."""
        return cls(data["name"], data["requested"], data["reason"], dict(data["candidates"]))

    @classmethod
    def of_weights(cls) -> Choice:
        """What is said where somebody named weights and no model."""
        return cls(None, None, "Weights were named instead of a model.")


def model_file(folder: str | Path, kind: str, name: str, names: Sequence[str] = NAMES) -> Path:
    """Where a file of a model lies: the first model's files carry no name.

    Args:
        folder: of the bundle's models.
        kind: ``model.pt``, ``domain.json`` or ``calibration.json``.
        name: of the model.
        names: of all models, in order.

    >>> str(model_file("models", "domain.json", "agnostic"))
    'models/domain_agnostic.json'
    """
    path = Path(folder) / kind
    return path if name == names[0] else path.with_name(f"{path.stem}_{name}{path.suffix}")


class ModelTable:
    """The models whose weights lie in a folder, and the rule that picks one.

    Args:
        folder: ``models`` of a bundle.
        requested: a name, or ``auto``.
        names: the preferred model first, the widest last.
        settings: by model, the fields of :class:`itermask3d.method.settings.RefinementSettings` in which it differs
            from the settings of the config, such as the noise that it was trained with.

    Raises:
        ValueError: if the request is none of these, or settings are of no model or no setting.
    """

    def __init__(
        self,
        folder: str | Path,
        requested: str = NAMES[0],
        names: Sequence[str] = NAMES,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.names = tuple(names)
        self.settings = {name: dict(values) for name, values in (settings or {}).items()}
        known = {setting.name for setting in fields(RefinementSettings)}
        for name, values in self.settings.items():
            if name not in self.names or not known.issuperset(values):
                raise ValueError(
                    f"models::settings has '{name}': {values}; expected a model of {', '.join(self.names)} and fields "
                    "of RefinementSettings"
                )
        self.requested = self.checked(requested)

    def checked(self, requested: str) -> str:
        """A request as it is.

        Raises:
            ValueError: if it is no model and not ``auto``.
        """
        if requested not in (AUTO, *self.names):
            raise ValueError(f"model must be one of {', '.join((AUTO, *self.names))}, got '{requested}'")
        return requested

    def __getitem__(self, name: str) -> ModelFiles:
        weights, domain, calibration = (model_file(self.folder, kind, name, self.names) for kind in _KINDS)
        return ModelFiles(name, weights, domain, calibration, preferred=name == self.names[0])

    def adapted(self, settings: RefinementSettings, name: str | None = None) -> RefinementSettings:
        """The settings as a model needs them.

        Args:
            settings: of the config.
            name: of the model; ``None`` for the one of every scan, where there is one.

        Raises:
            ValueError: if a value is outside its range.
        """
        if name is None:
            name = None if self.only is None else self.only.name
        return settings if name is None else replace(settings, **self.settings.get(name, {}))

    @property
    def known(self) -> tuple[ModelFiles, ...]:
        """The models whose weights are there, in order."""
        return tuple(model for model in map(self.__getitem__, self.names) if model.weights.is_file())

    def _chooses(self, requested: str) -> bool:
        """Whether scans may get different models: ``auto``, more than one to choose from, and the first one's domain to
        choose by."""
        return requested == AUTO and len(self.known) > 1 and self[self.names[0]].domain.is_file()

    @property
    def only(self) -> ModelFiles | None:
        """The model of every scan; ``None`` where that is chosen scan by scan."""
        return self.fixed(self.requested)

    def fixed(self, requested: str) -> ModelFiles | None:
        """The one model that a request means; ``None`` where it has to be chosen for each scan."""
        if requested != AUTO:
            return self[requested]
        return None if self._chooses(requested) else self[self.names[0]]

    @property
    def weights(self) -> str | None:
        """Weights of every scan, for a config; ``None`` where that is chosen scan by scan.

        Raises:
            ValueError: if a model was asked for that is not there.
        """
        if self.only is not None and not self.only.preferred and not self.only.weights.is_file():
            there = ", ".join(model.name for model in self.known) or "none"
            raise ValueError(f"model '{self.only.name}' lacks its weights '{self.only.weights}'; there are: {there}")
        return None if self.only is None else str(self.only.weights)

    @property
    def _main(self) -> ModelFiles:
        """The model of every scan, or the first where that is chosen: to it belongs what a config names."""
        return self.only or self[self.names[0]]

    @property
    def domain(self) -> str:
        """Domain of the main model, for a config."""
        return str(self._main.domain)

    @property
    def calibration(self) -> str:
        """Calibration of the main model, for a config."""
        return str(self._main.calibration)

    def named(self, requested: str) -> Choice:
        """The choice where there is nothing to choose."""
        model = self.fixed(requested)
        if model is None:
            raise ValueError("model 'auto' has to look at the scan first")
        if requested == AUTO:
            reason = f"There is no other model than {model.name}."
            if len(self.known) > 1:
                reason = f"The model {model.name} has no measured domain, so there is nothing to choose by."
            return Choice(model.name, AUTO, reason)
        return Choice(model.name, requested, f"The model {model.name} was set; no scan was asked.")

    def choose(self, features: Mapping[str, float], preprocessing: Mapping[str, Any]) -> Choice:
        """Pick the first model in whose domain the scan's contrast lies, the last where it lies in none.

        What else is foreign, such as noise or thick slices, is no reason to take another model: it is told with the
        result, and no model was trained for it alone. Where the first model's domain is for another preprocessing,
        there is nothing to choose by, and that model answers.

        Args:
            features: from :mod:`itermask3d.preprocessing.scan_features`, all that the domains look at.
            preprocessing: ``spacing_mm`` and ``bias_correction`` of the grid that they were measured on.

        Raises:
            ValueError: if a domain file is none.
        """
        told: list[str] = []
        for model in self.known:
            domain = Domain.read(model.domain) if model.domain.is_file() else None
            if model.preferred and domain is not None and not domain.applies(preprocessing):
                reason = f"The domain of {model.name} is for another preprocessing, so there is nothing to choose by."
                return Choice(model.name, AUTO, reason, domain_digests(self.known))
            obstacle = _obstacle(model.name, domain, features, preprocessing)
            told.append(obstacle or f"the contrast is one that {model.name} knows")
            if obstacle is None:
                break
        else:
            told.append(f"{model.name} is the widest model")
        reason = "; ".join(told)
        return Choice(model.name, AUTO, f"{reason[0].upper()}{reason[1:]}.", domain_digests(self.known))


def evidence_of(
    models: ModelTable, evidence: Mapping[str, TissueEvidence], settings: RefinementSettings
) -> TissueEvidence | None:
    """The evidence of tissues for every scan; ``None`` where a model is chosen scan by scan, has none, or the error is
    not in the unit that it needs.

    Args:
        models: the table of the bundle.
        evidence: by the model's name.
        settings: of the config.
    """
    return evidence.get(models.only.name) if models.only is not None and settings.relative_error else None


def domain_digests(models: Iterable[ModelFiles]) -> dict[str, str]:
    """Digests of the domains among which is chosen, by model."""
    return {model.name: file_digest(model.domain) for model in models}


_KINDS = ("model.pt", "domain.json", "calibration.json")


def _obstacle(
    name: str, domain: Domain | None, features: Mapping[str, float], preprocessing: Mapping[str, Any]
) -> str | None:
    """Why a model is not simply taken; ``None`` where the scan's contrast lies in its domain."""
    if domain is None:
        return f"{name} has no measured domain"
    if not domain.applies(preprocessing):
        return f"the domain of {name} is for another preprocessing"
    foreign = CONTRAST in domain.check(features).groups
    return f"the contrast is out-of-distribution for {name}" if foreign else None


def shipped_settings() -> RefinementSettings:
    """The loop's settings as the shipped bundle has them."""
    config = json.loads(Path(BUNDLE_ROOT, "configs/inference.json").read_text())
    return RefinementSettings(**{name: value for name, value in config["settings"].items() if name != "_target_"})
