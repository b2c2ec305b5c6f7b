"""The command ``itermask3d`` and its verbs."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from types import ModuleType

import typer

from itermask3d import __version__
from itermask3d.cli import adapt, calibrate, demo, evaluate, info, label, report, screen, segment, train
from itermask3d.cli.common import NOTE, STATUS, repeated

__all__ = ["app", "main"]

EXAMPLES = """
  itermask3d demo                      a first look
  itermask3d segment scan.nii.gz       one scan; results lie beside it
  itermask3d screen scans out/night    many scans, one page
  itermask3d adapt normals out/site    know your scanner, in minutes
  itermask3d train normals out/site    a model of your own site
  itermask3d --install-completion      complete words with the Tab key
"""


def epilog(examples: str, status: str = STATUS) -> str:
    """What stands below the options of a help page: examples, exit statuses, and what all this is for."""
    shown = "\n".join(
        f"  {line.strip()}" if not line.startswith("  ") else line for line in examples.strip("\n").split("\n")
    )
    return f"\b\nExamples:\n{shown}\n\n{status}\n\n{NOTE}"


def of_verb(verb: ModuleType) -> str:
    """The epilog of a verb's module, from its ``EXAMPLES`` and ``STATUS``."""
    return epilog(getattr(verb, "EXAMPLES", ""), getattr(verb, "STATUS", STATUS))


def tell_version(asked: bool) -> None:
    """Print the version and end, if asked to."""
    if asked:
        print(f"itermask3d {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="itermask3d",
    epilog=epilog(EXAMPLES, f"{STATUS} Every verb has --help."),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def itermask3d(
    version: bool = typer.Option(False, "--version", callback=tell_version, is_eager=True, help="Print the version."),
) -> None:
    """Mark where a 3D brain MR scan differs from what a network expects of a normal brain."""


for module in (segment, screen, report, adapt, train, calibrate, evaluate, label, info, demo):
    name = module.__name__.rpartition(".")[2]
    app.command(name, epilog=of_verb(module), no_args_is_help=name not in ("info", "demo"))(getattr(module, name))


def main() -> None:
    """Run what the command line asks for; ends the process with the status."""
    for stream in (sys.stdout, sys.stderr):  # a file name may hold bytes that are no text
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(repeated(sys.argv[1:]))
