"""How well a score ranks positive cases before negative ones: AUROC and AUPRC, for many bootstrap samples at once."""

from __future__ import annotations

import numpy as np

from neurobundle.measure.resampling import ratio


def rank_scores(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC, and AUPRC as average precision: the sum over thresholds of the recall gained times the precision there.

    Args:
        scores: (n,) finite.
        positive: (n,) bool.
        weights: (s, n) how often each case counts, in each of s samples.

    Returns:
        (s,) and (s,); NaN where a sample has no positive or no negative case. Equal scores count half for AUROC, and
        are one threshold for AUPRC.

    >>> area, precision = rank_scores(np.array([0.9, 0.8, 0.1]), np.array([True, False, True]), np.ones((1, 3)))
    >>> float(area[0]), round(float(precision[0]), 3)
    (0.5, 0.833)
    """
    order = np.argsort(-scores, kind="stable")
    last = last_of_equals(scores[order])
    if not len(last):
        nothing = np.full(len(weights), np.nan)
        return nothing, nothing
    ordered, yes = weights[:, order], positive[order]
    found = np.cumsum(ordered * yes, axis=1)[:, last]
    false = np.cumsum(ordered * ~yes, axis=1)[:, last]
    gained, spoiled = np.diff(found, axis=1, prepend=0), np.diff(false, axis=1, prepend=0)
    n_positive, both = found[:, -1], found[:, -1] * false[:, -1]
    area = ratio((spoiled * (found - gained / 2)).sum(axis=1), both)
    precision = np.divide(found, found + false, out=np.zeros_like(found), where=found > 0)
    average = ratio((gained * precision).sum(axis=1), n_positive)
    return area, np.where(both > 0, average, np.nan)


def last_of_equals(ordered: np.ndarray) -> np.ndarray:
    """Where in a sorted array each run of equal values ends.

    >>> last_of_equals(np.array([3, 3, 2, 1, 1])).tolist()
    [1, 2, 4]
    """
    return np.flatnonzero(np.append(ordered[1:] != ordered[:-1], len(ordered) > 0))
