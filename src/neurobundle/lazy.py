"""Public names of a package that are imported when they are first asked for (PEP 562).

So a light command that needs one small module of a room does not load torch through that room's front door.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def attach(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], Any], list[str]]:
    """Make a package's ``__getattr__`` and ``__all__``.

    Args:
        package: its ``__name__``.
        home: the module, inside the package, of each public name.
    """

    def getattr_(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{home[name]}"), name)

    return getattr_, sorted(home)
