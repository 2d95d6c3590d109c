"""Which rows are paired, what a blank counts as, and who is called better."""

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurobundle.errors import InputError, NoInputError
from neurobundle.load.answers import Row
from neurobundle.measure.comparison import VOLUME, Comparison, ComparisonRow, compare_answers, compare_scores
from neurobundle.measure.segmentation import DISTANCES, SHARES, Score, failed_case, score_case

DIAGONAL = 100.0
METRICS = [*SHARES, *DISTANCES, VOLUME, "found"]


def score(case: str, dice: float, status: str = "ok", structure: str = "lesion", **other: Any) -> Score:
    """Every share is the Dice, every distance and the volume follow from it; the reference has 2 ml."""
    values = dict.fromkeys(SHARES, dice) | dict.fromkeys(DISTANCES, DIAGONAL * (1 - dice))
    values |= {"reference_ml": 2.0, "volume_ml": 1 + dice} | other
    return Score(case, structure, status=status, **values)


def empty(case: str) -> Score:
    return score(case, math.nan, "empty", volume_ml=0, reference_ml=0)


def false_alarm(case: str, ml: float = 3) -> Score:
    return score(case, 0, "false", volume_ml=ml, reference_ml=0)


def failed(case: str, reference_ml: float = math.nan) -> Score:
    """Of an older table, which has blanks for its distances."""
    blank = dict.fromkeys(DISTANCES, math.nan)
    return score(case, 0, "failed", nsd=math.nan, volume_ml=math.nan, reference_ml=reference_ml, **blank)


def answers(correct: Mapping[str, str], truth: str = "ad") -> list[Row]:
    return [Row(2, {"case": case, "truth": truth, "correct": text}) for case, text in correct.items()]


def row_of(result: Comparison, metric: str, structure: str = "lesion") -> ComparisonRow:
    return next(row for row in result.rows if (row.structure, row.metric) == (structure, metric))


def test_six_cases_that_a_wins() -> None:
    """Six of six for A has p = 2/64; of ten tests Holm leaves the first at 10 times that, so nobody wins yet."""
    result = compare_scores([score(f"c{n}", 0.9 + n / 100) for n in range(6)], [score(f"c{n}", 0.8) for n in range(6)])
    dice = row_of(result, "dice")
    assert (result.task, result.n_cases, dice.n) == ("segmentation", 6, 6)
    assert (dice.mean_a, dice.mean_b) == (pytest.approx(0.925), pytest.approx(0.8))
    assert dice.difference == pytest.approx(0.125)
    assert dice.low < 0.125 < dice.high
    assert (dice.p, dice.effect_size) == (2 / 64, 1)
    assert [row.metric for row in result.rows] == METRICS
    assert dice.p_holm == pytest.approx(10 * 2 / 64)
    assert dice.better == "-"


def test_ten_cases_that_b_wins() -> None:
    """In distances and volumes less is better, and the sign of a volume's error is of no account."""
    a = [score(f"c{n}", 0.5 + n / 100) for n in range(10)]
    b = [score(f"c{n}", 0.9, volume_ml=2.1) for n in range(10)]
    result = compare_scores(a, b)
    assert [row.better for row in result.rows] == [*"B" * 9, "-"]
    assert all(row.effect_size == -1 for row in result.rows[:9])
    assert row_of(result, "hd95_mm").difference > 0
    assert row_of(result, "abs_volume_error_ml").mean_b == pytest.approx(0.1)
    assert row_of(result, "abs_volume_error_ml").mean_a == pytest.approx(0.455)


def test_too_much_and_too_little_do_not_make_up() -> None:
    """B is 1 ml above in one case and 1 ml below in the other: its mean error is 1 ml, and not 0."""
    a = [score("x", 1), score("y", 1)]
    b = [score("x", 1, volume_ml=3), score("y", 1, volume_ml=1)]
    volume = row_of(compare_scores(a, b), VOLUME)
    assert (volume.mean_a, volume.mean_b, volume.effect_size) == (0, 1, 1)


def test_a_run_and_itself() -> None:
    a = [score("x", 0.9), score("y", 0.8), empty("z")]
    result = compare_scores(a, a)
    assert all((row.difference, row.p, row.effect_size, row.better) == (0, 1, 0, "-") for row in result.rows)
    assert (result.n_cases, result.n_empty, len(result.rows)) == (3, 1, 10)


def test_a_and_b_exchanged() -> None:
    """Nothing but the sides changes."""
    a = [score("x", 0.9), empty("y"), failed("z", 2), score("w", 0.5)]
    b = [score("x", 0.7), false_alarm("y"), score("z", 0.4), score("w", 0, "missed", volume_ml=0)]
    one, other = compare_scores(a, b), compare_scores(b, a)
    for row, back in zip(one.rows, other.rows, strict=True):
        assert (row.mean_a, row.mean_b, row.n, row.p) == (back.mean_b, back.mean_a, back.n, pytest.approx(back.p))
        assert row.difference == pytest.approx(-back.difference)


def test_nobody_wins_against_the_mean() -> None:
    """B is a little better in 19 cases and misses one, so the means are for A: no winner is named."""
    a = [score(f"c{n}", 0.8) for n in range(20)]
    b = [score(f"c{n}", 0.81 if n else 0) for n in range(20)]
    dice = row_of(compare_scores(a, b), "dice")
    assert dice.p_holm < 0.05
    assert dice.difference > 0 > dice.effect_size
    assert dice.better == "-"


def test_cases_of_a_subject_are_one_difference() -> None:
    """Six cases of two people: the smallest p of two differences is 1/2, of one there is no interval."""
    a, b = ([score(f"c{n}", dice + n / 100) for n in range(6)] for dice in (0.9, 0.8))
    two = row_of(compare_scores(a, b, {f"c{n}": "anna" if n < 3 else "ben" for n in range(6)}), "dice")
    assert (two.n, two.p) == (6, 0.5)
    one = row_of(compare_scores(a, b, dict.fromkeys([f"c{n}" for n in range(6)], "anna")), "dice")
    assert math.isnan(one.low)
    assert math.isnan(one.high)


def test_a_false_alarm_counts_against_who_gave_it() -> None:
    """The reference is empty: A found nothing and was right, which a blank would hide."""
    result = compare_scores([score("x", 0.8), empty("y")], [score("x", 0.8), false_alarm("y")])
    assert (row_of(result, "dice").n, row_of(result, "dice").difference) == (2, pytest.approx(0.5))
    assert row_of(result, "hd95_mm").mean_a == pytest.approx(10)
    assert row_of(result, VOLUME).difference == pytest.approx(-1.5)
    assert row_of(result, "found").n == 1
    assert result.n_empty == 0


def test_a_failed_case_counts_as_missed() -> None:
    """Where it has a blank it gets the worst, of its volume all; and it was not found."""
    result = compare_scores([score("x", 0.8), score("y", 0.8)], [score("x", 0.4), failed("y")])
    assert row_of(result, "dice").mean_b == pytest.approx(0.2)
    assert row_of(result, "nsd").mean_b == pytest.approx(0.2)
    assert row_of(result, "hd95_mm").mean_b == pytest.approx(60)  # the largest distance of both
    assert row_of(result, VOLUME).mean_b == pytest.approx((0.6 + 2) / 2)
    assert (row_of(result, "found").mean_a, row_of(result, "found").mean_b) == (1, 0.5)


def test_failed_where_nothing_was() -> None:
    """A failed case of an empty reference loses against one that found nothing there; there was nothing to find."""
    result = compare_scores([score("x", 0.8), empty("y")], [score("x", 0.8), failed("y")])
    assert row_of(result, "dice").difference == pytest.approx(0.5)
    assert row_of(result, "found").n == 1


def test_what_both_miss_is_in() -> None:
    a = [score("x", 0.8), score("y", 0, "missed")]
    result = compare_scores(a, a)
    assert (row_of(result, "dice").n, row_of(result, "dice").mean_a) == (2, pytest.approx(0.4))
    assert (row_of(result, "found").n, row_of(result, "found").mean_a) == (2, 0.5)


def test_found_is_tested_after_mcnemar() -> None:
    """A alone finds six: p = 2/64."""
    a, b = [score(f"c{n}", 0.5) for n in range(6)], [score(f"c{n}", 0, "missed") for n in range(6)]
    found = row_of(compare_scores(a, b), "found")
    assert (found.p, found.effect_size, found.difference, found.n) == (2 / 64, 1, 1, 6)


def test_what_is_nowhere_cannot_be_found() -> None:
    """A structure that no reference has: false alarms are scored, and there is nothing to find."""
    a = [false_alarm("x")]
    assert [row.metric for row in compare_scores(a, a).rows] == METRICS[:-1]


def test_structures_are_compared_apart() -> None:
    a = [score("x", 0.9, structure="WT"), score("x", 0.7, structure="TC")]
    result = compare_scores(a, a)
    assert (row_of(result, "dice", "WT").mean_a, row_of(result, "dice", "TC").mean_a) == (0.9, 0.7)
    assert (result.n_cases, len(result.rows)) == (1, 20)


def test_lesions_without_a_score_in_both_are_left_out() -> None:
    """In y B has a false lesion and A has none, and was right; in x there is none at all."""
    more = {"lesion_dice": math.nan, "lesion_hd95_mm": math.nan, "nsd_2mm": 1.0, "n_lesions": 0.0}
    a = [score("x", 0.9, more=more), score("y", 0.9, more=more)]
    result = compare_scores(a, [score("x", 0.9, more=more), score("y", 0.9, more=more | {"lesion_dice": 0.0})])
    lesions = row_of(result, "lesion_dice")
    assert (lesions.n, lesions.mean_a, lesions.mean_b) == (1, 1, 0)
    metrics = [row.metric for row in result.rows]
    assert "nsd_2mm" in metrics
    assert "lesion_hd95_mm" not in metrics
    assert "n_lesions" not in metrics


def test_a_metric_that_one_does_not_have_is_not_compared() -> None:
    """An older table has no iou: a blank of it is no right answer. The empty case, blank in both, changes nothing."""
    old = [score("x", 0.9, iou=math.nan, assd_mm=math.nan), failed("y", 2), empty("z")]
    new = [score("x", 0.9, more={"nsd_2mm": 1.0}), score("y", 0.5), false_alarm("z")]
    for result in (compare_scores(old, new), compare_scores(new, old)):
        kept = [metric for metric in METRICS if metric not in ("iou", "assd_mm")]
        assert [row.metric for row in result.rows] == kept


def test_metrics_are_there_where_all_is_empty_or_failed() -> None:
    """A has found nothing anywhere and was right: all its shares are blank, and it is better in each."""
    result = compare_scores([empty("x"), empty("y")], [false_alarm("x"), false_alarm("y")])
    assert [row.metric for row in result.rows] == METRICS[:-1]
    assert (row_of(result, "iou").mean_a, row_of(result, "iou").mean_b) == (1, 0)


def test_metrics_that_are_left_out() -> None:
    a = [score("x", 0.9, more={"nsd_2mm": 1.0})]
    result = compare_scores(a, a, left_out=("nsd", "dice"))
    assert {row.metric for row in result.rows} == {*METRICS, "nsd_2mm"} - {"nsd", "dice"}


def test_all_empty_leaves_nothing_to_test() -> None:
    result = compare_scores([empty("x")], [empty("x")])
    assert (result.rows, result.n_empty) == ([], 1)


def test_cases_of_one_run_are_named(caplog: pytest.LogCaptureFixture) -> None:
    a = [score("x", 0.9), *(score(f"only{n}", 0.9) for n in range(7))]
    b = [score("x", 0.9), score("other", 0.9), score("x", 0.9, structure="core")]
    with caplog.at_level(logging.WARNING):
        result = compare_scores(a, b)
    assert (result.n_cases, len(result.only_in_a), result.only_in_b, result.n_unpaired) == (1, 7, ["other"], 1)
    assert "7 cases are in A only, and are left out: only0, only1, only2, only3, only4 and 2 more" in caplog.text
    assert "1 cases are in B only, and are left out: other" in caplog.text
    assert "1 rows have a structure that only one run has, and are left out: core" in caplog.text


def test_json_has_null_for_a_blank_and_small_p() -> None:
    """A p of 2 / 2**40 is not 0, and one subject has no interval."""
    a, b = ([score(f"c{n}", dice) for n in range(40)] for dice in (0.9, 0.8))
    dice = compare_scores(a, b).as_json()["rows"][0]
    assert dice["p"] == pytest.approx(2 / 2**40, rel=1e-3, abs=0)
    assert dice["p_holm"] == pytest.approx(10 * 2 / 2**40, rel=1e-3, abs=0)
    assert (dice["n"], dice["mean_a"], dice["difference"], dice["better"]) == (40, 0.9, 0.1, "A")
    stored = compare_scores(a[:1], b[:1]).as_json()
    assert json.loads(json.dumps(stored, allow_nan=False)) == stored
    assert stored["rows"][0]["low"] is None


def test_scores_as_they_are_made() -> None:
    """A finds half of a square and then nothing at all, B the whole both times: 2/3 and 0 against 1 and 1."""
    there = np.zeros((2, 8, 8), int)
    there[:, 2:6, 2:6] = 1
    half = there.copy()
    half[:, 4:] = 0
    a = score_case(half, there, {1: "front"}, (1, 1, 1), (1, 2), "x") + failed_case("y", {1: "front"}, 12, (1, 2))
    b = [one for case in "xy" for one in score_case(there, there, {1: "front"}, (1, 1, 1), (1, 2), case)]
    result = compare_scores(a, b)
    assert (row_of(result, "dice", "front").mean_a, row_of(result, "dice", "front").mean_b) == (pytest.approx(1 / 3), 1)
    assert row_of(result, "hd_mm", "front").mean_a == pytest.approx((2 + 12) / 2)
    assert row_of(result, VOLUME, "front").mean_a == pytest.approx((0.016 + 0.032) / 2)
    assert row_of(result, "nsd_2mm", "front").mean_a == 0.5
    assert row_of(result, "found", "front").mean_a == 0.5


def test_different_references_are_refused() -> None:
    a = [score("w", 0.9), score("x", 0.9)]
    with pytest.raises(InputError, match=r"volume in ml of lesion is 2 in A and 2\.01 in B") as caught:
        compare_scores(a, [score("x", 0.9, reference_ml=2.01)])
    assert caught.value.case == "x"
    assert compare_scores(a, [score("x", 0.9, reference_ml=2.001)]).n_cases == 1


def test_no_case_in_common() -> None:
    with pytest.raises(NoInputError, match=r"A and B have no case in common\. Evaluate both on the same cases"):
        compare_scores([score("x", 0.9)], [score("y", 0.9)])
    with pytest.raises(NoInputError, match="first and second have no case in common"):
        compare_answers(answers({"x": "true"}), answers({"y": "true"}), runs=("first", "second"))
    with pytest.raises(NoInputError, match="no case in common"):
        compare_scores([], [])


def test_no_structure_in_common() -> None:
    """The same cases, evaluated once by numbers and once by names: both lists and the way out are said."""
    a = [score(case, 0.9, structure=name) for case in "xy" for name in ("1", "2")]
    b = [score(case, 0.9, structure=name) for case in "xy" for name in ("anterior", "posterior")]
    with pytest.raises(NoInputError, match=r"A scores 1, 2; B scores anterior, posterior\.") as caught:
        compare_scores(a, b)
    assert "--labels with a JSON file of names" in caught.value.way_out


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([score("x", math.inf)], "dice is infinite"),
        ([score("x", 0.9, more={"nsd_2mm": -math.inf})], "nsd_2mm is infinite"),
        ([score("x", 0.9, "fine")], "status is 'fine'"),
        ([score("x", 0.9), score("x", 0.9)], "two rows 'x lesion'"),
    ],
)
def test_scores_that_cannot_be_used(scores: list[Score], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        compare_scores([score("x", 0.9)], scores, runs=("good", "bad"))
    assert (caught.value.case, caught.value.file) == ("x", "bad")


def test_a_status_in_capitals() -> None:
    """As a spreadsheet writes FALSE."""
    result = compare_scores([empty("x")], [score("x", 0, "FALSE", reference_ml=0)])
    assert "found" not in [row.metric for row in result.rows]
    assert row_of(result, "dice").difference == 1


def test_answers_by_mcnemar() -> None:
    """A alone is right four times, B once: p = 12/32; a failed case has no answer and is wrong."""
    a = answers({"u": "True", "v": "True", "w": "1", "x": "1", "y": "False", "z": "true"})
    b = answers({"u": "False", "v": "", "w": "0", "x": "false", "y": "True", "z": "TRUE"})
    result = compare_answers(a, b)
    (row,) = result.rows
    assert (result.task, row.structure, row.metric, row.n) == ("classification", "all", "accuracy", 6)
    assert (row.mean_a, row.mean_b) == (pytest.approx(5 / 6), pytest.approx(2 / 6))
    assert (row.p, row.effect_size) == (pytest.approx(12 / 32), pytest.approx(3 / 5))
    assert math.isnan(compare_answers(a, b, dict.fromkeys("uvwxyz", "anna")).rows[0].low)


def test_different_truths_are_refused() -> None:
    with pytest.raises(InputError, match="truth is ad in A and healthy in B") as caught:
        compare_answers(answers({"x": "true"}), answers({"x": "true"}, truth="healthy"))
    assert caught.value.case == "x"
    assert compare_answers(answers({"x": "true"}), answers({"x": "false"}, truth="")).n_cases == 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (answers({"x": "perhaps"}), "correct is 'perhaps'"),
        (answers({"x": "true"}) * 2, "two rows 'x'"),
        ([Row(2, {"case": "x", "prediction": "ad"})], "no column 'truth'"),
    ],
)
def test_answers_that_cannot_be_used(rows: list[Row], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        compare_answers(answers({"x": "true"}), rows, runs=("good", "bad"))
    assert caught.value.file == "bad"


@settings(deadline=None, max_examples=40)
@given(dices=st.lists(st.sampled_from([0.2, 0.5, 0.9]), min_size=2, max_size=8), data=st.data())
def test_an_error_never_helps(dices: list[float], data: st.DataObject) -> None:
    """Whichever case of A becomes missed, failed or a false alarm: no mean of A gains on B's."""
    good = [score(f"c{n}", dice) for n, dice in enumerate(dices)] + [empty("none")]
    before = compare_scores(good, good)
    n = data.draw(st.integers(0, len(dices)))
    if n == len(dices):
        error = data.draw(st.sampled_from([false_alarm("none", 5), failed("none"), failed("none", 0)]))
    else:
        error = data.draw(
            st.sampled_from([score(f"c{n}", 0, "missed", volume_ml=0), failed(f"c{n}"), failed(f"c{n}", 2)])
        )
    after = compare_scores([*good[:n], error, *good[n + 1 :]], good)
    for row in after.rows:
        sign = -1 if row.metric in (*DISTANCES, VOLUME) else 1
        assert sign * row.difference <= 1e-9
        assert row.effect_size <= 0
    assert row_of(after, "dice").difference < row_of(before, "dice").difference


@pytest.mark.parametrize("status", ["missed", "false", "ok"])
def test_a_blank_for_a_miss_is_the_worst(status: str) -> None:
    """Other programs leave the scores of a missed structure blank; a blank counts as right only where it is empty."""
    blank = dict.fromkeys((*SHARES, *DISTANCES), math.nan)
    miss = Score("x", "lesion", **blank, volume_ml=0, reference_ml=2, status=status)
    result = compare_scores([miss, score("y", 0.8)], [score("x", 0.7), score("y", 0.8)])
    assert row_of(result, "dice").mean_a == pytest.approx(0.4)
    assert row_of(result, "hd95_mm").mean_a == pytest.approx((30 + 20) / 2), "the largest distance of both runs"
