"""``itermask3d demo``: a real scan, and the same with a simulated lesion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from itermask3d.cli.common import DONE, for_machines, one_sentence, print_json

__all__ = ["demo"]

EXAMPLES = """
itermask3d demo
itermask3d demo out/mine --scan t1.nii.gz
"""


def demo(
    output: Annotated[Path, typer.Argument(help="Folder for all files.")] = Path("out/demo"),
    scan: Annotated[
        Path | None, typer.Option(help="A T1 scan that nibabel reads (default: the ICBM152 template).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON; all else on stderr.")] = False,
) -> None:
    """Segment a real scan, as it is and with a lesion put in."""
    from nibabel.filebasedimages import ImageFileError

    from itermask3d.cli.common import refuse
    from itermask3d.cli.demo_run import demonstrate, results

    with for_machines(as_json), one_sentence():
        try:
            status = demonstrate(scan, output)
        except (ImageFileError, ModuleNotFoundError) as error:
            refuse(error)
    if as_json:
        print_json(results(output) if status == DONE else [])
    raise typer.Exit(status)
