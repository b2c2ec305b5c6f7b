"""Segment one scan, a folder of scans or a list of scans.

    python scripts/segment.py SCAN OUT [--model auto] [--brain-extraction auto] [--gamma 0.05] …

Every scan gets a folder in OUT with its mask, anomaly map and reconstruction on its own grid, result.json and
picture.png. Finished scans are not done again. Exit status: 0 all done, 1 some scan failed, 2 nothing could start.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

from itermask3d import BUNDLE_ROOT
from itermask3d.files.literals import as_literals
from itermask3d.files.scans import first_cause
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.preprocessing.brain_extraction import METHODS
from monai.bundle import ConfigWorkflow


def main() -> None:
    arguments = parse()
    if not Path(arguments.bundle, "configs", "inference.json").is_file():
        print(
            f"error: '{arguments.bundle}' is no bundle; expected a folder with configs/inference.json", file=sys.stderr
        )
        sys.exit(2)
    warnings.simplefilter("ignore", FutureWarning)
    workflow = ConfigWorkflow(
        config_file=f"{arguments.bundle}/configs/inference.json",
        meta_file=f"{arguments.bundle}/configs/metadata.json",
        logging_file=f"{arguments.bundle}/configs/logging.conf",
        workflow_type="infer",
        **as_literals(overrides(arguments)),
    )
    try:
        workflow.initialize()
        segmentation = workflow.parser.get_parsed_content("segmentation")
    except RuntimeError as error:
        reason = first_cause(error)
        if not isinstance(reason, ValueError):
            raise
        print(f"error: {reason}", file=sys.stderr)
        sys.exit(2)
    segmentation.run()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scan", help="a scan, a folder, a .txt or .json list, or a folder with one DICOM series")
    parser.add_argument("output", help="folder for the results")
    parser.add_argument("--brain-masks", help="folder with a brain mask of the same file name for every scan")
    parser.add_argument("--brain-extraction", choices=METHODS, help="how the brain is found (default: auto)")
    parser.add_argument("--bundle", default=BUNDLE_ROOT, help="folder of another bundle, as train_own.py writes one")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--model", help="t1, any, or auto: by each scan's kind (default: the bundle's, t1)")
    weights.add_argument("--weights", help="state dict, instead of a model of the bundle")
    parser.add_argument("--gamma", type=float, help="slope at which the threshold is taken")
    parser.add_argument("--seed", type=int, help="of the noise in the masked region")
    parser.add_argument("--batch-size", type=int, help="scans at once (default: 1)")
    parser.add_argument("--overwrite", action="store_true", help="do finished scans again")
    parser.add_argument("--no-picture", action="store_true", help="write no picture.png")
    return parser.parse_args()


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Map the options that were given to ids of the inference config."""
    values = {
        "bundle_root": arguments.bundle,
        "dataset_dir": arguments.scan,
        "output_dir": arguments.output,
        "brain_mask_dir": arguments.brain_masks,
        "brain_extraction": arguments.brain_extraction,
        "model": arguments.model,
        "ckpt_path": arguments.weights,
        "settings::gamma": arguments.gamma,
        "settings::seed": arguments.seed,
        "batch_size": arguments.batch_size,
        "overwrite": arguments.overwrite or None,
        "picture": False if arguments.no_picture else None,
    }
    return {key: value for key, value in values.items() if value is not None}


if __name__ == "__main__":
    main()
