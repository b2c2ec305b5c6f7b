"""The command ``itermask3d`` and its verbs."""

from __future__ import annotations

import sys

import typer

from itermask3d.cli import calibrate, demo, evaluate, info, label, report, screen, segment, train
from itermask3d.cli.common import NOTE, repeated

__all__ = ["app", "main"]

app = typer.Typer(
    name="itermask3d",
    help="Mark where a 3D brain MR scan differs from what a network expects of a normal brain.",
    epilog=f"Exit status: 0 done, 1 some scan failed, 2 nothing could start. {NOTE}",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for module in (segment, screen, report, train, calibrate, evaluate, label, info, demo):
    name = module.__name__.rpartition(".")[2]
    app.command(name, epilog=NOTE, no_args_is_help=name not in ("info", "demo"))(getattr(module, name))


def main() -> None:
    """Run what the command line asks for; ends the process with the status."""
    app(repeated(sys.argv[1:]))
