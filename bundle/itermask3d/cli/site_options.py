"""Options of the verbs that make a bundle from normal scans of a site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from itermask3d.cli.common import print_json

__all__ = ["BrainExtraction", "BrainMasks", "CheckOnly", "Contrast", "Exclude", "ExcludeSuspects", "Force"]
__all__ += ["AsJson", "Subject", "finish"]

CheckOnly = Annotated[bool, typer.Option("--check-only", help="Check the scans and stop.")]
Exclude = Annotated[list[str] | None, typer.Option(metavar="CASE …", help="Leave these scans out.")]
ExcludeSuspects = Annotated[bool, typer.Option("--exclude-suspects", help="Leave out what check.md says.")]
Force = Annotated[bool, typer.Option("--force", help="Go on although the checks found something.")]
Subject = Annotated[str | None, typer.Option(help="Expression whose first group is the person.")]
Contrast = Annotated[str, typer.Option(help="T1, T2 or FLAIR.")]
BrainMasks = Annotated[str | None, typer.Option(help="Folder with a brain mask for every scan.")]
BrainExtraction = Annotated[str, typer.Option(help="How the brain is found.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a summary as JSON; all else on stderr.")]


def finish(status: int, output: Path, *, as_json: bool) -> NoReturn:
    """End a run over ``output`` with its status; for a machine, say first what is there now."""
    if as_json:
        made = {"check": "check/check.json", "bundle": "bundle/models/model.pt", "report": "report.html"}
        there = {name: output.absolute() / path for name, path in made.items()}
        told = {name: str(path) if path.exists() else None for name, path in there.items()}
        told["bundle"] = told["bundle"] and str(output.absolute() / "bundle")
        print_json({"status": status, **told})
    raise typer.Exit(status)
