from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from neurobundle.errors import InputError, SettingError
from neurobundle.measure.answers_calibration import (
    Abstention,
    calibrate_answers,
    choose_abstention,
    cooled,
    log_probabilities,
)
from neurobundle.measure.classification import FAILED
from neurobundle.measure.classification_evaluation import ClassificationEvaluation
from neurobundle.measure.temperature import fit_temperature

CLASSES = ["a", "b", "c"]


def answered(n: int = 120, scale: float = 3.0, seed: int = 0) -> tuple[ClassificationEvaluation, dict[str, str]]:
    """Answers that are right as often as they should be, said `scale` times too surely, dealt to three folds."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.standard_normal((n, 3))
    honest, said = softmax(logits, axis=1), softmax(scale * logits, axis=1)
    evaluation, folds = ClassificationEvaluation(CLASSES), {}
    for k in range(n):
        case = f"c{k:03d}"
        evaluation.add(case, int(rng.choice(3, p=honest[k])), said[k], subject=f"s{k // 2}")
        folds[case] = str(k // 2 % 3)
    return evaluation, folds


def arrays(evaluation: ClassificationEvaluation, cases: list[str]) -> tuple[np.ndarray, np.ndarray]:
    own = [evaluation.answers[case] for case in cases]
    return np.array([answer.probabilities for answer in own]), np.array([answer.truth for answer in own])


def test_the_least_confidence_that_is_right_often_enough() -> None:
    """Of .9 right, .8 wrong, .7 right, .6 right: all four are 3/4 right, the first alone is 1/1, none is between."""
    sure, right = [0.9, 0.8, 0.7, 0.6], [True, False, True, True]
    assert choose_abstention(sure, right, 0.75) == Abstention(0.0, 0.75, 1.0, True)
    assert choose_abstention(sure, right, 0.8) == Abstention(0.9, 1.0, 0.25, True)


def test_equal_confidences_are_given_together() -> None:
    """At .8 stand one right and one wrong answer, so that .8 cannot be the border for an accuracy of 1."""
    found = choose_abstention([0.9, 0.8, 0.8], [True, True, False], 1.0)
    assert found == Abstention(0.9, 1.0, pytest.approx(1 / 3), True)


def test_failed_cases_lower_the_coverage_alone() -> None:
    assert choose_abstention([0.9, 0.6], [True, False], 1.0, n_failed=2) == Abstention(0.9, 1.0, 0.25, True)


def test_an_accuracy_out_of_reach_is_said() -> None:
    """The surest answer is wrong: every case is answered."""
    assert choose_abstention([0.9, 0.6], [False, True], 0.95) == Abstention(0.0, 0.5, 1.0, False)


def test_bad_settings() -> None:
    with pytest.raises(SettingError, match="wanted accuracy is 0"):
        choose_abstention([0.9], [True], 0)
    with pytest.raises(InputError, match="no answer"):
        choose_abstention([], [])


@given(st.lists(st.tuples(st.sampled_from([0.4, 0.5, 0.6, 0.7, 0.9]), st.booleans()), min_size=1, max_size=12))
def test_no_smaller_confidence_would_do(cases: list[tuple[float, bool]]) -> None:
    """Against trying each one by hand."""
    sure, right = np.array([c for c, _ in cases]), np.array([r for _, r in cases])
    found = choose_abstention(sure, right, 0.8)
    good = [below for below in [0.0, *sorted(set(sure))] if right[sure >= below].mean() >= 0.8]
    assert found.reached == bool(good)
    assert found.below == (min(good) if good else 0.0)


def test_a_temperature_of_one_changes_nothing() -> None:
    table = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]])
    assert np.allclose(cooled(table, 1.0), table)
    assert np.isfinite(log_probabilities(table)).all()


def test_each_fold_is_calibrated_by_the_others_alone() -> None:
    """Its temperature is that of the others' answers, and nothing that its own answers say changes it."""
    evaluation, folds = answered()
    found = calibrate_answers(evaluation, folds)
    for fold in "012":
        others = [case for case in folds if folds[case] != fold]
        own = [case for case in folds if folds[case] == fold]
        before, truth = arrays(evaluation, others)
        expected = fit_temperature(log_probabilities(before), truth, class_axis=1).value
        assert found.summary["folds"][fold]["temperature"] == pytest.approx(expected, abs=1e-6)
        after = np.array([found.answers[case].probabilities for case in own])
        assert np.allclose(after, cooled(arrays(evaluation, own)[0], expected))
    other, _ = answered()
    for case in (case for case in folds if folds[case] == "0"):
        answer = other.answers.pop(case)
        other.add(case, (answer.truth + 1) % 3, answer.probabilities or [], answer.subject)
    again = calibrate_answers(other, folds)
    assert again.summary["folds"]["0"] == found.summary["folds"]["0"]
    assert again.summary["folds"]["1"] != found.summary["folds"]["1"]


def test_it_mends_what_is_too_sure() -> None:
    """Logits were three times too large: the temperature finds that, and both errors fall."""
    evaluation, folds = answered(n=900)
    found = calibrate_answers(evaluation, folds)
    assert found.shipped["temperature"] == pytest.approx(3.0, rel=0.15)
    for name in ("ece", "nll"):
        assert found.summary["after"][name]["mean"] < found.summary["before"][name]["mean"]
    assert found.summary["after"]["ece"]["mean"] < 0.05
    assert found.shipped["n"] == 900
    assert set(found.shipped) == {"temperature", "abstain_below", "chosen_on", "n"}


def test_the_shipped_numbers_are_chosen_on_all() -> None:
    evaluation, folds = answered()
    found = calibrate_answers(evaluation, folds, wanted=0.8)
    before, truth = arrays(evaluation, list(folds))
    value = fit_temperature(log_probabilities(before), truth, class_axis=1).value
    after = cooled(before, value)
    chosen = choose_abstention(after.max(axis=1), after.argmax(axis=1) == truth, 0.8)
    assert (found.shipped["temperature"], found.shipped["abstain_below"]) == (value, chosen.below)
    given_ = after.max(axis=1) >= found.shipped["abstain_below"]
    assert (after.argmax(axis=1) == truth)[given_].mean() == chosen.accuracy >= 0.8
    assert f"at coverage {chosen.coverage:.3f}" in found.shipped["chosen_on"]


def test_no_answer_changes_and_the_failed_stay_failed() -> None:
    evaluation, folds = answered()
    evaluation.add_failed("lost", "b", "s0", "lost: why.")
    folds["lost"] = "1"
    found = calibrate_answers(evaluation, folds)
    assert list(found.answers) == list(evaluation.answers)
    assert [a.prediction for a in found.answers.values()] == [a.prediction for a in evaluation.answers.values()]
    assert found.answers["lost"].prediction == FAILED
    assert found.summary["abstention"]["coverage"] < 1
    assert found.shipped["n"] == 120


def test_answers_that_do_not_determine_a_temperature_keep_one(caplog: pytest.LogCaptureFixture) -> None:
    """All are right: any sharper would fit better, without an end."""
    evaluation = ClassificationEvaluation(CLASSES)
    for k in range(6):
        evaluation.add(str(k), k % 3, np.roll([0.8, 0.1, 0.1], k % 3))
    with caplog.at_level(logging.WARNING):
        found = calibrate_answers(evaluation, {str(k): str(k // 3) for k in range(6)})
    assert found.shipped["temperature"] == 1.0
    assert found.answers["0"].probabilities == pytest.approx((0.8, 0.1, 0.1))
    assert "for new cases the answers do not determine a temperature" in caplog.text


def test_one_fold_and_bare_classes_are_refused() -> None:
    evaluation, folds = answered(n=6)
    with pytest.raises(InputError, match="0 samples"):
        calibrate_answers(evaluation, dict.fromkeys(folds, "0"))
    evaluation.add_prediction("bare", "a", "b")
    with pytest.raises(InputError, match="no probabilities") as caught:
        calibrate_answers(evaluation, {**folds, "bare": "1"})
    assert caught.value.case == "bare"
