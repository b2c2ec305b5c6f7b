"""The package's own face: quick to import, and every public name is there when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import itermask3d
import pytest

HEAVY = ("torch", "monai", "nibabel", "matplotlib")


@pytest.mark.parametrize("module", ["itermask3d", "itermask3d.cli.app"])
def test_importing_the_package_or_the_command_loads_nothing_heavy(module):
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", itermask3d.__all__)
def test_every_public_name_resolves_and_is_listed(name):
    assert getattr(itermask3d, name) is not None
    assert name in dir(itermask3d)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = itermask3d.nothing
