"""Turn the results of a run over normal scans into the bundle's calibration.

    python scripts/calibrate.py RESULTS [--output bundle/models/calibration.json]

RESULTS is the output folder of a run over held-out normal scans with the settings and weights that will be used. The
scores become the ones against which later scans get their percentile.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from itermask3d import BUNDLE_ROOT
from itermask3d.results import RESEARCH_USE, write_atomically


def main() -> None:
    arguments = parse()
    results = [json.loads(path.read_text()) for path in sorted(Path(arguments.results).glob("*/result.json"))]
    usable = [result for result in results if result["outcome"] != "fit_failed"]
    if len(usable) < len(results):
        print(f"{len(results) - len(usable)} results without a usable curve are left out")
    results = usable
    if not results:
        sys.exit(f"error: '{arguments.results}' holds no result.json; expected the output folder of a run")
    if any(result["settings"] != results[0]["settings"] for result in results):
        sys.exit("error: the results come from different settings or weights; expected one run")
    output = Path(arguments.output)
    write_atomically(json.dumps(calibration(results), indent=1) + "\n", output)
    print(f"{len(results)} normal scores in {output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", help="output folder of a run over normal scans")
    parser.add_argument("--output", default=f"{BUNDLE_ROOT}/models/calibration.json")
    return parser.parse_args()


def calibration(results: list[dict[str, Any]]) -> dict[str, Any]:
    """What the file holds: the scores, whose they are, and the settings under which they mean something."""
    ordered = sorted(results, key=lambda result: result["score"])
    return {
        "note": "Scores of held-out normal scans; a percentile from so few is coarse.",
        "normal_scores": [result["score"] for result in ordered],
        "flagged_shares": [result["flagged_share"] for result in ordered],
        "cases": [result["case"] for result in ordered],
        "settings": results[0]["settings"],
    }


if __name__ == "__main__":
    main()
