"""``itermask3d calibrate``: the results of a run over normal scans become a model's calibration."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from itermask3d import BUNDLE_ROOT
from itermask3d.cli.common import for_machines, one_of, one_sentence, print_json, refuse

__all__ = ["calibrate"]

EXAMPLES = """
itermask3d segment normals out/normals
itermask3d calibrate out/normals
"""
STATUS = "Exit status: 0 done, 2 nothing could be calibrated."


def calibrate(
    results: Annotated[Path, typer.Argument(help="Output folder of a run over held-out normal scans.")],
    model: Annotated[str | None, typer.Option(help="The model that made all the results: t1 or agnostic.")] = None,
    bundle: Annotated[Path, typer.Option(help="Folder of another bundle.", show_default=False)] = Path(BUNDLE_ROOT),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File (default: that of the model in the bundle).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Make a model's calibration of the results of normal scans.

    The scores become those against which later scans get their percentile and p-value; run with the settings and
    weights that will be used.
    """
    with for_machines(as_json), one_sentence():
        told = write(results, model, output, bundle)
        print(f"{told['normal_scans']} normal scores in {told['file']}; ", end="")
        print(f"the smallest p-value is {told['smallest_p_value']:.3g}")
    if as_json:
        print_json(told)


def write(results: Path, model: str | None, output: Path | None, bundle: Path) -> dict[str, Any]:
    """Write the calibration; what it holds, in few words."""
    from itermask3d.files.writing import write_atomically
    from itermask3d.inference.calibration import attainable_level
    from itermask3d.inference.models import NAMES, model_file

    one_of(model, NAMES, "--model")
    if not (bundle / "models").is_dir():
        refuse(f"'{bundle}' is no bundle; expected a folder with configs and models")
    found = [json.loads(path.read_text()) for path in sorted(results.glob("*/result.json"))]
    if not found:
        refuse(f"'{results}' holds no result.json; expected the output folder of a run")
    made_by = Counter(model_of(result) for result in found)
    if model is not None and (other := made_by.keys() - {model}):
        refuse(f"the results come from the model {', '.join(sorted(other))}; expected '{model}' alone")
    if len(made_by) > 1:
        told = ", ".join(f"{name} ({number})" for name, number in sorted(made_by.items()))
        refuse(f"the results come from several models: {told}; expected those of one, see --model of segment")
    model = model or next((name for name in NAMES if name in made_by), NAMES[0])
    left_out = {result["case"]: reason for result in found if (reason := unfit(result)) is not None}
    for case, reason in left_out.items():
        print(f"left out: {case}: {reason}")
    found = [result for result in found if result["case"] not in left_out]
    if not found:
        refuse("no result is left; expected scores of normal scans that are in-distribution")
    if any(result["settings"] != found[0]["settings"] for result in found):
        refuse("the results come from different settings or weights; expected one run")
    target = output or model_file(bundle / "models", "calibration.json", model)
    write_atomically(json.dumps(calibration(found, left_out), indent=1) + "\n", target)
    facts = {"file": str(target), "normal_scans": len(found), "left_out": left_out}
    return {**facts, "smallest_p_value": attainable_level(len(found))}


def model_of(result: dict[str, Any]) -> str:
    """Name of the model that made a result, where it says so."""
    return (result.get("model") or {}).get("name") or "without a name"


def unfit(result: dict[str, Any]) -> str | None:
    """Why a result lends no score to the calibration, the reasons for which a later scan gets no p-value either."""
    if result["outcome"] == "fit_failed":
        return "its error curve could not be used"
    return "out-of-distribution" if result.get("in_distribution") is False else None


def calibration(results: list[dict[str, Any]], left_out: dict[str, str]) -> dict[str, Any]:
    """What the file holds: the scores, whose they are, and the settings under which they mean something."""
    from itermask3d.inference.calibration import p_value_guarantee

    ordered = sorted(results, key=lambda result: result["score"])
    return {
        "schema_version": "1.1",
        "note": "Scores of held-out normal scans; a percentile or p-value from so few is coarse.",
        "guarantee": p_value_guarantee(len(ordered)),
        "normal_scores": [result["score"] for result in ordered],
        "flagged_shares": [result["flagged_share"] for result in ordered],
        "cases": [result["case"] for result in ordered],
        "left_out": left_out,
        "settings": results[0]["settings"],
    }
