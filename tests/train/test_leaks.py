"""What stands on two sides, on cases that a reader can count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neurobundle.load.likeness import view_of
from neurobundle.load.traits import Look
from neurobundle.train.leaks import Case, base_of, copies, copies_inside, find_leaks, kin, near_copies, same_person

from ..load.made_slices import made_slice


def look(seed: int, name: str = "a.png", shift: int = 0) -> Look:
    return Look(Path(name), f"sha {seed} {shift}", view_of(np.roll(made_slice(seed), shift, 0)), {})


def case(name: str, side: str, subject: str = "", label: int | None = None, *looks: Look) -> Case:
    return Case(name, subject or name, side, label, looks)


def test_nothing_is_found_in_a_sound_split() -> None:
    cases = [case(f"c{n}", f"fold {n % 2}", f"p{n % 2}", 0, look(n)) for n in range(4)]
    assert find_leaks(cases) == []


def test_a_copy_names_all_its_places_and_classes() -> None:
    cases = [
        case("a", "fold 0", "", 0, look(1)),
        case("b", "fold 1", "", 2, look(1)),
        case("c", "fold 0", "", 0, look(1)),
        case("d", "test", "", 0, look(2)),
    ]
    (leak,) = copies(cases)
    assert leak.text == "the same content: a (fold 0), b (fold 1) and c (fold 0); their classes differ: 0 and 2"
    assert leak.cases == ("a", "b", "c")
    assert len(leak.pictures) == 2
    assert near_copies(cases) == []
    assert copies_inside(cases) == 1


def test_a_copy_on_one_side_is_no_leak() -> None:
    cases = [case("a", "fold 0", "", 0, look(1)), case("b", "fold 0", "", 0, look(1)), case("c", "test", "", 0)]
    assert find_leaks(cases) == []
    assert copies_inside(cases) == 1


def test_a_near_copy_of_a_second_channel() -> None:
    """Cases of two channels, one of which is another's, moved: the pair of cases is named once."""
    cases = [
        case("a", "fold 0", "", None, look(1), look(2)),
        case("b", "fold 1", "", None, look(1, shift=2), look(2, shift=4)),
    ]
    (leak,) = near_copies(cases)
    assert leak.cases == ("a", "b")
    assert leak.text.startswith("a (fold 0) and b (fold 1): correlation 0.9") or "1.000" in leak.text


def test_a_person_on_three_sides() -> None:
    cases = [case(f"c{n}", side, "anna") for n, side in enumerate(["fold 2", "fold 10", "fold 2", "test"])]
    cases += [case("x", "fold 2", "bert")]
    (leak,) = same_person(cases)
    assert leak.text == "anna stands in fold 2 (c0 and c2), fold 10 (c1) and test (c3)"


def test_long_lists_are_cut() -> None:
    cases = [case(f"c{n}", "fold 0", "anna") for n in range(9)] + [case("y", "fold 1", "anna")]
    (leak,) = same_person(cases)
    assert leak.text == "anna stands in fold 0 (c0, c1, c2 and 6 more) and fold 1 (y)"
    assert len(leak.cases) == 10


def test_kin_on_two_sides() -> None:
    """MR1 and MR1B are kin, MR2 and MR2B stand on one side, MR3B has no other."""
    cases = [
        case("a", "fold 0", "MR1", None, look(1), look(5)),
        case("b", "fold 1", "MR1B", None, look(2), look(1, shift=3)),
        case("c", "fold 0", "MR2"),
        case("d", "fold 0", "MR2B"),
        case("e", "fold 1", "MR3B"),
    ]
    (leak,) = kin(cases)
    assert leak.text.startswith(
        "MR1 (fold 0) and MR1B (fold 1) differ by a suffix alone; their most similar images: a (fold 0) and b (fold 1)"
    )
    assert leak.facts["correlation"] > 0.97
    assert leak.facts["subjects"] == {"MR1": ["fold 0"], "MR1B": ["fold 1"]}


def test_kin_of_which_nothing_could_be_read() -> None:
    (leak,) = kin([case("a", "fold 0", "MR1"), case("b", "fold 1", "MR1B")])
    assert leak.text == "MR1 (fold 0) and MR1B (fold 1) differ by a suffix alone"
    assert leak.pictures == ()


def test_one_id_on_two_sides_is_a_person_and_no_kin() -> None:
    cases = [case("a", "fold 0", "MR1B"), case("b", "fold 1", "MR1B")]
    assert [leak.kind for leak in find_leaks(cases)] == ["person"]


@pytest.mark.parametrize(
    ("subject", "base"),
    [("MR1C", "MR1"), ("sub-3_b", "sub-3"), ("MR1", "MR1"), ("7", "7"), ("anna", "anna"), ("MR1BC", "MR1BC")],
)
def test_base(subject: str, base: str) -> None:
    assert base_of(subject) == base


def test_a_case_in_training_and_test() -> None:
    leaks = find_leaks([case("a", "fold 0"), case("a", "test")])
    assert [leak.kind for leak in leaks] == ["case", "person"]
    assert leaks[0].text == "a stands in fold 0 and test"
