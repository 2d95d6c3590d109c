"""How much two label maps have in common: one count over the voxels, and every overlap score from it.

The *joint counts* of two label maps say how many voxels have value a in the reference and value b in the prediction.
Dice, IoU, sensitivity, precision and volumes of any structure, and the confusion matrix, are sums over that table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from neurobundle.measure.regions import foreground_box, translate

Array: TypeAlias = npt.NDArray[Any]

#: Label values below this are counted as they are; larger ones are looked up first.
_MOST_COUNTED = 256


class Overlap(NamedTuple):
    """Voxels of one structure: in both masks, in the prediction only, in the reference only."""

    true_positive: int
    false_positive: int
    false_negative: int

    @property
    def predicted(self) -> int:
        """Voxels in the prediction."""
        return self.true_positive + self.false_positive

    @property
    def present(self) -> int:
        """Voxels in the reference."""
        return self.true_positive + self.false_negative

    @property
    def dice(self) -> float:
        """Twice the overlap over the sum of both; NaN if both are empty.

        >>> Overlap(1, 1, 0).dice == 2 / 3
        True
        """
        return _share(2 * self.true_positive, self.predicted + self.present)

    @property
    def iou(self) -> float:
        """Intersection over union; NaN if both are empty."""
        return _share(self.true_positive, self.true_positive + self.false_positive + self.false_negative)

    @property
    def sensitivity(self) -> float:
        """The share of the reference that was found; 0 where there is nothing to find, NaN if both are empty."""
        return _share(self.true_positive, self.present) if self.present or not self.predicted else 0.0

    @property
    def precision(self) -> float:
        """The share of the prediction that is right; 0 where nothing was predicted, NaN if both are empty."""
        return _share(self.true_positive, self.predicted) if self.predicted or not self.present else 0.0


def joint_counts(prediction: Array, reference: Array, values: Sequence[int]) -> npt.NDArray[np.int64]:
    """Voxels by their value in both label maps.

    Args:
        prediction: whole numbers.
        reference: of the same shape.
        values: which label values to tell apart; 0 and all others are one class, the first.

    Returns:
        ``(1 + n, 1 + n)``; rows are the reference's values, columns the prediction's.

    >>> joint_counts(np.array([0, 1, 1]), np.array([0, 0, 1]), [1])
    array([[1, 1],
           [0, 1]])
    """
    counts = np.zeros((1 + len(values),) * 2, np.int64)
    box = foreground_box(prediction, reference)
    if box is not None:
        first, second = prediction[box], reference[box]
        if min(first.min(), second.min()) < 0 or max(first.max(), second.max()) >= _MOST_COUNTED:
            places = {value: n for n, value in enumerate(values, start=1)}
            first, second = (translate(labels, places, np.uint32) for labels in (first, second))
            counts += _table(first, second, len(counts))
        else:
            raw = _table(first, second, 1 + int(max(first.max(), second.max())))
            kept = [value for value in values if value < len(raw)]
            at = [0, *(1 + list(values).index(value) for value in kept)]
            others = np.setdiff1d(np.arange(len(raw)), kept)
            # Rows and columns of all other values are joined into the first.
            folded = np.vstack([raw[others].sum(axis=0), raw[kept]])
            counts[np.ix_(at, at)] = np.hstack([folded[:, others].sum(axis=1, keepdims=True), folded[:, kept]])
    counts[0, 0] += reference.size - counts.sum()
    return counts


def _table(first: Array, second: Array, size: int) -> npt.NDArray[np.int64]:
    """Voxels by (second, first), both below ``size``; counted in the smallest type that holds a pair."""
    small = np.min_scalar_type(size * size - 1)
    pairs = second.astype(small, copy=False) * small.type(size) + first.astype(small, copy=False)
    return np.bincount(pairs.ravel(order="K"), minlength=size * size).reshape(size, size)


def overlap_of(counts: npt.NDArray[np.int64], values: Sequence[int], structure: Sequence[int]) -> Overlap:
    """One structure's overlap from the joint counts.

    Args:
        counts: of :func:`joint_counts`.
        values: the values that it told apart.
        structure: the structure's own values, each among them.

    >>> overlap_of(np.array([[1, 1], [0, 1]]), [1], [1])
    Overlap(true_positive=1, false_positive=1, false_negative=0)
    """
    inside = [1 + list(values).index(value) for value in structure]
    both = int(counts[np.ix_(inside, inside)].sum())
    return Overlap(both, int(counts[:, inside].sum()) - both, int(counts[inside].sum()) - both)


def dice(prediction: Array, reference: Array) -> float:
    """Twice the overlap over the sum of two masks; NaN if both are empty.

    >>> dice(np.array([True, True, False]), np.array([False, True, False]))
    0.6666666666666666
    """
    both = np.count_nonzero(prediction & reference)
    return _share(2 * int(both), int(np.count_nonzero(prediction) + np.count_nonzero(reference)))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
