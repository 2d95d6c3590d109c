"""Scores of one answer a case: is it the right class, and how well do its probabilities rank.

A *class* is a number from 0 to c - 1 with a name. A *failed* case has no answer; it is written as the prediction -1 or
as a row of NaN. A miss can never raise a score, so in each score a failed case counts as the worst answer that it could
have given: it is missed in its own class, a false alarm in every other, and ranked last among the cases of its own
class and first among those of the others. So to fail is never better than to answer, right or wrong. (Two definitions
set a limit to that: AUPRC calls equal scores together, which may flatter them; and of more than two classes MCC is held
down only as long as it is above 0.)

A *mean* is a number over all cases, or the unweighted mean over the classes that have a case. Its *interval* is the
2.5th to 97.5th percentile over bootstrap samples of subjects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurobundle.errors import SettingError
from neurobundle.measure.ranking import rank_scores
from neurobundle.measure.resampling import BOOTSTRAP_SAMPLES, draw_subjects, interval_of, number, ratio
from neurobundle.measure.threshold import Threshold as Threshold
from neurobundle.measure.threshold import choose_threshold as choose_threshold

#: The scores that have an interval.
MEANS = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "macro_auroc", "macro_auprc")

#: What a failed case is predicted as.
FAILED = -1

#: Numbers in one array while bootstrap samples are scored: 8 MB as float64.
_BLOCK = 1_000_000

#: Below and above every probability: where failed cases are ranked in their own class, and in the others.
_LAST, _FIRST = -1.0, 2.0


def confusion_matrix(
    truth: Sequence[int] | np.ndarray, predicted: Sequence[int] | np.ndarray, n_classes: int
) -> np.ndarray:
    """How often each class was answered with each; a failed case (-1) is in no column.

    Args:
        truth: (n,) classes.
        predicted: (n,) classes, or -1.
        n_classes: c.

    Returns:
        (c, c) counts; a row is a class of the reference, a column an answer.

    Raises:
        SettingError: if a class is none of the c, or the lengths differ.

    >>> confusion_matrix([0, 0, 1, 1], [0, 1, 1, -1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    true, answer = _checked_answers(truth, predicted, n_classes)
    answered = answer != FAILED
    cells = true[answered] * n_classes + answer[answered]
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def predict(probabilities: np.ndarray, threshold: Threshold | None = None) -> np.ndarray:
    """The class that each row of probabilities answers.

    Args:
        probabilities: (n, c); a row of NaN is a failed case.
        threshold: on class 1 of two; without it the largest probability wins, and of equal ones the first class.

    Returns:
        (n,) classes, -1 for a failed case.

    >>> predict(np.array([[0.2, 0.8], [0.5, 0.5], [np.nan, np.nan]])).tolist()
    [1, 0, -1]
    """
    failed = np.isnan(probabilities).all(axis=1)
    if threshold is None:
        answer = np.where(np.isnan(probabilities), _LAST, probabilities).argmax(axis=1)
    elif probabilities.shape[1] == 2:
        answer = threshold.apply(probabilities[:, 1]).astype(int)
    else:
        raise SettingError(
            f"a threshold needs two classes, there are {probabilities.shape[1]}",
            "Leave it out: the most probable class is the answer.",
        )
    return np.where(failed, FAILED, answer)


def mean_scores(
    truth: Sequence[int] | np.ndarray,
    predicted: Sequence[int] | np.ndarray,
    n_classes: int,
    probabilities: np.ndarray | None = None,
) -> dict[str, float]:
    """The means of :data:`MEANS`, without intervals.

    Args:
        truth: (n,) classes.
        predicted: (n,) classes, or -1 for a failed case.
        n_classes: c.
        probabilities: (n, c), for AUROC and AUPRC, which are NaN without it.

    Returns:
        One number each; NaN where it is undefined. ``mcc`` is 0 where all answers are the same class, and NaN where
        all cases are. Of two classes a failed case counts as the other one there; of more, its part is such that no
        answer could have brought a value above 0 lower.

    Raises:
        SettingError: if a class or a probability cannot be, or the lengths differ.

    >>> mean_scores([0, 0, 1, 1], [0, 0, 1, -1], 2)["accuracy"]
    0.75
    """
    table = None if probabilities is None else _table(probabilities, len(truth), n_classes)
    cases = _Cases.check(truth, predicted, n_classes, table)
    return {name: float(value[0]) for name, value in _means(cases, cases.once).items()}


def score_classification(
    truth: Sequence[int] | np.ndarray,
    probabilities: np.ndarray | None,
    class_names: Sequence[str],
    subjects: Sequence[str] | None = None,
    threshold: Threshold | None = None,
    seed: int = 0,
    predicted: Sequence[int] | np.ndarray | None = None,
) -> dict[str, Any]:
    """Everything that ``summary.json`` says of a classification.

    Args:
        truth: (n,) classes.
        probabilities: (n, c), a row of NaN for a failed case; None if only ``predicted`` is known.
        class_names: c names.
        subjects: (n,) the person of each case; None if each case is a person of its own.
        threshold: on class 1 of two; see :func:`predict`.
        seed: of the resampling.
        predicted: (n,) answers, or -1, where there are no probabilities; AUROC and AUPRC are null then.

    Returns:
        Ready for JSON, null where undefined: counts, six means with their intervals over 2,000 samples of subjects (a
        sample in which a mean is undefined is left out), scores per class, and the confusion matrix. A class without
        a case has null scores and is in no mean.

    Raises:
        SettingError: if arguments contradict each other, or a class or a probability cannot be.
    """
    table = None
    if probabilities is not None and predicted is None:
        table = _table(probabilities, len(truth), len(class_names))
        predicted = predict(table, threshold)
    elif probabilities is not None or predicted is None:
        raise SettingError("needs either probabilities or predicted classes", "Give one of the two.")
    elif threshold is not None:
        raise SettingError("a threshold needs probabilities, and there are predicted classes only", "Leave it out.")
    cases = _Cases.check(truth, predicted, len(class_names), table)
    matrix = confusion_matrix(cases.truth, cases.predicted, cases.n_classes)
    return {
        "task": "classification",
        "n_cases": len(cases.truth),
        "n_failed": int((cases.predicted == FAILED).sum()),
        "classes": list(class_names),
        **_means_with_intervals(cases, subjects, seed),
        "per_class": {name: _of_class(cases, k) for k, name in enumerate(class_names)},
        "confusion": {"labels": list(class_names), "counts": matrix.tolist()},
        "threshold": threshold.value if threshold else None,
    }


@dataclass(frozen=True)
class _Cases:
    """Checked answers: classes (n,), answers (n,), and the scores (n, c) that cases are ranked by, if there are any."""

    truth: np.ndarray
    predicted: np.ndarray
    n_classes: int
    ranked: np.ndarray | None

    @classmethod
    def check(cls, truth: Any, predicted: Any, n_classes: int, probabilities: np.ndarray | None = None) -> _Cases:
        true, answer = _checked_answers(truth, predicted, n_classes)
        if probabilities is None:
            return cls(true, answer, n_classes, None)
        failed = (answer == FAILED)[:, None]
        # NaN fails both comparisons, so a row that is only partly NaN is refused as well.
        if not (failed | ((probabilities >= 0) & (probabilities <= 1))).all():
            raise SettingError("probabilities must lie in [0, 1]", "Apply softmax; a failed case is NaN throughout.")
        own = true[:, None] == np.arange(n_classes)
        # Each on a rank of its own, because equal scores are called together.
        last = _LAST - np.arange(len(true))[:, None]
        return cls(true, answer, n_classes, np.where(failed, np.where(own, last, _FIRST), probabilities))

    @property
    def once(self) -> np.ndarray:
        """(1, n): each case counted once."""
        return np.ones((1, len(self.truth)))


@dataclass(frozen=True)
class _Counts:
    """What all scores without probabilities come from; each (s, c): a sample, a class.

    ``n`` cases of the class, ``hits`` of them answered right, ``answers`` with the class, ``failed`` cases of it.
    """

    n: np.ndarray
    hits: np.ndarray
    answers: np.ndarray
    failed: np.ndarray

    @classmethod
    def of(cls, cases: _Cases, weights: np.ndarray) -> _Counts:
        numbers = np.arange(cases.n_classes)
        own = (cases.truth[:, None] == numbers).astype(float)
        answer = (cases.predicted[:, None] == numbers).astype(float)
        failed = own * (cases.predicted == FAILED)[:, None]
        return cls(weights @ own, weights @ (own * answer), weights @ answer, weights @ failed)

    @property
    def false(self) -> np.ndarray:
        """Cases of other classes that were answered with the class, or failed."""
        return self.answers - self.hits + self.failed.sum(axis=-1, keepdims=True) - self.failed


def _class_scores(counts: _Counts) -> dict[str, np.ndarray]:
    """Each (s, c), NaN where undefined or without a case."""
    others = counts.n.sum(axis=-1, keepdims=True) - counts.n
    scores = {
        "precision": ratio(counts.hits, counts.hits + counts.false),
        "sensitivity": ratio(counts.hits, counts.n),
        "specificity": ratio(others - counts.false, others),
        "f1": ratio(2 * counts.hits, counts.n + counts.hits + counts.false),
    }
    return {name: np.where(counts.n > 0, values, np.nan) for name, values in scores.items()}


def _means(cases: _Cases, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The means in each sample, (s,)."""
    counts = _Counts.of(cases, weights)
    scores = _class_scores(counts)
    ranks = _ranks(cases, weights)
    return {
        "accuracy": ratio(counts.hits.sum(axis=-1), counts.n.sum(axis=-1)),
        "balanced_accuracy": _mean_defined(scores["sensitivity"].T),
        "macro_f1": _mean_defined(scores["f1"].T),
        "mcc": _matthews(counts),
        "macro_auroc": _mean_defined(ranks[:, 0]),
        "macro_auprc": _mean_defined(ranks[:, 1]),
    }


def _ranks(cases: _Cases, weights: np.ndarray) -> np.ndarray:
    """(c, 2, s): AUROC and AUPRC of each class against the rest; NaN without probabilities."""
    if cases.ranked is None:
        return np.full((cases.n_classes, 2, len(weights)), np.nan)
    return np.array([rank_scores(cases.ranked[:, k], cases.truth == k, weights) for k in range(cases.n_classes)])


def _matthews(counts: _Counts) -> np.ndarray:
    """Matthews' correlation for any number of classes (Gorodkin 2004, R_K), from counts.

    Of two classes a failed case is the other one. Of more it enters the numerator as the commonest other class, and
    the spread of the answers, which the numerator is divided by, not at all: no answer of its could make the one
    smaller, or the other larger.
    """
    failed, answers = counts.failed, counts.answers
    if counts.n.shape[-1] == 2:
        answers = answers + failed[:, ::-1]
        failed = np.zeros_like(failed)
    n = counts.n.sum(axis=-1)
    worst = (failed * _largest_other(counts.n)).sum(axis=-1)
    numerator = counts.hits.sum(axis=-1) * n - (answers * counts.n).sum(axis=-1) - worst
    root = np.sqrt((n**2 - (answers**2).sum(axis=-1)) * (n**2 - (counts.n**2).sum(axis=-1)))
    value = np.divide(numerator, root, out=np.zeros_like(root), where=root > 0)
    return np.where((counts.n > 0).sum(axis=-1) > 1, value, np.nan)


def _largest_other(n: np.ndarray) -> np.ndarray:
    """(s, c): the size of the commonest class but this one."""
    ordered = np.sort(n, axis=-1)
    return np.where(n == ordered[:, -1:], ordered[:, -2:-1], ordered[:, -1:])


def _means_with_intervals(cases: _Cases, subjects: Sequence[str] | None, seed: int) -> dict[str, Any]:
    once = _means(cases, cases.once)
    samples = {name: np.full(1, np.nan) for name in MEANS}
    if len(cases.truth):
        blocks = [_means(cases, weights) for weights in _samples(cases, subjects, seed)]
        samples = {name: np.concatenate([block[name] for block in blocks]) for name in MEANS}
    return {name: {"mean": number(once[name][0]), "interval": interval_of(samples[name])} for name in MEANS}


def _samples(cases: _Cases, subjects: Sequence[str] | None, seed: int) -> Iterator[np.ndarray]:
    """How often each case counts in each bootstrap sample, (s, n), some samples at a time."""
    n = len(cases.truth)
    if subjects is not None and len(subjects) != n:
        raise SettingError(f"there must be a subject for each of the {n} cases, got {len(subjects)}")
    drawn, index = draw_subjects([str(k) for k in range(n)] if subjects is None else subjects, BOOTSTRAP_SAMPLES, seed)
    step = max(1, _BLOCK // n)
    for start in range(0, BOOTSTRAP_SAMPLES, step):
        yield drawn[start : start + step, index]


def _of_class(cases: _Cases, k: int) -> dict[str, Any]:
    counts = _Counts.of(cases, cases.once)
    area, precision = _ranks(cases, cases.once)[k, :, 0]
    return {
        "n": int(counts.n[0, k]),
        "n_failed": int(counts.failed[0, k]),
        **{name: number(values[0, k]) for name, values in _class_scores(counts).items()},
        "auroc": number(area),
        "auprc": number(precision),
    }


def _table(probabilities: Any, n: int, n_classes: int) -> np.ndarray:
    table = np.asarray(probabilities, dtype=float) if n else np.empty((0, n_classes))
    if table.shape != (n, n_classes):
        raise SettingError(f"probabilities must be {(n, n_classes)} (cases, classes), got {table.shape}")
    return table


def _checked_answers(truth: Any, predicted: Any, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    true, answer = np.asarray(truth, dtype=int), np.asarray(predicted, dtype=int)
    if n_classes < 2:
        raise SettingError(f"there must be at least two classes, got {n_classes}")
    if true.shape != answer.shape or true.ndim != 1:
        raise SettingError(f"there must be an answer for each case, got {answer.shape} for {true.shape}")
    for values, lowest, what in ((true, 0, "a true class"), (answer, FAILED, "an answer")):
        wrong = values[(values < lowest) | (values >= n_classes)]
        if len(wrong):
            raise SettingError(f"{what} must lie in {lowest} to {n_classes - 1}, got {wrong[0]}")
    return true, answer


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """The mean over the first axis of what is no NaN; NaN where nothing is."""
    there = ~np.isnan(values)
    return ratio(np.where(there, values, 0).sum(axis=0), there.sum(axis=0))
