from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurobundle.errors import InputError
from neurobundle.measure.classification import FAILED
from neurobundle.measure.classification_evaluation import ClassificationEvaluation
from neurobundle.measure.subjects import has_several, pool_subjects

CLASSES = ["a", "b"]


def evaluation_of(*rows: tuple[str, str, str, list[float] | None]) -> ClassificationEvaluation:
    """Of rows of case, subject, class and probabilities; None has failed."""
    evaluation = ClassificationEvaluation(CLASSES)
    for case, subject, truth, values in rows:
        if values is None:
            evaluation.add_failed(case, truth, subject)
        else:
            evaluation.add(case, truth, values, subject)
    return evaluation


def test_the_geometric_mean_made_to_sum_to_one() -> None:
    """Odds of 4 and of 1 are pooled to odds of 2; a plain mean would say .65."""
    pooled = pool_subjects(evaluation_of(("1", "anna", "a", [0.8, 0.2]), ("2", "anna", "a", [0.5, 0.5])))
    answer = pooled.answers["anna"]
    assert answer.probabilities == pytest.approx((2 / 3, 1 / 3))
    assert (answer.prediction, answer.truth, pooled.counts) == (0, 0, {"anna": 2})


def test_a_sure_slice_outweighs_two_doubtful_ones() -> None:
    """Two of three slices say a, and the person's answer is b."""
    rows = [("1", "anna", "b", [0.6, 0.4]), ("2", "anna", "b", [0.6, 0.4]), ("3", "anna", "b", [0.01, 0.99])]
    assert pool_subjects(evaluation_of(*rows)).answers["anna"].prediction == 1


def test_a_person_is_one_case_whatever_the_number_of_slices() -> None:
    """Anna's three right slices and bert's wrong one: 3/4 of the slices, 1/2 of the persons."""
    evaluation = evaluation_of(*((str(n), "anna", "a", [0.9, 0.1]) for n in range(3)), ("3", "bert", "b", [0.9, 0.1]))
    assert evaluation.score()["accuracy"]["mean"] == 0.75
    summary = pool_subjects(evaluation).summary()
    assert (summary["accuracy"]["mean"], summary["n_cases"]) == (0.5, 2)
    assert summary["calibration"]["all"]["n_cases"] == 2


def test_a_failed_slice_fails_the_person() -> None:
    """A miss can never raise a score: the wrong slice, had it failed, would have left the right ones."""
    wrong = pool_subjects(evaluation_of(("1", "anna", "a", [0.6, 0.4]), ("2", "anna", "a", [0.0, 1.0])))
    failed = pool_subjects(evaluation_of(("1", "anna", "a", [0.6, 0.4]), ("2", "anna", "a", None)))
    assert wrong.answers["anna"].prediction == 1
    assert failed.answers["anna"].prediction == FAILED
    assert failed.problems == {"anna": "anna: 1 of 2 cases failed, 2 for one."}
    assert failed.summary()["accuracy"]["mean"] == wrong.summary()["accuracy"]["mean"] == 0.0


def test_two_classes_in_one_person_are_refused() -> None:
    rows = [("1", "anna", "a", [0.6, 0.4]), ("2", "anna", "b", [0.6, 0.4])]
    with pytest.raises(InputError, match="the subject 'anna' has cases of a and b") as caught:
        pool_subjects(evaluation_of(*rows))
    assert caught.value.case == "2"


def test_a_bare_class_cannot_be_pooled() -> None:
    evaluation = evaluation_of(("1", "anna", "a", [0.6, 0.4]))
    evaluation.add_prediction("2", "a", "a", "anna")
    with pytest.raises(InputError, match="no probabilities"):
        pool_subjects(evaluation)


def test_whether_there_is_something_to_pool() -> None:
    assert not has_several(evaluation_of(("1", "anna", "a", [0.6, 0.4]), ("2", "bert", "b", [0.6, 0.4])))
    assert has_several(evaluation_of(("1", "anna", "a", [0.6, 0.4]), ("2", "anna", "a", [0.6, 0.4])))


def test_a_row_a_person(tmp_path: Path) -> None:
    rows = [("1", "anna", "a", [0.75, 0.25]), ("2", "anna", "a", [0.75, 0.25]), ("3", "bert", "b", None)]
    path = pool_subjects(evaluation_of(*rows)).write_table(tmp_path / "per_subject.csv")
    table = list(csv.DictReader(path.read_text().splitlines()))
    assert list(table[0]) == ["subject", "cases", "truth", "prediction", "correct", "p_a", "p_b", "status"]
    assert [(row["subject"], row["cases"], row["correct"], row["status"]) for row in table] == [
        ("anna", "2", "1", "ok"),
        ("bert", "1", "0", "failed"),
    ]
    assert float(table[0]["p_a"]) == pytest.approx(0.75)


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=6))
def test_the_order_of_the_slices_does_not_matter(values: list[float]) -> None:
    """And one slice alone, or the same slice again, is its own answer."""
    rows = [(str(n), "anna", "a", [value, 1 - value]) for n, value in enumerate(values)]
    forward = pool_subjects(evaluation_of(*rows)).answers["anna"].probabilities
    backward = pool_subjects(evaluation_of(*rows[::-1])).answers["anna"].probabilities
    assert forward is not None
    assert backward is not None
    assert np.allclose(forward, backward)
    same = [(str(n), "anna", "a", [values[0], 1 - values[0]]) for n in range(3)]
    assert pool_subjects(evaluation_of(*same)).answers["anna"].probabilities == pytest.approx(
        (values[0], 1 - values[0])
    )
