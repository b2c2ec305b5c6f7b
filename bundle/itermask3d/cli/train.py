"""``itermask3d train``: from a folder of somebody's normal raw scans to a calibrated bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from itermask3d.cli.common import FAILED, INTERRUPTED, NOT_STARTED, as_given, for_machines, one_of
from itermask3d.cli.site_options import (
    AsJson,
    BrainExtraction,
    BrainMasks,
    CheckOnly,
    Contrast,
    Exclude,
    ExcludeSuspects,
    Force,
    Subject,
    finish,
)

__all__ = ["train"]

EXAMPLES = """
itermask3d train scans out/site --check-only
itermask3d train scans out/site --exclude sub-07 sub-12
"""
STATUS = (
    "Exit status: 0 done, 1 a stage failed, 2 nothing could start, 3 look at OUTPUT/check/check.md first, 130 Ctrl-C."
)

PACKAGE = Path(__file__).resolve().parents[1]


def train(
    scans: Annotated[str, typer.Argument(help="Normal scans of one contrast: folder, list, tree.")],
    output: Annotated[Path, typer.Argument(help="Folder for all that is made.")],
    check_only: CheckOnly = False,
    exclude: Exclude = None,
    exclude_suspects: ExcludeSuspects = False,
    force: Force = False,
    subject: Subject = None,
    contrast: Contrast = "T1",
    brain_masks: BrainMasks = None,
    brain_extraction: BrainExtraction = "auto",
    bias_correction: Annotated[str, typer.Option(help="n4 or none.")] = "n4",
    spacing_mm: Annotated[float | None, typer.Option(metavar="MM", help="The network's voxels (default: 2).")] = None,
    split_file: Annotated[Path | None, typer.Option(help="JSON of cases by subset.")] = None,
    seed: Annotated[int, typer.Option(help="Of split and training.")] = 2026,
    epochs: Annotated[int | None, typer.Option(help="Default: from the number of scans.")] = None,
    batch_size: Annotated[int, typer.Option(help="Scans at once.")] = 2,
    channels: Annotated[
        tuple[int, int, int, int, int] | None,
        typer.Option(metavar="N", help="Five widths of the network.", show_default=False),
    ] = None,
    tune: Annotated[bool, typer.Option("--tune", help="Choose settings on validation scans.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Drop a training of other scans there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train on your own normal scans, up to a calibrated bundle.

    The result is OUTPUT/bundle, for every verb's --bundle, and OUTPUT/report.html. The same command goes on where a
    run ended.
    """
    given = {name: value for name, value in locals().items() if name != "as_json"}
    given["exclude"] = tuple(exclude or ())
    with for_machines(as_json):
        status = run(given)
    finish(status, output, as_json=as_json)


def run(given: dict[str, object]) -> int:
    """Do it; the exit status."""
    import logging
    import signal
    import warnings

    from rich.console import Console

    from itermask3d.files.locking import one_run
    from itermask3d.files.scans import ScanError
    from itermask3d.preprocessing.brain_extraction import METHODS
    from itermask3d.preprocessing.pipeline import BIAS_CORRECTIONS
    from itermask3d.workflows.site.commands import StageError
    from itermask3d.workflows.site.data import CONTRASTS
    from itermask3d.workflows.site.options import Options
    from itermask3d.workflows.site.run import Run

    for name, choices in (
        ("contrast", CONTRASTS), ("brain_extraction", METHODS), ("bias_correction", BIAS_CORRECTIONS)
    ):  # fmt: skip
        one_of(str(given[name]), choices, f"--{name.replace('_', '-')}")
    console = Console(soft_wrap=True, highlight=False, markup=False)
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)  # a decoder nothing here needs
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        options = Options(**given, scripts=scripts(), command=as_given())  # type: ignore[arg-type]
        with one_run(options.output):
            return Run(options, console.print).run()
    except KeyboardInterrupt:
        console.print("stopped: what is done stays; the same command goes on")
        return INTERRUPTED
    except ScanError as error:
        console.print(f"error: {error}")
        return NOT_STARTED
    except (StageError, OSError) as error:
        console.print(f"error: {error}; the same command goes on from here")
        return FAILED


def scripts() -> Path:
    """Where the scripts of some stages lie: inside the package where a wheel was installed, or in the repository."""
    inside = PACKAGE / "_scripts"
    return inside if inside.is_dir() else PACKAGE.parents[1] / "scripts"
