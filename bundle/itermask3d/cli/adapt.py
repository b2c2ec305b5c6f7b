"""``itermask3d adapt``: from a few normal raw scans of a scanner to a bundle that knows the scanner."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from itermask3d import BUNDLE_ROOT
from itermask3d.cli.common import (
    FAILED,
    INTERRUPTED,
    NOT_STARTED,
    as_given,
    for_machines,
    one_of,
    one_sentence,
    require_bundle,
)
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

__all__ = ["adapt"]

EXAMPLES = """
itermask3d adapt normals out/site --workers 2
itermask3d segment scan.nii.gz --bundle out/site/bundle
"""
STATUS = "Exit status: 0 done, 1 failed on the way, 2 nothing could start, 3 look at OUTPUT/check/check.md, 130 Ctrl-C."


def adapt(
    scans: Annotated[str, typer.Argument(help="10 to 50 normal scans of one scanner: folder, list, tree.")],
    output: Annotated[Path, typer.Argument(help="Folder for all that is made.")],
    check_only: CheckOnly = False,
    exclude: Exclude = None,
    exclude_suspects: ExcludeSuspects = False,
    force: Force = False,
    subject: Subject = None,
    contrast: Contrast = "T1",
    brain_masks: BrainMasks = None,
    brain_extraction: BrainExtraction = "auto",
    bundle: Annotated[Path, typer.Option(help="Folder of another bundle.", show_default=False)] = Path(BUNDLE_ROOT),
    model: Annotated[str | None, typer.Option(help="The one to adapt (default: t1, else agnostic).")] = None,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Passes over the scans.")] = 10,
    folds: Annotated[int, typer.Option(min=2, metavar="N", help="Of the cross-fitting.")] = 4,
    seed: Annotated[int, typer.Option(help="Of folds and training.")] = 2026,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Scans prepared at once.")] = 1,
    restart: Annotated[bool, typer.Option("--restart", help="Drop one of other scans there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Adapt the weights to your scanner, with 10 to 50 normal scans.

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
    from itermask3d.inference.models import NAMES
    from itermask3d.preprocessing.brain_extraction import METHODS
    from itermask3d.workflows.site.adaptation import Adaptation
    from itermask3d.workflows.site.adaptation_options import AdaptationOptions, model_for
    from itermask3d.workflows.site.data import CONTRASTS

    one_of(str(given["contrast"]), CONTRASTS, "--contrast")
    given["model"] = given["model"] or model_for(str(given["contrast"]), NAMES)
    one_of(str(given["model"]), NAMES, "--model")
    require_bundle(str(given["bundle"]))
    one_of(str(given["brain_extraction"]), METHODS, "--brain-extraction")
    console = Console(soft_wrap=True, highlight=False, markup=False)
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)  # a decoder nothing here needs
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        options = AdaptationOptions(**given, command=as_given())  # type: ignore[arg-type]
        with one_run(options.output):
            with one_sentence():
                adaptation = Adaptation(options, console.print)
            return adaptation.run()
    except KeyboardInterrupt:
        console.print("stopped: what is done stays; the same command goes on")
        return INTERRUPTED
    except (ScanError, ValueError) as error:
        console.print(f"error: {error}")
        return NOT_STARTED
    except OSError as error:
        console.print(f"error: {error}; the same command goes on from here")
        return FAILED
