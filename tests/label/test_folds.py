"""Whose images are learned from and whose judge; without MONAI Label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from neurobundle.label.folds import FOLDS_NAME, HELD_OUT, deal, united, without_persons


def items(*cases: str, **persons: str) -> list[dict[str, Any]]:
    """Entries of a datalist; a case is a person of its own unless it is said."""
    return [{"case": case, "subject": persons.get(case, case)} for case in cases]


def folds(entries: list[dict[str, Any]], store: Path, **others: str) -> dict[str, int]:
    assert deal(entries, store, others) == set()
    return {entry["case"]: entry["fold"] for entry in entries}


def test_of_one_person_nothing_is_held_out_of_two_one_of_ten_two(tmp_path: Path) -> None:
    assert folds(items("a"), tmp_path / "one") == {"a": 1}
    assert folds(items("a", "b"), tmp_path / "two") == {"a": 1, "b": HELD_OUT}
    ten = folds(items(*"abcdefghij"), tmp_path / "ten")
    assert sorted(ten.values()) == sorted([*range(5)] * 2)


def test_a_person_is_in_one_fold_and_stays_there(tmp_path: Path) -> None:
    assert folds(items("a", "b"), tmp_path) == {"a": 1, "b": 0}
    found = folds(items("a", "b", "c", "d", b="anna", c="anna"), tmp_path)
    assert found == {"a": 1, "b": 0, "c": 0, "d": 2}
    assert json.loads((tmp_path / FOLDS_NAME).read_text()) == found, "no person's name"
    assert folds(items("d", "c"), tmp_path) == {"d": 2, "c": 0}, "a label that was taken away changes no other"


def test_a_person_whose_label_was_taken_away_stays_on_its_side(tmp_path: Path) -> None:
    """Learned from as `a`, and labelled again as `b`: not held out, though that would be its turn."""
    assert folds(items("a"), tmp_path) == {"a": 1}
    assert folds(items("b", b="anna"), tmp_path, a="anna") == {"b": 1}


def test_who_was_on_both_sides_is_on_none(tmp_path: Path) -> None:
    """Two persons who turn out to be one: no image of it is learned from or judges, and another one goes on."""
    assert folds(items("a", "b"), tmp_path) == {"a": 1, "b": HELD_OUT}
    both = items("a", "b", "c", a="anna", b="anna")
    assert deal(both, tmp_path) == {"a", "b"}
    assert ["fold" in item for item in both] == [False, False, True]
    again = items("b", b="anna")
    assert deal(again, tmp_path, {"a": "anna"}) == {"b"}


def test_each_class_has_persons_of_its_own_in_each_fold(tmp_path: Path) -> None:
    """Of three persons of class 0 and one of class 1 the second of class 0 is held out, and nobody of class 1."""
    entries = [{**item, "label": label} for item, label in zip(items(*"abcd"), (0, 1, 0, 0), strict=True)]
    assert folds(entries, tmp_path) == {"a": 1, "b": 1, "c": HELD_OUT, "d": 2}


def test_one_person_by_a_chain_of_copies(tmp_path: Path) -> None:
    """`a` and `b` share a file, `b` and `c` a person."""
    for name in "xy":
        (tmp_path / name).write_text(name)
    named = {"a": ("P1", "x"), "b": ("P2", "x"), "c": ("P2", "y"), "d": ("P3", "y")}
    entries = [{"case": case, "subject": who, "image": [str(tmp_path / file)]} for case, (who, file) in named.items()]
    assert len({item["subject"] for item in united(entries)}) == 1
    assert len({item["subject"] for item in united(entries[::3])}) == 2


def test_persons_are_called_by_their_first_case() -> None:
    entries = items("a", "b", "c", a="MRN", b="MRN", c="other")
    assert [item["subject"] for item in without_persons(entries)] == ["a", "a", "c"]
