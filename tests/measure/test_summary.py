import math
from pathlib import Path

import pytest

from neurobundle.measure import Score, read_scores, summarise, write_scores
from neurobundle.measure.summary import bootstrap_interval, intraclass_correlation


def score(case: str, dice: float, status: str = "ok", ml: float = 2.0) -> Score:
    blank = status == "empty"
    return Score(
        case,
        "front",
        math.nan if blank else dice,
        math.nan if blank else 1.0,
        math.nan if blank else dice,
        ml,
        2.0,
        status,
    )


def test_a_miss_lowers_the_mean_and_is_counted() -> None:
    good = summarise([score("a", 0.8)], {})["structures"]["front"]
    worse = summarise([score("a", 0.8), score("b", 0.0, "missed")], {})["structures"]["front"]
    assert worse["dice"]["mean"] == 0.4 < good["dice"]["mean"]
    assert worse["n_missed"] == 1


def test_an_empty_structure_is_counted_and_left_out() -> None:
    result = summarise([score("a", 0.8), score("b", 0, "empty")], {})
    assert result["n_cases"] == 2
    assert result["structures"]["front"]["n_empty"] == 1
    assert result["structures"]["front"]["dice"]["mean"] == 0.8


def test_subjects_are_drawn_whole() -> None:
    """Two subjects, of which one has nine of ten scans: the interval spans what either alone would give."""
    low, high = bootstrap_interval([0.0] + [1.0] * 9, ["a"] + ["b"] * 9)
    assert (low, high) == (0.0, 1.0)


def test_volume_bias() -> None:
    result = summarise([score("a", 1, ml=2.2), score("b", 1, ml=2.2)], {})["structures"]["front"]["volume"]
    assert result["bias_ml"] == pytest.approx(0.2)
    assert result["bias_percent"] == pytest.approx(10)


def test_agreement_falls_with_a_shift() -> None:
    """A constant error leaves a correlation at 1, but not this one."""
    assert intraclass_correlation([1, 2, 3, 4], [1, 2, 3, 4]) == pytest.approx(1)
    assert intraclass_correlation([1, 2, 3, 4], [2, 3, 4, 5]) < 0.8
    assert math.isnan(intraclass_correlation([1], [1]))


def test_tables_come_back_as_they_were_written(tmp_path: Path) -> None:
    scores = [score("a", 0.8), score("b", 0, "empty")]
    write_scores(tmp_path, scores, {})
    back = read_scores(tmp_path / "per_case.csv")
    assert back[0] == scores[0]
    assert back[1].status == "empty"
    assert math.isnan(back[1].dice)
