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
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column, ""), digits) for column in columns])
    return write_atomic(path, text.getvalue().encode())


def _cell(value: Any, digits: int) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.{digits}f}"
    return value
