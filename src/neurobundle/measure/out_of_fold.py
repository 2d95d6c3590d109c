"""The answers of all folds of a cross-validation together, calibrated, and one a subject.

Each case was answered by the network that did not see its fold. The folds' own tables keep the probabilities as the
networks gave them; here they are the calibrated ones (:mod:`neurobundle.measure.answers_calibration`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurobundle.errors import InputError
from neurobundle.files import write_json
from neurobundle.measure.answers_calibration import WANTED_ACCURACY, calibrate_answers
from neurobundle.measure.classification_evaluation import ClassificationEvaluation
from neurobundle.measure.subjects import SUBJECT_TABLE, SubjectEvaluation, has_several, pool_subjects
from neurobundle.postprocess.calibration import CALIBRATION_FILE

logger = logging.getLogger(__name__)


class OutOfFoldEvaluation(ClassificationEvaluation):
    """Takes the answers of folds; writes what an evaluation writes, and ``calibration.json`` and ``per_subject.csv``.

    Args:
        classes: their names, in the order of the probabilities.
        wanted_accuracy: the share of right answers that the confidence to abstain below is chosen for.
    """

    TITLE = "Classification, out of fold"

    def __init__(self, classes: Sequence[str], wanted_accuracy: float = WANTED_ACCURACY) -> None:
        super().__init__(classes)
        self.wanted_accuracy = wanted_accuracy
        self.fold_of: dict[str, str] = {}
        self._parts: dict[str, Any] = {}

    def take(self, fold: str, evaluation: ClassificationEvaluation, problems: Mapping[str, str]) -> None:
        """Add a fold's cases.

        Args:
            fold: its name.
            evaluation: the answers of its cases.
            problems: why those that failed did so, as the fold's summary says it.

        Raises:
            InputError: if a case is in another fold too, or the classes are others.
        """
        if evaluation.classes != self.classes:
            cause = f"fold {fold} has the classes {', '.join(evaluation.classes)}, and not {', '.join(self.classes)}"
            raise InputError(cause, "Evaluate all folds with one bundle.")
        for case, answer in evaluation.answers.items():
            if case in self.answers:
                cause = f"it is in fold {fold} and in fold {self.fold_of[case]}"
                raise InputError(cause, "Hold each case out once.", case=case)
            self.answers[case], self.fold_of[case] = answer, fold
        self.problems |= {**evaluation.problems, **problems}

    def add_missing(self, fold: str, case: str, truth: int | str, subject: str, problem: str) -> None:
        """Add a case that its fold did not answer; it counts as wrong."""
        self.add_failed(case, truth, subject, problem)
        self.fold_of[case] = fold

    def write(
        self, output_dir: str | Path, facts: Mapping[str, Any] | None = None, title: str | None = None
    ) -> dict[str, Any]:
        """Calibrate what there is, and write it.

        Args:
            output_dir: also gets ``calibration.json``, and ``per_subject.csv`` where a subject has several cases.
            facts: added to the summary and shown in the report.
            title: of the report.

        Returns:
            The summary; besides the scores it holds ``folds``, ``temperature`` and, of several cases a subject,
            ``subjects``.

        Raises:
            InputError: if a fold's others have no answer.
            EnvironmentFault: if they cannot be written.
        """
        folder = Path(output_dir)
        words = f"{len(set(self.fold_of.values()))} folds, each case answered by the network that did not see its fold"
        calibration = calibrate_answers(self, self.fold_of, self.wanted_accuracy, words)
        given, self.answers = self.answers, calibration.answers
        try:
            subjects = self._by_subject()
            self._parts = {"folds": self._by_fold(), "temperature": calibration.summary}
            if subjects is not None:
                self._parts["subjects"] = subjects.summary()
                subjects.write_table(folder / SUBJECT_TABLE)
            else:
                (folder / SUBJECT_TABLE).unlink(missing_ok=True)
            write_json(folder / CALIBRATION_FILE, calibration.shipped)
            return super().write(folder, facts, title)
        finally:
            self.answers = given  # a temperature is fitted on these alone, however often this is called

    def _more(self) -> dict[str, Any]:
        return {**super()._more(), **self._parts}

    def _by_fold(self) -> dict[str, Any]:
        """Counts, means and intervals of each fold."""
        found = {}
        for fold in sorted(set(self.fold_of.values())):
            own = ClassificationEvaluation(self.classes)
            own.answers = {case: answer for case, answer in self.answers.items() if self.fold_of[case] == fold}
            scores = own.score()
            found[fold] = {name: scores[name] for name in ("n_cases", "n_failed", *self.HEADLINE)}
        return found

    def _by_subject(self) -> SubjectEvaluation | None:
        """One answer a subject, unless there is nothing to pool or a subject has several classes, which is said."""
        if not has_several(self):
            return None
        try:
            return pool_subjects(self)
        except InputError as error:
            logger.warning("WARNING there is no answer a subject: %s", error)
            return None
