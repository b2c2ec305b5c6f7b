"""Options of the verbs that make a bundle from normal scans of a site."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["BrainExtraction", "BrainMasks", "CheckOnly", "Contrast", "Exclude", "ExcludeSuspects", "Force", "Subject"]

CheckOnly = Annotated[bool, typer.Option("--check-only", help="Check the scans and stop.")]
Exclude = Annotated[list[str] | None, typer.Option(metavar="CASE …", help="Leave these scans out.")]
ExcludeSuspects = Annotated[bool, typer.Option("--exclude-suspects", help="Leave out what check.md says.")]
Force = Annotated[bool, typer.Option("--force", help="Go on although the checks found something.")]
Subject = Annotated[str | None, typer.Option(help="Expression whose first group is the person.")]
Contrast = Annotated[str, typer.Option(help="T1, T2 or FLAIR.")]
BrainMasks = Annotated[str | None, typer.Option(help="Folder with a brain mask for every scan.")]
BrainExtraction = Annotated[str, typer.Option(help="How the brain is found.")]
