"""The page of bad input names every number, and for every number there is a test called by it."""

from __future__ import annotations

import re

import pytest

from .conftest import ROOT

#: What this part of the project answers for.
NUMBERS = [*range(1, 47), 56, 62, *range(64, 70), *range(78, 82)]

#: ``def test_21_header``, ``def test_skips_65``, and ids such as "21-header-lies" or id="16".
_NAMED = (r"def test_(\d+)_", r"def test_\w*_(\d+)\(", r"id=\"(\d+)[\"-]", r"\"(\d+)-[a-z]")


def named_numbers() -> set[int]:
    texts = [path.read_text() for path in (ROOT / "tests").rglob("*.py")]
    return {int(number) for pattern in _NAMED for text in texts for number in re.findall(pattern, text)}


@pytest.mark.parametrize("number", NUMBERS)
def test_every_number_has_a_test_that_is_called_by_it(number: int) -> None:
    assert number in named_numbers()


@pytest.mark.parametrize("number", NUMBERS)
def test_every_number_is_on_the_page(number: int) -> None:
    text = (ROOT / "docs" / "concepts" / "bad-input.md").read_text()
    assert re.search(rf"^\| {number} \|", text, re.MULTILINE)
