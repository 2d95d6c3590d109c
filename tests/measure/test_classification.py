import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurobundle.errors import InputError, SettingError
from neurobundle.measure.classification import (
    MEANS,
    Threshold,
    choose_threshold,
    confusion_matrix,
    mean_scores,
    predict,
    score_classification,
)


def one_hot(classes: list[int], n_classes: int) -> np.ndarray:
    return np.array([[float(k == c) for k in range(n_classes)] if c >= 0 else [math.nan] * n_classes for c in classes])


# --- on fingers ---


def test_confusion_has_the_reference_in_its_rows() -> None:
    assert confusion_matrix([0, 0, 0, 1], [0, 0, 1, 1], 2).tolist() == [[2, 1], [0, 1]]


def test_a_failed_case_is_in_no_column() -> None:
    assert confusion_matrix([0, 0, 1], [0, -1, 1], 2).tolist() == [[1, 0], [0, 1]]


def test_four_cases_one_wrong() -> None:
    """Two of class 0, both right; two of class 1, one answered 0."""
    result = score_classification([0, 0, 1, 1], None, ["no", "yes"], predicted=[0, 0, 0, 1])
    assert result["accuracy"]["mean"] == 0.75
    assert result["balanced_accuracy"]["mean"] == 0.75
    assert result["per_class"]["no"] == {
        "n": 2,
        "n_failed": 0,
        "precision": 0.666667,
        "sensitivity": 1.0,
        "specificity": 0.5,
        "f1": 0.8,
        "auroc": None,
        "auprc": None,
    }
    assert result["per_class"]["yes"]["precision"] == 1
    assert result["per_class"]["yes"]["f1"] == 0.666667
    assert result["macro_f1"]["mean"] == pytest.approx((0.8 + 2 / 3) / 2, abs=1e-6)
    assert result["mcc"]["mean"] == pytest.approx(1 / math.sqrt(3), abs=1e-6)
    assert result["macro_auroc"] == {"mean": None, "interval": [None, None]}
    assert result["confusion"] == {"labels": ["no", "yes"], "counts": [[2, 0], [1, 1]]}


def test_ranks_of_three_cases() -> None:
    """Of the two pairs of a positive and a negative case one is ordered right."""
    probabilities = np.array([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
    result = score_classification([1, 0, 1], probabilities, ["no", "yes"])["per_class"]["yes"]
    assert result["auroc"] == 0.5
    assert result["auprc"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-6)


def test_a_failed_case_is_wrong_for_every_class() -> None:
    """Three classes, a case each, and the third failed: missed in its own, a false alarm in the others."""
    result = score_classification([0, 1, 2], one_hot([0, 1, -1], 3), list("abc"))
    assert (result["n_cases"], result["n_failed"]) == (3, 1)
    assert result["accuracy"]["mean"] == pytest.approx(2 / 3, abs=1e-6)
    assert result["per_class"]["a"]["precision"] == 0.5
    assert result["per_class"]["a"]["specificity"] == 0.5
    assert result["per_class"]["a"]["f1"] == pytest.approx(2 / 3, abs=1e-6)
    # Of the two cases that are not a, b is ranked below a, and the failed one above it.
    assert result["per_class"]["a"]["auroc"] == 0.5
    assert result["per_class"]["c"] == {
        "n": 1,
        "n_failed": 1,
        "precision": None,
        "sensitivity": 0.0,
        "specificity": 1.0,
        "f1": 0.0,
        "auroc": 0.0,
        "auprc": pytest.approx(1 / 3, abs=1e-6),
    }


def test_of_two_classes_a_failed_case_counts_as_the_other() -> None:
    failed = mean_scores([0, 0, 1, 1, 1], [0, 0, 1, 1, -1], 2)
    wrong = mean_scores([0, 0, 1, 1, 1], [0, 0, 1, 1, 0], 2)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "mcc"):
        assert failed[name] == pytest.approx(wrong[name]), name


def test_a_class_without_a_case_is_named_and_in_no_mean() -> None:
    result = score_classification([0, 0, 1], one_hot([0, 0, 1], 3), list("abc"))
    assert result["per_class"]["c"] == {
        "n": 0,
        "n_failed": 0,
        **dict.fromkeys(("precision", "sensitivity", "specificity", "f1", "auroc", "auprc")),
    }
    assert all(result[name]["mean"] == 1 for name in MEANS)
    assert result["classes"] == ["a", "b", "c"]


def test_cases_of_one_class_leave_the_rest_undefined() -> None:
    result = score_classification([0, 0], one_hot([0, 0], 2), ["no", "yes"])
    assert result["accuracy"] == {"mean": 1.0, "interval": [1.0, 1.0]}
    for name in ("mcc", "macro_auroc", "macro_auprc"):
        assert result[name] == {"mean": None, "interval": [None, None]}
    assert result["per_class"]["no"]["specificity"] is None


def test_no_case_at_all() -> None:
    result = score_classification([], [], ["no", "yes"])
    assert result["n_cases"] == 0
    assert all(result[name] == {"mean": None, "interval": [None, None]} for name in MEANS)


def test_answers_that_are_all_the_same_correlate_with_nothing() -> None:
    assert mean_scores([0, 0, 1], [0, 0, 0], 2)["mcc"] == 0
    assert mean_scores([0, 1, 2], [1, 1, 1], 3)["mcc"] == 0


def test_subjects_are_drawn_whole() -> None:
    """Two subjects, of whom one is always right and one always wrong: the interval spans both."""
    truth, predicted = [0, 1, 0, 1], [0, 1, 1, 0]
    result = score_classification(truth, None, ["no", "yes"], ["a", "a", "b", "b"], predicted=predicted)
    assert result["accuracy"] == {"mean": 0.5, "interval": [0.0, 1.0]}
    alone = score_classification(truth, None, ["no", "yes"], ["a"] * 4, predicted=predicted)
    assert alone["accuracy"]["interval"] == [None, None], "nothing can be drawn anew"


def test_a_threshold_moves_the_answer_and_is_stated() -> None:
    probabilities = np.array([[0.7, 0.3], [0.9, 0.1]])
    threshold = Threshold(0.3, "youden", 12)
    assert predict(probabilities).tolist() == [0, 0]
    assert predict(probabilities, threshold).tolist() == [1, 0]
    result = score_classification([1, 0], probabilities, ["no", "yes"], threshold=threshold)
    assert (result["accuracy"]["mean"], result["threshold"]) == (1.0, 0.3)


def test_of_equal_probabilities_the_first_class_is_the_answer() -> None:
    assert predict(np.array([[0.4, 0.2, 0.4]])).tolist() == [0]


# --- thresholds ---


def test_youden() -> None:
    """At .6 both positive cases are found and one of three negative ones is called; nothing is better."""
    chosen = choose_threshold([0.1, 0.2, 0.6, 0.7, 0.9], [False, False, True, False, True])
    assert chosen == Threshold(0.6, "youden", 5)


def test_of_equally_good_thresholds_the_largest_is_taken() -> None:
    """At .9 half of the positive and no negative; at .3 all of the positive and half of the negative."""
    assert choose_threshold([0.9, 0.6, 0.3, 0.1], [True, False, True, False]).value == 0.9


def test_f1() -> None:
    """F1 at .9 is 2/3, at .6 is 1/2, at .3 is 4/5."""
    assert choose_threshold([0.9, 0.6, 0.3, 0.1], [True, False, True, False], "f1").value == 0.3


@pytest.mark.parametrize(("wanted", "value"), [("0.5", 0.8), ("0.75", 0.6), ("0.76", 0.4), ("1", 0.4)])
def test_the_largest_threshold_of_a_sensitivity(wanted: str, value: float) -> None:
    scores = [0.9, 0.8, 0.7, 0.6, 0.4, 0.3]
    positive = [True, True, False, True, True, False]
    assert choose_threshold(scores, positive, f"sensitivity={wanted}").value == value


def test_equal_scores_are_called_together() -> None:
    assert choose_threshold([0.5, 0.5, 0.5, 0.1], [True, True, False, False]).value == 0.5


def test_a_threshold_comes_back_from_json() -> None:
    threshold = Threshold(0.1 + 0.2, "f1", 7)
    assert Threshold.from_json(threshold.to_json()) == threshold
    for broken in ({}, {**threshold.to_json(), "value": "x"}, {**threshold.to_json(), "value": math.inf}):
        with pytest.raises(SettingError, match="threshold"):
            Threshold.from_json(broken)


def test_a_missing_score_is_not_positive() -> None:
    assert Threshold(0.0, "f1", 2).apply([math.nan, 0.0]).tolist() == [False, True]


@pytest.mark.parametrize(
    ("scores", "positive", "message"),
    [
        ([], [], "no case"),
        ([0.1, 0.2], [True, True], "all 2 validation cases are positive"),
        ([0.1, 0.2], [False, False], "all 2 validation cases are negative"),
        ([0.1, math.nan], [True, False], "case 1 .* is nan"),
        ([0.1, 0.2], [2, 0], "true or false"),
    ],
)
def test_validation_cases_that_choose_nothing(scores: list[float], positive: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_threshold(scores, positive)


@pytest.mark.parametrize("criterion", ["yuoden", "sensitivity", "sensitivity=0", "sensitivity=1.5", "sensitivity=a"])
def test_an_unknown_criterion(criterion: str) -> None:
    with pytest.raises(SettingError, match="unknown criterion"):
        choose_threshold([0.1, 0.2], [True, False], criterion)
    with pytest.raises(SettingError, match="did you mean 'youden'"):
        choose_threshold([0.1, 0.2], [True, False], "yuoden")


def test_lengths_must_agree() -> None:
    with pytest.raises(SettingError, match="for each score"):
        choose_threshold([0.1, 0.2], [True])


# --- oracles ---


def random_cases(seed: int, n_classes: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Cases whose probabilities know something of the truth; rounded, so that some are equal."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(n_classes), rng.integers(n_classes, size=n - n_classes)])
    table = rng.dirichlet(np.ones(n_classes), n) + 0.3 * (truth[:, None] == np.arange(n_classes))
    return truth, np.round(table / table.sum(axis=1, keepdims=True), 1)


@pytest.mark.parametrize("n_classes", [2, 3, 6])
@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_those_of_scikit_learn(seed: int, n_classes: int) -> None:
    from sklearn import metrics

    truth, probabilities = random_cases(seed, n_classes)
    predicted = predict(probabilities)
    names = [str(k) for k in range(n_classes)]
    result = score_classification(truth, probabilities, names)
    assert result["accuracy"]["mean"] == pytest.approx(metrics.accuracy_score(truth, predicted), abs=1e-6)
    assert result["mcc"]["mean"] == pytest.approx(metrics.matthews_corrcoef(truth, predicted), abs=1e-6)
    balanced = metrics.balanced_accuracy_score(truth, predicted)
    assert result["balanced_accuracy"]["mean"] == pytest.approx(balanced, abs=1e-6)
    assert result["macro_f1"]["mean"] == pytest.approx(metrics.f1_score(truth, predicted, average="macro"), abs=1e-6)
    assert result["confusion"]["counts"] == metrics.confusion_matrix(truth, predicted).tolist()
    for k, name in enumerate(names):
        scores, own = result["per_class"][name], truth == k
        assert scores["auroc"] == pytest.approx(metrics.roc_auc_score(own, probabilities[:, k]), abs=1e-6)
        assert scores["auprc"] == pytest.approx(metrics.average_precision_score(own, probabilities[:, k]), abs=1e-6)
        assert scores["precision"] == pytest.approx(metrics.precision_score(own, predicted == k), abs=1e-6)
        assert scores["specificity"] == pytest.approx(metrics.recall_score(~own, predicted != k), abs=1e-6)
    area = np.mean([scores["auroc"] for scores in result["per_class"].values()])
    assert result["macro_auroc"]["mean"] == pytest.approx(area, abs=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_youden_equals_scikit_learns_curve(seed: int) -> None:
    from sklearn.metrics import roc_curve

    truth, probabilities = random_cases(seed, 2)
    false, found, values = roc_curve(truth, probabilities[:, 1], drop_intermediate=False)
    assert choose_threshold(probabilities[:, 1], truth == 1).value == values[np.argmax(np.round(found - false, 12))]


def test_intervals_equal_a_plain_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same samples, drawn case by case and scored by scikit-learn."""
    from sklearn import metrics

    monkeypatch.setattr("neurobundle.measure.classification.BOOTSTRAP_SAMPLES", 200)
    truth, probabilities = random_cases(0, 2, 20)
    subjects = [f"s{k // 2}" for k in range(20)]
    ids = np.unique(subjects, return_inverse=True)[1]
    drawn = np.random.default_rng(0).integers(10, size=(200, 10))
    samples: dict[str, list[float]] = {"balanced_accuracy": [], "macro_auroc": []}
    for row in drawn:
        cases = np.concatenate([np.flatnonzero(ids == subject) for subject in row])
        true, chosen = truth[cases], probabilities[cases]
        if len(set(true)) == 2:
            samples["macro_auroc"].append(
                (metrics.roc_auc_score(true, chosen[:, 1]) + metrics.roc_auc_score(1 - true, chosen[:, 0])) / 2
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a class that the sample lacks
            samples["balanced_accuracy"].append(metrics.balanced_accuracy_score(true, predict(chosen)))
    result = score_classification(truth, probabilities, ["no", "yes"], subjects)
    for name, values in samples.items():
        assert result[name]["interval"] == pytest.approx(np.percentile(values, (2.5, 97.5)).tolist(), abs=1e-6)


def test_many_cases_are_scored_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, probabilities = random_cases(0, 3)
    whole = score_classification(truth, probabilities, list("abc"))
    monkeypatch.setattr("neurobundle.measure.classification._BLOCK", 600)
    assert score_classification(truth, probabilities, list("abc")) == whole


# --- laws ---

ANSWERS = st.integers(2, 4).flatmap(
    lambda n_classes: st.tuples(
        st.just(n_classes),
        st.lists(
            st.tuples(st.integers(0, n_classes - 1), st.integers(-1, n_classes - 1), st.integers(1, 99)),
            min_size=1,
            unique_by=lambda case: case[2],
        ),
    )
)


def scored(n_classes: int, cases: list[tuple[int, int, int]]) -> dict[str, float]:
    """Cases of a true class, an answer and how sure it is: the part in a hundred that is not left to chance."""
    table = np.full((len(cases), n_classes), math.nan)
    for row, (_, answer, sure) in zip(table, cases, strict=True):
        if answer >= 0:
            row[:] = (1 - sure / 100) / n_classes
            row[answer] += sure / 100
    predicted = [answer for _, answer, _ in cases]
    return mean_scores([truth for truth, _, _ in cases], predicted, n_classes, table)


@given(ANSWERS, st.data())
def test_no_answer_is_never_better_than_any_answer(answers: Any, data: st.DataObject) -> None:
    """Whichever case fails, right or wrong, no mean rises; MCC of more than two classes may, from below 0 up to 0.

    No two scores are equal here: average precision calls equal ones together, and is not monotonous where it does.
    """
    n_classes, cases = answers
    place = data.draw(st.integers(0, len(cases) - 1))
    failed = [(t, -1 if k == place else p, s) for k, (t, p, s) in enumerate(cases)]
    before, after = scored(n_classes, cases), scored(n_classes, failed)
    for name in MEANS:
        if not math.isnan(before[name]):
            limit = max(before[name], 0) if name == "mcc" and n_classes > 2 else before[name]
            assert after[name] <= limit + 1e-12, name


@given(st.integers(2, 4), st.data())
def test_a_missed_or_false_answer_never_raises_a_perfect_mean(n_classes: int, data: st.DataObject) -> None:
    truths = data.draw(st.lists(st.integers(0, n_classes - 1), min_size=2, max_size=40))
    perfect = [(truth, truth, 99 - k) for k, truth in enumerate(truths)]
    truth, answer = data.draw(st.integers(0, n_classes - 1)), data.draw(st.integers(-1, n_classes - 1))
    before, after = scored(n_classes, perfect), scored(n_classes, [*perfect, (truth, answer, 9)])
    for name in MEANS:
        if not math.isnan(before[name]):
            assert before[name] == pytest.approx(1)
            assert after[name] <= before[name] + 1e-12
    if answer != truth:
        assert after["accuracy"] < before["accuracy"]


@given(ANSWERS)
def test_all_means_lie_in_their_range(answers: Any) -> None:
    for name, value in scored(*answers).items():
        assert math.isnan(value) or (-1 if name == "mcc" else 0) - 1e-12 <= value <= 1 + 1e-12


# --- bad input ---


def test_arguments_that_contradict_each_other() -> None:
    table = one_hot([0, 1], 2)
    with pytest.raises(SettingError, match="either"):
        score_classification([0, 1], None, ["no", "yes"])
    with pytest.raises(SettingError, match="either"):
        score_classification([0, 1], table, ["no", "yes"], predicted=[0, 1])
    with pytest.raises(SettingError, match="needs probabilities"):
        score_classification([0, 1], None, ["no", "yes"], threshold=Threshold(0.5, "f1", 2), predicted=[0, 1])
    with pytest.raises(SettingError, match="needs two classes"):
        score_classification([0, 1], one_hot([0, 1], 3), list("abc"), threshold=Threshold(0.5, "f1", 2))
    with pytest.raises(SettingError, match="a subject for each of the 2"):
        score_classification([0, 1], table, ["no", "yes"], ["a"])


@pytest.mark.parametrize(
    ("truth", "probabilities", "message"),
    [
        ([0, 2], [[1, 0], [0, 1]], "true class must lie in 0 to 1, got 2"),
        ([0, -1], [[1, 0], [0, 1]], "true class must lie in 0 to 1, got -1"),
        ([0, 1], [[1, 0]], "probabilities must be"),
        ([0, 1], [1, 0], "probabilities must be"),
        ([0, 1], [[1, 0], [0, 1.5]], r"in \[0, 1\]"),
        ([0, 1], [[1, 0], [0.5, math.nan]], r"in \[0, 1\]"),
    ],
)
def test_values_that_cannot_be(truth: list[int], probabilities: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        score_classification(truth, probabilities, ["no", "yes"])


def test_answers_that_cannot_be() -> None:
    with pytest.raises(SettingError, match="an answer must lie in -1 to 1, got 2"):
        confusion_matrix([0], [2], 2)
    with pytest.raises(SettingError, match="for each case"):
        confusion_matrix([0, 1], [0], 2)
    with pytest.raises(SettingError, match="at least two classes"):
        confusion_matrix([0], [0], 1)
