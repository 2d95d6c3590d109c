"""Puts the bundles and the overlays into the wheel; everything else is in setup.cfg."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithBundles(build_py):
    """Copies ``bundles/`` and ``configs/`` beside the package, where ``neurobundle.bundle.find`` looks for them."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if self.editable_mode:
            return
        for folder in ("bundles", "configs"):
            target = Path(self.build_lib) / "neurobundle" / f"_{folder}"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / folder, target, ignore=shutil.ignore_patterns("__pycache__", ".*", "eval"))


setup(cmdclass={"build_py": BuildWithBundles})
