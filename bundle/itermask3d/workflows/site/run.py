"""From a folder of somebody's normal raw scans to a calibrated bundle of their own, stage by stage."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from itermask3d import __version__
from itermask3d.files.identity import file_digest
from itermask3d.files.scans import ScanError
from itermask3d.files.writing import write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.workflows.site.bundle import Recipe, derived_epochs, derived_size, set_loop, write_bundle, write_card
from itermask3d.workflows.site.checks import ScanChecks
from itermask3d.workflows.site.commands import StageError, execute, run_script, run_workflow
from itermask3d.workflows.site.data_check import Finding, MeasuredScan
from itermask3d.workflows.site.normal_scans import ScanScore, flagged_statistics
from itermask3d.workflows.site.options import Options, Tell
from itermask3d.workflows.site.report import read_results, site_page
from itermask3d.workflows.site.stages import Stages

__all__ = ["DONE", "LOOK_FIRST", "Run"]

DONE, LOOK_FIRST = 0, 3
"""Exit status of a run that came to its end, and of one whose scans a person has to look at first."""

TUNING_GRID = {"gamma": [0.1, 0.15, 0.2], "threshold_floor": [2.0, 2.5, 3.0, 3.5, 4.0], "min_volume_ml": [0.5, 1.0]}

SHIPPED_LOOP = "gamma, bounds of the threshold and smallest region as shipped, chosen for other weights"


class Run:
    """One run over one output folder; what is done there already is passed over.

    Args:
        options: of the run.
        tell: takes messages.
    """

    def __init__(self, options: Options, tell: Tell) -> None:
        self.options = options
        self.output = options.output.absolute()
        self.bundle = self.output / "bundle"
        self.output.mkdir(parents=True, exist_ok=True)
        self.stages = Stages(self.output / "stages.json")
        self.tell = tell
        self.checks = ScanChecks(options, self.stages, tell)

    def run(self) -> int:
        """Every stage in turn; the exit status."""
        scans, findings = self.checks.check()
        splits = self.checks.split(scans, findings)
        self.checks.write(scans, findings)
        if self.checks.look_first(findings):
            return LOOK_FIRST
        if self.options.check_only:
            return DONE
        listed = {case for cases in splits.values() for case in cases}
        self.checks.excluded |= {scan.case: "not in the split file" for scan in scans if scan.case not in listed}
        scans = [scan for scan in scans if scan.case in listed]
        recipe = self._recipe(scans, splits)
        self._make_bundle(recipe, splits, scans)
        self._train(recipe)
        if self.options.tune:
            self._tune(recipe)
        self._fit_domain(recipe, scans)
        self._calibrate(splits)
        self._segment(splits)
        self._report(recipe, splits, findings)
        self.tell(f"bundle: {self.bundle}\nreport: {self.output / 'report.html'}\n{RESEARCH_USE}")
        return DONE

    def _recipe(self, scans: Sequence[MeasuredScan], splits: Mapping[str, Sequence[str]]) -> Recipe:
        """The values that follow from the scans, and those that were asked for."""
        options = self.options
        n_train = len(splits["train"])
        batch_size = min(options.batch_size, n_train)
        epochs = options.epochs or derived_epochs(n_train, batch_size)
        methods = {scan.extra["brain_extraction"] for scan in scans}
        later = options.brain_extraction
        if later == "auto" and "hd_bet" in methods:
            later = "hd_bet"
        recipe = Recipe(
            spacing_mm=self.checks.spacing_mm,
            spatial_size=derived_size([scan.spans_mm for scan in scans], self.checks.spacing_mm),
            epochs=epochs,
            val_interval=max(1, epochs // 25),
            batch_size=batch_size,
            seed=options.seed,
            brain_extraction=later,
            bias_correction=options.bias_correction,
            contrast=options.contrast,
        )
        return replace(recipe, channels=tuple(options.channels)) if options.channels else recipe

    def _make_bundle(self, recipe: Recipe, splits: Mapping[str, Sequence[str]], scans: Sequence[MeasuredScan]) -> None:
        """The bundle without weights and the list of scans; refuses to mix with another training in OUT."""
        made_from = {
            "recipe": asdict(recipe),
            "splits": splits,
            "scans": {scan.case: [scan.file_sha256, scan.extra["mask_sha256"]] for scan in scans},
        }
        changed = self.stages.changed("bundle", made_from)
        if changed and not self.options.restart:
            told = "; ".join(f"{name}: {_short(old)} became {_short(new)}" for name, (old, new) in changed.items())
            raise ScanError(
                f"'{self.output}' holds a run of other scans or settings ({told}); expected --restart or another OUT"
            )
        if changed:
            for folder in ("train", "results", "tune"):
                shutil.rmtree(self.output / folder, ignore_errors=True)
            self.stages.forget(*(self.stages.made_from.keys() - {"spacing"}))
        wanted = [self.checks.items[case] for cases in splits.values() for case in cases]
        self._write_list("scans", wanted)
        self.stages.run(
            "bundle", made_from, lambda: write_bundle(self.bundle, recipe, splits), [self.bundle / "configs"]
        )
        size = "×".join(map(str, recipe.spatial_size))
        counts = ", ".join(f"{len(cases)} {subset}" for subset, cases in splits.items())
        self.tell(f"{counts}; {size} voxels of {recipe.spacing_mm:g} mm; {recipe.epochs} epochs")

    def _train(self, recipe: Recipe) -> None:
        """The bundle's workflow of training; it resumes by itself."""
        folder = self.output / "train"
        weights = self.bundle / "models" / "model.pt"

        def action() -> None:
            last = folder / "last.pt"
            if not last.is_file() or torch.load(last, weights_only=True)["epoch"] < recipe.epochs:
                run_workflow(self.bundle, "train", dataset_dir=self.output / "scans.json", output_dir=folder)
            for leftover in ("calibration.json", "domain.json"):
                (weights.parent / leftover).unlink(missing_ok=True)
            if not (folder / "best.pt").is_file():
                raise StageError(f"the training wrote no best.pt in '{folder}': no validation error was finite")
            write_atomically((folder / "best.pt").read_bytes(), weights)

        self._stage("training", {"recipe": asdict(recipe)}, action, [weights])

    def _tune(self, recipe: Recipe) -> None:
        """Settings of the loop from simulated lesions in the validation scans."""
        simulated, folder = self.output / "tune" / "scans", self.output / "tune"

        def action() -> None:
            self._script(
                "simulate_lesions", self.output / "scans.json", simulated, "--subset", "validation",
                "--split-file", self.bundle / "configs" / "split.json", "--seed", recipe.seed,
            )  # fmt: skip
            self._script(
                "tune", simulated / "scans.json", folder, "--weights", self.bundle / "models" / "model.pt",
                "--spacing-mm", recipe.spacing_mm,
                "--spatial-size", *recipe.spatial_size, "--bias-correction", recipe.bias_correction,
                "--grid", json.dumps(TUNING_GRID),
            )  # fmt: skip
            set_loop(self.bundle, json.loads((folder / "summary.json").read_text())["chosen"])

        made_from = {"weights": self._weights()["weights"]}
        self._stage("tuning", made_from, action, [folder / "summary.json"])

    def _fit_domain(self, recipe: Recipe, scans: Sequence[MeasuredScan]) -> None:
        """Ranges of the training scans' features, as wide as the validation scans need."""
        target = self.bundle / "models" / "domain.json"
        cache = self.output / "check" / "features.json"
        write_atomically(json.dumps({scan.case: scan.features for scan in scans}, indent=1) + "\n", cache)
        self._stage(
            "training domain",
            {"features": file_digest(cache)},
            lambda: self._script(
                "fit_domain", self.output / "scans.json", "--split-file", self.bundle / "configs" / "split.json",
                "--output", target, "--spacing-mm", recipe.spacing_mm, "--spatial-size", *recipe.spatial_size,
                "--bias-correction", recipe.bias_correction, "--cache", cache,
            ),
            [target],
        )  # fmt: skip

    def _calibrate(self, splits: Mapping[str, Sequence[str]]) -> None:
        """Scores of the calibration scans; without one that can lend a score the bundle has no calibration."""
        target = self.bundle / "models" / "calibration.json"

        def action() -> None:
            target.unlink(missing_ok=True)
            self._infer("calibration", splits)
            found = read_results(self.output / "results" / "calibration")
            if any(
                result["outcome"] != "fit_failed" and result.get("in_distribution") is not False for result in found
            ):
                results = self.output / "results" / "calibration"
                command = [sys.executable, "-m", "itermask3d", "calibrate", results, "--output", target]
                execute(command, cwd=self.output)
            else:
                self.tell(
                    f"no calibration: of {len(found)} calibration scans none is in-distribution with a "
                    "usable error curve; results will have no percentile and no p-value"
                )

        self._stage("calibration", self._weights() | {"cases": splits["calibration"]}, action)

    def _segment(self, splits: Mapping[str, Sequence[str]]) -> None:
        """Validation scans for the pictures, and the test scans where there are any."""
        for subset in ("validation", "test"):
            if subset in splits:
                made_from = self._weights() | {"cases": splits[subset]}
                self._stage(f"{subset} scans", made_from, lambda subset=subset: self._infer(subset, splits))

    def _report(self, recipe: Recipe, splits: Mapping[str, Sequence[str]], findings: Sequence[Finding]) -> None:
        """report.html and the bundle's model card; always written anew."""
        tuned = "tuning" in self.stages.made_from
        curve = self.output / "training.png"
        self._script("plot_training", self.output / "train", curve)
        shutil.copyfile(curve, self.bundle / "docs" / "training.png")
        results = {
            subset: read_results(self.output / "results" / subset) for subset in ("validation", "calibration", "test")
        }
        state = torch.load(self.output / "train" / "last.pt", weights_only=True)
        facts = {
            "Command": self.options.command,
            "Scans": ", ".join(f"{len(cases)} for {subset}" for subset, cases in splits.items()),
            "Left out": "; ".join(f"{case}: {why}" for case, why in self.checks.excluded.items()) or "none",
            "Training": f"{state['epoch']} epochs of batches of {recipe.batch_size}, {state['iteration']} steps, seed "
            f"{recipe.seed}; lowest validation error {state['best']:.4g} (whole brain masked, squared)",
            "Loop": "chosen on simulated lesions in the validation scans" if tuned else SHIPPED_LOOP,
            "Brain extraction": recipe.brain_extraction,
            "Bias correction": recipe.bias_correction,
            "Calibration": calibration_told(self.bundle / "models" / "calibration.json"),
            "Weights": file_digest(self.bundle / "models" / "model.pt"),
            "Made with": f"itermask3d {__version__}",
        }
        for subset, found in results.items():
            if found:
                row = flagged_statistics(map(ScanScore.of, found))
                told = f"median {row['median_percent']:.3g} % of the brain, largest {row['largest_percent']:.3g} %"
                facts[f"Flagged on the {len(found)} {subset} scans"] = (
                    f"{told}; nothing on {row['scans'] - row['flagged']}"
                )
        page = site_page(
            findings=findings,
            excluded=self.checks.excluded,
            splits=splits,
            results=results,
            folders={subset: self.output / "results" / subset for subset in results},
            curve=curve,
            facts=facts | {"Recipe": json.dumps(asdict(recipe))},
        )
        write_atomically(page, self.output / "report.html")
        write_card(self.bundle, recipe, facts)

    def _stage(self, name: str, made_from: Mapping[str, Any], action: Any, products: Sequence[Path] = ()) -> None:
        """Do a stage unless it is done, and say which."""
        if self.stages.is_done(name, made_from, products):
            self.tell(f"{name}: done before")
            return
        self.tell(f"{name} …")
        self.stages.run(name, made_from, action, products)

    def _weights(self) -> dict[str, str]:
        """What results depend on beside the scans."""
        model, config = self.bundle / "models" / "model.pt", self.bundle / "configs" / "inference.json"
        return {"weights": file_digest(model), "config": file_digest(config)}

    def _infer(self, subset: str, splits: Mapping[str, Sequence[str]]) -> None:
        """Run the bundle over a subset; a scan that fails is told and left out."""
        path = self._write_list(subset, [self.checks.items[case] for case in splits[subset]])
        run_workflow(
            self.bundle, "inference", allowed=(0, 1), dataset_dir=path, output_dir=self.output / "results" / subset
        )

    def _write_list(self, name: str, items: Sequence[Mapping[str, Any]]) -> Path:
        path = self.output / f"{name}.json"
        write_atomically(json.dumps(items, indent=1) + "\n", path)
        return path

    def _script(self, name: str, *options: Any) -> None:
        run_script(self.options.scripts / f"{name}.py", *options, cwd=self.output)


def calibration_told(path: Path) -> str:
    """How many scores a bundle's calibration holds, in words."""
    if not path.is_file():
        return "none: results have no percentile and no p-value"
    n = len(json.loads(path.read_text())["normal_scores"])
    return f"{n} normal scans; the smallest possible p-value is 1/{n + 1}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}…"
