"""Can a class be told from one trait alone, without a look at what the images show?

A *trait* is a word or a number that says where an image comes from: its file type, its size, the level of its border.
A *one-trait rule* (Holte 1993, Mach Learn 11:63) says of each value of a trait whether it is rather the class's or
rather another's; numbers count by eighths of their order. It is learned on four fifths of the persons and asked of the
others, in turn. Its *balanced accuracy* is the mean of its sensitivity and specificity: 0.5 by chance.

A class is *confounded* with a trait if the lower end of that accuracy's 95 % interval (bootstrap over persons) is
:data:`CONFOUNDED` or more, half-way from chance to certainty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neurobundle.measure.resampling import INTERVAL, draw_subjects

#: The lower end of the interval from which on a trait tells a class; 0.5 is chance and 1 is certain.
CONFOUNDED = 0.75

#: A class of fewer persons can agree with a trait by chance, and is left out.
LEAST_PERSONS = 10

#: Parts that persons are dealt to, and intervals that a number is cut into.
PARTS, INTERVALS = 5, 8

SAMPLES = 1000

Trait = str | float


@dataclass(frozen=True)
class Confound:
    """What a one-trait rule says of a class.

    Attributes:
        label: the class's number.
        trait: its name.
        accuracy: balanced, of persons that the rule was not learned on.
        low: lower end of its 95 % interval.
        high: upper end.
        typical: the most frequent value of a word, or the median of a number, in the class.
        typical_of_others: the same, in all other classes.
    """

    label: int
    trait: str
    accuracy: float
    low: float
    high: float
    typical: Trait
    typical_of_others: Trait

    @property
    def found(self) -> bool:
        """Whether the class can be told from the trait alone."""
        return self.low >= CONFOUNDED


def confounds(
    traits: Mapping[str, Sequence[Trait | None]], labels: Sequence[int], persons: Sequence[str]
) -> tuple[list[Confound], list[int]]:
    """What each trait says of each class, against all others.

    Args:
        traits: by name, (n,) values; None where an image does not have it.
        labels: (n,) the class of each case.
        persons: (n,) whose it is.

    Returns:
        A row a class and trait, the most telling first; and the classes of too few persons. A trait that has one value
        everywhere tells nothing and has no row, and of two classes the second has none: it would repeat the first.
    """
    numbers = np.asarray(labels)
    people = np.asarray(persons)
    present = sorted(set(numbers.tolist()))
    few = [label for label in present if len(set(people[numbers == label])) < LEAST_PERSONS]
    judged = [label for label in present if label not in few]
    keep = np.isin(numbers, judged)
    rows: list[Confound] = []
    if len(judged) < 2:
        return rows, few
    for name, values in traits.items():
        codes = _Codes([values[n] for n in np.flatnonzero(keep).tolist()])
        if codes.constant:
            continue
        for label in judged[:1] if len(judged) == 2 else judged:
            rows.append(_judge(name, codes, numbers[keep] == label, people[keep], label))
    return sorted(rows, key=lambda row: (-row.low, row.trait, row.label)), few


class _Codes:
    """A trait's values: words as they are, numbers by the interval that they lie in."""

    def __init__(self, values: Sequence[Trait | None]) -> None:
        self.values = values
        given = [value for value in values if value is not None]
        self.constant = len(set(given)) < 2 and len(given) == len(values)
        self.is_number = bool(given) and all(isinstance(value, int | float) for value in given)
        filled = [np.nan if value is None else value for value in values]
        self.array = np.array(filled, float) if self.is_number else np.array([str(value) for value in values])

    def split(self, train: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
        """(n,) which value or interval each is in; the intervals are cut by the order of those that train."""
        if not self.is_number:
            return np.unique(self.array, return_inverse=True)[1]
        known = self.array[train & ~np.isnan(self.array)]
        if not len(known):
            return np.zeros(len(self.array), np.intp)
        # A cut between two neighbouring values, so that equal values are never parted and rounding does not matter.
        levels = np.unique(known)
        places = np.unique(np.searchsorted(levels, np.quantile(known, np.arange(1, INTERVALS) / INTERVALS)))
        places = np.unique(np.concatenate([places, places + 1]))
        places = places[(places > 0) & (places < len(levels))]
        codes = np.searchsorted((levels[places - 1] + levels[places]) / 2, self.array)
        return np.where(np.isnan(self.array), len(places) + 1, codes)

    def typical(self, where: npt.NDArray[np.bool_]) -> Trait:
        """The median of numbers, the most frequent of words."""
        if self.is_number:
            there = self.array[where & ~np.isnan(self.array)]
            return round(float(np.median(there)), 4) if len(there) else "none"
        words, counts = np.unique(self.array[where], return_counts=True)
        return str(words[np.argmax(counts)])


def _judge(
    name: str, codes: _Codes, of_class: npt.NDArray[np.bool_], persons: npt.NDArray[np.str_], label: int
) -> Confound:
    """Learn the rule on all parts but one, ask it of that one, and score all answers together."""
    drawn, person = draw_subjects(persons.tolist(), SAMPLES)
    part = np.random.default_rng(0).permutation(drawn.shape[1])[person] % PARTS
    said = np.zeros(len(of_class), bool)
    for held_out in range(PARTS):
        train = part != held_out
        values = codes.split(train)
        said[~train] = _learn(values, of_class, train)[values[~train]]
    cells = [said & of_class, of_class, ~said & ~of_class, ~of_class]
    counts = [np.bincount(person, weights=where, minlength=drawn.shape[1]).astype(float) for where in cells]
    samples = _balanced(*(drawn @ count for count in counts))
    low, high = np.nanpercentile(samples, INTERVAL)
    accuracy = float(_balanced(*(np.array([count.sum()]) for count in counts))[0])
    return Confound(label, name, accuracy, float(low), float(high), codes.typical(of_class), codes.typical(~of_class))


def _learn(
    values: npt.NDArray[np.intp], of_class: npt.NDArray[np.bool_], train: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """For each value whether it has a larger share of the class than of the others; unknown values are the others'."""
    size = int(values.max()) + 1
    ours, others = (np.bincount(values[train & where], minlength=size) for where in (of_class, ~of_class))
    return ours / max(ours.sum(), 1) > others / max(others.sum(), 1)


def _balanced(
    hits: npt.NDArray[np.float64],
    positives: npt.NDArray[np.float64],
    rejections: npt.NDArray[np.float64],
    negatives: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Mean of sensitivity and specificity; NaN where one of them is of nobody."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (hits / positives + rejections / negatives) / 2
