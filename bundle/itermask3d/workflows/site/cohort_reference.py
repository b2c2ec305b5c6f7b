"""A cohort as its own reference: nobody names the normal scans, most of which there must be.

The model is adapted to the scans with the lowest scores and the scores are taken anew, until the same scans are the
lowest. Each scan is scored by a network that was adapted without its fold. What comes out is a bundle for each fold:
its weights did not see the fold's scans, and its calibration holds the scores of all the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from itermask3d.files.scans import ScanError
from itermask3d.files.writing import write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.workflows.site.adaptation import Adaptation, Plan
from itermask3d.workflows.site.adaptation_options import AdaptationOptions
from itermask3d.workflows.site.adapted_bundle import widened_domain, write_adapted_bundle
from itermask3d.workflows.site.crossfit import folds_of
from itermask3d.workflows.site.data_check import MeasuredScan, related
from itermask3d.workflows.site.normal_scans import ScanScore
from itermask3d.workflows.site.options import Tell

__all__ = ["ABNORMAL_SHARE", "LEAST_SCANS", "CohortReference", "FoldBundle", "lowest"]

LEAST_SCANS = 20
"""Below this number a cohort says too little about itself."""

ABNORMAL_SHARE = 0.25
"""Scans that are left out of the adaptation: up to this share of the cohort may be abnormal."""

ROUNDS = 3
ENOUGH = 20
"""Scans that an epoch of :class:`AdaptationOptions` is meant for: more scans get fewer epochs."""


@dataclass(frozen=True)
class FoldBundle:
    """A bundle, and the scans that it may judge."""

    bundle: Path
    cases: tuple[str, ...]


def lowest(scores: Mapping[str, ScanScore], share: float) -> tuple[str, ...]:
    """The sorted cases of this share of the scans with the lowest usable scores."""
    usable = sorted((case for case in scores if scores[case].usable), key=lambda case: (scores[case].score, case))
    return tuple(sorted(usable[: max(1, round(share * len(scores)))]))


class CohortReference:
    """One run over one folder; what is done there already is passed over.

    Args:
        options: scans, folder and recipe; whatever the checks find is told, and stops nothing.
        tell: takes messages.
    """

    def __init__(self, options: AdaptationOptions, tell: Tell) -> None:
        self.tell = tell
        self.adaptation = Adaptation(replace(options, force=True), tell)

    def run(self) -> list[FoldBundle]:
        """Adapt until the reference is stable, and write the bundle of each fold.

        Raises:
            ScanError: if there are too few usable scans, or the folder holds a run of others.
        """
        adaptation = self.adaptation
        scans, findings = adaptation.checks.check()
        adaptation.checks.write(scans, findings)
        if len(scans) < LEAST_SCANS:
            raise ScanError(
                f"{len(scans)} usable scans; expected {LEAST_SCANS} or more for a cohort to be its own reference"
            )
        options = adaptation.options
        folds = folds_of(related(scans, findings), options.folds, seed=options.seed)
        plan = Plan(tuple(sorted(scan.case for scan in scans)), tuple(tuple(fold) for fold in folds))
        epochs = max(1, round(options.epochs * min(1.0, ENOUGH / ((1 - ABNORMAL_SHARE) * len(scans)))))
        adaptation.options = replace(options, epochs=epochs)
        adaptation.begin(plan, scans)
        kept, networks, scores = self._iterate(plan)
        return [self._write(number, plan, scans, kept, networks, scores) for number in range(1, len(plan.folds) + 1)]

    def _iterate(self, plan: Plan) -> tuple[tuple[str, ...], list[Path], dict[str, ScanScore]]:
        """The scans of the reference, the network of each fold, and the cross-fitted scores of all scans."""
        n_kept, n_scans = round((1 - ABNORMAL_SHARE) * len(plan.cases)), len(plan.cases)
        trainings = [round(n_kept * (1 - 1 / len(plan.folds)))] * len(plan.folds) * ROUNDS
        with self.adaptation.bar(trainings, n_scans * (1 + ROUNDS)) as advance:
            kept = lowest(self.adaptation.scores(None, plan.cases, advance), 1 - ABNORMAL_SHARE)
            for number in range(1, ROUNDS + 1):
                networks, scores = self._round(number, plan, kept, advance)
                again = lowest(scores, 1 - ABNORMAL_SHARE)
                changed = len(set(again) - set(kept))
                self._note(number, kept, changed, scores)
                if not changed or number == ROUNDS:
                    break
                kept = again
        self.tell(f"reference: {len(kept)} of {n_scans} scans after {number} rounds, {changed} of them still changing")
        return kept, networks, scores

    def _round(
        self, number: int, plan: Plan, kept: Sequence[str], advance: Callable[[int], None]
    ) -> tuple[list[Path], dict[str, ScanScore]]:
        networks: list[Path] = []
        scores: dict[str, ScanScore] = {}
        for index, fold in enumerate(plan.folds, start=1):
            others = tuple(case for case in kept if case not in fold)
            networks.append(self.adaptation.adapt(f"round-{number}-fold-{index}", others, advance))
            scores |= self.adaptation.scores(networks[-1], fold, advance)
        return networks, scores

    def _note(self, number: int, kept: Sequence[str], changed: int, scores: Mapping[str, ScanScore]) -> None:
        content = {
            "note": RESEARCH_USE,
            "rounds": number,
            "changed_in_the_last_round": changed,
            "abnormal_share_allowed": ABNORMAL_SHARE,
            "reference": list(kept),
            "scores": {case: scores[case].to_json() for case in sorted(scores)},
        }
        write_atomically(json.dumps(content, indent=1) + "\n", self.adaptation.output / "reference.json")

    def _write(
        self,
        number: int,
        plan: Plan,
        scans: Sequence[MeasuredScan],
        kept: Sequence[str],
        networks: Sequence[Path],
        scores: Mapping[str, ScanScore],
    ) -> FoldBundle:
        """The bundle of a fold: ranges of the reference, scores of the scans outside the fold."""
        fold = plan.folds[number - 1]
        features = {scan.case: scan.features for scan in scans if scan.case in kept}
        folds = [[case for case in other if case in features] for other in plan.folds]
        base = self.adaptation.base
        folder = self.adaptation.output / f"bundle-{number}"
        write_adapted_bundle(
            folder,
            base,
            networks[number - 1],
            domain=widened_domain(base, features, [other for other in folds if other]),
            scores={case: score for case, score in scores.items() if case not in fold},
            brain_extraction=self.adaptation.options.brain_extraction,
            told=f"weights {base.digest}, adapted with scans of a cohort outside fold {number}",
            cohort=True,
        )
        return FoldBundle(folder, fold)
