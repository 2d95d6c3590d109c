from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurobundle.errors import SettingError
from neurobundle.train.stratify import deal_by_class


def test_each_fold_gets_its_share_of_each_class() -> None:
    """Three persons of each of two classes, two cases each, in three folds: two cases of each class a fold."""
    groups = {f"{person}{n}": person for person in "abcdef" for n in "12"}
    classes = {case: 0 if case[0] in "abc" else 1 for case in groups}
    folds = deal_by_class(groups, classes, 3)
    assert Counter((folds[case], classes[case]) for case in groups) == {(f, c): 2 for f in range(3) for c in range(2)}


def test_the_largest_person_goes_first() -> None:
    """Persons of 3, 2 and 1 cases of one class: 3 against 2 + 1."""
    groups = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "b2": "b", "c1": "c"}
    folds = deal_by_class(groups, dict.fromkeys(groups, 0), 2)
    assert folds["b1"] == folds["c1"] != folds["a1"]


def test_more_folds_than_groups() -> None:
    with pytest.raises(SettingError, match="3 folds need 3 groups"):
        deal_by_class({"a": "p", "b": "q"}, {"a": 0, "b": 1}, 3)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=12, max_size=40), st.integers(0, 3))
def test_groups_stay_whole_and_the_order_does_not_matter(cases: list[tuple[int, int]], seed: int) -> None:
    groups = {str(n): f"g{group}" for n, (group, _) in enumerate(cases)} | {"x": "gx", "y": "gy"}
    classes = {str(n): number for n, (_, number) in enumerate(cases)} | {"x": 0, "y": 1}
    folds = deal_by_class(groups, classes, 2, seed)
    assert {folds[case] for case in groups} == {0, 1}
    for group in set(groups.values()):
        assert len({folds[case] for case in groups if groups[case] == group}) == 1
    assert deal_by_class(dict(reversed(groups.items())), classes, 2, seed) == folds


@given(st.lists(st.integers(1, 6), min_size=4, max_size=20))
def test_no_class_is_further_apart_than_its_largest_group(sizes: list[int]) -> None:
    """Where each group has one class, as persons have: longest processing time, class by class."""
    groups = {f"{group}-{n}": str(group) for group, size in enumerate(sizes) for n in range(size)}
    classes = {case: int(group) % 2 for case, group in groups.items()}
    folds = deal_by_class(groups, classes, 2)
    for number in (0, 1):
        counts = Counter(folds[case] for case in groups if classes[case] == number)
        largest = max(size for group, size in enumerate(sizes) if group % 2 == number)
        assert abs(counts[0] - counts[1]) <= largest
