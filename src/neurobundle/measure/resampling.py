"""Intervals by bootstrap over subjects.

A *sample* draws as many subjects as there are, with replacement; a case counts as often as its subject was drawn. So
whoever has two scans is drawn with both, or not at all. The *interval* is the 2.5th to 97.5th percentile over samples;
of one subject alone nothing can be drawn anew, and there is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

BOOTSTRAP_SAMPLES = 2000
INTERVAL = (2.5, 97.5)


def draw_subjects(subjects: Sequence[str], samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw bootstrap samples of subjects.

    Args:
        subjects: (n,) the subject of each case, n > 0.
        samples: how many.
        seed: of the drawing.

    Returns:
        (samples, u) how often each of u subjects was drawn, and (n,) which of them each case belongs to. No samples of
        one subject alone.

    >>> drawn, index = draw_subjects(["a", "b", "a"], samples=2)
    >>> drawn.sum(axis=1).tolist(), index.tolist()
    ([2.0, 2.0], [0, 1, 0])
    """
    _, index = np.unique(np.asarray(subjects), return_inverse=True)
    n = int(index.max()) + 1
    samples = samples if n > 1 else 0
    drawn = np.random.default_rng(seed).integers(n, size=(samples, n))
    places = drawn + n * np.arange(samples)[:, None]
    return np.bincount(places.ravel(), minlength=samples * n).reshape(samples, n).astype(float), index


def bootstrap_interval(
    values: Sequence[float], subjects: Sequence[str], seed: int = 0, samples: int = BOOTSTRAP_SAMPLES
) -> tuple[float, float]:
    """The 95 % interval of a mean over cases.

    Args:
        values: one a case, finite.
        subjects: the subject of each case.
        seed: of the drawing.
        samples: how many.

    Returns:
        Low and high; NaN for one subject alone.

    >>> bootstrap_interval([0.5, 0.5, 0.5], ["a", "b", "c"])
    (0.5, 0.5)
    """
    drawn, index = draw_subjects(subjects, samples, seed)
    if not len(drawn):
        return math.nan, math.nan
    sums = np.bincount(index, weights=np.asarray(values, dtype=float))
    means = drawn @ sums / (drawn @ np.bincount(index))
    low, high = np.percentile(means, INTERVAL)
    return float(low), float(high)


def interval_of(samples: np.ndarray) -> list[float | None]:
    """The 95 % interval of a score from its value in each sample; undefined ones (NaN) are left out.

    >>> interval_of(np.array([1.0, 1.0, np.nan])), interval_of(np.array([np.nan]))
    ([1.0, 1.0], [None, None])
    """
    defined = samples[np.isfinite(samples)]
    return [number(value) for value in np.percentile(defined, INTERVAL)] if len(defined) else [None, None]


def number(value: float) -> float | None:
    """A number as JSON may have it: six decimals, None for NaN.

    >>> number(2 / 3), number(float("nan"))
    (0.666667, None)
    """
    return round(float(value), 6) if math.isfinite(value) else None


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A division of counts; NaN where it divides by zero.

    >>> ratio(np.array([1, 0]), np.array([2, 0])).tolist()
    [0.5, nan]
    """
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=np.asarray(below) > 0)
