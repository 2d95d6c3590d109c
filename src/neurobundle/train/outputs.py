"""What a metric is given of an engine's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


def channels_from_engine(keys: Sequence[str], channels: int = 1) -> Callable[[Any], tuple[list[torch.Tensor], ...]]:
    """As MONAI's ``from_engine``, with the first channels alone: where only these have a truth.

    Args:
        keys: of the output's items, ``(channel, ...)`` each.
        channels: how many.

    >>> both = channels_from_engine(["pred", "label"])([{"pred": torch.zeros(3, 2), "label": torch.ones(1, 2)}])
    >>> [tuple(item.shape) for (item,) in both]
    [(1, 2), (1, 2)]
    """

    def choose(output: Any) -> tuple[list[torch.Tensor], ...]:
        items = [output] if isinstance(output, dict) else output
        return tuple([item[key][:channels] for item in items] for key in keys)

    return choose
