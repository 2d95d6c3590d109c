"""Channels taken away: at least one is left, and which ones follows from the seed."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from neurobundle.augment import RandDropChannelsd
from neurobundle.errors import InputError, SettingError


def left(image: torch.Tensor) -> tuple[int, ...]:
    return tuple(n for n, channel in enumerate(image) if channel.any())


def drawn(step: RandDropChannelsd, times: int = 400) -> Counter[tuple[int, ...]]:
    image = torch.ones(4, 2, 2, 2)
    step.set_random_state(0)
    found = Counter(left(step({"image": image})["image"]) for _ in range(times))
    assert bool((image == 1).all()), "the input was changed"
    return found


def test_every_set_comes_and_none_is_empty() -> None:
    found = drawn(RandDropChannelsd("image", prob=1.0))
    assert len(found) == 15
    assert () not in found


def test_favourites() -> None:
    found = drawn(RandDropChannelsd("image", prob=1.0, favourites=[[3], [0, 1]], favoured=1.0))
    assert set(found) == {(3,), (0, 1)}
    assert 150 < found[3,] < 250


def test_prob_is_how_often() -> None:
    found = drawn(RandDropChannelsd("image", prob=0.25, favourites=[[3]], favoured=1.0))
    assert 60 < found[3,] < 140
    assert found[3,] + found[0, 1, 2, 3] == 400


def test_the_same_channels_of_two_images() -> None:
    step = RandDropChannelsd(["image", "other"], prob=1.0)
    step.set_random_state(1)
    for _ in range(20):
        result = step({"image": torch.ones(3, 2, 2), "other": torch.ones(3, 4, 4)})
        assert left(result["image"]) == left(result["other"])


def test_what_is_refused() -> None:
    with pytest.raises(SettingError, match="prob"):
        RandDropChannelsd("image", prob=2.0)
    with pytest.raises(SettingError, match="favourites is empty"):
        RandDropChannelsd("image", favourites=[[]])
    with pytest.raises(InputError, match="favourites have channel 5, the image 4"):
        RandDropChannelsd("image", prob=1.0, favourites=[[5]], favoured=1.0)({"image": torch.ones(4, 2, 2)})
