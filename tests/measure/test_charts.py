"""Charts: what they say in words and draw as marks, and that they fit to stand inside a page."""

import math
import re
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurobundle.measure import charts

BINS = [
    {"low": 0.0, "high": 0.5, "count": 0, "confidence": None, "accuracy": None},
    {"low": 0.5, "high": 1.0, "count": 40, "confidence": 0.9, "accuracy": 0.75},
]

ALL: dict[str, Callable[[], str]] = {
    "box plots": lambda: charts.box_plots({"front": [0.9, 0.8, 0.0], "back": [0.7]}, "Dice", (0, 1)),
    "confusion": lambda: charts.confusion_matrix([0, 1], [[90, 10], [5, 15]]),
    "reliability": lambda: charts.reliability_diagram(BINS),
    "risk and coverage": lambda: charts.risk_coverage_curve([0.5, 1.0], [0.1, 0.2], 0.15, 0.12),
    "FROC": lambda: charts.froc_curve([0.125, 1, 8], [0.5, 0.75, 0.875]),
    "volumes": lambda: charts.volume_agreement([1.0, 2.0, 3.0], [1.1, 2.0, 3.2]),
}
EMPTY: dict[str, Callable[[], str]] = {
    "box plots": lambda: charts.box_plots({}, "Dice"),
    "box plots of nothing": lambda: charts.box_plots({"front": []}, "Dice"),
    "confusion": lambda: charts.confusion_matrix([], []),
    "confusion of nothing": lambda: charts.confusion_matrix([0, 1], [[0, 0], [0, 0]]),
    "reliability": lambda: charts.reliability_diagram(BINS[:1]),
    "risk and coverage": lambda: charts.risk_coverage_curve([], []),
    "FROC": lambda: charts.froc_curve([], []),
    "FROC of blanks": lambda: charts.froc_curve([1, 2], [None, None]),
    "FROC at 0": lambda: charts.froc_curve([0, 2], [0.1, 0.2]),
    "volumes": lambda: charts.volume_agreement([], []),
    "one volume": lambda: charts.volume_agreement([1.0], [2.0]),
}
EVERY = {**ALL, **{f"empty {name}": draw for name, draw in EMPTY.items()}}


def words(svg: str) -> list[str]:
    """The texts of a chart, but for its title."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def dots(svg: str) -> int:
    """How many marks of cases a chart has: those that are filled and partly transparent."""
    marks = ElementTree.fromstring(svg).iter("use")
    return sum("opacity: 0." in mark.get("style", "") for mark in marks)


def open_triangles(svg: str) -> int:
    """How many marks beyond the axis it has."""
    marks = ElementTree.fromstring(svg).iter("use")
    return sum(re.search(r"fill: none|opacity: 0(;|$)", mark.get("style", "")) is not None for mark in marks)


@pytest.mark.parametrize("draw", EVERY.values(), ids=EVERY.keys())
def test_a_chart_fits_into_a_page(draw: Callable[[], str]) -> None:
    """It scales, asks nobody for anything, reaches out of itself nowhere, and says what it shows."""
    svg = draw()
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert "viewBox" in root.attrib
    assert not {"width", "height"} & set(root.attrib)
    assert root.get("role") == "img"
    title = root.find("title")
    assert title is not None
    assert title.text == root.get("aria-label")
    assert len(title.text or "") > 5
    for word in ("http", "url(", "<script", "<style", "<image", "xlink", "xmlns"):
        assert word not in svg
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert {use.get("href") for use in root.iter("use")} <= {f"#{name}" for name in ids}


@pytest.mark.parametrize("draw", ALL.values(), ids=ALL.keys())
def test_the_same_input_gives_the_same_bytes(draw: Callable[[], str]) -> None:
    assert draw() == draw()


@pytest.mark.parametrize("draw", ALL.values(), ids=ALL.keys())
def test_charts_of_other_titles_share_no_id(draw: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    def ids(svg: str) -> set[str]:
        return {name for element in ElementTree.fromstring(svg).iter() if (name := element.get("id"))}

    first = ids(draw())
    inline = charts._inline
    monkeypatch.setattr(charts, "_inline", lambda svg, text: inline(svg, f"Another: {text}"))
    assert not first & ids(draw())


def test_somebodys_own_settings_of_matplotlib_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    expected = ALL["volumes"]()
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30.0)
    before = dict(matplotlib.rcParams)
    assert ALL["volumes"]() == expected
    assert dict(matplotlib.rcParams) == before


def test_every_case_is_a_dot_and_each_structure_says_how_many() -> None:
    svg = charts.box_plots({"front": [0.9, 0.8, 0.85], "back": [0.7, math.nan, None]}, "Dice", (0, 1))
    assert dots(svg) == 4
    assert words(svg).count("n = 3") == 1
    assert words(svg).count("n = 1") == 1
    assert "front: median 0.85, n = 3; back: median 0.7, n = 1" in svg


def test_a_miss_beyond_the_axis_is_seen() -> None:
    """374 mm would leave no room for the others; it is an open triangle at the end of the axis, and in the median."""
    svg = charts.box_plots({"core": [1.0, 2.0, 374.0, 374.0, 374.0]}, "HD95, mm", (0, 5))
    assert (dots(svg), open_triangles(svg)) == (2, 3)
    assert "median 374, n = 5" in svg
    low = charts.box_plots({"core": [-3.0, 1.0]}, "x", (0, 5))
    assert (dots(low), open_triangles(low)) == (1, 1)


def test_too_many_cases_are_drawn_beyond_the_whiskers_only() -> None:
    values = [*np.linspace(0.8, 0.9, charts.MOST_DOTS), 0.0]
    assert dots(charts.box_plots({"front": values}, "Dice", (-0.1, 1))) == 1


def test_without_limits_the_axis_holds_all_values() -> None:
    svg = charts.box_plots({"front": [1.0, 2.0, 374.0]}, "HD95, mm")
    assert (dots(svg), open_triangles(svg)) == (3, 0)


def test_rows_of_a_confusion_matrix_are_shares_of_the_reference() -> None:
    """Of 100 zeros 90 are found; of 20 ones 15; of twos there is none."""
    svg = charts.confusion_matrix(["a", "b", "c"], [[90, 10, 0], [5, 15, 0], [0, 0, 0]])
    assert {"90.0 %", "10.0 %", "25.0 %", "75.0 %"} <= set(words(svg))
    assert words(svg).count("0") == 5
    assert "a: 90.0 %; b: 75.0 %; c: none" in svg


def test_large_counts_are_short() -> None:
    assert {"1.2M", "35k", "999"} <= set(words(charts.confusion_matrix([0, 1], [[1_234_567, 999], [0, 34_567]])))


def test_a_matrix_of_many_labels_has_colours_only() -> None:
    n = charts.MOST_NUMBERED_LABELS + 1
    assert not [word for word in words(charts.confusion_matrix(range(n), np.eye(n).tolist())) if "%" in word]


def test_reliability_leaves_empty_bins_out() -> None:
    svg = charts.reliability_diagram(BINS)
    assert "Reliability: confidence 0.90, right 0.75" in svg
    assert svg.count("confidence 0.") == 2, "once in each of the two texts for those who cannot see it"


def test_the_areas_of_risk_are_written_where_they_are_known() -> None:
    assert "area 0.150, best possible 0.120" in words(charts.risk_coverage_curve([0.5, 1], [0.1, 0.2], 0.15, 0.12))
    assert "area 0.150" in words(charts.risk_coverage_curve([0.5, 1], [0.1, 0.2], 0.15))


def test_froc_is_read_at_halves_and_doubles() -> None:
    svg = charts.froc_curve([0.125, 1, 8], [0.5, 0.75, 0.875])
    assert {"0.125", "0.5", "2", "8"} <= set(words(svg))
    assert "0.500 at 0.125; 0.750 at 1; 0.875 at 8" in svg


def test_limits_of_agreement() -> None:
    """Differences of 0 and .2 ml: mean .1, standard deviation .1414, limits .1 +- .2772. A blank is left out."""
    svg = charts.volume_agreement([1.0, 2.0, math.nan], [1.0, 2.2, 5.0])
    assert {"mean +0.10", "+1.96 SD +0.38", "−1.96 SD −0.18"} <= set(words(svg))
    assert "n = 2; mean +0.100 ml" in svg
    assert dots(svg) == 2


def test_one_volume_has_no_spread() -> None:
    assert not [word for word in words(charts.volume_agreement([1.0], [2.0])) if "SD" in word]


@pytest.mark.parametrize("name", ["$x_1$", "<b>&\"'", "日本語", "a\x07b\udc80", "x" * 200, "two\nlines", ""])
def test_any_name_is_drawn_as_text(name: str) -> None:
    svg = charts.box_plots({name: [1.0]}, "Dice", title=name)
    ElementTree.fromstring(svg)
    svg.encode()
    assert "<b>" not in svg
    assert ElementTree.fromstring(charts.confusion_matrix([name], [[1]])).tag == "svg"


@settings(max_examples=20)
@given(st.lists(st.floats(0, 1), max_size=30))
def test_every_value_is_one_mark(values: list[float]) -> None:
    svg = charts.box_plots({"front": values}, "Dice", (-0.1, 0.5))
    assert dots(svg) == sum(value <= 0.5 for value in values)
    assert open_triangles(svg) == sum(value > 0.5 for value in values)
