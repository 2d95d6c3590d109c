"""From scores per case to a mean with its interval, by structure.

The *interval* is by bootstrap over subjects (:mod:`neurobundle.measure.resampling`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neurobundle.measure.resampling import bootstrap_interval, number
from neurobundle.measure.segmentation import DISTANCES, LESION_COUNTS, SHARES, Score
from neurobundle.measure.tables import more_columns

#: Variances below this share of the squared mean are rounding.
ROUNDING = 1e-12

#: What a structure may be in a case, besides ``ok``.
STATUSES = ("empty", "missed", "false", "failed")


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
    # What rounding leaves of equal volumes is no spread.
    return float((rows - error) / total) if total > ROUNDING * grand**2 else math.nan


def summarise(scores: Sequence[Score], subjects: Mapping[str, str]) -> dict[str, Any]:
    """Means with intervals for each structure, and how many were empty, missed, false or failed.

    Args:
        scores: of all cases and structures.
        subjects: the subject of each case; a case that is not in it is its own subject.

    Returns:
        ``{"n_cases", "n_failed", "n_empty", "n_missed", "n_false", "structures": {name: {...}}}``, ready for JSON; the
        first two count cases, the others structures in cases; a blank is null.
    """
    names = list(dict.fromkeys(score.structure for score in scores))
    return {
        "n_cases": len({score.case for score in scores}),
        "n_failed": len({score.case for score in scores if score.status == "failed"}),
        **{f"n_{status}": _count(scores, status) for status in STATUSES if status != "failed"},
        "structures": {name: _summarise_one([s for s in scores if s.structure == name], subjects) for name in names},
    }


def mean_with_interval(values: Sequence[float], subjects: Sequence[str]) -> dict[str, Any]:
    """The mean of the finite values with its interval, and their median.

    Args:
        values: one a case; those that are not finite are left out.
        subjects: the subject of each.

    Returns:
        ``{"mean", "median", "interval": [low, high]}``; null where there is no value.
    """
    pairs = [pair for pair in zip(values, subjects, strict=True) if math.isfinite(pair[0])]
    if not pairs:
        return {"mean": None, "median": None, "interval": [None, None]}
    finite = [float(value) for value, _ in pairs]
    low, high = bootstrap_interval(finite, [who for _, who in pairs])
    return {
        "mean": number(float(np.mean(finite))),
        "median": number(float(np.median(finite))),
        "interval": [number(low), number(high)],
    }


def _summarise_one(scores: Sequence[Score], subjects: Mapping[str, str]) -> dict[str, Any]:
    counted = [score for score in scores if score.status != "empty"]
    who = [subjects.get(score.case, score.case) for score in counted]
    tolerances, lesions = more_columns(scores)

    def mean(name: str) -> dict[str, Any]:
        return mean_with_interval([score.value(name) for score in counted], who)

    result: dict[str, Any] = {
        "n_scored": len(counted),
        **{f"n_{status}": _count(scores, status) for status in STATUSES},
    }
    result |= {name: mean(name) for name in (*SHARES, *tolerances, *DISTANCES)}
    result["volume"] = _volumes(counted)
    if lesions:
        # A case may have no lesion that counts: its lesion scores are blank, and in no mean.
        counts = {name: int(np.nansum([score.value(name) for score in counted] or [0])) for name in LESION_COUNTS}
        result["lesions"] = {**counts, **{name: mean(name) for name in lesions if name not in LESION_COUNTS}}
    return result


def _volumes(scores: Sequence[Score]) -> dict[str, Any]:
    """Of the cases whose reference is known; a failed one found nothing."""
    scores = [score for score in scores if math.isfinite(score.reference_ml)]
    if not scores:
        return {"n": 0, **dict.fromkeys(("bias_ml", "bias_percent", "mean_absolute_error_ml", "icc"))}
    found = np.array([0.0 if score.status == "failed" else score.volume_ml for score in scores])
    there = np.array([score.reference_ml for score in scores])
    bias = float((found - there).mean())
    return {
        "n": len(scores),
        "bias_ml": number(bias),
        "bias_percent": number(100 * bias / there.mean() if there.mean() > 0 else math.nan),
        "mean_absolute_error_ml": number(float(np.abs(found - there).mean())),
        "icc": number(intraclass_correlation(list(found), list(there))),
    }


def _count(scores: Sequence[Score], status: str) -> int:
    return sum(score.status == status for score in scores)
