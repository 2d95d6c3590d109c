import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from neurobundle.errors import InputError
from neurobundle.measure.paired import EXACT_UP_TO, compare_pairs, holm, mcnemar


def people(n: int) -> list[str]:
    return [f"person {i}" for i in range(n)]


def versus_zero(differences: list[float]) -> tuple[float, float]:
    """The p-value and the effect size of differences, one a subject."""
    result = compare_pairs(differences, [0] * len(differences), people(len(differences)))
    return result.p_wilcoxon, result.effect_size


def test_three_for_a_one_for_b() -> None:
    """Sizes 1, 2, 3, 4 have the ranks 1 to 4; B has rank 3: (7 - 3) / 10. Of 16 signs, 10 are as uneven."""
    p, effect = versus_zero([1, 2, -3, 4])
    assert effect == pytest.approx(0.4)
    even = [
        sum(r for r, s in zip((1, 2, 3, 4), signs, strict=True) if s) for signs in itertools.product((0, 1), repeat=4)
    ]
    assert p == sum(total <= 3 or total >= 7 for total in even) / 16


def test_counts_and_means() -> None:
    result = compare_pairs([0.9, 0.8, 0.5, 0.5], [0.8, 0.9, 0.5, 0.3], people(4))
    assert (result.n, result.n_subjects) == (4, 4)
    assert (result.n_a_better, result.n_b_better, result.n_equal) == (2, 1, 1)
    assert (result.mean_a, result.mean_b) == (pytest.approx(0.675), pytest.approx(0.625))
    assert result.mean_difference == pytest.approx(0.05)
    assert result.interval[0] <= 0.05 <= result.interval[1]


def test_a_distance_is_better_if_it_is_less() -> None:
    """The difference stays A - B; counts and effect size say who is better."""
    result = compare_pairs([1, 1, 1], [2, 3, 4], people(3), higher_is_better=False)
    assert (result.n_a_better, result.effect_size, result.mean_difference) == (3, 1, -2)


def test_nothing_differs() -> None:
    """No evidence is p = 1, and no effect is 0."""
    result = compare_pairs([0.5, 0.7], [0.5, 0.7], people(2))
    assert (result.p_wilcoxon, result.effect_size, result.interval) == (1, 0, (0, 0))
    assert result.n_equal == 2


def test_decimals_of_a_table_are_equal() -> None:
    """0.9 - 0.8 and 0.8 - 0.7 are one size, though not in binary; so the two signs cancel."""
    assert 0.9 - 0.8 != 0.8 - 0.7
    result = compare_pairs([0.9, 0.7], [0.8, 0.8], people(2))
    assert (result.effect_size, result.p_wilcoxon) == (0, 1)


def test_equal_pairs_are_ranked() -> None:
    """Pratt: two zeros have ranks 1 and 2, so 1 and -2 have 3 and 4: (3 - 4) / 7."""
    p, effect = versus_zero([0, 0, 1, -2])
    assert effect == pytest.approx(-1 / 7)
    assert p == 1


def test_scans_of_one_subject_are_one_sample() -> None:
    """Ten scans of one person who is better under A weigh as one in the test, and as ten in the mean."""
    a, b = [1.0] * 10 + [0.0], [0.0] * 10 + [1.0]
    result = compare_pairs(a, b, ["x"] * 10 + ["y"])
    assert (result.n, result.n_subjects, result.p_wilcoxon, result.effect_size) == (11, 2, 1, 0)
    assert result.mean_difference == pytest.approx(9 / 11)
    assert result.interval == (-1, 1)


def test_oracle_without_ties() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 5, 12, 30, EXACT_UP_TO):
        d = rng.normal(0.3, 1, n)
        assert versus_zero(d.tolist())[0] == pytest.approx(stats.wilcoxon(np.round(d, 9), method="exact").pvalue)


def test_oracle_with_ties_and_zeros() -> None:
    """SciPy counts all signs as well, where there are few enough."""
    rng = np.random.default_rng(1)
    for n in range(4, 12):
        d = rng.integers(-3, 5, n).astype(float)
        d[0] = 1
        expected = stats.wilcoxon(d, zero_method="pratt", method=stats.PermutationMethod(n_resamples=10**6)).pvalue
        assert versus_zero(d.tolist())[0] == pytest.approx(expected)


def test_oracle_of_many() -> None:
    rng = np.random.default_rng(2)
    d = rng.integers(-4, 6, 400).astype(float)
    expected = stats.wilcoxon(d, zero_method="pratt", correction=False, method="asymptotic").pvalue
    assert versus_zero(d.tolist())[0] == pytest.approx(expected)


def test_exact_and_approximate_meet() -> None:
    """At the border between both there is no step that a reader would see."""
    rng = np.random.default_rng(3)
    d = rng.normal(0.25, 1, EXACT_UP_TO)
    assert stats.wilcoxon(d, method="asymptotic").pvalue == pytest.approx(versus_zero(d.tolist())[0], abs=0.005)


DIFFERENCES = st.lists(st.integers(-4, 4), min_size=1, max_size=25)


@given(DIFFERENCES)
def test_exchanging_both_turns_the_signs(differences: list[int]) -> None:
    d = np.array(differences, float)
    zeros, who = np.zeros_like(d), people(len(d))
    there, back = compare_pairs(d, zeros, who), compare_pairs(zeros, d, who)
    less = compare_pairs(d, zeros, who, higher_is_better=False)
    assert there.effect_size == -back.effect_size == -less.effect_size
    assert there.p_wilcoxon == back.p_wilcoxon == less.p_wilcoxon
    assert 0 < there.p_wilcoxon <= 1
    assert -1 <= there.effect_size <= 1
    assert there.mean_difference == -back.mean_difference == less.mean_difference
    assert there.n_a_better + there.n_b_better + there.n_equal == len(d)
    assert len(d) < 2 or there.interval[0] <= there.interval[1]


@given(DIFFERENCES)
def test_the_order_of_the_cases_is_of_no_account(differences: list[int]) -> None:
    first, second = versus_zero(differences), versus_zero(differences[::-1])
    assert first == pytest.approx(second)


@pytest.mark.parametrize(
    ("a", "b", "who"),
    [
        ([], [], []),
        ([1], [1, 2], ["x"]),
        ([1, 2], [1, 2], ["x"]),
        ([[1]], [[1]], ["x"]),
        ([math.nan], [1], ["x"]),
        ([1], [math.inf], ["x"]),
    ],
)
def test_bad_input(a: list, b: list, who: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        compare_pairs(a, b, who)
    assert caught.value.way_out


def test_mcnemar_by_hand() -> None:
    """A alone is right four times, B once: of five coins, at most one or at least four: 2 (1 + 5) / 32."""
    a = [True] * 4 + [False] + [True, False]
    b = [False] * 4 + [True] + [True, False]
    result = mcnemar(a, b)
    assert (result.n_only_a, result.n_only_b) == (4, 1)
    assert result.p == pytest.approx(12 / 32)
    assert result.effect_size == pytest.approx(3 / 5)


def test_mcnemar_of_the_same() -> None:
    result = mcnemar([True, False], [True, False])
    assert (result.p, result.effect_size) == (1, 0)
    assert mcnemar([], []).p == 1


def test_mcnemar_of_different_cases() -> None:
    with pytest.raises(InputError, match="answers"):
        mcnemar([True], [True, False])


def test_holm_by_hand() -> None:
    """.01 x 4; .02 x 3 = .06; .04 x 2 = .08; .05 x 1 is below the one before, and is raised to it."""
    assert holm([0.04, 0.01, 0.05, 0.02]) == pytest.approx([0.08, 0.04, 0.08, 0.06])


def test_holm_leaves_out_what_is_no_test() -> None:
    found = holm([0.03, math.nan, 0.04])
    assert math.isnan(found[1])
    assert found[[0, 2]] == pytest.approx([0.06, 0.06])
    assert holm([]).tolist() == []
    assert holm([0.6, 0.9]).tolist() == [1, 1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_laws(p_values: list[float]) -> None:
    """Never below p, never above Bonferroni, and in the same order."""
    adjusted = holm(p_values)
    p = np.array(p_values)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(p * len(p), 1) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
