"""``neurobundle compare``: two evaluations of the same cases, side by side.

A *run* is a folder with the ``per_case.csv`` that ``neurobundle evaluate`` writes, or that table itself. The comparison
is :mod:`neurobundle.measure.comparison`'s; here it is read, printed and written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from neurobundle.commands.results import aligned
from neurobundle.errors import InputError, NoInputError
from neurobundle.export.tables import write_csv
from neurobundle.files import write_json
from neurobundle.load.answers import Row, read_table
from neurobundle.measure.comparison import (
    ANSWER,
    CLASSIFICATION,
    LEVEL,
    SEGMENTATION,
    Comparison,
    ComparisonRow,
    compare_answers,
    compare_scores,
)
from neurobundle.measure.outputs import SUMMARY, TABLE
from neurobundle.measure.segmentation import Score
from neurobundle.measure.tables import read_scores

logger = logging.getLogger(__name__)

DETECTION = "detection"

#: The columns by which a task's table is known.
KNOWN_BY = {
    SEGMENTATION: ("case", "structure", "status", "dice"),
    CLASSIFICATION: ANSWER,
    DETECTION: ("case", "n_boxes", "n_found"),
}

#: Metrics whose meaning the summary states: NSD's tolerance, and what counts as one lesion.
RULED = (("nsd",), ("lesion_dice", "lesion_hd95_mm"))

#: Characters of a structure's name in a line of the table, and of a path (its end).
NAME, PATH = 20, 110

HEAD = ("structure", "metric", "n", "A", "B", "A - B", "95 % interval", "p", "p Holm", "effect", "better")


NO_SUMMARY = ("it is no summary of ours", "Evaluate again, or move it away.")


@dataclass(frozen=True)
class RunComparison(Comparison):
    """A comparison, and which runs it is of.

    Attributes:
        run_a: the first run, as it was given.
        run_b: the second.
    """

    run_a: str
    run_b: str

    def as_table(self) -> str:
        """The rows for a terminal, aligned, at most 118 characters a line."""
        test = "McNemar's exact" if self.task == CLASSIFICATION else "Wilcoxon's signed-rank (found: McNemar's exact)"
        lines = [
            f"A: {self.run_a[-PATH:]}",
            f"B: {self.run_b[-PATH:]}",
            f"{self.n_cases} cases in both, {len(self.only_in_a)} in A only, {len(self.only_in_b)} in B only; "
            f"{self.n_empty} rows empty in both",
            "",
            *aligned([HEAD, *map(_words, self.rows)]),
            "",
            f"Test: {test}. Effect: above 0 where A is better. Better: p Holm < {LEVEL}.",
        ]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Everything, ready for JSON; a blank is null."""
        return {"task": self.task, "run_a": self.run_a, "run_b": self.run_b} | super().as_json()


@dataclass(frozen=True)
class _Run:
    """A table that was read: ``scores`` of a segmentation, ``answers`` of a classification."""

    file: Path
    task: str
    scores: list[Score]
    answers: list[Row]
    subjects: Mapping[str, str]


def compare(run_a: Path, run_b: Path, output: Path | None = None) -> RunComparison:
    """Compare two evaluations of the same cases.

    Args:
        run_a: a folder with ``per_case.csv``, or the table.
        run_b: another one; the subjects are A's, or B's where A names none but the case.
        output: gets ``comparison.csv`` and ``comparison.json``.

    Returns:
        One row a structure and metric that both tables have; of the volume's error the absolute value,
        ``abs_volume_error_ml``.

    Raises:
        NoInputError: if there is no table, or no case or no structure in both.
        InputError: if a table cannot be used, the tasks differ or are detections, or a case was measured against
            different references.
    """
    a, b = _read(Path(run_a)), _read(Path(run_b))
    _require_same_references(a, b)
    if a.task != b.task:
        raise InputError(f"it is of {b.task}, and {a.file} of {a.task}", "Compare runs of one task.", file=b.file)
    files = str(a.file), str(b.file)
    subjects = {**b.subjects, **{case: subject for case, subject in a.subjects.items() if subject != case}}
    if a.task == CLASSIFICATION:
        found = compare_answers(a.answers, b.answers, subjects, runs=files)
    else:
        found = compare_scores(a.scores, b.scores, subjects, left_out=_differently_ruled(a, b), runs=files)
    result = RunComparison(**vars(found), run_a=str(run_a), run_b=str(run_b))
    if output is not None:
        # With six decimals a small p would be 0.
        cells = [vars(row) | {name: f"{getattr(row, name):.4g}" for name in ("p", "p_holm")} for row in result.rows]
        write_csv(output / "comparison.csv", [field.name for field in fields(ComparisonRow)], cells, digits=6)
        write_json(output / "comparison.json", result.as_json())
    return result


def _read(run: Path) -> _Run:
    file = run / TABLE if run.is_dir() else run
    if not file.is_file():
        raise NoInputError("there is no such table", "Give a folder that `neurobundle evaluate` wrote.", file=file)
    columns, rows = read_table(file)
    task = next((task for task, known_by in KNOWN_BY.items() if set(known_by) <= set(columns)), None)
    if task is None:
        cause = f"it has the columns {', '.join(columns)}, and neither dice and status nor truth and correct"
        raise InputError(cause, f"Give a {TABLE} of a segmentation or a classification.", file=file)
    if task == DETECTION:
        cause = "it is of a detection, and boxes cannot be compared yet"
        raise InputError(cause, f"Compare segmentations or classifications, or read each {SUMMARY}.", file=file)
    if task == SEGMENTATION:
        scores, subjects = read_scores(file)
        return _Run(file, task, scores, [], subjects)
    subjects = {row.cells["case"]: row.cells.get("subject") or row.cells["case"] for row in rows}
    return _Run(file, task, [], rows, subjects)


def _require_same_references(a: _Run, b: _Run) -> None:
    """By the hashes of both summaries, where they are of the same cases."""
    hashes = [_summary(run.file).get("sha256", {}).get("references") for run in (a, b)]
    if set(a.subjects) == set(b.subjects) and None not in hashes and hashes[0] != hashes[1]:
        way_out = "Evaluate both against the same references."
        raise InputError(f"its references are not those of {a.file}, by their hash", way_out, file=b.file)


def _differently_ruled(a: _Run, b: _Run) -> list[str]:
    """Metrics that the summaries say were measured in two ways; warns of them."""
    names: list[str] = []
    for ruled, rule_a, rule_b in zip(RULED, _rules(a.file), _rules(b.file), strict=True):
        if None not in (rule_a, rule_b) and rule_a != rule_b:
            logger.warning("%s: measured with %s in A and %s in B, and left out", ", ".join(ruled), rule_a, rule_b)
            names += ruled
    return names


def _rules(table: Path) -> tuple[Any, Any]:
    """How the summary beside a table says that ``nsd`` and lesions were measured; None where it says nothing."""
    summary = _summary(table)
    # An older summary has one tolerance.
    tolerances = summary.get("nsd_tolerances_mm", [summary.get("nsd_tolerance_mm")])
    if not isinstance(tolerances, list) or not tolerances:
        raise InputError(*NO_SUMMARY, file=table.parent / SUMMARY)
    return tolerances[0], summary.get("lesion_rule")


def _summary(table: Path) -> dict[str, Any]:
    """What stands beside a table; nothing if there is none."""
    path = table.parent / SUMMARY
    try:
        summary = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise InputError(*NO_SUMMARY, file=path) from error
    if not isinstance(summary, dict) or not isinstance(summary.get("sha256", {}), dict):
        raise InputError(*NO_SUMMARY, file=path)
    return summary


def _words(row: ComparisonRow) -> tuple[str, ...]:
    name = row.structure if len(row.structure) <= NAME else f"{row.structure[: NAME - 3]}..."
    means = map(_figure, (row.mean_a, row.mean_b, row.difference))
    interval = f"{_figure(row.low)} to {_figure(row.high)}"
    chances = ("< .001" if p < 0.001 else f"{p:.3f}" for p in (row.p, row.p_holm))
    return (name, row.metric, str(row.n), *means, interval, *chances, f"{row.effect_size:.2f}", row.better)


def _figure(value: float) -> str:
    """Four digits that count, three decimals at most.

    >>> _figure(0.81234), _figure(-12.345), _figure(1234.5)
    ('0.812', '-12.35', '1234')
    """
    return f"{value:.{max(0, 4 - len(f'{abs(value):.0f}'))}f}"
