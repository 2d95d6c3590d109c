"""Two evaluations of the same cases, side by side, with what chance would do.

The two are called A and B. Their rows are *paired* by case and structure. A structure that is *empty* in both (neither
reference nor prediction) has no scores and is left out. Where one has a blank and the other a score, the other one is
wrong about something that is not there, and the blank counts as the best value: 1, or 0 mm. A *failed* case counts as
the worst: 0, the largest distance of both, or the reference's whole volume as an error. So neither kind of error can
raise a mean by leaving the comparison. A metric that one of the two does not have at all is not compared.

Every row of the result is one test; ``p_holm`` corrects for all of them together. A is called *better* where that is
below .05 and both the mean and the test's effect size are in its favour.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from neurobundle.errors import InputError, NoInputError
from neurobundle.load.answers import Row
from neurobundle.measure.paired import PairedComparison, compare_pairs, holm, mcnemar
from neurobundle.measure.resampling import number
from neurobundle.measure.segmentation import DISTANCES, LESION_COLUMNS, LESION_COUNTS, SHARES, Score
from neurobundle.measure.summary import STATUSES
from neurobundle.measure.tables import more_columns

logger = logging.getLogger(__name__)

SEGMENTATION, CLASSIFICATION = "segmentation", "classification"

#: Compared as a size: too much in one case does not make up for too little in another.
VOLUME = "abs_volume_error_ml"

#: Of these less is better; of all others more.
LOSSES = (*DISTANCES, VOLUME, "lesion_hd95_mm")

#: Columns of an answer that is compared, and what ``correct`` may be; a failed case has a blank there, and is wrong.
ANSWER = ("case", "truth", "correct")
RIGHT = {"true": True, "1": True, "false": False, "0": False, "": False}

#: Two references are the same if their volumes agree so well; the second number is the rounding of the table.
SAME_VOLUME, SAME_VOLUME_ML = 1e-3, 2e-6
SAME_REFERENCE = "Evaluate both runs against the same reference."

#: The level at which one of the two is called better.
LEVEL = 0.05

#: Names in a message.
NAMES_SHOWN = 5

#: Case and structure; of an answer, which has no structure, the second is empty.
Key = tuple[str, str]
Pair = tuple[Score, Score]


@dataclass(frozen=True)
class ComparisonRow:
    """One structure and one metric.

    Attributes:
        structure: its name, or ``all`` in classification.
        metric: a column of the scores; ``abs_volume_error_ml``, the volume's error without its sign; ``found`` (status
            ok, where the reference is not empty); or ``accuracy``.
        n: pairs.
        mean_a: mean of A over the pairs.
        mean_b: mean of B.
        difference: A - B.
        low: the lower end of its 95 % interval, by resampling subjects; NaN for one subject alone.
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

    def as_json(self) -> dict[str, Any]:
        """The row, ready for JSON: six decimals, four digits that count of each p, null for NaN."""
        plain = {key: number(value) if isinstance(value, float) else value for key, value in asdict(self).items()}
        return plain | {"p": float(f"{self.p:.4g}"), "p_holm": float(f"{self.p_holm:.4g}")}


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare_scores` and :func:`compare_answers` found.

    Attributes:
        task: ``segmentation`` or ``classification``.
        n_cases: cases in both.
        only_in_a: cases of A that B does not have.
        only_in_b: cases of B that A does not have.
        n_unpaired: scores of common cases whose structure only one of the two has.
        n_empty: pairs that are empty in both.
        rows: one a structure and metric.
    """

    task: str
    n_cases: int
    only_in_a: list[str]
    only_in_b: list[str]
    n_unpaired: int
    n_empty: int
    rows: list[ComparisonRow]

    def as_json(self) -> dict[str, Any]:
        """Everything, ready for JSON; a blank is null."""
        return vars(self) | {"rows": [row.as_json() for row in self.rows]}


def compare_scores(
    scores_a: Sequence[Score],
    scores_b: Sequence[Score],
    subjects: Mapping[str, str] | None = None,
    *,
    left_out: Collection[str] = (),
    runs: tuple[str, str] = ("A", "B"),
) -> Comparison:
    """Compare two segmentations of the same cases; cases and structures that only one has are named in a warning.

    Args:
        scores_a: of A, as :func:`neurobundle.measure.read_scores` gives them, or ``score_case``.
        scores_b: of B.
        subjects: the subject of each case; a case that is not in it is its own subject.
        left_out: metrics that are not compared, because they were measured by different rules.
        runs: what an error calls the two, for instance their files.

    Returns:
        A row for each structure and each metric that both have: shares, distances in mm, the volume's absolute error in
        ml, what was asked for besides (NSD at further tolerances, lesions), and whether the structure was found.

    Raises:
        NoInputError: if there is no case, or no structure, in both.
        InputError: if a case has a structure twice, a status that is none, an infinite score, or another reference in
            A than in B.

    >>> def score(case, dice):
    ...     return Score(case, "lesion", *[dice] * 6, hd_mm=1, assd_mm=1, volume_ml=2, reference_ml=2, status="ok")
    >>> result = compare_scores([score("x", 0.5), score("y", 1)], [score("x", 0.25), score("y", 1)])
    >>> [(row.metric, row.n, row.difference, row.p) for row in result.rows][0]
    ('dice', 2, 0.125, 1.0)
    """
    a, b = _scores_by_key(scores_a, runs[0]), _scores_by_key(scores_b, runs[1])
    pairs = [(a[key], b[key]) for key in _common(a, b, runs)]
    for pair in pairs:
        _check_references(*pair)
    kept = [pair for pair in pairs if not pair[0].status == pair[1].status == "empty"]
    of_b = _metrics(b.values())
    metrics = [metric for metric in _metrics(a.values()) if metric in of_b and metric not in left_out]
    worst = {metric: _worst((*a.values(), *b.values()), metric) for metric in metrics}
    rows: list[ComparisonRow] = []
    for structure in dict.fromkeys(first.structure for first, _ in kept):
        rows += _structure_rows([pair for pair in kept if pair[0].structure == structure], worst, subjects or {})
    return Comparison(SEGMENTATION, *_shared(a, b), n_empty=len(pairs) - len(kept), rows=_judged(rows))


def compare_answers(
    answers_a: Sequence[Row],
    answers_b: Sequence[Row],
    subjects: Mapping[str, str] | None = None,
    *,
    runs: tuple[str, str] = ("A", "B"),
) -> Comparison:
    """Compare two classifications of the same cases by their accuracy.

    Args:
        answers_a: rows of A's ``per_case.csv``, as :func:`neurobundle.load.answers.read_table` gives them.
        answers_b: those of B.
        subjects: the subject of each case; a case that is not in it is its own subject.
        runs: what an error calls the two, for instance their files.

    Returns:
        One row, ``accuracy``. A failed case has no answer and is wrong.

    Raises:
        NoInputError: if there is no case in both.
        InputError: if a column is missing, a case stands twice, ``correct`` is neither true nor false, or a case has
            another truth in A than in B.

    >>> def answer(case, correct):
    ...     return Row(2, {"case": case, "truth": "ad", "correct": correct})
    >>> (row,) = compare_answers([answer("x", "true")], [answer("x", "false")]).rows
    >>> row.metric, row.mean_a, row.mean_b, row.p
    ('accuracy', 1.0, 0.0, 1.0)
    """
    a, b = _answers_by_key(answers_a, runs[0]), _answers_by_key(answers_b, runs[1])
    keys = _common(a, b, runs)
    for case, _ in keys:
        truths = a[case, ""][0], b[case, ""][0]
        if "" not in truths and truths[0] != truths[1]:
            raise InputError(f"the truth is {truths[0]} in A and {truths[1]} in B", SAME_REFERENCE, case=case)
    right = {case: (a[case, ""][1], b[case, ""][1]) for case, _ in keys}
    row = _answer_row("all", "accuracy", right, subjects or {})
    return Comparison(CLASSIFICATION, *_shared(a, b), n_empty=0, rows=_judged([row]))


def _scores_by_key(scores: Iterable[Score], run: str) -> dict[Key, Score]:
    """The scores by case and structure, statuses in lower case: a spreadsheet writes FALSE."""
    rows: dict[Key, Score] = {}
    for score in scores:
        key, status = (score.case, score.structure), score.status.lower()
        if key in rows:
            raise _twice(" ".join(key), score.case, run)
        if status not in ("ok", *STATUSES):
            raise InputError(f"status is {score.status!r}", "Evaluate again.", case=score.case, file=run)
        for name in (*SHARES, *DISTANCES, "volume_ml", "reference_ml", *score.more):
            if math.isinf(score.value(name)):
                raise InputError(f"{name} is infinite", "Evaluate again.", case=score.case, file=run)
        rows[key] = replace(score, status=status)
    return rows


def _answers_by_key(answers: Iterable[Row], run: str) -> dict[Key, tuple[str, bool]]:
    """The truth of each case, and whether the answer is right."""
    rows: dict[Key, tuple[str, bool]] = {}
    for cells in (answer.cells for answer in answers):
        lacking = [column for column in ANSWER if column not in cells]
        if lacking:
            raise InputError(f"it has no column {lacking[0]!r}", "Give the table of a classification.", file=run)
        case, correct = cells["case"], cells["correct"].lower()
        if (case, "") in rows:
            raise _twice(case, case, run)
        if correct not in RIGHT:
            raise InputError(f"correct is {cells['correct']!r}", "Evaluate again.", case=case, file=run)
        rows[case, ""] = cells["truth"], RIGHT[correct]
    return rows


def _twice(name: str, case: str, run: str) -> InputError:
    return InputError(f"it has two rows {name!r}", "Keep one.", case=case, file=run)


def _common(a: Collection[Key], b: Collection[Key], runs: tuple[str, str]) -> list[Key]:
    """Case and structure of each pair, in A's order."""
    keys = [key for key in a if key in b]
    if keys:
        return keys
    if not {case for case, _ in a} & {case for case, _ in b}:
        raise NoInputError(f"{runs[0]} and {runs[1]} have no case in common", "Evaluate both on the same cases.")
    of_a, of_b = (_some(list(dict.fromkeys(structure for _, structure in run))) for run in (a, b))
    raise NoInputError(
        f"{runs[0]} and {runs[1]} have no structure of a case in common: A scores {of_a}; B scores {of_b}",
        "Evaluate one of them again with the names of the other: "
        '--labels with a JSON file of names, like {"anterior": 1, "posterior": 2}.',
    )


def _shared(a: Collection[Key], b: Collection[Key]) -> tuple[int, list[str], list[str], int]:
    """How many cases both have, which only one has, and how many rows of the former only one has; warns of these."""
    of_a, of_b = (dict.fromkeys(case for case, _ in run) for run in (a, b))
    only_a, only_b = [case for case in of_a if case not in of_b], [case for case in of_b if case not in of_a]
    for name, cases in (("A", only_a), ("B", only_b)):
        if cases:
            logger.warning("%d cases are in %s only, and are left out: %s", len(cases), name, _some(cases))
    alone = [structure for case, structure in set(a) ^ set(b) if case in of_a and case in of_b]
    if alone:
        names = _some(sorted(set(alone)))
        logger.warning("%d rows have a structure that only one run has, and are left out: %s", len(alone), names)
    return len(of_a) - len(only_a), only_a, only_b, len(alone)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {len(names) - NAMES_SHOWN} more" if names[NAMES_SHOWN:] else "")


def _check_references(first: Score, second: Score) -> None:
    ml = first.reference_ml, second.reference_ml
    # A comparison with NaN, a reference that could not be read, is not above anything.
    if abs(ml[0] - ml[1]) > SAME_VOLUME * max(ml) + SAME_VOLUME_ML:
        cause = f"the reference's volume in ml of {first.structure} is {ml[0]:.6g} in A and {ml[1]:.6g} in B"
        raise InputError(cause, SAME_REFERENCE, case=first.case)


def _metrics(scores: Collection[Score]) -> list[str]:
    """The metrics that a run has. A column that an older table lacks has no value even where there must be one."""
    scored = [score for score in scores if score.status in ("ok", "missed", "false")]

    def present(names: Iterable[str]) -> list[str]:
        return [name for name in names if not scored or any(not math.isnan(score.value(name)) for score in scored)]

    tolerances, lesions = more_columns(list(scores))
    lesions = [name for name in lesions if name not in LESION_COUNTS]
    return [*present(SHARES), *tolerances, *present(DISTANCES), VOLUME, *lesions]


def _structure_rows(
    pairs: Sequence[Pair], worst: Mapping[str, float], subjects: Mapping[str, str]
) -> list[ComparisonRow]:
    """The rows of one structure; none for a metric that no pair has a value of."""
    structure, rows = pairs[0][0].structure, []
    for metric, last in worst.items():
        values = {a.case: (_filled(a, b, metric, last), _filled(b, a, metric, last)) for a, b in pairs}
        values = {case: both for case, both in values.items() if not any(map(math.isnan, both))}
        if values:
            whose = [subjects.get(case, case) for case in values]
            first, second = zip(*values.values(), strict=True)
            result = compare_pairs(first, second, whose, higher_is_better=metric not in LOSSES)
            rows.append(_row(structure, metric, result, result.p_wilcoxon, result.effect_size))
    found = {a.case: (a.status == "ok", b.status == "ok") for a, b in pairs if _is_there(a, b)}
    if found:
        rows.append(_answer_row(structure, "found", found, subjects))
    return rows


def _filled(own: Score, other: Score, metric: str, worst: float) -> float:
    """A score, a blank filled as the module says; NaN if it is a blank in both runs and neither failed."""
    value = _value(own, metric)
    if not math.isnan(value):
        return value
    if own.status == "failed":
        if metric != VOLUME:
            return worst
        return other.reference_ml if math.isnan(own.reference_ml) else own.reference_ml
    if own.status != "empty" and metric not in LESION_COLUMNS:
        return worst  # another program's blank for a miss
    if math.isnan(_value(other, metric)) and other.status != "failed":
        return math.nan
    return 0.0 if metric in LOSSES else 1.0


def _value(score: Score, metric: str) -> float:
    return abs(score.volume_error_ml) if metric == VOLUME else score.value(metric)


def _worst(scores: Iterable[Score], metric: str) -> float:
    """What a failed case gets where it has a blank: 0, or the largest distance of both runs; NaN if there is none."""
    if metric not in LOSSES:
        return 0.0
    values = (_value(score, metric) for score in scores)
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def _is_there(first: Score, second: Score) -> bool:
    """Whether the reference has the structure; a failed row whose volume is blank leaves it to the other."""
    return not any(score.status in ("empty", "false") or score.reference_ml == 0 for score in (first, second))


def _answer_row(
    structure: str, metric: str, right: Mapping[str, tuple[bool, bool]], subjects: Mapping[str, str]
) -> ComparisonRow:
    """The row of what is right or wrong, by A and by B, in each case."""
    first, second = zip(*right.values(), strict=True)
    test = mcnemar(first, second)
    pairs = compare_pairs(first, second, [subjects.get(case, case) for case in right])
    return _row(structure, metric, pairs, test.p, test.effect_size)


def _row(structure: str, metric: str, pairs: PairedComparison, p: float, effect_size: float) -> ComparisonRow:
    """A row that does not know of the others yet."""
    means = pairs.mean_a, pairs.mean_b, pairs.mean_difference
    return ComparisonRow(structure, metric, pairs.n, *means, *pairs.interval, p, math.nan, effect_size, "-")


def _judged(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """The rows with their corrected p, and who is better."""
    judged = []
    for row, p_holm in zip(rows, holm([row.p for row in rows]).tolist(), strict=True):
        in_favour = -row.difference if row.metric in LOSSES else row.difference
        better = "-"
        if p_holm < LEVEL and in_favour * row.effect_size > 0:
            better = "A" if in_favour > 0 else "B"
        judged.append(replace(row, p_holm=p_holm, better=better))
    return judged
