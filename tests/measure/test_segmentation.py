"""One case: each status, its policy, and which number stands where."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurobundle.errors import InputError, SettingError
from neurobundle.measure.lesions import LesionRule
from neurobundle.measure.segmentation import (
    DISTANCES,
    LESION_COUNTS,
    SHARES,
    Score,
    diagonal_mm,
    failed_case,
    score_case,
)
from neurobundle.measure.summary import summarise

SHAPE = (9, 9, 9)


def voxels(*places: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    for place in places:
        mask[place] = 1
    return mask


def score(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...] = (1, 1, 1), **more: object
) -> Score:
    (found,) = score_case(prediction, reference, {1: "lesion"}, spacing, **more)  # type: ignore[arg-type]
    return found


def test_two_voxels_two_steps_apart() -> None:
    found = score(voxels((1, 1, 1)), voxels((1, 1, 3)), (1, 1, 2))
    assert (found.dice, found.hd95_mm, found.hd_mm, found.assd_mm, found.nsd, found.status) == (0, 4, 4, 4, 0, "ok")


def test_half_an_overlap() -> None:
    found = score(voxels((1, 1, 1), (1, 1, 2)), voxels((1, 1, 2), (1, 1, 3)))
    assert (found.dice, found.sensitivity, found.precision, found.nsd) == (0.5, 0.5, 0.5, 1)
    assert found.iou == pytest.approx(1 / 3)
    assert found.volume_ml == found.reference_ml == pytest.approx(0.002)
    assert found.volume_error_ml == 0


def test_further_tolerances_have_columns() -> None:
    found = score(voxels((1, 1, 1)), voxels((1, 1, 3)), tolerances_mm=(1, 2, 0.5))
    assert (found.nsd, found.more) == (0, {"nsd_2mm": 1.0, "nsd_0.5mm": 0.0})
    assert found.value("nsd_2mm") == 1


@pytest.mark.parametrize(
    ("found", "there", "status"), [(False, True, "missed"), (True, False, "false")], ids=["missed", "false"]
)
def test_a_miss_and_a_false_alarm_get_the_worst(found: bool, there: bool, status: str) -> None:
    one, none = voxels((4, 4, 4)), voxels()
    worst = score(one if found else none, one if there else none, (1, 1, 3), tolerances_mm=(1, 2), lesions=LesionRule())
    assert worst.status == status
    assert {worst.value(name) for name in (*SHARES, "nsd_2mm", "lesion_dice")} == {0}
    assert {worst.value(name) for name in (*DISTANCES, "lesion_hd95_mm")} == {diagonal_mm(SHAPE, (1, 1, 3))}


def test_both_empty_is_no_score() -> None:
    empty = score(voxels(), voxels(), tolerances_mm=(1, 2), lesions=LesionRule())
    assert empty.status == "empty"
    assert all(math.isnan(empty.value(name)) for name in (*SHARES, *DISTANCES, "nsd_2mm", "lesion_dice"))
    assert (empty.volume_ml, empty.reference_ml) == (0, 0)


def test_structures_are_scored_by_their_value() -> None:
    prediction, reference = np.zeros(SHAPE, int), np.zeros(SHAPE, int)
    prediction[1:3], reference[1:3], reference[5:7] = 1, 1, 2
    scores = score_case(prediction, reference, {1: "front", 2: "back"}, (1, 1, 1))
    assert [(one.structure, one.status, one.dice) for one in scores] == [("front", "ok", 1), ("back", "missed", 0)]


def test_regions_overlap() -> None:
    """Core found as oedema: the whole is right, the core is missed."""
    prediction, reference = np.zeros(SHAPE, int), np.zeros(SHAPE, int)
    prediction[2:5, 2:5, 2:5] = reference[2:5, 2:5, 2:5] = 2
    reference[3, 3, 3] = 3
    whole, core = score_case(prediction, reference, {"WT": [1, 2, 3], "ET": 3}, (1, 1, 1))
    assert (whole.dice, core.dice, core.status) == (1, 0, "missed")


def test_many_structures_are_scored_in_lots() -> None:
    labels = np.arange(9**3).reshape(SHAPE) % 21
    scores = score_case(labels, labels, {n: str(n) for n in range(1, 21)}, (1, 1, 1))
    assert [one.structure for one in scores] == [str(n) for n in range(1, 21)]
    assert {(one.dice, one.hd95_mm, one.nsd) for one in scores} == {(1, 0, 1)}


def test_a_failed_case_counts_as_missed() -> None:
    (failed,) = failed_case("anna", {1: "lesion"}, 15.0, (1, 2), LesionRule(), voxels((4, 4, 4)), (1, 1, 3))
    assert (failed.case, failed.structure, failed.status) == ("anna", "lesion", "failed")
    assert {failed.value(name) for name in (*SHARES, "nsd_2mm", "lesion_dice")} == {0}
    assert {failed.value(name) for name in (*DISTANCES, "lesion_hd95_mm")} == {15}
    assert math.isnan(failed.volume_error_ml)
    assert failed.reference_ml == pytest.approx(0.003)
    assert [failed.more[name] for name in LESION_COUNTS] == [1, 1, 0]


def test_a_failed_case_whose_reference_is_unknown_too() -> None:
    (failed,) = failed_case("anna", {1: "lesion"}, 15.0, lesions=LesionRule())
    assert (failed.dice, failed.hd95_mm) == (0, 15)
    assert all(math.isnan(failed.value(name)) for name in ("reference_ml", *LESION_COUNTS))


def test_whole_floats_are_label_maps() -> None:
    one = voxels((1, 1, 1))
    assert score(one.astype(np.float32), one.astype(np.float64)).dice == 1


@pytest.mark.parametrize(
    ("prediction", "says"),
    [(np.zeros((9, 9, 8)), r"\(9, 9, 8\) and the reference \(9, 9, 9\)"), (np.full(SHAPE, 0.5), "no label map")],
    ids=["shape", "half"],
)
def test_what_cannot_be_scored_is_refused(prediction: np.ndarray, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        score_case(prediction, voxels(), {1: "lesion"}, (1, 1, 1), case="anna")
    assert error.value.way_out


@pytest.mark.parametrize("bad", [(), (1, 1), (-1,), (math.nan,)], ids=["none", "twice", "negative", "nan"])
def test_tolerances_that_mean_nothing_are_refused(bad: tuple[float, ...]) -> None:
    with pytest.raises(SettingError, match="tolerance"):
        score_case(voxels(), voxels(), {1: "lesion"}, (1, 1, 1), bad)


@given(st.tuples(*[st.integers(0, 8)] * 3), st.tuples(*[st.integers(0, 8)] * 3))
def test_distance_of_two_voxels_is_euclidean(a: tuple[int, int, int], b: tuple[int, int, int]) -> None:
    """At every border of the image, and whichever of both is the reference."""
    spacing = (1.0, 0.5, 2.0)
    expected = math.sqrt(sum(((x - y) * s) ** 2 for x, y, s in zip(a, b, spacing, strict=True)))
    for first, second in ((a, b), (b, a)):
        assert score(voxels(first), voxels(second), spacing).hd95_mm == pytest.approx(expected, abs=1e-4)


# --- a miss can never raise a score ----------------------------------------------------------------------------------


def means(scores: list[Score]) -> dict[str, float]:
    """Every mean that a summary states, turned so that more is better."""
    found = {}
    for name, values in summarise(scores, {})["structures"].items():
        for key, value in {**values, **values.get("lesions", {})}.items():
            if isinstance(value, dict) and "interval" in value and value["mean"] is not None:
                found[f"{name} {key}"] = -value["mean"] if key.endswith("_mm") else value["mean"]
        volume = values["volume"]
        for key in ("bias_ml", "bias_percent", "mean_absolute_error_ml"):
            if volume[key] is not None:
                found[f"{name} {key}"] = -abs(volume[key])
        if volume["icc"] is not None:
            found[f"{name} icc"] = volume["icc"]
    return found


@st.composite
def perfect_sets(draw: st.DrawFn) -> list[Score]:
    """Perfect predictions of one to four cases; some have a structure that is empty."""
    scores = []
    for number in range(draw(st.integers(1, 4))):
        labels = np.zeros((6, 7, 8), int)
        for value in (1, 2):
            i, j, k = (draw(st.integers(0, n - 3)) for n in labels.shape)
            if draw(st.booleans()):
                labels[i : i + 2, j : j + 2, k : k + 2] = value
        scores += case(f"case{number}", labels, labels)
    return scores


def case(name: str, prediction: np.ndarray, reference: np.ndarray) -> list[Score]:
    named = {1: "front", 2: "back"}
    return score_case(prediction, reference, named, (1, 1, 3), (1, 2), name, LesionRule())


@given(perfect_sets(), st.sampled_from(["missed", "false", "failed"]), st.sampled_from([1, 2]), st.integers(1, 3))
def test_a_miss_never_raises_a_score(perfect: list[Score], status: str, value: int, size: int) -> None:
    """And a case more never comes without a score that falls."""
    nothing = np.zeros((6, 7, 8), int)
    there = nothing.copy()
    there[1 : 1 + size, 2:4, 3:5] = value
    if status == "failed":
        more = failed_case("new", {1: "front", 2: "back"}, 40.0, (1, 2), LesionRule(), there, (1, 1, 3))
    else:
        more = case("new", *((nothing, there) if status == "missed" else (there, nothing)))
    before, after = means(perfect), means([*perfect, *more])
    fallen = [key for key in before if after[key] < before[key] - 1e-9]
    assert [key for key in before if after[key] > before[key] + 1e-9] == []
    structure = "front" if value == 1 else "back"
    assert any(key.startswith(structure) for key in fallen) or f"{structure} dice" not in before
    assert after[f"{structure} dice"] < 1


@given(perfect_sets(), st.sampled_from([1, 2]), st.data())
def test_a_miss_inside_a_case_never_raises_a_score(perfect: list[Score], value: int, data: st.DataObject) -> None:
    """The same structure taken out of, or put into, one of the predictions of the set."""
    structure = "front" if value == 1 else "back"
    places = [n for n, one in enumerate(perfect) if one.structure == structure]
    at = data.draw(st.sampled_from(places))
    there, nothing = np.zeros((6, 7, 8), int), np.zeros((6, 7, 8), int)
    there[1:3, 2:4, 3:5] = value
    pair = (there, nothing) if perfect[at].status == "empty" else (nothing, there)
    (worse,) = (one for one in case(perfect[at].case, *pair) if one.structure == structure)
    changed = [*perfect[:at], worse, *perfect[at + 1 :]]
    before, after = means(perfect), means(changed)
    assert [key for key in before if after[key] > before[key] + 1e-9] == []
    assert after[f"{structure} dice"] < 1
