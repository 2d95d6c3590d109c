"""What a folder of results holds: in a few lines for the terminal, and what they were made with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurobundle.errors import SettingError
from neurobundle.files import write_json

#: Column of the terminal's table, metric, decimals.
COLUMNS = (("Dice", "dice", 3), ("NSD", "nsd", 3), ("HD95 mm", "hd95_mm", 2), ("sens.", "sensitivity", 3))
COUNTS = (("missed", "n_missed"), ("false", "n_false"), ("failed", "n_failed"), ("empty", "n_empty"))


def as_text(output: Path) -> str:
    """The means of an evaluation that was written, and where the rest is.

    Args:
        output: holds ``summary.json``.
    """
    summary = json.loads((output / "summary.json").read_text())
    task = summary["task"]
    lines = _segmentation(summary) if task == "segmentation" else _others(summary)
    return "\n".join([*lines, f"report: {output / 'report.html'}"])


def _segmentation(summary: Mapping[str, Any]) -> list[str]:
    lesions = any("lesions" in values for values in summary["structures"].values())
    further = ["lesion Dice", "lesions missed", "false"] if lesions else []
    rows = [["structure", *(name for name, _, _ in COLUMNS), *(name for name, _ in COUNTS), *further]]
    for name, values in summary["structures"].items():
        means = [mean(values[metric], digits) for _, metric, digits in COLUMNS]
        rows.append([name, *means, *(str(values[key]) for _, key in COUNTS)])
        if lesions:
            own = values["lesions"]
            found = f"{own['n_missed_lesions']} of {own['n_lesions']}"
            rows[-1] += [mean(own["lesion_dice"]), found, str(own["n_false_lesions"])]
    return [f"{summary['n_cases']} cases; means with 95 % intervals", *aligned(rows)]


def _others(summary: Mapping[str, Any]) -> list[str]:
    n = summary.get("n_cases", summary.get("n_images"))
    rows = [[key, mean(value)] for key, value in summary.items() if isinstance(value, Mapping) and "interval" in value]
    return [f"{n} cases, {summary['n_failed']} failed; means with 95 % intervals", *aligned(rows)]


def mean(value: Mapping[str, Any], digits: int = 3) -> str:
    """A mean with its interval; ``-`` where there is none.

    >>> mean({"mean": 0.8934, "interval": [0.887, 0.9]})
    '0.893 (0.887 to 0.900)'
    """
    if value["mean"] is None:
        return "-"
    low, high = value["interval"]
    middle = f"{value['mean']:.{digits}f}"
    return middle if low is None else f"{middle} ({low:.{digits}f} to {high:.{digits}f})"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of words as lines, each column as wide as its longest word.

    >>> aligned([["a", "b"], ["ccc", "d"]])
    ['a    b', 'ccc  d']
    """
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))] if rows else []
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def require_same_plan(path: Path, plan: Mapping[str, Any], what: str) -> None:
    """Note what a folder's results are made with, or see that it is what was noted.

    Args:
        path: the note.
        plan: settings and hashes, as JSON holds them.
        what: the folder holds, for people.

    Raises:
        SettingError: if another plan was noted.
    """
    if path.exists() and json.loads(path.read_text()) != plan:
        raise SettingError(
            f"this folder holds {what} with other settings or another datalist",
            "Give another output folder, or delete this one.",
            file=path,
        )
    write_json(path, dict(plan))
