"""Turn the results of a run over normal scans into the bundle's calibration.

    python scripts/calibrate.py RESULTS [--model any] [--output calibration.json]

RESULTS is the output folder of a run over held-out normal scans with the settings and weights that will be used. The
scores become the ones against which later scans get their percentile and p-value.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from itermask3d import BUNDLE_ROOT
from itermask3d.files.writing import write_atomically
from itermask3d.inference.calibration import attainable_level, p_value_guarantee
from itermask3d.inference.models import NAMES, model_file
from itermask3d.inference.results import RESEARCH_USE


def main() -> None:
    arguments = parse()
    results = [json.loads(path.read_text()) for path in sorted(Path(arguments.results).glob("*/result.json"))]
    if not results:
        sys.exit(f"error: '{arguments.results}' holds no result.json; expected the output folder of a run")
    if arguments.model is not None and (other := {model_of(result) for result in results} - {arguments.model}):
        found = ", ".join(sorted(other))
        sys.exit(f"error: the results come from the model {found}; expected '{arguments.model}' alone")
    left_out = {result["case"]: reason for result in results if (reason := unfit(result)) is not None}
    for case, reason in left_out.items():
        print(f"left out: {case}: {reason}")
    results = [result for result in results if result["case"] not in left_out]
    if not results:
        sys.exit("error: no result is left; expected scores of normal scans within the training domain")
    if any(result["settings"] != results[0]["settings"] for result in results):
        sys.exit("error: the results come from different settings or weights; expected one run")
    name = arguments.model or NAMES[0]
    output = Path(arguments.output or model_file(f"{BUNDLE_ROOT}/models", "calibration.json", name))
    write_atomically(json.dumps(calibration(results, left_out), indent=1) + "\n", output)
    print(f"{len(results)} normal scores in {output}; the smallest p-value is {attainable_level(len(results)):.3g}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", help="output folder of a run over normal scans")
    parser.add_argument("--model", choices=NAMES, help="the model that made all the results")
    parser.add_argument("--output", help="file (default: that of the model in the bundle; t1 if none is named)")
    return parser.parse_args()


def model_of(result: dict[str, Any]) -> str:
    """Name of the model that made a result, where it says so."""
    return (result.get("model") or {}).get("name") or "without a name"


def unfit(result: dict[str, Any]) -> str | None:
    """Why a result lends no score to the calibration, the reasons for which a later scan gets no p-value either."""
    if result["outcome"] == "fit_failed":
        return "its error curve could not be used"
    return "outside the training domain" if result.get("in_domain") is False else None


def calibration(results: list[dict[str, Any]], left_out: dict[str, str]) -> dict[str, Any]:
    """What the file holds: the scores, whose they are, and the settings under which they mean something."""
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


if __name__ == "__main__":
    main()
