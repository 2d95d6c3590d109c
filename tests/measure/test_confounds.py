"""One-trait rules, against counts on fingers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from neurobundle.measure.confounds import CONFOUNDED, LEAST_PERSONS, confounds

N = 40
LABELS = [n % 2 for n in range(N)]
PERSONS = [f"p{n}" for n in range(N)]


def test_a_word_that_is_the_class() -> None:
    (row,), few = confounds({"file type": [".jpg" if label else ".png" for label in LABELS]}, LABELS, PERSONS)
    assert (row.label, row.trait, row.typical, row.typical_of_others) == (0, "file type", ".png", ".jpg")
    assert (row.accuracy, row.low, row.high) == (1, 1, 1)
    assert row.found
    assert few == []


def test_a_number_that_is_the_class_in_the_middle() -> None:
    """No single threshold parts 5 from 1 and 9; intervals do."""
    labels = [n % 4 == 0 for n in range(2 * N)]
    values = [5.0 if label else (1.0, 9.0)[n % 2] for n, label in enumerate(labels)]
    (row,), _ = confounds({"size": values}, [int(label) for label in labels], [f"p{n}" for n in range(2 * N)])
    assert row.accuracy == 1
    assert row.typical_of_others == 5


def test_numbers_on_two_sides_of_a_cut() -> None:
    values = [100.0 + n if label else n for n, label in enumerate(LABELS)]
    (row,), _ = confounds({"level": values}, LABELS, PERSONS)
    assert row.accuracy > 0.9


def test_a_trait_of_one_value_has_no_row() -> None:
    assert confounds({"a": ["x"] * N, "b": [1.0] * N}, LABELS, PERSONS) == ([], [])


def test_a_missing_value_is_a_value() -> None:
    """Only one class has it."""
    for value in (3.0, "site A"):
        (row,), _ = confounds({"site": [value if label else None for label in LABELS]}, LABELS, PERSONS)
        assert row.accuracy == 1, value


def test_half_of_a_class() -> None:
    """A word that half of one class has, and nobody else: sensitivity 1/2, specificity 1."""
    values = ["odd" if label and n % 4 == 1 else "plain" for n, label in enumerate(LABELS)]
    (row,), _ = confounds({"word": values}, LABELS, PERSONS)
    assert row.accuracy == pytest.approx(0.75)
    assert row.low < 0.75 < row.high
    assert not row.found


def test_persons_are_not_divided() -> None:
    """A number that knows the person, not the class: asked of other persons it says nothing."""
    persons = [f"p{n // 10}" for n in range(400)]
    labels = [int(n // 10) % 2 for n in range(400)]
    values = [f"serial {person}" for person in persons]
    (row,), _ = confounds({"serial": values}, labels, persons)
    assert row.accuracy == 0.5
    assert not row.found


def test_three_classes_are_judged_one_against_the_others() -> None:
    labels = [n % 3 for n in range(60)]
    rows, _ = confounds({"size": [224.0 if n == 2 else 256.0 for n in labels]}, labels, [f"p{n}" for n in range(60)])
    by_class = {row.label: row for row in rows}
    assert by_class[2].found
    assert by_class[2].accuracy == 1
    # Of size 256 are all of class 0 and half of the others.
    assert by_class[0].accuracy == pytest.approx(0.75)
    assert not by_class[0].found
    assert rows[0].label == 2


def test_too_few_persons_are_not_judged() -> None:
    """Ten slices of one person are one person."""
    labels = [0] * 20 + [1] * 20
    persons = [f"p{n}" for n in range(20)] + ["q"] * 20
    assert confounds({"size": [float(n) for n in labels]}, labels, persons) == ([], [1])
    assert LEAST_PERSONS > 1


@given(st.integers(0, 1000))
def test_chance_is_not_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    traits = {"number": rng.normal(size=N).tolist(), "word": rng.choice(list("abcd"), N).tolist()}
    rows, _ = confounds(traits, rng.permutation(LABELS).tolist(), PERSONS)
    assert len(rows) == 2
    for row in rows:
        assert not row.found
        assert 0 <= row.low <= row.accuracy <= row.high <= 1


def test_accuracy_is_scikit_learn_s() -> None:
    """A rule that everybody would learn: its balanced accuracy is that of the trait itself."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    said = np.where(rng.random(300) < 0.9, labels, 1 - labels)
    rows, _ = confounds({"word": [str(n) for n in said]}, labels.tolist(), [f"p{n}" for n in range(300)])
    assert rows[0].accuracy == pytest.approx(balanced_accuracy_score(labels, said))
    assert rows[0].low > CONFOUNDED
