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
import logging
import signal
import sys
import warnings
from pathlib import Path

from itermask3d.files.scans import ScanError
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.preprocessing.brain_extraction import METHODS
from itermask3d.preprocessing.pipeline import BIAS_CORRECTIONS
from itermask3d.workflows.site.commands import StageError
from itermask3d.workflows.site.data import CONTRASTS
from itermask3d.workflows.site.options import Options
from itermask3d.workflows.site.run import Run
from rich.console import Console

CONSOLE = Console(soft_wrap=True, highlight=False, markup=False)
FAILED, NOT_STARTED, INTERRUPTED = 1, 2, 130


def main() -> None:
    arguments = parse()
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)  # a decoder nothing here needs
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(Run(options(arguments), CONSOLE.print).run())
    except KeyboardInterrupt:
        CONSOLE.print("stopped: what is done stays; the same command goes on")
        sys.exit(INTERRUPTED)
    except ScanError as error:
        CONSOLE.print(f"error: {error}")
        sys.exit(NOT_STARTED)
    except StageError as error:
        CONSOLE.print(f"error: {error}; the same command goes on from here")
        sys.exit(FAILED)


def options(arguments: argparse.Namespace) -> Options:
    """The choices of a run; lists are taken as they are."""
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(arguments).items()}
    return Options(**given, scripts=Path(__file__).resolve().parent, command=" ".join(sys.argv))


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


if __name__ == "__main__":
    main()
