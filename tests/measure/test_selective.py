import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neurobundle.errors import InputError
from neurobundle.measure.selective import error_auroc, risk_coverage, spearman


def test_four_cases_by_hand() -> None:
    """Kept one after the other: 0, (0+.4)/2, (0+.4+.2)/3, (0+.4+.2+1)/4."""
    curve = risk_coverage([0.1, 0.3, 0.2, 0.9], [0.0, 0.2, 0.4, 1.0])
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert curve.risk == pytest.approx([0, 0.2, 0.2, 0.4])
    assert curve.aurc == pytest.approx(0.8 / 4)
    assert curve.aurc_best == pytest.approx((0 + 0.1 + 0.2 + 0.4) / 4)


def test_equals_are_one_step() -> None:
    curve = risk_coverage([1, 1, 1, 1], [0, 0, 1, 1])
    assert (curve.coverage.tolist(), curve.risk.tolist(), curve.aurc) == ([1], [0.5], 0.5)
    assert curve.aurc_best == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)


def test_a_case_that_nobody_would_keep_comes_last() -> None:
    assert risk_coverage([math.inf, 0.5], [1, 0]).risk.tolist() == [0, 0.5]


def test_oracle_one_threshold_a_case() -> None:
    """Geifman, Uziel & El-Yaniv's sum, written out: the mean over cases of the risk of all that are as certain."""
    rng = np.random.default_rng(0)
    uncertainty, risk = rng.integers(0, 20, 60), rng.random(60)
    expected = np.mean([risk[uncertainty <= threshold].mean() for threshold in uncertainty])
    assert risk_coverage(uncertainty, risk).aurc == pytest.approx(expected)


RISKS = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@given(st.integers(1, 30), RISKS)
def test_laws(n: int, rng: np.random.Generator) -> None:
    """The order given is of no account; no order is better than the best; at full coverage the risk is the mean."""
    uncertainty, risk = rng.integers(0, 8, n), rng.random(n)
    curve = risk_coverage(uncertainty, risk)
    order = rng.permutation(n)
    again = risk_coverage(uncertainty[order], risk[order])
    assert again.risk == pytest.approx(curve.risk)
    assert again.aurc == pytest.approx(curve.aurc)
    assert curve.aurc_best <= curve.aurc + 1e-12
    assert curve.risk[-1] == pytest.approx(risk.mean())
    assert curve.coverage[-1] == 1
    # What was right and is now missed, with the same certainty, costs.
    worse = risk.copy()
    worse[rng.integers(n)] = 1
    assert risk_coverage(uncertainty, worse).aurc >= curve.aurc - 1e-12


@pytest.mark.parametrize(
    ("uncertainty", "risk"),
    [([], []), ([1], [1, 2]), ([[1]], [[1]]), ([math.nan], [1]), ([1], [math.nan]), ([1], [math.inf])],
)
def test_bad_input(uncertainty: list, risk: list) -> None:
    with pytest.raises(InputError):
        risk_coverage(uncertainty, risk)


def test_error_detection_by_hand() -> None:
    """Wrong at .5 and .9, right at .1 and .5: three pairs in order, one tie."""
    assert error_auroc([0.1, 0.5, 0.5, 0.9], [False, False, True, True]) == 3.5 / 4
    assert error_auroc([1, 2], [True, False]) == 0
    assert error_auroc(np.array([[1, 2], [3, 4]]), np.array([[False, False], [True, True]])) == 1


def test_error_detection_needs_both_kinds() -> None:
    assert math.isnan(error_auroc([1, 2], [True, True]))
    assert math.isnan(error_auroc([1, 2], [False, False]))
    assert math.isnan(error_auroc([], []))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_oracle_auroc(kind: type) -> None:
    from scipy.stats import mannwhitneyu
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(1)
    values, wrong = (rng.integers(0, 50, 4000) / 50).astype(kind), rng.random(4000) < 0.1
    found = error_auroc(values, wrong)
    assert found == pytest.approx(roc_auc_score(wrong, values))
    assert found == pytest.approx(
        mannwhitneyu(values[wrong], values[~wrong]).statistic / (wrong.sum() * (~wrong).sum())
    )


@given(hnp.arrays(np.int8, st.integers(1, 40)), RISKS)
def test_error_detection_turns_round(values: np.ndarray, rng: np.random.Generator) -> None:
    """Certainty finds wrong ones as badly as uncertainty finds them well."""
    wrong = rng.random(len(values)) < 0.5
    there, back = error_auroc(values.astype(int), wrong), error_auroc(-values.astype(int), wrong)
    assert there + back == pytest.approx(1, nan_ok=True) or math.isnan(there)


def test_correlation_of_ranks() -> None:
    assert spearman([1, 2, 3, 4], [1, 8, 27, 64]) == 1
    assert spearman([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)


def test_correlation_that_is_not_defined() -> None:
    """Without a warning: tests turn warnings into errors."""
    assert math.isnan(spearman([1, 2], [1, 2]))
    assert math.isnan(spearman([], []))
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_oracle_spearman() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 9, 40), rng.random(40)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
