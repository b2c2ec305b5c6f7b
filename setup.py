"""What pyproject.toml cannot say: a wheel carries the bundle's configs, weights and model card inside the package.

In the repository they lie around the package, where MONAI expects those of a bundle; an editable install leaves them.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PARTS = ("configs", "models", "docs", "LICENSE")
STAGES = ("fit_domain.py", "plot_training.py", "tune.py")
"""Scripts of the repository that stages of ``itermask3d train`` run."""

MADE = shutil.ignore_patterns("model", "logs", "bin", "__pycache__")
"""What a running server makes in the folder of the app."""


class BuildWithBundle(build_py):
    """Put the bundle's parts beside the modules, as ``itermask3d/_bundle``, and the app as ``itermask3d/_app``."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "itermask3d" / "_bundle"
        shutil.rmtree(target, ignore_errors=True)
        for part in PARTS:
            source = ROOT / "bundle" / part
            (target / part).parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target / part)
        app = target.with_name("_app")
        shutil.rmtree(app, ignore_errors=True)
        shutil.copytree(ROOT / "monailabel_app", app, ignore=MADE)
        scripts = target.with_name("_scripts")
        scripts.mkdir(exist_ok=True)
        for name in STAGES:
            shutil.copyfile(ROOT / "scripts" / name, scripts / name)


setup(cmdclass={"build_py": BuildWithBundle})
