"""``neurobundle compare``: two evaluations of the same cases, side by side, with what chance would do.

A *run* is a folder with the ``per_case.csv`` that ``neurobundle evaluate`` writes, or that table itself. Rows are
*paired* by case and structure. A structure that is *empty* in both (neither reference nor prediction) has no scores and
is left out. Where one run has a blank and the other a score, the other one is wrong about something that is not there,
and the blank counts as the best value: 1, or 0 mm. A *failed* case counts as the worst: 0, the diagonal, or a volume
of 0. So neither kind of error can raise a run's mean by leaving the comparison.

Every line of the result is one test; ``p_holm`` corrects for all of them together. A is called *better* where that is
below .05 and both the mean and the test's effect size are in its favour.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from neurobundle.errors import InputError, NoInputError
from neurobundle.export.tables import write_csv
from neurobundle.files import write_json
from neurobundle.measure.paired import PairedComparison, compare_pairs, holm, mcnemar

logger = logging.getLogger(__name__)

TABLE, SUMMARY = "per_case.csv", "summary.json"
SEGMENTATION, CLASSIFICATION = "segmentation", "classification"

#: What each task's table cannot do without.
NEEDED = {SEGMENTATION: ("case", "structure", "status", "dice"), CLASSIFICATION: ("case", "truth", "correct")}

#: Columns that are compared. Of shares more is better, of the others less.
SHARES = re.compile(r"dice|iou|sensitivity|precision|nsd(_[\d.]+mm)?|lesion_dice")
DISTANCES = re.compile(r"hd95_mm|hd_mm|assd_mm|lesion_hd95_mm")
VOLUME = "volume_error_ml"

#: Columns whose meaning the summary states: NSD's tolerance, and what counts as one lesion.
RULED = (("nsd",), ("lesion_dice", "lesion_hd95_mm"))

#: What a cell of `status` and of `correct` may be; a failed case has no answer.
STATUSES = dict.fromkeys(("ok", "missed", "false", "empty", "failed"))
RIGHT = {"true": True, "1": True, "false": False, "0": False, "": False}

#: Two references are the same if their volumes agree so well; the second number is the rounding of the table.
SAME_VOLUME, SAME_VOLUME_ML = 1e-3, 2e-6

#: The level at which one run is called better.
LEVEL = 0.05

#: Names in a warning.
NAMES_SHOWN = 5

#: Characters of a structure's name in a line of the table, and of a path (its end).
NAME, PATH = 20, 110

Key = tuple[str, str]


@dataclass(frozen=True)
class Row:
    """One structure and one metric.

    Attributes:
        structure: its name, or ``all`` in classification.
        metric: a column of the table; ``found`` (status ok, where the reference is not empty) or ``accuracy``.
        n: pairs.
        mean_a: mean of A over the pairs.
        mean_b: mean of B.
        difference: A - B.
        low: the lower end of its 95 % interval, by resampling subjects.
        high: the upper end.
        p: of Wilcoxon's signed-rank test; of ``found`` and ``accuracy`` of McNemar's, which takes cases, not subjects.
        p_holm: corrected for all rows.
        effect_size: the test's, -1 to 1, above 0 where A is better.
        better: ``A``, ``B`` or ``-``.
    """

    structure: str
    metric: str
    n: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    effect_size: float
    better: str


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found.

    Attributes:
        task: ``segmentation`` or ``classification``.
        run_a: the first run, as it was given.
        run_b: the second.
        n_cases: cases in both.
        only_in_a: cases of A that B does not have.
        only_in_b: cases of B that A does not have.
        n_unpaired: rows of common cases whose structure only one run has.
        n_empty: rows that are empty in both.
        rows: one a structure and metric.
    """

    task: str
    run_a: str
    run_b: str
    n_cases: int
    only_in_a: list[str]
    only_in_b: list[str]
    n_unpaired: int
    n_empty: int
    rows: list[Row]

    def as_table(self) -> str:
        """The rows for a terminal, aligned, at most 118 characters a line."""
        head = ("structure", "metric", "n", "A", "B", "A - B", "95 % interval", "p", "p Holm", "effect", "better")
        test = "McNemar's exact" if self.task == CLASSIFICATION else "Wilcoxon's signed-rank (found: McNemar's exact)"
        lines = [
            f"A: {self.run_a[-PATH:]}",
            f"B: {self.run_b[-PATH:]}",
            f"{self.n_cases} cases in both, {len(self.only_in_a)} in A only, {len(self.only_in_b)} in B only; "
            f"{self.n_empty} rows empty in both",
            "",
            *_aligned([head, *map(_cells, self.rows)]),
            "",
            f"Test: {test}. Effect: above 0 where A is better. Better: p Holm < {LEVEL}.",
        ]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Everything, ready for JSON; a blank is null."""
        rows = [{key: _plain(value) for key, value in asdict(row).items()} for row in self.rows]
        return asdict(self) | {"rows": rows}


@dataclass(frozen=True)
class _Run:
    """A table that was read; ``rows`` by case and structure, in the table's order."""

    file: Path
    task: str
    columns: tuple[str, ...]
    rows: dict[Key, Mapping[str, str]]

    @property
    def cases(self) -> tuple[str, ...]:
        """Its cases, in the table's order."""
        return tuple(dict.fromkeys(case for case, _ in self.rows))

    def number(self, key: Key, column: str) -> float:
        """A cell as a number; NaN for a blank."""
        text = self.rows[key].get(column) or "nan"
        try:
            value = float(text)
        except ValueError:
            value = math.inf
        if math.isinf(value):
            raise InputError(f"{column} is {text!r}, no number", "Evaluate again.", case=key[0], file=self.file)
        return value

    def status(self, key: Key) -> str:
        """A structure's status."""
        return self.rows[key]["status"]


def compare(run_a: Path, run_b: Path, output: Path | None = None) -> Comparison:
    """Compare two evaluations of the same cases.

    Args:
        run_a: a folder with ``per_case.csv``, or the table.
        run_b: another one; the subjects are A's, or B's where A names none.
        output: gets ``comparison.csv`` and ``comparison.json``.

    Returns:
        One row a structure and metric that both tables have.

    Raises:
        NoInputError: if there is no table, or no case in both.
        InputError: if a table cannot be used, the tasks differ, or a case was measured against different references.
    """
    a, b = _read(Path(run_a)), _read(Path(run_b))
    if a.task != b.task:
        raise InputError(f"it is of {b.task}, and {a.file} of {a.task}", "Compare runs of one task.", file=b.file)
    keys = [key for key in a.rows if key in b.rows]
    if not keys:
        cause = f"{a.file} and {b.file} have no case{' and structure' * (a.task == SEGMENTATION)} in common"
        raise NoInputError(cause, "Evaluate both on the same cases.")
    _check_truths(a, b, keys)
    if a.task == CLASSIFICATION:
        right = [[RIGHT[run.rows[key]["correct"]] for key in keys] for run in (a, b)]
        kept, rows = keys, [_answers("all", "accuracy", right, _subjects(a, b, keys))]
    else:
        kept = [key for key in keys if not a.status(key) == b.status(key) == "empty"]
        rows = _segmentation_rows(a, b, kept)
    result = Comparison(a.task, str(run_a), str(run_b), *_shared(a, b), len(keys) - len(kept), _judged(rows))
    if output is not None:
        cells = [asdict(row) | {name: f"{getattr(row, name):.4g}" for name in ("p", "p_holm")} for row in result.rows]
        write_csv(output / "comparison.csv", [field.name for field in fields(Row)], cells, digits=6)
        write_json(output / "comparison.json", result.as_json())
    return result


def _read(run: Path) -> _Run:
    file = run / TABLE if run.is_dir() else run
    if not file.is_file():
        raise NoInputError("there is no such table", "Give a folder that `neurobundle evaluate` wrote.", file=file)
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restval="")
            columns, lines = tuple(reader.fieldnames or ()), list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"it is no CSV table ({error})", "Evaluate again.", file=file) from error
    task = next((task for task, needed in NEEDED.items() if set(needed) <= set(columns)), None)
    if task is None:
        cause = f"it has the columns {', '.join(columns)}, and neither dice and status nor truth and correct"
        raise InputError(cause, f"Give a {TABLE} of a segmentation or a classification.", file=file)
    rows: dict[Key, Mapping[str, str]] = {}
    for line in lines:
        key = line["case"], line["structure"] if task == SEGMENTATION else ""
        if key in rows:
            raise InputError(f"it has two rows {' '.join(key).strip()!r}", "Keep one.", case=key[0], file=file)
        column, known = ("status", STATUSES) if task == SEGMENTATION else ("correct", RIGHT)
        if line[column].lower() not in known:
            raise InputError(f"{column} is {line[column]!r}", "Evaluate again.", case=key[0], file=file)
        rows[key] = line | {column: line[column].lower()}
    return _Run(file, task, columns, rows)


def _shared(a: _Run, b: _Run) -> tuple[int, list[str], list[str], int]:
    """How many cases both have, which only one has, and how many rows of the former only one has; warns of these."""
    both = set(a.cases) & set(b.cases)
    only_a, only_b = ([case for case in run.cases if case not in both] for run in (a, b))
    for name, cases in (("A", only_a), ("B", only_b)):
        if cases:
            logger.warning("%d cases are in %s only, and are left out: %s", len(cases), name, _some(cases))
    alone = [structure for case, structure in a.rows.keys() ^ b.rows.keys() if case in both]
    if alone:
        names = _some(sorted(set(alone)))
        logger.warning("%d rows have a structure that only one run has, and are left out: %s", len(alone), names)
    return len(both), only_a, only_b, len(alone)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {len(names) - NAMES_SHOWN} more" if names[NAMES_SHOWN:] else "")


def _check_truths(a: _Run, b: _Run, keys: Sequence[Key]) -> None:
    for key in keys:
        if a.task == CLASSIFICATION:
            pair = a.rows[key]["truth"], b.rows[key]["truth"]
            what, same = "truth", pair[0] == pair[1] or "" in pair
        else:
            ml = a.number(key, "reference_ml"), b.number(key, "reference_ml")
            what, pair = "reference's volume in ml", (f"{ml[0]:.6g}", f"{ml[1]:.6g}")
            # A comparison with NaN, a reference that could not be read, is not above anything.
            same = not abs(ml[0] - ml[1]) > SAME_VOLUME * max(ml) + SAME_VOLUME_ML
        if not same:
            cause = f"the {what}{' of ' + key[1] if key[1] else ''} is {pair[0]} in A and {pair[1]} in B"
            raise InputError(cause, "Evaluate both runs against the same reference.", case=key[0])


def _segmentation_rows(a: _Run, b: _Run, keys: Sequence[Key]) -> list[Row]:
    metrics = [column for column in a.columns if column in b.columns and (_is_share(column) or _is_loss(column))]
    for names, rule_a, rule_b in zip(RULED, _rules(a), _rules(b), strict=True):
        if set(names) & set(metrics) and None not in (rule_a, rule_b) and rule_a != rule_b:
            logger.warning("%s: measured with %s in A and %s in B, and left out", ", ".join(names), rule_a, rule_b)
            metrics = [metric for metric in metrics if metric not in names]
    worst = {metric: _worst(a, b, metric) for metric in metrics}
    rows = []
    for structure in dict.fromkeys(structure for _, structure in keys):
        own = [key for key in keys if key[1] == structure]
        rows += [row for metric in metrics if (row := _scores(structure, metric, a, b, own, worst[metric]))]
        there = [key for key in own if _is_there(a, b, key)]
        if there:
            found = [[run.status(key) == "ok" for key in there] for run in (a, b)]
            rows.append(_answers(structure, "found", found, _subjects(a, b, there)))
    return rows


def _scores(structure: str, metric: str, a: _Run, b: _Run, keys: Sequence[Key], worst: float) -> Row | None:
    """One line of a segmentation's metric; None if no pair has a value."""
    pairs = {key: (_value(a, b, key, metric, worst), _value(b, a, key, metric, worst)) for key in keys}
    pairs = {key: pair for key, pair in pairs.items() if not any(map(math.isnan, pair))}
    if not pairs:
        return None
    first, second = zip(*pairs.values(), strict=True)
    result = compare_pairs(first, second, _subjects(a, b, pairs), higher_is_better=_is_share(metric))
    return _row(structure, metric, result, result.p_wilcoxon, result.effect_size)


def _worst(a: _Run, b: _Run, metric: str) -> float:
    """What a failed case gets where its table has a blank: 0, or the largest distance of both tables, or NaN."""
    if _is_share(metric):
        return 0.0
    numbers = [run.number(key, metric) for run in (a, b) for key in run.rows]
    return max((number for number in numbers if not math.isnan(number)), default=math.nan)


def _value(run: _Run, other: _Run, key: Key, metric: str, worst: float) -> float:
    """A score, a blank filled as the module says; NaN if it is a blank in both runs and neither failed."""
    value, of_other = run.number(key, metric), other.number(key, metric)
    if not math.isnan(value):
        return abs(value)
    if run.status(key) == "failed":
        if metric != VOLUME:
            return worst
        ml = run.number(key, "reference_ml")
        return other.number(key, "reference_ml") if math.isnan(ml) else ml
    if math.isnan(of_other) and other.status(key) != "failed":
        return math.nan
    return 1.0 if _is_share(metric) else 0.0


def _answers(structure: str, metric: str, right: Sequence[Sequence[bool]], subjects: Sequence[str]) -> Row:
    """One line of answers that are right or wrong, those of A and those of B."""
    test = mcnemar(right[0], right[1])
    return _row(structure, metric, compare_pairs(right[0], right[1], subjects), test.p, test.effect_size)


def _row(structure: str, metric: str, pairs: PairedComparison, p: float, effect_size: float) -> Row:
    """A row that does not know of the others yet."""
    means = pairs.mean_a, pairs.mean_b, pairs.mean_difference
    return Row(structure, metric, pairs.n, *means, *pairs.interval, p, math.nan, effect_size, "-")


def _judged(rows: Sequence[Row]) -> list[Row]:
    """The rows with their corrected p, and who is better."""
    judged = []
    for row, p_holm in zip(rows, holm([row.p for row in rows]).tolist(), strict=True):
        in_favour = -row.difference if _is_loss(row.metric) else row.difference
        better = "-"
        if p_holm < LEVEL and in_favour * row.effect_size > 0:
            better = "A" if in_favour > 0 else "B"
        judged.append(replace(row, p_holm=p_holm, better=better))
    return judged


def _subjects(a: _Run, b: _Run, keys: Iterable[Key]) -> list[str]:
    return [a.rows[key].get("subject") or b.rows[key].get("subject") or key[0] for key in keys]


def _is_there(a: _Run, b: _Run, key: Key) -> bool:
    """Whether the reference has the structure; a failed row whose volume is blank leaves it to the other."""
    pair = [run.status(key) in ("empty", "false") or run.number(key, "reference_ml") == 0 for run in (a, b)]
    return not any(pair)


def _rules(run: _Run) -> tuple[Any, Any]:
    """How the summary beside a table says that ``nsd`` and lesions were measured; None where it says nothing."""
    path = run.file.parent / SUMMARY
    try:
        summary = json.loads(path.read_text()) if path.is_file() else {}
        # An older summary has one tolerance.
        return summary.get("nsd_tolerances_mm", [summary.get("nsd_tolerance_mm")])[0], summary.get("lesion_rule")
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        raise InputError("it is no summary of ours", "Evaluate again, or move it away.", file=path) from error


def _is_share(metric: str) -> bool:
    return SHARES.fullmatch(metric) is not None


def _is_loss(metric: str) -> bool:
    return metric == VOLUME or DISTANCES.fullmatch(metric) is not None


def _plain(value: Any) -> Any:
    """A value for JSON: six digits that count, blank as None."""
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    return value


def _cells(row: Row) -> tuple[str, ...]:
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


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, the first two to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    form = "  ".join(f"{{:{'<' if n < 2 else '>'}{width}}}" for n, width in enumerate(widths))
    return [form.format(*line) for line in lines]
