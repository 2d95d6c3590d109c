"""Two methods on the same cases: which is better, by how much, and whether chance would do the same.

A *pair* is one case with a score of A and a score of B. Cases of one subject are not independent: the *interval* of the
mean difference resamples subjects, and the *test* takes one difference a subject, the mean of its cases'.

Wilcoxon's signed-rank test ranks the sizes of the differences and asks whether those in A's favour have more than their
share. Equal pairs are frequent here (both missed a lesion, both found nothing where nothing is), so they are ranked
with the others and then left out (Pratt, JASA 1959): left out before, they would make a few small differences look as
if they were the whole sample. The *matched-pairs rank-biserial correlation* is the same ranks as an effect size: the
share in A's favour minus the share in B's (Kerby, Comprehensive Psychology 2014).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from neurobundle.errors import InputError
from neurobundle.measure.resampling import bootstrap_interval

#: Decimals of a difference. Tables have six; with all of a float's, 0.9 - 0.8 and 0.8 - 0.7 would not be the same.
DECIMALS = 9

#: Up to so many subjects who differ, p is counted over all signs; above, the normal approximation is as good.
EXACT_UP_TO = 50


@dataclass(frozen=True)
class PairedComparison:
    """A comparison of A and B on the same cases.

    Attributes:
        n: pairs.
        n_subjects: subjects, the sample size of the test.
        n_a_better: pairs in which A is better.
        n_b_better: pairs in which B is better.
        n_equal: pairs without a difference.
        mean_a: mean score of A over the pairs.
        mean_b: mean score of B over the pairs.
        mean_difference: A - B, whichever direction is better.
        interval: 95 % interval of ``mean_difference``, by resampling subjects.
        p_wilcoxon: two-sided; 1 if nothing differs.
        effect_size: -1 (B better for all subjects) to 1 (A better for all); 0 if nothing differs.
    """

    n: int
    n_subjects: int
    n_a_better: int
    n_b_better: int
    n_equal: int
    mean_a: float
    mean_b: float
    mean_difference: float
    interval: tuple[float, float]
    p_wilcoxon: float
    effect_size: float


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test.

    Attributes:
        n_only_a: cases that A alone has right.
        n_only_b: cases that B alone has right.
        p: two-sided; 1 if no case tells the two apart.
    """

    n_only_a: int
    n_only_b: int
    p: float

    @property
    def effect_size(self) -> float:
        """Among the cases that one alone has right, the share of A's minus that of B's; 0 if there are none."""
        apart = self.n_only_a + self.n_only_b
        return (self.n_only_a - self.n_only_b) / apart if apart else 0.0


def compare_pairs(
    a: ArrayLike, b: ArrayLike, subjects: Sequence[str], higher_is_better: bool = True
) -> PairedComparison:
    """Compare two scores of the same cases.

    Args:
        a: scores of A ``(n,)``, finite.
        b: scores of B for the same cases.
        subjects: the subject of each case.
        higher_is_better: whether a larger score is better; it turns the sign of ``effect_size``, not of the difference.

    Raises:
        InputError: if there is no pair, the lengths differ or a score is not finite.

    >>> result = compare_pairs([0.9, 0.8, 0.7], [0.8, 0.6, 0.8], ["x", "y", "z"])
    >>> result.n_a_better, result.n_b_better, round(result.mean_difference, 3)
    (2, 1, 0.067)
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.ndim != 1 or first.shape != second.shape or len(first) != len(subjects) or not len(first):
        cause = f"A has {first.shape} scores, B has {second.shape}, and there are {len(subjects)} subjects"
        raise InputError(cause, "Give one of each a case, and at least one case.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("a score is not a finite number", "Leave out the cases that have no score, or give the worst.")
    difference = np.round(first - second, DECIMALS) + 0.0  # no negative zero
    in_favour = difference if higher_is_better else -difference
    _, who = np.unique(np.asarray(subjects), return_inverse=True)
    by_subject = np.round(np.bincount(who, weights=in_favour) / np.bincount(who), DECIMALS)
    p, effect_size = _signed_ranks(by_subject)
    return PairedComparison(
        n=len(first),
        n_subjects=len(by_subject),
        n_a_better=int((in_favour > 0).sum()),
        n_b_better=int((in_favour < 0).sum()),
        n_equal=int((in_favour == 0).sum()),
        mean_a=float(first.mean()),
        mean_b=float(second.mean()),
        mean_difference=float(difference.mean()),
        interval=bootstrap_interval(difference.tolist(), subjects),
        p_wilcoxon=p,
        effect_size=effect_size,
    )


def mcnemar(right_a: ArrayLike, right_b: ArrayLike) -> McNemar:
    """Whether A or B is right more often, by McNemar's exact (binomial) test.

    Args:
        right_a: whether A is right, bools ``(n,)``.
        right_b: whether B is right in the same cases, which the test takes for independent.

    Raises:
        InputError: if the lengths differ.

    >>> mcnemar([True, True, True, False], [False, False, True, False])
    McNemar(n_only_a=2, n_only_b=0, p=0.5)
    """
    from scipy.stats import binomtest

    first, second = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if first.shape != second.shape:
        raise InputError(f"A has {first.shape} answers and B has {second.shape}", "Give both for the same cases.")
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down correction for many tests (Scandinavian Journal of Statistics 1979).

    Args:
        p_values: ``(n,)``; NaN is no test: it stays NaN and does not count.

    Returns:
        Adjusted p-values in the same order, at most 1.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=float)
    adjusted = np.full(values.shape, math.nan)
    tests = np.flatnonzero(~np.isnan(values))
    order = tests[np.argsort(values[tests], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1)
    return adjusted


def _signed_ranks(differences: np.ndarray) -> tuple[float, float]:
    """Two-sided p of the signed-rank test (zeros after Pratt), and the rank-biserial correlation."""
    from scipy.special import ndtr
    from scipy.stats import rankdata

    ranks = rankdata(np.abs(differences))
    plus, minus = float(ranks[differences > 0].sum()), float(ranks[differences < 0].sum())
    if plus + minus == 0:
        return 1.0, 0.0
    counted = ranks[differences != 0]
    if len(counted) <= EXACT_UP_TO:
        p = _exact_p(counted, min(plus, minus))
    else:
        p = float(2 * ndtr(-abs(plus - minus) / math.sqrt((counted**2).sum())))
    return p, (plus - minus) / (plus + minus)


def _exact_p(ranks: np.ndarray, smaller_sum: float) -> float:
    """The chance of a rank sum as far out, if each rank's sign were a coin's; ties make no difference to this count."""
    doubled = np.round(2 * ranks).astype(int)  # the mean rank of a tie may end in one half
    chance = np.zeros(doubled.sum() + 1)
    chance[0] = 1
    for rank in doubled:
        with_it = np.zeros_like(chance)
        with_it[rank:] = chance[:-rank]
        chance = (chance + with_it) / 2
    return float(min(1.0, 2 * chance[: round(2 * smaller_sum) + 1].sum()))
