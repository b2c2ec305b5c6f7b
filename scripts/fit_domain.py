"""Fit the training domain, or say which scans of a list lie outside it.

    python scripts/fit_domain.py LIST --split-file split.json --split train --held-out validation [--output domain.json]
    python scripts/fit_domain.py LIST --check domain.json [--split-file split.json --split test]

LIST names normal scans as for segment. The first form fits the ranges on the scans of ``--split``, as wide as those
of ``--held-out`` need; the second prints a line a scan and the share outside. Measured features are kept in
``--cache``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itermask3d import BUNDLE_ROOT
from itermask3d.files.scans import ScanError, bare_scan_errors, list_scans, split_scans
from itermask3d.files.writing import write_atomically
from itermask3d.inference.calibration import false_alarm_interval
from itermask3d.inference.domain import Domain, fit_domain
from itermask3d.inference.models import NAMES, model_file
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.preprocessing.pipeline import BIAS_CORRECTIONS, inference_transforms
from itermask3d.workflows.site.data import features_of
from tqdm import tqdm

Features = dict[str, float]


def main() -> None:
    arguments = parse()
    try:
        items = list_scans(arguments.list, brain_mask_dir=arguments.brain_masks)
        if arguments.check:
            check(chosen(items, arguments, arguments.split), arguments)
        else:
            fit(items, arguments)
    except ValueError as error:
        sys.exit(f"error: {error}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("list")
    parser.add_argument("--check", help="a domain file: fit nothing, compare the scans with it")
    parser.add_argument("--model", choices=NAMES, default=NAMES[0], help="whose domain it is (default: t1)")
    parser.add_argument("--output", help="file (default: that of the model in the bundle)")
    parser.add_argument("--split-file", help="JSON of cases by subset")
    parser.add_argument("--split", nargs="+", default=[], help="subsets to fit on (default: train), or to check")
    parser.add_argument("--held-out", default="validation", help="subset that the width of the ranges is taken from")
    parser.add_argument("--brain-masks", help="folder with a brain mask of the same file name for every scan")
    parser.add_argument("--spacing-mm", type=float, default=2.0)
    parser.add_argument("--spatial-size", type=int, nargs=3, default=[96, 112, 96])
    parser.add_argument("--bias-correction", choices=BIAS_CORRECTIONS, default="n4")
    parser.add_argument("--pass-share", type=float, default=0.99, help="of the training scans, at least")
    parser.add_argument("--attribution", default="", help="source and licence of the scans, written into the file")
    parser.add_argument("--cache", help="JSON file with measured features, read and continued")
    arguments = parser.parse_args()
    arguments.output = arguments.output or model_file(f"{BUNDLE_ROOT}/models", "domain.json", arguments.model)
    return arguments


def chosen(items: list[dict[str, Any]], arguments: argparse.Namespace, subsets: Sequence[str]) -> list[dict[str, Any]]:
    """The items of some subsets; all where none is named."""
    return [item for subset in subsets for item in split_scans(items, arguments.split_file, subset)] or items


def fit(items: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    train, held_out = (
        measure(chosen(items, arguments, subsets), arguments)
        for subsets in (arguments.split or ["train"], [arguments.held_out])
    )
    rows, width = fit_domain(list(train.values()), list(held_out.values()), pass_share=arguments.pass_share)
    content = {
        "schema_version": "1.0",
        "note": "Ranges of plain features of normal training scans; outside them a score is compared with nothing.",
        "attribution": arguments.attribution,
        "settings": {"spacing_mm": arguments.spacing_mm, "bias_correction": arguments.bias_correction},
        "fit": {
            "n_train": len(train),
            "n_held_out": len(held_out),
            "pass_share": arguments.pass_share,
            "width": width,
        },
        "features": rows,
    }
    write_atomically(json.dumps(content, indent=1) + "\n", Path(arguments.output))
    print(f"{len(rows)} ranges of {len(train)} scans, {width:.2f} scales wide, in {arguments.output}")
    for name, scans in (("training", train), ("held-out", held_out)):
        report(scans, Domain.read(arguments.output), name)


def check(items: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    domain = Domain.read(arguments.check)
    expected = {"spacing_mm": arguments.spacing_mm, "bias_correction": arguments.bias_correction}
    if domain.settings != expected:
        raise ScanError(f"{arguments.check} is for {dict(domain.settings)}; expected {expected}")
    scans = measure(items, arguments)
    for case, features in scans.items():
        found = domain.check(features)
        told = ", ".join(f"{deviation.feature} {deviation.value:.3g}" for deviation in found.deviations)
        print(f"{case}: {'in-distribution' if found.in_distribution else 'OUT-OF-DISTRIBUTION: ' + told}")
    report(scans, domain, "listed")


def report(scans: dict[str, Features], domain: Domain, name: str) -> None:
    outside = sum(not domain.check(features).in_distribution for features in scans.values())
    low, high = false_alarm_interval(outside, len(scans))
    print(f"{outside} of {len(scans)} {name} scans outside; 95 % interval {100 * low:.1f} to {100 * high:.1f} %")


def measure(items: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Features]:
    """Features by case; scans that cannot be used are named and left out."""
    cache = Path(arguments.cache) if arguments.cache else None
    known: dict[str, Features] = json.loads(cache.read_text()) if cache and cache.exists() else {}
    prepare = inference_transforms(
        spacing_mm=arguments.spacing_mm,
        spatial_size=arguments.spatial_size,
        bias_correction=arguments.bias_correction,
    )
    found = {}
    for item in tqdm(items, unit="scan"):
        case = item["case"]
        if case not in known:
            try:
                with bare_scan_errors():
                    _, known[case] = features_of(item, prepare)
            except ScanError as reason:
                tqdm.write(f"left out: {case}: {reason}")
                continue
            if cache:
                write_atomically(json.dumps(known, indent=1) + "\n", cache)
        found[case] = known[case]
    if not found:
        raise ScanError("no scan could be measured")
    return found


if __name__ == "__main__":
    main()
