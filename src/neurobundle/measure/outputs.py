"""What every evaluation writes: the names of its files, and what its numbers were made from."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from neurobundle import __version__

TABLE, SUMMARY, REPORT, CALIBRATION = "per_case.csv", "summary.json", "report.html", "calibration.csv"
#: Of trainings, which lie beside the report that shows them.
CURVES = "curves.png"

#: Packages whose version may change a score.
PACKAGES = ("numpy", "scipy", "connected-components-3d", "monai", "torch")


def versions() -> dict[str, str]:
    """The version of each program that took part; those that are not installed are left out."""
    found = {"neurobundle": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hash_of_all(hashes: Mapping[str, str]) -> str:
    """One sha256 for the contents of all cases, whatever their order.

    Args:
        hashes: the content hash of each case.

    >>> hash_of_all({"a": "1", "b": "2"}) == hash_of_all({"b": "2", "a": "1"})
    True
    """
    text = "".join(f"{case} {hashes[case]}\n" for case in sorted(hashes))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def fact_lines(facts: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested facts as pairs of words, for a table.

    >>> fact_lines({"weights": {"file": "model.pt"}, "folds": [0, 1]})
    [('weights file', 'model.pt'), ('folds', '0, 1')]
    """
    lines: list[tuple[str, str]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines += fact_lines(value, f"{before}{name} ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            lines.append((f"{before}{name}", text))
    return lines
