"""Names that do not tell what they stand for."""

from __future__ import annotations

import hashlib

import pytest

from neurobundle.load.salt import KNOWN_SALT, SALT_VARIABLE, digest, is_known, salt


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_salt_counts_as_none(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SALT_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(SALT_VARIABLE, value)
    assert (salt(), is_known()) == (KNOWN_SALT, True)


def test_a_salt_of_one_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SALT_VARIABLE, "pepper")
    assert (salt(), is_known()) == ("pepper", False)
    assert digest("1.2") == hashlib.sha256(b"pepper1.2").hexdigest()[:8]
    monkeypatch.setenv(SALT_VARIABLE, "other")
    assert digest("1.2") != hashlib.sha256(b"pepper1.2").hexdigest()[:8]


def test_digits() -> None:
    assert len(digest("a", 64)) == 64
    assert digest("a", 64).startswith(digest("a"))


def test_a_path_that_is_no_utf_8() -> None:
    assert digest("/in/zo\udce9") != digest("/in/zoe")
