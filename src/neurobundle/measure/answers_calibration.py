"""Honest probabilities for answers that were pooled from folds, and below which confidence to say nothing.

An answer is *out of fold*: the network that gave it never saw its case. It is *calibrated* by a temperature
(:mod:`neurobundle.measure.temperature`) that was fitted on the answers of the other folds, and never on its own; so is
the confidence below which it would *abstain*. The *coverage* is the share of all cases that is answered. Both numbers
are then chosen once more on all answers, for new cases: what is reported is of the former, what is shipped the latter.

One thing this does not undo: the networks of the other folds trained on this fold's cases, so two numbers that were
chosen with their help have heard of it. Two numbers can hold little.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurobundle.errors import InputError, SettingError
from neurobundle.measure.classification import FAILED
from neurobundle.measure.classification_evaluation import Answer, ClassificationEvaluation
from neurobundle.measure.resampling import number
from neurobundle.measure.temperature import HIGHEST, LOWEST, Temperature, fit_temperature

logger = logging.getLogger(__name__)

#: The share of right answers among those given that the confidence to abstain below is chosen for.
WANTED_ACCURACY = 0.95

#: The least probability whose logarithm is taken: float32's smallest normal number, which its softmax can still hold.
SMALLEST = 1.1754944e-38


@dataclass(frozen=True)
class Abstention:
    """From which confidence on an answer is given.

    Attributes:
        below: answers whose confidence is below it are not given; 0 gives all.
        accuracy: the share of right ones among those given, on the cases that it was chosen on; NaN if none is given.
        coverage: the share of all cases that is answered, there.
        reached: whether the accuracy is the wanted one; where no confidence reaches it, all answers are given.
    """

    below: float
    accuracy: float
    coverage: float
    reached: bool


@dataclass(frozen=True)
class Calibration:
    """What :func:`calibrate_answers` gives.

    Attributes:
        answers: the same cases with calibrated probabilities.
        summary: a part for ``summary.json``: ECE and NLL before and after, temperatures and abstention by fold.
        shipped: what ``calibration.json`` holds.
    """

    answers: dict[str, Answer]
    summary: dict[str, Any]
    shipped: dict[str, Any]


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """The logarithm of probabilities: their logits but for a constant in each row, which no softmax sees.

    Args:
        probabilities: ``(n, C)``; 0 counts as :data:`SMALLEST`.
    """
    logs: np.ndarray = np.log(np.maximum(np.asarray(probabilities, dtype=float), SMALLEST))
    return logs


def cooled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities at another temperature; 1 changes nothing.

    Args:
        probabilities: ``(n, C)``, as a softmax gave them.
        temperature: what their logarithms are divided by.

    >>> cooled(np.array([[0.8, 0.2]]), 2.0).round(4).tolist()  # the odds of 4 become 2
    [[0.6667, 0.3333]]
    """
    from scipy.special import softmax

    values: np.ndarray = softmax(log_probabilities(probabilities) / temperature, axis=1)
    return values


def choose_abstention(
    confidence: Sequence[float] | np.ndarray,
    right: Sequence[bool] | np.ndarray,
    wanted: float = WANTED_ACCURACY,
    n_failed: int = 0,
) -> Abstention:
    """The smallest confidence from which on the answers are right often enough; give it no test case.

    Tried are 0 and the confidences themselves. Answers of one confidence are given together or not at all.

    Args:
        confidence: ``(n,)`` the largest probability of each answer.
        right: ``(n,)`` whether it is the true class.
        wanted: the share of right ones among those given.
        n_failed: cases without an answer; they count in the coverage alone.

    Raises:
        SettingError: if the wanted share is none.
        InputError: if there is no answer.

    >>> choose_abstention([0.9, 0.8, 0.6, 0.5], [True, True, True, False], wanted=1.0)
    Abstention(below=0.6, accuracy=1.0, coverage=0.75, reached=True)
    """
    sure, good = np.asarray(confidence, dtype=float), np.asarray(right, dtype=bool)
    if not 0 < wanted <= 1:
        raise SettingError(f"the wanted accuracy is {wanted!r}", "Give a share above 0 and up to 1; .95 is usual.")
    if not len(sure):
        raise InputError("there is no answer to choose on", "Give it the answers of validation cases.")
    n = len(sure) + n_failed
    for below in (0.0, *np.unique(sure).tolist()):
        given = sure >= below
        # In whole numbers where it can be: a share of exactly the wanted one is enough.
        if good[given].sum() >= wanted * given.sum() - 1e-9:
            return Abstention(float(below), float(good[given].mean()), float(given.sum() / n), True)
    return Abstention(0.0, float(good.mean()), float(len(sure) / n), False)


def calibrate_answers(
    evaluation: ClassificationEvaluation,
    folds: Mapping[str, str],
    wanted: float = WANTED_ACCURACY,
    chosen_on: str = "out-of-fold answers",
) -> Calibration:
    """Calibrate each fold's answers by the other folds'.

    Args:
        evaluation: out-of-fold answers with probabilities as the networks gave them; failed cases stay failed.
        folds: the fold of each case.
        wanted: the share of right ones among the answers that are given.
        chosen_on: what the cases are, for ``calibration.json``.

    Raises:
        InputError: if a fold's others have no answer, or an answer has no probabilities.
    """
    answered = [answer for answer in evaluation.answers.values() if answer.prediction != FAILED]
    without = next((answer for answer in answered if answer.probabilities is None), None)
    if without is not None:
        raise InputError("it has a class and no probabilities", "Evaluate with probabilities.", case=without.case)
    n_failed = len(evaluation.answers) - len(answered)
    before = np.array([answer.probabilities for answer in answered]).reshape(len(answered), len(evaluation.classes))
    truth = np.array([answer.truth for answer in answered], dtype=int)
    where = np.array([folds[answer.case] for answer in answered])
    after, given, by_fold = _by_other_folds(before, truth, where, wanted)
    temperature, abstention = _chosen(before, truth, wanted, "new cases", n_failed)
    right = after.argmax(axis=1) == truth
    summary = {
        "before": _quality(before, truth, answered),
        "after": _quality(after, truth, answered),
        "folds": by_fold,
        "abstention": {
            "wanted_accuracy": wanted,
            "accuracy": number(float(right[given].mean()) if given.any() else math.nan),
            "coverage": number(float(given.sum() / len(evaluation.answers))),
        },
        "shipped": {
            "temperature": number(temperature.value),
            "abstain_below": number(abstention.below),
            "accuracy": number(abstention.accuracy),
            "coverage": number(abstention.coverage),
            "reached": abstention.reached,
        },
    }
    shipped = {  # in full: rounded up, the last answer that is given would not be
        "temperature": temperature.value,
        "abstain_below": abstention.below,
        "chosen_on": f"{chosen_on}; {_in_words(abstention, wanted)}",
        "n": len(answered),
    }
    return Calibration(_with(evaluation, answered, after), summary, shipped)


def _by_other_folds(
    before: np.ndarray, truth: np.ndarray, where: np.ndarray, wanted: float
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Each answer at the other folds' temperature, whether it would be given, and what was chosen for each fold."""
    after, given = before.copy(), np.ones(len(before), dtype=bool)
    by_fold: dict[str, Any] = {}
    for fold in sorted(set(where.tolist())):
        own = where == fold
        temperature, abstention = _chosen(before[~own], truth[~own], wanted, f"fold {fold}")
        after[own] = cooled(before[own], temperature.value)
        given[own] = after[own].max(axis=1) >= abstention.below
        by_fold[fold] = {"temperature": number(temperature.value), "abstain_below": number(abstention.below)}
    return after, given, by_fold


def _in_words(abstention: Abstention, wanted: float) -> str:
    if not abstention.reached:
        return f"no confidence reaches an accuracy of {wanted:g}, so every case is answered"
    return f"accuracy {abstention.accuracy:.3f} at coverage {abstention.coverage:.3f}, wanted {wanted:g}"


def _chosen(
    probabilities: np.ndarray, truth: np.ndarray, wanted: float, what: str, n_failed: int = 0
) -> tuple[Temperature, Abstention]:
    """A temperature, 1 where the answers do not determine it, and at it a confidence to abstain below."""
    temperature = fit_temperature(log_probabilities(probabilities), truth, class_axis=1)
    # Where all are right the likelihood rises without an end towards 0, and where they are worse than chance towards
    # infinity: neither end says anything of new cases.
    all_right = (probabilities.argmax(axis=1) == truth).all()
    if all_right or not LOWEST * 1.01 < temperature.value < HIGHEST / 1.01:
        logger.warning("WARNING for %s the answers do not determine a temperature: 1 is kept", what)
        temperature = Temperature(1.0, temperature.nll_before, temperature.nll_before, temperature.n)
    again = cooled(probabilities, temperature.value)
    abstention = choose_abstention(again.max(axis=1), again.argmax(axis=1) == truth, wanted, n_failed)
    if not abstention.reached:
        logger.warning("WARNING for %s no confidence reaches an accuracy of %g: every case is answered", what, wanted)
    return temperature, abstention


def _quality(probabilities: np.ndarray, truth: np.ndarray, answered: Sequence[Answer]) -> dict[str, Any]:
    """ECE and NLL with their intervals over subjects."""
    from neurobundle.measure.calibration_summary import summarise_answers

    subjects = [answer.subject for answer in answered]
    found = summarise_answers(probabilities, truth.tolist(), subjects)["all"]
    return {name: found[name] for name in ("ece", "nll")}


def _with(
    evaluation: ClassificationEvaluation, answered: Sequence[Answer], probabilities: np.ndarray
) -> dict[str, Answer]:
    """All answers in their order, with other probabilities; which is the largest does not change."""
    changed = {
        answer.case: Answer(
            answer.case, answer.subject, answer.truth, int(row.argmax()), tuple(row.tolist()), answer.uncertainty
        )
        for answer, row in zip(answered, probabilities, strict=True)
    }
    return {case: changed.get(case, answer) for case, answer in evaluation.answers.items()}
