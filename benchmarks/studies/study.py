"""What the studies share: where the data lies, how a scan is read, and how figures are written.

A *study* measures on real data what a page of docs/concepts claims. It prints the page's Markdown tables, draws the
page's picture with ``-o``, and ends with one line of JSON that tests read. Run it from the repository's root:

    python benchmarks/studies/bias_field_real.py --data ../shared/data -o docs/images/bias-field.png

Times are no part of it: those are what the benchmarks in the folder above are for.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

#: What every picture's labels are drawn with.
DOTS_PER_INCH = 100


def arguments(description: str, picture: bool = False) -> argparse.Namespace:
    """``--data``, ``--small`` (fewer cases), and ``-o`` where a study draws a picture."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("NEUROBUNDLE_DATA", "../shared/data")),
        help="the folder with ms_lesions, labelmaps and the others (NEUROBUNDLE_DATA, or ../shared/data)",
    )
    parser.add_argument("--small", action="store_true", help="a few of the cases, as the tests do")
    if picture:
        parser.add_argument("-o", "--output", type=Path, help="the picture to write, PNG")
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"{options.data} is no folder: give the one with the real data by --data")
    return options


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A volume turned to RAS+ without interpolation, float32, and its affine."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    return np.asarray(image.dataobj, np.float32), np.asarray(image.affine, float)


def one_file(folder: Path, pattern: str) -> Path:
    """The one file of a name with stars."""
    (path,) = folder.glob(pattern)
    return path


def number(value: float, digits: int = 3) -> str:
    """As the pages write it: no zero before the point.

    >>> number(0.0953), number(-0.5, 1), number(12.345, 1), number(0.001, 1)
    ('.095', '-.5', '12.3', '0')
    """
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        return "0"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def figure(value: float | None) -> str:
    """A number as the pages write it; a dash for what is not known."""
    return "-" if value is None or value != value else number(value)


def cell(score: Mapping[str, Any]) -> str:
    """A score's ``mean`` and ``interval``; the interval alone is left out where it is not known."""
    low, high = (figure(end) for end in score["interval"])
    return figure(score["mean"]) + ("" if "-" in (low, high) else f" ({low} to {high})")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table, and an empty line."""
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


def report(name: str, figures: dict[str, Any]) -> None:
    """The line of JSON that tests read; what is not known is null."""
    print(json.dumps({"study": name, **_plain(figures)}, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and np.isnan(value) else value
