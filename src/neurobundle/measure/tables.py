"""``per_case.csv``: one row for each case and structure, so that a summary can be made again from it alone."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from neurobundle.errors import InputError
from neurobundle.export.tables import write_csv
from neurobundle.measure.segmentation import LESION_COLUMNS, Score

#: Decimals: enough that a mean over the table equals the summary's.
DIGITS = 6

_FIRST = ("case", "structure", "dice", "hd95_mm", "nsd")
_THEN = ("iou", "sensitivity", "precision", "hd_mm", "assd_mm", "volume_ml", "reference_ml", "volume_error_ml")
_LAST = ("subject", "status")
_TEXT = ("case", "structure", "status")
#: Without these a table is none of ours.
_NEEDED = ("case", "structure", "dice", "hd95_mm", "nsd", "volume_ml", "reference_ml", "status")


def more_columns(scores: Sequence[Score]) -> tuple[list[str], list[str]]:
    """The columns that were asked for besides: NSD at further tolerances, and those of lesions."""
    keys = list(dict.fromkeys(key for score in scores for key in score.more))
    return [key for key in keys if key.startswith("nsd_")], [key for key in LESION_COLUMNS if key in keys]


def write_scores(path: Path, scores: Sequence[Score], subjects: Mapping[str, str]) -> Path:
    """Write ``per_case.csv``, atomically.

    Args:
        path: its final name.
        scores: of all cases and structures, in the order of the rows.
        subjects: the subject of each case; a case that is not in it is its own subject.
    """
    tolerances, lesions = more_columns(scores)
    columns = [*_FIRST, *tolerances, *_THEN, *lesions, *_LAST]
    rows = (
        {name: getattr(score, name) for name in _TEXT}
        | {name: score.value(name) for name in columns if name not in (*_TEXT, "subject")}
        | {name: _count(score.value(name)) for name in lesions if name.startswith("n_")}
        | {"subject": subjects.get(score.case, score.case)}
        for score in scores
    )
    return write_csv(path, columns, rows, DIGITS)


def read_scores(path: Path) -> tuple[list[Score], dict[str, str]]:
    """Read what :func:`write_scores` wrote.

    Args:
        path: the file; a blank score becomes NaN.

    Returns:
        The scores, and the subject of each case.

    Raises:
        InputError: if it is no such table; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            names = list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"it cannot be read ({error})", "Give the per_case.csv of an evaluation.", file=path
        ) from error
    lacking = [name for name in _NEEDED if name not in names]
    if lacking:
        cause = f"it is no table of scores: it has no column {lacking[0]!r}"
        raise InputError(cause, "Give the per_case.csv that `neurobundle evaluate` wrote.", file=path)
    scores = [_score(row, number, path) for number, row in enumerate(rows, start=2)]
    return scores, {row["case"]: row.get("subject") or row["case"] for row in rows}


def _score(row: Mapping[str, str], line: int, path: Path) -> Score:
    own = {field.name for field in fields(Score)} - {"more"}
    try:
        values: dict[str, Any] = {name: float(row.get(name) or "nan") for name in own if name not in _TEXT}
        more = {
            name: float(text or "nan")
            for name, text in row.items()
            if name in LESION_COLUMNS or name.startswith("nsd_")
        }
    except (TypeError, ValueError) as error:
        raise InputError(f"line {line} holds {error}", "Mend the line, or evaluate again.", file=path) from error
    values |= {name: row[name] for name in _TEXT}
    return Score(**values, more=more)


def _count(value: float) -> int | str:
    return "" if math.isnan(value) else int(value)
