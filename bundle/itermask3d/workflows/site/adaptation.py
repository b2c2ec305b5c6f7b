"""From 10 to 50 normal raw scans of a site to a bundle that knows the site, stage by stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from itermask3d import __version__
from itermask3d.files.identity import file_digest
from itermask3d.files.scans import ScanError
from itermask3d.files.writing import write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.training.prepared import save_prepared
from itermask3d.workflows.site.adaptation_options import AdaptationOptions
from itermask3d.workflows.site.adaptation_report import adaptation_page
from itermask3d.workflows.site.adapted_bundle import widened_domain, write_adapted_bundle
from itermask3d.workflows.site.base_model import BaseModel
from itermask3d.workflows.site.checks import ScanChecks
from itermask3d.workflows.site.crossfit import GUARANTEE, folds_of, score_scan
from itermask3d.workflows.site.data_check import Finding, Level, MeasuredScan, related
from itermask3d.workflows.site.fine_tuning import fine_tune
from itermask3d.workflows.site.normal_scans import ScanScore, flagged_statistics
from itermask3d.workflows.site.options import Tell
from itermask3d.workflows.site.stages import Stages

__all__ = ["DONE", "LOOK_FIRST", "Adaptation", "Plan", "check_number"]

DONE, LOOK_FIRST = 0, 3
"""Exit status of a run that came to its end, and of one whose scans a person has to look at first."""

LEAST, FEW, LEVEL_NEEDS, MANY = 5, 10, 19, 50
SCORE_SAMPLES = 5
"""Training samples that take as long as the score of one scan; for the time that is left."""


@dataclass(frozen=True)
class Plan:
    """Which network is adapted with which scans, and which it scores.

    Attributes:
        cases: of all scans.
        folds: cases that each of the fold networks scores; it is adapted with the others.
    """

    cases: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]

    def networks(self) -> dict[str, tuple[str, ...]]:
        """Cases that each network is adapted with, by its name; the last is the bundle's."""
        folds = {
            f"fold-{number}": tuple(case for case in self.cases if case not in fold)
            for number, fold in enumerate(self.folds, start=1)
        }
        return {**folds, "all": self.cases}


def check_number(n_people: int) -> list[Finding]:
    """Whether there are enough people to adapt to, and to calibrate with."""
    if n_people < LEAST:
        text = f"{n_people} people; expected {LEAST} or more, better 20"
        return [Finding("number", Level.UNUSABLE, text)]
    if n_people < FEW:
        text = f"{n_people} people; expected {FEW} to {MANY}: so few change the weights little and calibrate coarsely"
        return [Finding("number", Level.SUSPECT, text)]
    if n_people < LEVEL_NEEDS:
        text = f"{n_people} people: no p-value reaches 5 %, for which {LEVEL_NEEDS} are needed"
        return [Finding("number", Level.NOTE, text)]
    if n_people > MANY:
        return [Finding("number", Level.NOTE, f"{n_people} people: more than {MANY} take longer and bring little")]
    return []


class Adaptation:
    """One run over one output folder; what is done there already is passed over.

    Args:
        options: of the run.
        tell: takes messages.

    Raises:
        ScanError: if the weights cannot be used.
    """

    def __init__(self, options: AdaptationOptions, tell: Tell) -> None:
        self.options, self.tell = options, tell
        self.output = options.output.absolute()
        self.output.mkdir(parents=True, exist_ok=True)
        self.bundle = self.output / "bundle"
        self.base = BaseModel(options.bundle, options.model)
        self.stages = Stages(self.output / "stages.json")
        checks = options.for_checks(
            spacing_mm=float(self.base.value("spacing_mm")),
            spatial_size=self.base.spatial_size,
            bias_correction=str(self.base.value("bias_correction")),
        )
        self.checks = ScanChecks(checks, self.stages, tell)

    def run(self) -> int:
        """Every stage in turn; the exit status."""
        scans, findings = self.checks.check()
        groups = related(scans, findings)
        findings += check_number(len(groups))
        self.checks.write(scans, findings)
        if any(finding.kind == "number" and finding.level is Level.UNUSABLE for finding in findings):
            raise ScanError(findings[-1].sentence)
        if self.checks.look_first(findings):
            return LOOK_FIRST
        if self.options.check_only:
            return DONE
        folds = folds_of(groups, min(self.options.folds, len(groups)), seed=self.options.seed)
        plan = Plan(tuple(sorted(scan.case for scan in scans)), tuple(tuple(fold) for fold in folds))
        self.begin(plan, scans)
        with self.bar(map(len, plan.networks().values()), 2 * len(plan.cases)) as advance:
            networks = {name: self.adapt(name, cases, advance) for name, cases in plan.networks().items()}
            before = self.scores(None, plan.cases, advance)
            after: dict[str, ScanScore] = {}
            for number, fold in enumerate(plan.folds, start=1):
                after |= self.scores(networks[f"fold-{number}"], fold, advance)
        self._write_bundle(plan, scans, networks["all"], after)
        self._report(plan, findings, before, after)
        self.tell(f"bundle: {self.bundle}\nreport: {self.output / 'report.html'}\n{RESEARCH_USE}")
        return DONE

    def begin(self, plan: Plan, scans: Sequence[MeasuredScan]) -> None:
        """Refuse to mix with another adaptation in OUT, and keep the prepared scans for training."""
        made_from = {
            "weights": self.base.digest,
            "tuning": self.options.tuning.to_json(),
            "folds": plan.folds,
            "scans": {scan.case: [scan.file_sha256, scan.extra["mask_sha256"]] for scan in scans},
        }
        changed = self.stages.changed("adaptation", made_from)
        if changed and not self.options.restart:
            raise ScanError(
                f"'{self.output}' holds an adaptation of other scans or settings ({', '.join(changed)} differ); "
                "expected --restart or another OUT"
            )
        if changed:
            for folder in ("networks", "prepared"):
                shutil.rmtree(self.output / folder, ignore_errors=True)
            (self.output / "scores.json").unlink(missing_ok=True)
            self.stages.forget(*self.stages.made_from)
        self.stages.enter("adaptation", made_from)
        (self.output / "prepared").mkdir(exist_ok=True)
        for case in plan.cases:
            path = self._prepared_file(case)
            if not path.exists():
                kept = {name: self.base.value(name) for name in ("spacing_mm", "bias_correction")}
                save_prepared(self._prepared(case), path, **kept)

    @contextmanager
    def bar(self, trainings: Iterable[int], n_scores: int) -> Iterator[Callable[[int], None]]:
        """One bar over the samples of trainings on so many scans each, and so many scores, with the time left."""
        total = sum(self.options.tuning.samples(n_scans) for n_scans in trainings) + SCORE_SAMPLES * n_scores
        with tqdm(total=total, desc="adapting", unit="sample", mininterval=1.0) as bar:
            yield lambda done: bar.update(done) and None

    def adapt(self, name: str, cases: Sequence[str], advance: Callable[[int], None]) -> Path:
        """The weights adapted with some scans."""
        folder = self.output / "networks" / name
        weights, stage = folder / "weights.pt", f"network {name}"
        if self.stages.is_done(stage, {"cases": cases}, [weights]):
            advance(self.options.tuning.samples(len(cases)))
            return weights
        items = [{"prepared": str(self._prepared_file(case)), "case": case, "site": "site"} for case in cases]
        fine_tune(self.base, items, folder, self.options.tuning, drawn=advance)
        self.stages.enter(stage, {"cases": cases})
        (folder / "last.pt").unlink(missing_ok=True)
        return weights

    def scores(
        self, weights: Path | None, cases: Sequence[str], advance: Callable[[int], None]
    ) -> dict[str, ScanScore]:
        """Scores of scans by one network, written as they come."""
        path = self.output / "scores.json"
        kept: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
        own = kept.setdefault(self.base.digest if weights is None else file_digest(weights), {})
        network = None
        for case in cases:
            if case not in own:
                network = network or self.base.network(weights).eval()
                own[case] = score_scan(self.base, network, self._prepared(case)).to_json()
                write_atomically(json.dumps(kept, indent=1) + "\n", path)
            advance(SCORE_SAMPLES)
        return {case: ScanScore(**own[case]) for case in cases}

    def _write_bundle(
        self, plan: Plan, scans: Sequence[MeasuredScan], weights: Path, after: Mapping[str, ScanScore]
    ) -> None:
        methods = {scan.extra["brain_extraction"] for scan in scans}
        later = self.options.brain_extraction
        write_adapted_bundle(
            self.bundle,
            self.base,
            weights,
            domain=widened_domain(self.base, {scan.case: scan.features for scan in scans}, plan.folds),
            scores=after,
            brain_extraction="hd_bet" if later == "auto" and "hd_bet" in methods else later,
            told=f"weights {self.base.digest}, adapted with {len(plan.cases)} normal scans of a site",
        )

    def _report(
        self,
        plan: Plan,
        findings: Sequence[Finding],
        before: Mapping[str, ScanScore],
        after: Mapping[str, ScanScore],
    ) -> None:
        """report.html, the bundle's model card and adaptation.json; always written anew."""
        tuning = self.options.tuning
        facts = {
            "Command": self.options.command,
            "Adapted": f"model {self.base.name}, weights {self.base.digest}",
            "Training": f"{len(plan.cases)} scans, {tuning.epochs} epochs of batches of {tuning.batch_size}, learning "
            f"rate {tuning.learning_rate:g} falling to 0, seed {tuning.seed}",
            "Calibration": f"{len(plan.folds)} folds. {GUARANTEE}",
            "Forgetting": "scans of the training site are not at hand here, so what the adaptation costs on them is "
            "not measured for this run",
            "Made with": f"itermask3d {__version__}",
        }
        statistics = {
            state: flagged_statistics(scores.values()) for state, scores in (("before", before), ("after", after))
        }
        content = {"note": RESEARCH_USE, **statistics, "facts": facts}
        write_atomically(json.dumps(content, indent=1) + "\n", self.output / "adaptation.json")
        card = "".join(f"- {name}: {value}\n" for name, value in facts.items())
        told = "\n".join(f"- {state}: {json.dumps(row)}" for state, row in statistics.items())
        text = f"# IterMask3D, adapted to a site\n\n**{RESEARCH_USE}**\n\n{card}\nNormal scans of the site:\n\n{told}\n"
        write_atomically(text, self.bundle / "docs" / "README.md")
        write_atomically(
            adaptation_page(before=before, after=after, findings=findings, excluded=self.checks.excluded, facts=facts),
            self.output / "report.html",
        )

    def _prepared_file(self, case: str) -> Path:
        return self.output / "prepared" / f"{case}.npz"

    def _prepared(self, case: str) -> dict[str, Any]:
        if self.checks.measurement is None:
            raise RuntimeError("the scans were not measured yet")
        return {**self.checks.measurement.prepared(case)}
