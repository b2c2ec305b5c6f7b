"""Train on a folder of somebody's normal raw scans, from the checks of the scans to a calibrated bundle.

    python scripts/train_own.py SCANS OUT [--contrast T1] [--check-only] [--exclude CASE …] [--force] …

SCANS is a folder, a .txt or .json list, a BIDS dataset or a tree of DICOM files: one contrast, normal scans only. The
result is OUT/bundle, ready for ``python -m monai.bundle run`` and ``scripts/segment.py --bundle``, and OUT/report.html.
The same command goes on where a run ended; what is done is passed over.

Exit status: 0 all done, 1 a stage failed, 2 nothing could start, 3 the checks found something to look at first
(OUT/check/check.md), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from itermask3d import __version__
from itermask3d.files.discovery import FoundScan, discover
from itermask3d.files.identity import file_digest
from itermask3d.files.scans import ScanError
from itermask3d.files.writing import write_atomically
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.preprocessing.brain_extraction import METHODS
from itermask3d.preprocessing.load import load_volume, scan_loader
from itermask3d.preprocessing.pipeline import BIAS_CORRECTIONS
from itermask3d.workflows.site.bundle import Recipe, derived_epochs, derived_size, set_loop, write_bundle, write_card
from itermask3d.workflows.site.data import CONTRASTS, Measurement, derived_spacing, split_by_subject, subject_of
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
from itermask3d.workflows.site.report import check_page, flagged_table, own_page, read_results
from itermask3d.workflows.site.stages import Stages
from rich.console import Console
from tqdm import tqdm

SCRIPTS = Path(__file__).resolve().parent
BIDS_SUFFIX = {"T1": ("T1w",), "T2": ("T2w",), "FLAIR": ("FLAIR",)}
TUNING_GRID = {"gamma": [0.1, 0.15, 0.2], "threshold_floor": [2.0, 2.5, 3.0, 3.5, 4.0], "min_volume_ml": [0.5, 1.0]}

SHIPPED_LOOP = "gamma, bounds of the threshold and smallest region as shipped, chosen for other weights"

CONSOLE = Console(soft_wrap=True, highlight=False, markup=False)
DONE, FAILED, NOT_STARTED, LOOK_FIRST, INTERRUPTED = 0, 1, 2, 3, 130


class StageError(RuntimeError):
    """A stage's command failed; what it said stands above."""


def main() -> None:
    arguments = parse()
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)  # a decoder nothing here needs
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(Run(arguments).run())
    except KeyboardInterrupt:
        CONSOLE.print("stopped: what is done stays; the same command goes on")
        sys.exit(INTERRUPTED)
    except ScanError as error:
        CONSOLE.print(f"error: {error}")
        sys.exit(NOT_STARTED)
    except StageError as error:
        CONSOLE.print(f"error: {error}; the same command goes on from here")
        sys.exit(FAILED)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scans", help="normal scans of one contrast")
    parser.add_argument("output", type=Path, help="folder for all that is made")
    checks = parser.add_argument_group("checks")
    checks.add_argument("--check-only", action="store_true", help="check the scans and stop")
    checks.add_argument("--exclude", nargs="+", default=[], metavar="CASE", help="leave these scans out")
    checks.add_argument("--exclude-suspects", action="store_true", help="leave out what check.md suggests to")
    checks.add_argument("--force", action="store_true", help="go on although the checks found something")
    checks.add_argument(
        "--subject", metavar="REGEX", help="its first group names the person in a case (default: sub-…)"
    )
    data = parser.add_argument_group("scans")
    data.add_argument("--contrast", choices=CONTRASTS, default="T1", help="chooses the tool for brain masks")
    data.add_argument("--brain-masks", help="folder with a brain mask of the same file name for every scan")
    data.add_argument("--brain-extraction", choices=METHODS, default="auto")
    data.add_argument("--bias-correction", choices=BIAS_CORRECTIONS, default="n4")
    data.add_argument("--spacing-mm", type=float, help="edge of the network's voxels (default: 2, or as the scans are)")
    data.add_argument("--split-file", type=Path, help="JSON of cases by subset (default: one made by --seed)")
    training = parser.add_argument_group("training")
    training.add_argument("--seed", type=int, default=2026)
    training.add_argument("--epochs", type=int, help="default: from the number of scans")
    training.add_argument("--batch-size", type=int, default=2)
    training.add_argument("--channels", type=int, nargs=5, help="widths of the network (default: the shipped ones)")
    training.add_argument("--tune", action="store_true", help="choose the loop's settings on validation scans")
    training.add_argument("--restart", action="store_true", help="drop a training of other scans or settings in OUT")
    return parser.parse_args()


class Run:
    """One run over one output folder."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.output = arguments.output.absolute()
        self.bundle = self.output / "bundle"
        self.output.mkdir(parents=True, exist_ok=True)
        self.stages = Stages(self.output / "stages.json")
        self.excluded: dict[str, str] = {}

    def run(self) -> int:
        """Every stage in turn; the exit status."""
        scans, findings = self.check()
        splits = self.split(scans, findings)
        self.write_check(scans, findings)
        if self.look_first(findings):
            return LOOK_FIRST
        if self.arguments.check_only:
            return DONE
        listed = {case for cases in splits.values() for case in cases}
        self.excluded |= {scan.case: "not in the split file" for scan in scans if scan.case not in listed}
        scans = [scan for scan in scans if scan.case in listed]
        recipe = self.recipe(scans, splits)
        self.make_bundle(recipe, splits, scans)
        self.train(recipe)
        if self.arguments.tune:
            self.tune(recipe)
        self.fit_domain(recipe, scans)
        self.calibrate(splits)
        self.segment(splits)
        self.report(recipe, splits, findings)
        CONSOLE.print(f"bundle: {self.bundle}\nreport: {self.output / 'report.html'}\n{RESEARCH_USE}")
        return DONE

    # Scans

    def check(self) -> tuple[list[MeasuredScan], list[Finding]]:
        """Measure every scan and compare them; unusable and excluded ones are left out."""
        arguments = self.arguments
        found = discover(
            arguments.scans,
            suffixes=BIDS_SUFFIX.get(arguments.contrast, ("T1w", "T2w", "FLAIR")),
            brain_mask_dir=arguments.brain_masks,
            ignore=self.output,
        )
        names = {scan.case for scan in found.scans}
        unknown = sorted(set(arguments.exclude) - names)
        if unknown:
            raise ScanError(f"--exclude names {', '.join(unknown)}, which is among none of the {len(names)} scans")
        self.excluded = dict.fromkeys(sorted(arguments.exclude), "named by --exclude")
        found_scans = [scan for scan in found.scans if scan.case not in self.excluded]
        for scan in found_scans:
            subject_of(scan.case, arguments.subject)
        spacing_mm = arguments.spacing_mm or self.spacing(found_scans)
        measurement = Measurement(
            self.output / "check",
            spacing_mm=spacing_mm,
            contrast=arguments.contrast,
            brain_extraction=arguments.brain_extraction,
            bias_correction=arguments.bias_correction,
            subject=arguments.subject,
        )
        results = [measurement.measure(scan) for scan in tqdm(found_scans, unit="scan", desc="brain masks and figures")]
        findings = [result for result in results if isinstance(result, Finding)]
        scans = [result for result in results if isinstance(result, MeasuredScan)]
        self.excluded |= {finding.case: finding.sentence for finding in findings}
        between = check_scans(scans) if scans else []
        if arguments.exclude_suspects:
            dropped = suggested(between)
            self.excluded |= {
                case: next(finding.sentence for finding in between if finding.case == case and finding.exclude)
                for case in dropped
            }
            scans = [scan for scan in scans if scan.case not in dropped]
            between = [finding for finding in between if finding.case not in dropped]
        findings += between
        self.items = {scan.case: measurement.item(scan) for scan in found_scans}
        self.spacing_mm = spacing_mm
        return scans, findings

    def spacing(self, scans: Sequence[FoundScan]) -> float:
        """From the voxels of the scans that can be read; kept for the same scans."""
        cases, known = [scan.case for scan in scans], self.stages.made_from.get("spacing", {})
        if known.get("cases") == cases:
            return float(known["spacing_mm"])
        loader, voxels = scan_loader(), []
        for scan in tqdm(scans, unit="scan", desc="voxel sizes"):
            try:
                voxels.append(load_volume(scan.image, loader).pixdim.tolist()[:3])
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
            self.write_check(scans, findings)
            raise ScanError(number[0].sentence)
        if self.arguments.split_file is None:
            return split_by_subject(groups, seed=self.arguments.seed)
        splits = given_split(self.arguments.split_file, {scan.case for scan in scans})
        findings += check_split(splits, groups)
        return splits

    def write_check(self, scans: Sequence[MeasuredScan], findings: Sequence[Finding]) -> None:
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
            CONSOLE.print(f"{finding.level.value}: {finding.sentence}")
        CONSOLE.print(f"{len(scans)} scans checked, {len(self.excluded)} left out: {folder / 'check.md'}")

    def look_first(self, findings: Sequence[Finding]) -> bool:
        """Whether a person has to look before anything is trained."""
        suspects = [finding for finding in findings if finding.level is Level.SUSPECT]
        if not suspects or self.arguments.force:
            return False
        names = " ".join(suggested(findings))
        CONSOLE.print("Look at these first. Then " + (f"--exclude {names}, or " if names else "") + "--force to go on.")
        return True

    # Stages

    def recipe(self, scans: Sequence[MeasuredScan], splits: Mapping[str, Sequence[str]]) -> Recipe:
        """The values that follow from the scans, and those that were asked for."""
        arguments = self.arguments
        n_train = len(splits["train"])
        batch_size = min(arguments.batch_size, n_train)
        epochs = arguments.epochs or derived_epochs(n_train, batch_size)
        methods = {scan.extra["brain_extraction"] for scan in scans}
        later = arguments.brain_extraction
        if later == "auto" and "hd_bet" in methods:
            later = "hd_bet"
        recipe = Recipe(
            spacing_mm=self.spacing_mm,
            spatial_size=derived_size([scan.spans_mm for scan in scans], self.spacing_mm),
            epochs=epochs,
            val_interval=max(1, epochs // 25),
            batch_size=batch_size,
            seed=arguments.seed,
            brain_extraction=later,
            bias_correction=arguments.bias_correction,
            contrast=arguments.contrast,
        )
        return replace(recipe, channels=tuple(arguments.channels)) if arguments.channels else recipe

    def make_bundle(self, recipe: Recipe, splits: Mapping[str, Sequence[str]], scans: Sequence[MeasuredScan]) -> None:
        """The bundle without weights and the list of scans; refuses to mix with another training in OUT."""
        made_from = {
            "recipe": asdict(recipe),
            "splits": splits,
            "scans": {scan.case: [scan.file_sha256, scan.extra["mask_sha256"]] for scan in scans},
        }
        changed = self.stages.changed("bundle", made_from)
        if changed and not self.arguments.restart:
            told = "; ".join(f"{name}: {_short(old)} became {_short(new)}" for name, (old, new) in changed.items())
            raise ScanError(
                f"'{self.output}' holds a run of other scans or settings ({told}); expected --restart or another OUT"
            )
        if changed:
            for folder in ("train", "results", "tune"):
                shutil.rmtree(self.output / folder, ignore_errors=True)
            self.stages.forget(*(self.stages.made_from.keys() - {"spacing"}))
        wanted = [self.items[case] for cases in splits.values() for case in cases]
        self.write_list("scans", wanted)
        self.stages.run(
            "bundle", made_from, lambda: write_bundle(self.bundle, recipe, splits), [self.bundle / "configs"]
        )
        size = "×".join(map(str, recipe.spatial_size))
        counts = ", ".join(f"{len(cases)} {subset}" for subset, cases in splits.items())
        CONSOLE.print(f"{counts}; {size} voxels of {recipe.spacing_mm:g} mm; {recipe.epochs} epochs")

    def train(self, recipe: Recipe) -> None:
        """The bundle's own training workflow; it resumes by itself."""
        folder = self.output / "train"
        weights = self.bundle / "models" / "model.pt"

        def action() -> None:
            last = folder / "last.pt"
            if not last.is_file() or torch.load(last, weights_only=True)["epoch"] < recipe.epochs:
                self.workflow("train", dataset_dir=self.output / "scans.json", output_dir=folder)
            for leftover in ("calibration.json", "domain.json"):
                (weights.parent / leftover).unlink(missing_ok=True)
            if not (folder / "best.pt").is_file():
                raise StageError(f"the training wrote no best.pt in '{folder}': no validation error was finite")
            partial = weights.with_name(".model.pt.partial")
            shutil.copyfile(folder / "best.pt", partial)
            os.replace(partial, weights)

        self.stage("training", {"recipe": asdict(recipe)}, action, [weights])

    def tune(self, recipe: Recipe) -> None:
        """Settings of the loop from simulated lesions in the validation scans."""
        simulated, folder = self.output / "tune" / "scans", self.output / "tune"

        def action() -> None:
            self.script(
                "simulate_lesions", self.output / "scans.json", simulated, "--subset", "validation",
                "--split-file", self.bundle / "configs" / "split.json", "--seed", recipe.seed,
            )  # fmt: skip
            self.script(
                "tune", simulated / "scans.json", folder, "--weights", self.bundle / "models" / "model.pt",
                "--channels", *recipe.channels, "--spacing-mm", recipe.spacing_mm,
                "--spatial-size", *recipe.spatial_size, "--bias-correction", recipe.bias_correction,
                "--grid", json.dumps(TUNING_GRID),
            )  # fmt: skip
            set_loop(self.bundle, json.loads((folder / "summary.json").read_text())["chosen"])

        made_from = {"weights": self.weights()["weights"]}
        self.stage("tuning", made_from, action, [folder / "summary.json"])

    def fit_domain(self, recipe: Recipe, scans: Sequence[MeasuredScan]) -> None:
        """Ranges of the training scans' figures, as wide as the validation scans need."""
        target = self.bundle / "models" / "domain.json"
        cache = self.output / "check" / "figures.json"
        write_atomically(json.dumps({scan.case: scan.figures for scan in scans}, indent=1) + "\n", cache)
        self.stage(
            "training domain",
            {"figures": file_digest(cache)},
            lambda: self.script(
                "fit_domain", self.output / "scans.json", "--split-file", self.bundle / "configs" / "split.json",
                "--output", target, "--spacing-mm", recipe.spacing_mm, "--spatial-size", *recipe.spatial_size,
                "--bias-correction", recipe.bias_correction, "--cache", cache,
            ),
            [target],
        )  # fmt: skip

    def calibrate(self, splits: Mapping[str, Sequence[str]]) -> None:
        """Scores of the calibration scans; without one that can lend a score the bundle has no calibration."""
        target = self.bundle / "models" / "calibration.json"

        def action() -> None:
            target.unlink(missing_ok=True)
            self.infer("calibration", splits)
            found = read_results(self.output / "results" / "calibration")
            if any(result["outcome"] != "fit_failed" and result.get("in_domain") is not False for result in found):
                self.script("calibrate", self.output / "results" / "calibration", "--output", target)
            else:
                CONSOLE.print(
                    f"no calibration: of {len(found)} calibration scans none lies within the training domain with a "
                    "usable error curve; results will have no percentile and no p-value"
                )

        self.stage("calibration", self.weights() | {"cases": splits["calibration"]}, action)

    def segment(self, splits: Mapping[str, Sequence[str]]) -> None:
        """Validation scans for the pictures, and the test scans where there are any."""
        for subset in ("validation", "test"):
            if subset in splits:
                made_from = self.weights() | {"cases": splits[subset]}
                self.stage(f"{subset} scans", made_from, lambda subset=subset: self.infer(subset, splits))

    def report(self, recipe: Recipe, splits: Mapping[str, Sequence[str]], findings: Sequence[Finding]) -> None:
        """report.html and the bundle's model card; always written anew."""
        tuned = "tuning" in self.stages.made_from
        curve = self.output / "training.png"
        self.script("plot_training", self.output / "train", curve)
        shutil.copyfile(curve, self.bundle / "docs" / "training.png")
        results = {
            subset: read_results(self.output / "results" / subset) for subset in ("validation", "calibration", "test")
        }
        state = torch.load(self.output / "train" / "last.pt", weights_only=True)
        facts = {
            "Command": " ".join(sys.argv),
            "Scans": ", ".join(f"{len(cases)} for {subset}" for subset, cases in splits.items()),
            "Left out": "; ".join(f"{case}: {why}" for case, why in self.excluded.items()) or "none",
            "Training": f"{state['epoch']} epochs of batches of {recipe.batch_size}, {state['iteration']} steps, seed "
            f"{recipe.seed}; lowest validation error {state['best']:.4g} (whole brain hidden, squared)",
            "Loop": "chosen on simulated lesions in the validation scans" if tuned else SHIPPED_LOOP,
            "Brain extraction": recipe.brain_extraction,
            "Bias correction": recipe.bias_correction,
            "Calibration": calibration_told(self.bundle / "models" / "calibration.json"),
            "Weights": file_digest(self.bundle / "models" / "model.pt"),
            "Made with": f"itermask3d {__version__}",
        }
        for row in flagged_table(results).rows:
            told = f"median {row['median']:.3g} % of the brain, largest {row['largest']:.3g} %"
            facts[f"Flagged on the {row['scans']} {row['subset']} scans"] = f"{told}; nothing on {row['nothing']}"
        page = own_page(
            findings=findings,
            excluded=self.excluded,
            splits=splits,
            results=results,
            folders={subset: self.output / "results" / subset for subset in results},
            curve=curve,
            facts=facts | {"Recipe": json.dumps(asdict(recipe))},
        )
        write_atomically(page, self.output / "report.html")
        write_card(self.bundle, recipe, facts)

    # Commands

    def stage(self, name: str, made_from: Mapping[str, Any], action: Any, products: Sequence[Path] = ()) -> None:
        """Do a stage unless it is done, and say which."""
        if self.stages.is_done(name, made_from, products):
            CONSOLE.print(f"{name}: done before")
            return
        CONSOLE.print(f"{name} …")
        self.stages.run(name, made_from, action, products)

    def weights(self) -> dict[str, str]:
        """What results depend on beside the scans."""
        model, config = self.bundle / "models" / "model.pt", self.bundle / "configs" / "inference.json"
        return {"weights": file_digest(model), "config": file_digest(config)}

    def infer(self, subset: str, splits: Mapping[str, Sequence[str]]) -> None:
        """Run the bundle over a subset; a scan that fails is told and left out."""
        path = self.write_list(subset, [self.items[case] for case in splits[subset]])
        self.workflow("inference", allowed=(0, 1), dataset_dir=path, output_dir=self.output / "results" / subset)

    def write_list(self, name: str, items: Sequence[Mapping[str, Any]]) -> Path:
        path = self.output / f"{name}.json"
        write_atomically(json.dumps(items, indent=1) + "\n", path)
        return path

    def workflow(self, name: str, *, allowed: Sequence[int] = (0,), **overrides: Any) -> None:
        """``python -m monai.bundle run`` inside the new bundle, so that it is its own code and configs that run."""
        configs = self.bundle / "configs"
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", configs / f"{name}.json"]
        command += ["--meta_file", configs / "metadata.json", "--logging_file", configs / "logging.conf"]
        for key, value in overrides.items():
            command += [f"--{key}", value]
        execute(command, cwd=self.bundle, allowed=allowed)

    def script(self, name: str, *options: Any) -> None:
        """One of the scripts beside this one."""
        execute([sys.executable, SCRIPTS / f"{name}.py", *options], cwd=self.output)


def execute(command: Sequence[Any], *, cwd: Path, allowed: Sequence[int] = (0,)) -> None:
    """Run a command and pass on what it says; it is stopped with this process.

    Raises:
        StageError: if it ends with another status than those allowed.
    """
    words = [str(word) for word in command]
    with subprocess.Popen(words, cwd=cwd) as process:
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if status not in allowed:
        raise StageError(f"'{' '.join(words[1:5])} …' ended with status {status}")


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


def calibration_told(path: Path) -> str:
    """How many scores a bundle's calibration holds, in words."""
    if not path.is_file():
        return "none: results have no percentile and no p-value"
    n = len(json.loads(path.read_text())["normal_scores"])
    return f"{n} normal scans; the smallest possible p-value is 1/{n + 1}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}…"


if __name__ == "__main__":
    main()
