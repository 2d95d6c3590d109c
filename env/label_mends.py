"""Two mends that MONAI Label 0.8.5 needs beside today's packages; run once by the Python of its own environment.

``pydicom-seg`` 0.4.1 asks for a module that pydicom 3 no longer has; it gets one, of the same names. And beside a CPU
build of torch the operators of the registry's torchvision do not load, which ends its import: whoever imports it gets
:mod:`neurobundle.networks.vision`'s names for them first, in the server and in each process that it starts.

Run as a script, it writes the module, copies itself beside the packages, and has each Python there import the copy.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_OLD_PYDICOM_MODULE = '"""What pydicom 2 called so."""\n\nfrom pydicom.uid import *\n'


class _Retrying(importlib.abc.Loader):
    """Loads torchvision; a second time, with its operators named, if they are missing."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """As the package's own loader."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the package's ``__init__``."""
        try:
            self.loader.exec_module(module)
        except RuntimeError as error:
            from neurobundle.networks import vision

            if not vision.operators_are_missing(error):
                raise
            vision.name_the_operators()
            self.loader.exec_module(module)


class _Torchvision(importlib.abc.MetaPathFinder):
    """Finds torchvision, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The package's own place, with a loader that tries twice."""
        if fullname != "torchvision":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Retrying(spec.loader)
        return spec


def write(packages: Path) -> None:
    """Mend an environment.

    Args:
        packages: its folder of packages.
    """
    (packages / "pydicom" / "_storage_sopclass_uids.py").write_text(_OLD_PYDICOM_MODULE, encoding="utf-8")
    name = Path(__file__).stem
    shutil.copyfile(__file__, packages / f"{name}.py")
    (packages / f"{name}.pth").write_text(f"import {name}\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sysconfig.get_path("purelib")))
elif not any(isinstance(finder, _Torchvision) for finder in sys.meta_path):
    sys.meta_path.insert(0, _Torchvision())
