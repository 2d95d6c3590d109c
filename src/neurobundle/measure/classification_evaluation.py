"""An evaluation of a classification: cases come in one by one, a table and a summary come out.

A *case* has a true class, and an answer: the probability of each class, a class alone, or none if it *failed*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurobundle.errors import InputError, SettingError
from neurobundle.load.answers import (
    PROBABILITY,
    SUM_TOLERANCE,
    Row,
    read_probabilities,
    read_table,
    require_class,
)
from neurobundle.measure.classification import FAILED, Threshold, predict, score_classification
from neurobundle.measure.row_evaluation import RowEvaluation, Rows

_COLUMNS = ("case", "subject", "truth", "prediction", "correct", "status")


@dataclass(frozen=True)
class Answer:
    """One case.

    Attributes:
        case: its name.
        subject: the person.
        truth: its class.
        prediction: the answered class, or -1 if it failed.
        probabilities: of all classes; None where only a class was answered, or nothing.
        uncertainty: of the answer; NaN where none was given.
    """

    case: str
    subject: str
    truth: int
    prediction: int
    probabilities: tuple[float, ...] | None = None
    uncertainty: float = math.nan


class ClassificationEvaluation(RowEvaluation):
    """Collects answers, scores them, and writes ``per_case.csv`` and ``summary.json``.

    Args:
        classes: their names, in the order of the probabilities.
        threshold: on the probability of the second of two classes; without it the most probable class is the answer.

    Raises:
        SettingError: if there are fewer than two classes, a name is blank or stands twice, or more than two have a
            threshold.
    """

    TITLE = "Classification, evaluated"
    HEADLINE = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc")

    def __init__(self, classes: Sequence[str], threshold: Threshold | None = None) -> None:
        super().__init__(classes, at_least=2)
        if threshold is not None and len(self.classes) != 2:
            raise SettingError(f"a threshold needs two classes, there are {len(self.classes)}", "Leave it out.")
        self.threshold = threshold
        self.answers: dict[str, Answer] = {}

    def add(
        self,
        case: str,
        truth: int | str,
        probabilities: Sequence[float] | np.ndarray,
        subject: str = "",
        uncertainty: float | None = None,
    ) -> None:
        """Add a case with the probability of each class.

        Args:
            case: its name.
            truth: its class: the number, or the name.
            probabilities: (c,) finite, in [0, 1], together 1.
            subject: the person; the case is its own if blank.
            uncertainty: of the answer, any number that is larger for a less certain one; goes into the table.

        Raises:
            InputError: if the case was added before, the class is unknown, or the probabilities are none.
        """
        row = np.asarray(probabilities, dtype=float)
        self._check_probabilities(case, row)
        prediction = int(predict(row[None], self.threshold)[0])
        values = tuple(float(value) for value in row)
        self._keep(case, subject, truth, prediction, values, math.nan if uncertainty is None else float(uncertainty))

    def add_prediction(self, case: str, truth: int | str, prediction: int | str, subject: str = "") -> None:
        """Add a case of which only the answered class is known; AUROC and AUPRC are null then.

        Raises:
            InputError: if the case was added before, or a class is unknown.
            SettingError: if there is a threshold.
        """
        if self.threshold is not None:
            raise SettingError("a threshold needs probabilities, and only a class is known", "Leave it out.", case=case)
        self._keep(case, subject, truth, require_class(prediction, self.classes, case))

    def add_failed(self, case: str, truth: int | str, subject: str = "", problem: str = "") -> None:
        """Add a case without an answer; it counts as wrong.

        Args:
            case: its name.
            truth: its class: the number, or the name.
            subject: the person; the case is its own if blank.
            problem: why, in a sentence; the report shows it.

        Raises:
            InputError: if the case was added before, or the class is unknown.
        """
        self._keep(case, subject, truth, FAILED)
        self.problems[case] = problem or f"{case}: there is no answer."

    def score(self) -> dict[str, Any]:
        """What :func:`score_classification` says of the cases so far."""
        answers = list(self.answers.values())
        truth = [answer.truth for answer in answers]
        subjects = [answer.subject for answer in answers]
        if any(answer.probabilities is None and answer.prediction != FAILED for answer in answers):
            predicted = [answer.prediction for answer in answers]
            return score_classification(truth, None, self.classes, subjects, predicted=predicted)
        nothing = (math.nan,) * len(self.classes)
        probabilities = np.array([answer.probabilities or nothing for answer in answers])
        return score_classification(truth, probabilities, self.classes, subjects, self.threshold)

    def _table(self) -> tuple[list[str], Rows]:
        """With the probability of each class, and the uncertainty if any case has one."""
        answers = list(self.answers.values())
        uncertain = any(not math.isnan(answer.uncertainty) for answer in answers)
        probabilities = [f"{PROBABILITY}{name}" for name in self.classes]
        columns = [*_COLUMNS[:-1], *probabilities, *(["uncertainty"] if uncertain else []), _COLUMNS[-1]]
        return columns, [self._row(answer) for answer in answers]

    def _page_writer(self) -> Callable[..., Path]:
        """That of a classification."""
        from neurobundle.measure.page import write_classification_page

        return write_classification_page

    def _more(self) -> dict[str, Any]:
        """The calibration of the cases that were answered with probabilities."""
        answers = [answer for answer in self.answers.values() if answer.probabilities is not None]
        if not answers:
            return {}
        from neurobundle.measure.calibration_summary import summarise_answers

        probabilities = np.array([answer.probabilities for answer in answers])
        truth, subjects = [answer.truth for answer in answers], [answer.subject for answer in answers]
        n_failed = sum(answer.prediction == FAILED for answer in self.answers.values())
        return {"calibration": summarise_answers(probabilities, truth, subjects, n_failed)}

    def _row(self, answer: Answer) -> dict[str, Any]:
        failed = answer.prediction == FAILED
        # In full, so that a table that is read again gives the same scores and the same bytes.
        values = ["" if answer.probabilities is None else repr(value) for value in answer.probabilities or self.classes]
        return {
            "case": answer.case,
            "subject": answer.subject,
            "truth": self.classes[answer.truth],
            "prediction": "" if failed else self.classes[answer.prediction],
            "correct": int(answer.prediction == answer.truth),
            **{f"{PROBABILITY}{name}": value for name, value in zip(self.classes, values, strict=True)},
            "uncertainty": "" if math.isnan(answer.uncertainty) else repr(answer.uncertainty),
            "status": "failed" if failed else "ok",
        }

    def _keep(self, case: str, subject: str, truth: int | str, *rest: Any) -> None:
        if not case:
            raise InputError("a case has no name", "Give each case its own.")
        if case in self.answers:
            raise InputError("the case was added twice", "Give each case once, under a name of its own.", case=case)
        self.answers[case] = Answer(case, subject or case, require_class(truth, self.classes, case), *rest)

    def _check_probabilities(self, case: str, row: np.ndarray) -> None:
        if row.shape != (len(self.classes),):
            raise InputError(
                f"its probabilities have the shape {row.shape}, for {len(self.classes)} classes",
                f"Give one for each of {', '.join(self.classes)}.",
                case=case,
            )
        # NaN fails the comparisons too.
        if not ((row >= 0) & (row <= 1)).all():
            raise InputError(
                f"its probabilities {row.tolist()} are not all in [0, 1]",
                "Apply softmax to logits; a case without an answer is added with add_failed.",
                case=case,
            )
        if abs(math.fsum(row) - 1) > SUM_TOLERANCE:
            raise InputError(
                f"its probabilities sum to {math.fsum(row):.6g}, and not to 1",
                "Apply softmax over the classes; of overlapping classes evaluate each by itself.",
                case=case,
            )


def read_answers(path: str | Path, threshold: Threshold | None = None) -> ClassificationEvaluation:
    """Go back from a ``per_case.csv`` to the evaluation that wrote it.

    Args:
        path: the table.
        threshold: the one that it was written with; the table does not hold it.

    Returns:
        An evaluation that writes the same bytes.

    Raises:
        InputError: if it is no such table, or its predictions do not follow from its probabilities.
    """
    path = Path(path)
    header, rows = read_table(path)
    classes = [name.removeprefix(PROBABILITY) for name in header if name.startswith(PROBABILITY)]
    missing = [name for name in _COLUMNS if name not in header]
    if missing or len(classes) < 2:
        raise InputError(
            f"line 1 lacks the column {missing[0] if missing else PROBABILITY + '<class>'!r}",
            "Give it a per_case.csv that an evaluation of a classification wrote.",
            file=path,
        )
    evaluation = ClassificationEvaluation(classes, threshold)
    for row in rows:
        try:
            _add_row(evaluation, row, path)
        except InputError as error:
            error.file = str(path)
            raise
    return evaluation


def _add_row(evaluation: ClassificationEvaluation, row: Row, path: Path) -> None:
    cells = row.cells
    case, truth, subject = cells["case"], cells["truth"], cells["subject"]
    if cells["status"] == "failed":
        evaluation.add_failed(case, truth, subject)
    elif cells["status"] != "ok":
        raise InputError(
            f"line {row.line}, column 'status': {cells['status']!r}", "Either ok or failed.", case=case, file=path
        )
    elif not any(cells[f"{PROBABILITY}{name}"] for name in evaluation.classes):
        evaluation.add_prediction(case, truth, cells["prediction"], subject)
    else:
        probabilities = list(read_probabilities(row, evaluation.classes, path).values())
        evaluation.add(case, truth, probabilities, subject, _uncertainty(row, path))
        answer = evaluation.classes[evaluation.answers[case].prediction]
        if cells["prediction"] != answer:
            raise InputError(
                f"line {row.line}, column 'prediction': {cells['prediction']!r}, and its probabilities say {answer!r}",
                "Give the threshold that the table was written with.",
                case=case,
            )


def _uncertainty(row: Row, path: Path) -> float | None:
    text = row.cells.get("uncertainty", "")
    try:
        return float(text) if text else None
    except ValueError as error:
        raise InputError(
            f"line {row.line}, column 'uncertainty': {text!r} is no number",
            "Write a number with a decimal point, or leave it blank.",
            case=row.cells["case"],
            file=path,
        ) from error
