import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurobundle.measure.segmentation import diagonal_mm, failed_case, score_case, score_structure

SHAPE = (9, 9, 9)


def voxel(*places: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for place in places:
        mask[place] = True
    return mask


def test_two_voxels_two_steps_apart() -> None:
    score = score_structure(voxel((1, 1, 1)), voxel((1, 1, 3)), spacing_mm=(1, 1, 2), tolerance_mm=1)
    assert (score.dice, score.hd95_mm, score.nsd, score.status) == (0, 4, 0, "ok")


def test_half_an_overlap() -> None:
    score = score_structure(voxel((1, 1, 1), (1, 1, 2)), voxel((1, 1, 2), (1, 1, 3)), (1, 1, 1), tolerance_mm=1)
    assert (score.dice, score.nsd) == (0.5, 1)
    assert score.volume_ml == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("found", "there", "status"), [(False, True, "missed"), (True, False, "false")], ids=["missed", "false"]
)
def test_a_miss_and_a_false_alarm_get_the_worst(found: bool, there: bool, status: str) -> None:
    one, none = voxel((4, 4, 4)), voxel()
    score = score_structure(one if found else none, one if there else none, (1, 1, 3), tolerance_mm=1)
    assert (score.dice, score.nsd, score.status) == (0, 0, status)
    assert score.hd95_mm == diagonal_mm(SHAPE, (1, 1, 3))


def test_both_empty_is_no_score() -> None:
    score = score_structure(voxel(), voxel(), (1, 1, 1), tolerance_mm=1)
    assert score.status == "empty"
    assert math.isnan(score.dice)
    assert math.isnan(score.hd95_mm)


def test_a_failed_case_counts_as_missed() -> None:
    (score,) = failed_case("anna", {1: "lesion"}, worst_mm=15.0)
    assert (score.case, score.structure, score.dice, score.status) == ("anna", "lesion", 0, "failed")


def test_structures_are_scored_by_their_value() -> None:
    prediction, reference = np.zeros(SHAPE, int), np.zeros(SHAPE, int)
    prediction[1:3], reference[1:3], reference[5:7] = 1, 1, 2
    scores = score_case(prediction, reference, {1: "front", 2: "back"}, (1, 1, 1))
    assert [(score.structure, score.status, score.dice) for score in scores] == [
        ("front", "ok", 1),
        ("back", "missed", 0),
    ]


@given(st.tuples(*[st.integers(0, 8)] * 3), st.tuples(*[st.integers(0, 8)] * 3))
def test_distance_of_two_voxels_is_euclidean(a: tuple[int, int, int], b: tuple[int, int, int]) -> None:
    """At every border of the image, and whichever of both is the reference."""
    spacing = (1.0, 0.5, 2.0)
    expected = math.sqrt(sum(((x - y) * s) ** 2 for x, y, s in zip(a, b, spacing, strict=True)))
    for first, second in ((a, b), (b, a)):
        assert score_structure(voxel(first), voxel(second), spacing, 1).hd95_mm == pytest.approx(expected, abs=1e-4)
