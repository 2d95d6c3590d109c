"""Tables as CSV: written whole, with the same bytes for the same rows."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neurobundle.files import write_atomic


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], digits: int = 4) -> Path:
    """Write rows as CSV, atomically; numbers are rounded, NaN is blank.

    Args:
        path: the final name.
        columns: their order; keys of a row that are not named are left out.
        rows: one mapping a row.
        digits: decimals of a float.
    """
    head = dict(zip(columns, columns, strict=True))
    return write_lines(path, [csv_line(columns, row, digits) for row in (head, *rows)])


def csv_line(columns: Sequence[str], row: Mapping[str, Any], digits: int = 4) -> str:
    r"""A row as :func:`write_csv` writes it, with the end of the line.

    >>> csv_line(["case", "ml"], {"case": "a, b", "ml": 0.5})
    '"a, b",0.5000\n'
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow([_cell(row.get(column, ""), digits) for column in columns])
    return text.getvalue()


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """Write lines that :func:`csv_line` made, atomically."""
    return write_atomic(path, "".join(lines).encode())


def _cell(value: Any, digits: int) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.{digits}f}"
    return value
