"""From a probability to a yes or a no, by a value that was chosen on validation cases and never on test cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from neurobundle.errors import InputError, SettingError, closest
from neurobundle.measure.ranking import last_of_equals

_CRITERIA = ("youden", "f1", "sensitivity=0.95")


@dataclass(frozen=True)
class Threshold:
    """Where a score becomes a yes.

    Attributes:
        value: scores from here on are positive.
        criterion: what it was chosen by.
        n_validation: how many validation cases it was chosen on.
    """

    value: float
    criterion: str
    n_validation: int

    def apply(self, scores: Sequence[float] | np.ndarray) -> np.ndarray:
        """Which scores are positive; NaN is not.

        >>> Threshold(0.5, "youden", 10).apply([0.4, 0.5, 0.6]).tolist()
        [False, True, True]
        """
        return np.asarray(scores, dtype=float) >= self.value

    def to_json(self) -> dict[str, Any]:
        """The threshold as a mapping that ``json`` can write."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Threshold:
        """The threshold that :meth:`to_json` gave.

        Raises:
            SettingError: if a field is missing or is not what it should be.
        """
        try:
            threshold = cls(float(content["value"]), str(content["criterion"]), int(content["n_validation"]))
        except (KeyError, TypeError, ValueError) as error:
            raise SettingError(
                f"a threshold needs value, criterion and n_validation, got {content!r:.120}", "Choose it again."
            ) from error
        if not math.isfinite(threshold.value):
            raise SettingError(f"the threshold's value must be finite, got {threshold.value}", "Choose it again.")
        return threshold


def choose_threshold(
    scores: Sequence[float] | np.ndarray, positive: Sequence[bool] | np.ndarray, criterion: str = "youden"
) -> Threshold:
    """The threshold that does best on validation cases; give it no test case.

    Tried are the scores themselves. Of equally good ones the largest is taken, which calls the fewest cases positive.

    Args:
        scores: (n,) the probability of the positive class, one a validation case.
        positive: (n,) whether the case is positive.
        criterion: ``youden`` (largest sensitivity + specificity - 1; Youden 1950), ``f1`` (largest F1), or
            ``sensitivity=0.95`` (the largest threshold that still finds such a share of the positive cases).

    Raises:
        SettingError: if the criterion is unknown.
        InputError: if there is no case, a score is not finite, or all cases are of one class.

    >>> choose_threshold([0.1, 0.4, 0.6, 0.9], [False, False, True, True]).value
    0.6
    >>> choose_threshold([0.1, 0.4, 0.6, 0.9], [False, True, False, True], "sensitivity=0.5").value
    0.9
    """
    values, yes = _validation_cases(scores, positive)
    order = np.argsort(-values, kind="stable")
    last = last_of_equals(values[order])
    found = np.cumsum(yes[order])[last]
    false = np.cumsum(~yes[order])[last]
    n_positive, n_negative = int(yes.sum()), int((~yes).sum())
    if criterion == "youden":
        # In whole numbers, so that rounding breaks no tie.
        goodness = found * n_negative - false * n_positive
    elif criterion == "f1":
        goodness = 2 * found / (n_positive + found + false)
    else:
        goodness = found / n_positive >= _wanted_sensitivity(criterion)
    return Threshold(float(values[order][last][np.argmax(goodness)]), criterion, len(values))


def _validation_cases(scores: Any, positive: Any) -> tuple[np.ndarray, np.ndarray]:
    values, yes = np.asarray(scores, dtype=float), np.asarray(positive)
    if values.shape != yes.shape or values.ndim != 1:
        raise SettingError(f"there must be an answer for each score, got {yes.shape} for {values.shape}")
    if not len(values):
        raise InputError("a threshold cannot be chosen on no case", "Give it the validation cases.")
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise InputError(
            f"the score of validation case {wrong[0]} (counted from 0) is {values[wrong[0]]}",
            "Leave failed cases out, or give them the score of a wrong answer.",
        )
    if not np.isin(yes, (0, 1)).all():
        raise InputError("whether a validation case is positive must be true or false", "One class against the rest.")
    yes = yes.astype(bool)
    if yes.all() or not yes.any():
        raise InputError(
            f"all {len(yes)} validation cases are {'positive' if yes.all() else 'negative'}",
            "A threshold needs cases of both classes.",
        )
    return values, yes


def _wanted_sensitivity(criterion: str) -> float:
    name, _, text = criterion.partition("=")
    try:
        wanted = float(text)
    except ValueError:
        wanted = math.nan
    if name != "sensitivity" or not 0 < wanted <= 1:
        raise SettingError(
            f"unknown criterion {criterion!r}{closest(criterion, _CRITERIA)}",
            "One of youden, f1, sensitivity=S with S in (0, 1].",
        )
    return wanted
