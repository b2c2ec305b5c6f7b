"""Record a newcomer's first minute, from the wheel to the picture, for the tutorial.

    python scripts/first_minute.py OUT [--page docs/tutorial.md]

The wheel is built and installed into a clean virtual environment in OUT, with the packages of the environment that runs
this script, for nothing is downloaded. There the commands run that a newcomer types; what they print goes between the
page's markers ``<!-- first_minute -->``, and the picture of the last one beside the page. Paths of this machine are
left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

from itermask3d.evaluation.docs import fill_blocks
from itermask3d.files.writing import write_atomically
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
BLOCK, PICTURE = "first_minute", "first_minute.png"
COLOURS = 128
WIDTH = 100
ALONE = ("-m", "pip", "--disable-pip-version-check")


def main(arguments: Sequence[str] | None = None) -> None:
    """Record it; ends with an exception where a command fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder, which must not exist")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "tutorial.md", help="the page")
    options = parser.parse_args(arguments)
    home = options.output.absolute()
    home.mkdir(parents=True)
    wheel = build_wheel(home)
    terminal = Terminal(clean_environment(home / "env"), home)
    terminal.run("pip", "install", wheel.name, hidden=("--no-deps", "--no-index", "--ignore-installed"))
    terminal.run("itermask3d", "info")
    terminal.run("itermask3d", "demo")
    shutil.copy(home / "out" / "demo" / "input" / "with_lesion.nii.gz", home / "scan.nii.gz")
    terminal.run("itermask3d", "segment", "scan.nii.gz")
    shrink(home / "scan_itermask3d" / "scan" / "overview.png", options.page.with_name(PICTURE))
    block = f"```text\n{terminal.text()}```\n\n![the overview of the scan with the lesion]({PICTURE})\n"
    write_atomically(fill_blocks(options.page.read_text(), {BLOCK: block}), options.page)


def build_wheel(folder: Path) -> Path:
    """The wheel of this repository."""
    options = ("wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", ROOT, "-w", folder)
    subprocess.run([sys.executable, *ALONE, *map(str, options)], check=True)
    return next(folder.glob("*.whl"))


def clean_environment(folder: Path) -> Path:
    """A virtual environment that sees the packages of this one, but not this repository; its folder of programs."""
    venv.create(folder, with_pip=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


class Terminal:
    """What a person types and sees.

    Args:
        programs: folder that is searched first.
        home: where the person is.
    """

    def __init__(self, programs: Path, home: Path) -> None:
        self.programs, self.home = programs, home
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
        path = f"{programs}{os.pathsep}{kept.get('PATH', '')}"
        self.environment = {**kept, "PATH": path, "COLUMNS": str(WIDTH), "PIP_CONFIG_FILE": os.devnull}
        self.lines: list[str] = []

    def run(self, *words: str, hidden: Sequence[str] = ()) -> None:
        """Run a command and keep what it prints; ``hidden`` words are not shown."""
        command = [str(self.programs / words[0]), *words[1:], *hidden]
        done = subprocess.run(
            command, cwd=self.home, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=True,
        )  # fmt: skip
        self.lines += [f"$ {' '.join(words)}", *shown(done.stdout, self.home), ""]

    def text(self) -> str:
        """All of it."""
        return "\n".join(self.lines).rstrip("\n") + "\n"


def shown(printed: str, home: Path) -> list[str]:
    """Lines as they stand on the screen in the end, without this machine's paths."""
    last = [line.rsplit("\r", 1)[-1].rstrip() for line in printed.rstrip("\n").split("\n")]
    return [line.replace(f"{home}{os.sep}", "").replace(str(home), ".") for line in last]


def shrink(picture: Path, target: Path) -> None:
    """A picture in few colours, which is a third as large."""
    Image.open(picture).convert("RGB").quantize(COLOURS).save(target, optimize=True)


if __name__ == "__main__":
    main()
