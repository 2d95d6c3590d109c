"""From scores per case to a mean with its interval, by structure.

The *interval* is the 2.5th to 97.5th percentile of the mean over bootstrap samples of subjects: whoever has two
scans is drawn with both, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neurobundle.measure.segmentation import Score

BOOTSTRAP_SAMPLES = 2000
INTERVAL = (2.5, 97.5)


def bootstrap_interval(
    values: Sequence[float], subjects: Sequence[str], seed: int = 0, samples: int = BOOTSTRAP_SAMPLES
) -> tuple[float, float]:
    """The 95 % interval of a mean, by resampling subjects.

    Args:
        values: one a case, finite.
        subjects: the subject of each case.
        seed: of the resampling.
        samples: how many.

    >>> bootstrap_interval([0.5, 0.5, 0.5], ["a", "b", "c"])
    (0.5, 0.5)
    """
    _, index = np.unique(np.asarray(subjects), return_inverse=True)
    sums = np.bincount(index, weights=np.asarray(values, dtype=float))
    counts = np.bincount(index)
    drawn = np.random.default_rng(seed).integers(len(counts), size=(samples, len(counts)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, INTERVAL)
    return float(low), float(high)


def intraclass_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """ICC(2,1): absolute agreement of two single measurements of the same cases (Shrout & Fleiss 1979).

    Args:
        first: one measurement a case.
        second: the other measurement of the same cases.

    Returns:
        1 for perfect agreement; NaN for fewer than two cases or no spread at all.

    >>> intraclass_correlation([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    1.0
    >>> round(intraclass_correlation([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]), 3)
    0.667
    """
    table = np.stack([np.asarray(first, dtype=float), np.asarray(second, dtype=float)], axis=1)
    n, k = table.shape
    if n < 2:
        return math.nan
    grand = table.mean()
    rows = k * ((table.mean(axis=1) - grand) ** 2).sum() / (n - 1)
    columns = n * ((table.mean(axis=0) - grand) ** 2).sum() / (k - 1)
    residual = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + grand
    error = (residual**2).sum() / ((n - 1) * (k - 1))
    total = rows + (k - 1) * error + k * (columns - error) / n
    return float((rows - error) / total) if total > 0 else math.nan


def summarise(scores: Sequence[Score], subjects: Mapping[str, str]) -> dict[str, Any]:
    """Means with intervals for each structure, and how many were empty, missed or false.

    Args:
        scores: of all cases and structures.
        subjects: the subject of each case; a case that is not in it is its own subject.

    Returns:
        ``{"n_cases": int, "structures": {name: {...}}}``, ready for JSON; a blank is null.
    """
    names = list(dict.fromkeys(score.structure for score in scores))
    return {
        "n_cases": len({score.case for score in scores}),
        "structures": {name: _summarise_one([s for s in scores if s.structure == name], subjects) for name in names},
    }


def _summarise_one(scores: Sequence[Score], subjects: Mapping[str, str]) -> dict[str, Any]:
    counted = [score for score in scores if score.status != "empty"]
    who = [subjects.get(score.case, score.case) for score in counted]
    result: dict[str, Any] = {
        f"n_{status}": _count(scores, status) for status in ("empty", "missed", "false", "failed")
    }
    for metric in ("dice", "hd95_mm", "nsd"):
        pairs = [(float(getattr(score, metric)), name) for score, name in zip(counted, who, strict=True)]
        pairs = [pair for pair in pairs if math.isfinite(pair[0])]
        values = [value for value, _ in pairs]
        low, high = bootstrap_interval(values, [name for _, name in pairs]) if values else (math.nan, math.nan)
        result[metric] = {
            "mean": _number(float(np.mean(values)) if values else math.nan),
            "median": _number(float(np.median(values)) if values else math.nan),
            "interval": [_number(low), _number(high)],
        }
    result["volume"] = _volumes([score for score in scores if score.status != "failed"])
    return result


def _volumes(scores: Sequence[Score]) -> dict[str, Any]:
    if not scores:
        return {"bias_ml": None, "bias_percent": None, "icc": None}
    found = np.array([score.volume_ml for score in scores])
    there = np.array([score.reference_ml for score in scores])
    bias = float((found - there).mean())
    return {
        "bias_ml": _number(bias),
        "bias_percent": _number(100 * bias / there.mean() if there.mean() > 0 else math.nan),
        "icc": _number(intraclass_correlation(list(found), list(there))),
    }


def _count(scores: Sequence[Score], status: str) -> int:
    return sum(score.status == status for score in scores)


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None
