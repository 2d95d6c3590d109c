import pytest

from neurobundle.errors import InputError, SettingError
from neurobundle.measure.flagging import Flag, choose_flag, judge_flag, rule_in_words


def test_a_tenth_is_above() -> None:
    """Of 25 cases two, rounded down; of nine none."""
    flag = choose_flag(list(range(25)), [0.9] * 25)
    assert sum(score > flag.above for score in range(25)) == 2
    assert choose_flag(list(range(9)), [0.9] * 9).above == 8


def test_cases_of_one_score_go_together() -> None:
    """The tenth of ten is one; it has the score of the next, so nobody is flagged."""
    assert choose_flag([0.1] * 8 + [0.5, 0.5], [0.9] * 10).above == 0.5


def test_as_many_as_have_the_wanted_dice() -> None:
    """Means of those kept: .9, .85, .8, .65, so .8 keeps three, and exactly .65 keeps all."""
    scores, dice = [0.4, 0.1, 0.3, 0.2], [0.2, 0.9, 0.7, 0.8]
    assert choose_flag(scores, dice, 0.8) == Flag(0.3, True)
    assert choose_flag(scores, dice, 0.65) == Flag(0.4, True)
    assert choose_flag(scores, dice, 0.9) == Flag(0.1, True)


def test_the_largest_coverage_and_not_the_first() -> None:
    """The most certain case is bad; with the next ones the mean rises to what is wanted."""
    assert choose_flag([1, 2, 3], [0.5, 0.9, 0.9], 0.7) == Flag(3.0, True)


def test_a_dice_that_nobody_reaches() -> None:
    flag = choose_flag(list(range(10)), [0.5] * 10, 0.9)
    assert flag == Flag(8.0, False)
    assert "no threshold gives a Dice of 0.9" in rule_in_words(flag, 0.9)


def test_nothing_to_choose_on() -> None:
    with pytest.raises(InputError):
        choose_flag([], [])
    with pytest.raises(InputError):
        choose_flag([float("nan")], [0.5])
    with pytest.raises(SettingError):
        choose_flag([1.0], [0.5], 1.5)


def test_nobody_is_flagged_by_hand() -> None:
    assert judge_flag([False, False], [0.5, 0.7]) == {"flagged": 0.0, "dice_kept": 0.6, "dice_flagged": None}
