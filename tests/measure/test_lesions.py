"""Lesions, counted by hand in rows of voxels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from neurobundle.errors import SettingError
from neurobundle.measure.lesions import LesionRule, _components, score_lesions

WORST = 99.0


def line(text: str) -> np.ndarray:
    """``"##..#"`` as a mask in the middle of a volume."""
    mask = np.zeros((3, 3, len(text)), bool)
    mask[1, 1] = [letter == "#" for letter in text]
    return mask


def test_one_found_one_missed_one_false() -> None:
    scores = score_lesions(line("##......#...#"), line("##...##.....#"), (1, 1, 1), WORST)
    assert (scores.n_lesions, scores.n_missed, scores.n_false) == (3, 1, 1)
    assert scores.dice == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert scores.hd95_mm == pytest.approx((0 + 0 + WORST + WORST) / 4)


def test_parts_of_a_prediction_belong_together_where_they_meet_one_lesion() -> None:
    """A lesion of five voxels, of which a hole is left: two parts, no false one."""
    scores = score_lesions(line(".##.##."), line(".#####."), (1, 1, 1), WORST)
    assert (scores.n_lesions, scores.n_missed, scores.n_false) == (1, 0, 0)
    assert scores.dice == pytest.approx(8 / 9)


def test_a_part_over_two_lesions_counts_for_both() -> None:
    scores = score_lesions(line("#####"), line("##.##"), (1, 1, 1), WORST)
    assert (scores.n_lesions, scores.n_missed, scores.n_false) == (2, 0, 0)
    assert scores.dice == pytest.approx(4 / 7)


def test_a_dilation_joins_neighbours_and_forgives_a_near_miss() -> None:
    truth, found = line("#...#.....#"), line("#.......#..")
    apart = score_lesions(found, truth, (1, 1, 1), WORST)
    assert (apart.n_lesions, apart.n_missed, apart.n_false) == (3, 2, 1)
    joined = score_lesions(found, truth, (1, 1, 1), WORST, LesionRule(dilation=2))
    assert (joined.n_lesions, joined.n_missed, joined.n_false) == (2, 0, 0)
    assert joined.dice == pytest.approx((2 / 3 + 0) / 2)


def test_a_small_lesion_is_ignored_with_what_is_predicted_for_it() -> None:
    """2 x 1 x 1 mm voxels: one voxel is .002 ml, two are .004."""
    truth, found = line("#...##"), line("#.....")
    scores = score_lesions(found, truth, (2, 1, 1), WORST, LesionRule(ignored_ml=0.002))
    assert (scores.n_lesions, scores.n_missed, scores.n_false) == (1, 1, 0)
    assert scores.dice == 0


def test_a_false_one_counts_whatever_its_size() -> None:
    scores = score_lesions(line("#....."), line("......"), (1, 1, 1), WORST, LesionRule(ignored_ml=1))
    assert scores == (0, 0, 1, 0, WORST)


def test_corners_hang_together() -> None:
    truth = np.zeros((4, 4, 4), bool)
    truth[1, 1, 1] = truth[2, 2, 2] = True
    assert score_lesions(truth, truth, (1, 1, 1), WORST).n_lesions == 1
    assert score_lesions(truth[1:3].any(axis=0), truth[1:3].any(axis=0), (1, 1), WORST).n_lesions == 1


@given(st.integers(0, 2**20), st.sampled_from([2, 3]), st.sampled_from([0.05, 0.2, 0.5]))
def test_components_are_those_of_scipy(seed: int, ndim: int, share: float) -> None:
    """On thin volumes and on slices too, where cc3d by itself is wrong."""
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 9, ndim)) < share
    ours = _components(mask)
    theirs, n = ndimage.label(mask, np.ones((3,) * ndim))
    assert ours.shape == mask.shape
    assert ours.max(initial=0) == n
    assert len(np.unique(np.stack([ours[mask], theirs[mask]]), axis=1).T) == n, "the same parts under other numbers"


def test_two_voxels_with_one_between() -> None:
    """What made cc3d 4.1.1 raise a RuntimeError."""
    mask = np.array([[[True], [False], [True]]])
    assert score_lesions(mask, mask, (1, 1, 1), WORST).n_lesions == 2


def test_a_dilation_beyond_the_image_joins_all() -> None:
    assert score_lesions(line("#....#"), line("#....#"), (1, 1, 1), WORST, LesionRule(dilation=600)).n_lesions == 1


def test_nothing_is_no_score() -> None:
    scores = score_lesions(line("..."), line("..."), (1, 1, 1), WORST)
    assert scores[:3] == (0, 0, 0)
    assert math.isnan(scores.dice)
    assert math.isnan(scores.hd95_mm)


def test_a_rule_below_zero_is_refused() -> None:
    for bad in ({"dilation": -1}, {"ignored_ml": -0.1}, {"ignored_ml": math.nan}):
        with pytest.raises(SettingError, match="ignored up to"):
            LesionRule(**bad)


@given(st.integers(0, 2**20), st.integers(0, 2))
def test_one_lesion_more_that_is_missed_never_helps(seed: int, dilation: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random((6, 6, 12)) < 0.1
    truth[0, 0, 0] = True
    before = score_lesions(truth, truth, (1, 1, 1), WORST, LesionRule(dilation))
    assert (before.dice, before.hd95_mm, before.n_missed, before.n_false) == (1, 0, 0, 0)
    wide = np.pad(truth, ((0, 0), (0, 0), (0, 12)))
    more = wide.copy()
    more[3, 3, 20] = True
    for found, there in ((wide, more), (more, wide)):
        after = score_lesions(found, there, (1, 1, 1), WORST, LesionRule(dilation))
        assert after.dice < 1
        assert after.hd95_mm > 0
        assert after.n_missed + after.n_false == 1
