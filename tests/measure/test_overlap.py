"""Overlap: counted by hand, and MONAI as the oracle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import compute_dice, compute_iou

from neurobundle.measure.overlap import Overlap, joint_counts, overlap_of


def test_by_hand() -> None:
    """Three found, two there, one in both."""
    overlap = Overlap(1, 2, 1)
    assert (overlap.predicted, overlap.present) == (3, 2)
    assert overlap.dice == pytest.approx(2 / 5)
    assert overlap.iou == pytest.approx(1 / 4)
    assert overlap.sensitivity == pytest.approx(1 / 2)
    assert overlap.precision == pytest.approx(1 / 3)


def test_a_miss_and_a_false_alarm_are_zero_in_every_score() -> None:
    """Also where the fraction is not defined: nothing to find, or nothing predicted."""
    for overlap in (Overlap(0, 0, 3), Overlap(0, 3, 0)):
        assert [overlap.dice, overlap.iou, overlap.sensitivity, overlap.precision] == [0, 0, 0, 0]


def test_nothing_in_both_is_no_score() -> None:
    nothing = Overlap(0, 0, 0)
    scores = (nothing.dice, nothing.iou, nothing.sensitivity, nothing.precision)
    assert all(math.isnan(value) for value in scores)


def test_rows_are_the_reference() -> None:
    counts = joint_counts(np.array([0, 1, 1, 2, 9]), np.array([0, 1, 2, 2, 0]), [1, 2])
    assert counts.tolist() == [[2, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_outside_the_box_counts_as_background() -> None:
    prediction, reference = np.zeros((2, 50, 50), int)
    prediction[20, 20] = reference[20, 21] = 1
    assert joint_counts(prediction, reference, [1]).tolist() == [[2498, 1], [1, 0]]


@given(
    st.integers(0, 2**20),
    st.sampled_from([np.uint8, np.int16, np.int64]),
    st.sampled_from([1, 40, 100, 9000, 70_000]),
)
def test_large_label_values_count_like_small_ones(seed: int, dtype: Any, factor: int) -> None:
    rng = np.random.default_rng(seed)
    small = [rng.integers(0, 4, (5, 6, 7)) for _ in range(2)]
    if 3 * factor > np.iinfo(dtype).max:
        factor = 1
    large = [labels.astype(dtype) * dtype(factor) for labels in small]
    values = [1, 3]
    expected = joint_counts(*small, values)
    assert joint_counts(*large, [value * factor for value in values]).tolist() == expected.tolist()
    assert expected.sum() == 5 * 6 * 7


@given(st.integers(0, 2**20))
def test_monai_gives_the_same(seed: int) -> None:
    """For regions that overlap, wherever MONAI gives a number."""
    rng = np.random.default_rng(seed)
    prediction, reference = (rng.integers(0, 4, (6, 5, 4)).astype(np.uint8) for _ in range(2))
    regions = [(1, 2, 3), (1, 3), (3,)]
    counts = joint_counts(prediction, reference, [1, 2, 3])
    ours = [overlap_of(counts, [1, 2, 3], region) for region in regions]
    first, second = (
        torch.from_numpy(np.stack([np.isin(labels, region) for region in regions]))[None].float()
        for labels in (prediction, reference)
    )
    assert compute_dice(first, second)[0].tolist() == pytest.approx([overlap.dice for overlap in ours])
    assert compute_iou(first, second)[0].tolist() == pytest.approx([overlap.iou for overlap in ours])
