"""One answer a subject, of whom several cases were answered: slices, for instance.

A subject's cases are *pooled* by the mean of their log-probabilities, which are then made to sum to 1 again: the
geometric mean. It is what a network would say that multiplied the evidence of independent cases and then divided by
their number, so a subject with many is no surer than one with few.

A subject of whom a case failed counts as failed: the others may be the easier ones, and a miss can never raise a
score.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurobundle.errors import InputError
from neurobundle.export.tables import write_csv
from neurobundle.measure.answers_calibration import log_probabilities
from neurobundle.measure.classification import FAILED, Threshold
from neurobundle.measure.classification_evaluation import Answer, ClassificationEvaluation

SUBJECT_TABLE = "per_subject.csv"


class SubjectEvaluation(ClassificationEvaluation):
    """Answers of subjects; each is a case of its own.

    Args:
        classes: their names, in the order of the probabilities.
        threshold: on the probability of the second of two classes.
    """

    def __init__(self, classes: Sequence[str], threshold: Threshold | None = None) -> None:
        super().__init__(classes, threshold)
        self.counts: dict[str, int] = {}  # how many cases, by subject

    def summary(self) -> dict[str, Any]:
        """The part ``subjects`` of a summary: what is said of the cases, said of subjects."""
        return {**self.score(), **self._more(), "failed": self.problems}

    def write_table(self, path: Path) -> Path:
        """Write ``per_subject.csv``: a row a subject, with the number of its cases.

        Args:
            path: its final name.

        Raises:
            EnvironmentFault: if it cannot be written.
        """
        columns, rows = self._table()
        own = [{**row, "cases": self.counts[row["subject"]]} for row in rows]
        return write_csv(
            path, ["subject", "cases", *(name for name in columns if name not in ("case", "subject"))], own
        )


def pool_subjects(evaluation: ClassificationEvaluation) -> SubjectEvaluation:
    """Pool the answers of each subject to one.

    Args:
        evaluation: answers with probabilities.

    Returns:
        An evaluation whose cases are the subjects, in the order of their first cases.

    Raises:
        InputError: if a subject's cases have several classes, or an answer has no probabilities; it is named.
    """
    cases: dict[str, list[Answer]] = defaultdict(list)
    for answer in evaluation.answers.values():
        cases[answer.subject].append(answer)
    pooled = SubjectEvaluation(evaluation.classes, evaluation.threshold)
    for subject, own in cases.items():
        pooled.counts[subject] = len(own)
        truth = _one_class(subject, own, evaluation.classes)
        failed = [answer.case for answer in own if answer.prediction == FAILED]
        if failed:
            problem = f"{subject}: {len(failed)} of {len(own)} cases failed, {failed[0]} for one."
            pooled.add_failed(subject, truth, subject, problem)
        else:
            pooled.add(subject, truth, _pooled(own), subject)
    return pooled


def has_several(evaluation: ClassificationEvaluation) -> bool:
    """Whether any subject has more than one case, so that there is something to pool."""
    return len({answer.subject for answer in evaluation.answers.values()}) < len(evaluation.answers)


def _one_class(subject: str, own: Sequence[Answer], classes: Sequence[str]) -> int:
    found = sorted({answer.truth for answer in own})
    if len(found) > 1:
        cause = f"the subject {subject!r} has cases of {' and '.join(classes[number] for number in found)}"
        first = next(answer.case for answer in own if answer.truth == found[1])
        raise InputError(cause, "One answer a subject needs one class a subject.", case=first)
    return found[0]


def _pooled(own: Sequence[Answer]) -> np.ndarray:
    from scipy.special import softmax

    without = next((answer for answer in own if answer.probabilities is None), None)
    if without is not None:
        raise InputError("it has a class and no probabilities", "Evaluate with probabilities.", case=without.case)
    logs = log_probabilities(np.array([answer.probabilities for answer in own]))
    pooled: np.ndarray = softmax(logs.mean(axis=0))
    return pooled
