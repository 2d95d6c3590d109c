import json
import math

import pytest

from neurobundle.measure.resampling import bootstrap_interval
from neurobundle.measure.segmentation import DISTANCES, SHARES, Score
from neurobundle.measure.summary import STATUSES, intraclass_correlation, summarise


def score(case: str, dice: float, status: str = "ok", ml: float = 2.0) -> Score:
    blank = status == "empty"
    shares = dict.fromkeys(SHARES, math.nan if blank else dice)
    mm = dict.fromkeys(DISTANCES, math.nan if blank else 1.0)
    return Score(case, "front", **shares, **mm, volume_ml=ml, reference_ml=2.0, status=status)


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


def test_a_miss_is_in_the_volume_bias() -> None:
    """Two of four millilitres were found; leaving the miss out would say that nothing is wrong."""
    result = summarise([score("a", 1), score("b", 0, "missed", ml=0)], {})["structures"]["front"]["volume"]
    assert (result["bias_ml"], result["bias_percent"], result["mean_absolute_error_ml"]) == (-1, -50, 1)


def test_agreement_falls_with_a_shift() -> None:
    """A constant error leaves a correlation at 1, but not this one."""
    assert intraclass_correlation([1, 2, 3, 4], [1, 2, 3, 4]) == pytest.approx(1)
    assert intraclass_correlation([1, 2, 3, 4], [2, 3, 4, 5]) < 0.8
    assert math.isnan(intraclass_correlation([1], [1]))


def test_equal_volumes_have_no_spread() -> None:
    """Whatever the last bits of them say."""
    assert math.isnan(intraclass_correlation([0.1 + 0.2, 0.3], [0.3, 0.3]))


def test_counts_are_summed_over_structures() -> None:
    result = summarise([score("a", 0.8), score("b", 0, "missed"), score("c", 0, "failed")], {})
    assert [result[f"n_{status}"] for status in STATUSES] == [0, 1, 0, 1]
    assert result["structures"]["front"]["n_scored"] == 3


def test_nothing_scored_is_null() -> None:
    result = summarise([score("a", 0, "empty", ml=0)], {})["structures"]["front"]
    assert result["dice"] == {"mean": None, "median": None, "interval": [None, None]}
    assert json.loads(json.dumps(result, allow_nan=False)) == result
