"""Whether uncertainty tells good predictions from bad ones.

*Risk* is what a prediction loses: 1 - Dice of a case, or 1 for a wrong answer and 0 for a right one. *Coverage* is the
share of the cases that is kept when only the most certain are; the *selective risk* at a coverage is the mean risk of
those (Geifman & El-Yaniv, NeurIPS 2017). The *AURC* is the mean of the selective risk over all thresholds that the
cases' uncertainties give (Geifman, Uziel & El-Yaniv, ICLR 2019); 0 is perfect, and 0 is out of reach unless no case
has a risk, so it stands beside that of the best possible order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from neurobundle.errors import InputError

#: Fewer cases have no rank correlation worth a number.
SPEARMAN_MIN_CASES = 3


@dataclass(frozen=True)
class RiskCoverage:
    """A risk-coverage curve.

    Attributes:
        coverage: share of the cases kept, rising to 1; one value a step ``(steps,)``.
        risk: mean risk of the cases kept ``(steps,)``.
        aurc: mean selective risk over the cases.
        aurc_best: the same for the order by risk itself; never above ``aurc``.
    """

    coverage: np.ndarray
    risk: np.ndarray
    aurc: float
    aurc_best: float


def risk_coverage(uncertainty: ArrayLike, risk: ArrayLike) -> RiskCoverage:
    """The selective risk at each coverage, the most certain cases first.

    Cases of the same uncertainty are one step, since no threshold parts them: all of them are kept or none. So the
    curve does not depend on the order in which the cases are given. In the AURC a step counts as often as it has cases.

    Args:
        uncertainty: ``(n,)``, in any unit; infinity stands for a case that nobody would keep.
        risk: ``(n,)``, finite.

    Raises:
        InputError: if there is no case, the lengths differ or a value is NaN.

    >>> curve = risk_coverage([0.1, 0.2, 0.2, 0.9], [0.0, 0.3, 0.3, 1.0])
    >>> curve.coverage.tolist(), curve.risk.round(3).tolist()
    ([0.25, 0.75, 1.0], [0.0, 0.2, 0.4])
    >>> round(curve.aurc, 3)  # 1/4 of 0, 2/4 of 0.2 and 1/4 of 0.4
    0.2
    """
    uncertain, losses = np.asarray(uncertainty, dtype=float), np.asarray(risk, dtype=float)
    if uncertain.ndim != 1 or uncertain.shape != losses.shape or not len(losses):
        cause = f"uncertainty has the shape {uncertain.shape} and risk has {losses.shape}"
        raise InputError(cause, "Give one value of each a case, and at least one case.")
    if np.isnan(uncertain).any() or not np.isfinite(losses).all():
        raise InputError("an uncertainty or a risk is not a number", "Leave out the cases that have no score.")
    levels, step, sizes = np.unique(uncertain, return_inverse=True, return_counts=True)
    kept = np.cumsum(sizes)
    selective = np.cumsum(np.bincount(step, weights=losses, minlength=len(levels))) / kept
    best = np.cumsum(np.sort(losses)) / np.arange(1, len(losses) + 1)
    return RiskCoverage(
        coverage=kept / len(losses),
        risk=selective,
        aurc=float((selective * sizes).sum() / len(losses)),
        aurc_best=float(best.mean()),
    )


def error_auroc(uncertainty: ArrayLike, wrong: ArrayLike) -> float:
    """How well uncertainty tells wrong from right: AUROC of error detection.

    The chance that a wrong one is more uncertain than a right one; a tie counts one half (Mann & Whitney's U).

    Args:
        uncertainty: ``(n,)``, no NaN; millions are fine.
        wrong: bools ``(n,)``.

    Returns:
        0 to 1; NaN if all are right or all are wrong.

    >>> error_auroc([0.1, 0.5, 0.5, 0.9], [False, False, True, True])
    0.875
    """
    values, mask = np.asarray(uncertainty), np.asarray(wrong, dtype=bool)
    right, bad = np.sort(values[~mask]), np.sort(values[mask])
    if not len(right) or not len(bad):
        return math.nan
    # Twice the count of right ones below each wrong one, a tie as one half: whole numbers, so nothing is rounded.
    doubled = np.searchsorted(right, bad, "left").sum() + np.searchsorted(right, bad, "right").sum()
    return float(doubled / (2 * len(right) * len(bad)))


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation.

    Args:
        a: ``(n,)``, no NaN.
        b: ``(n,)``, no NaN.

    Returns:
        -1 to 1; NaN for fewer than three cases, or where one side is the same for all.

    >>> spearman([1, 2, 3], [30, 20, 10]), spearman([1, 2, 3], [5, 5, 5])
    (-1.0, nan)
    """
    from scipy.stats import rankdata

    first, second = rankdata(a), rankdata(b)
    if len(first) < SPEARMAN_MIN_CASES or not np.ptp(first) or not np.ptp(second):
        return math.nan
    return float(np.clip(np.corrcoef(first, second)[0, 1], -1, 1))
