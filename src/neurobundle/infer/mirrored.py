"""What a network says of an image and of its mirror images, in the mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer

from neurobundle.errors import SettingError


class MirroredInferer(Inferer):
    """Runs another inferer on the image as it is and mirrored, and gives the mean of the logits, mirrored back.

    Only for what has no side: labels of left and right structures would be exchanged. Each axis doubles the work.

    Args:
        inferer: what calls the network; MONAI's ``SimpleInferer`` if None.
        axes: of the image's spatial axes those that are mirrored, alone and together; none changes nothing.

    Raises:
        SettingError: for an axis that is none of 0, 1, 2, or named twice.

    Source: test-time mirroring as in nnU-Net (Isensee et al. 2021, 10.1038/s41592-020-01008-z).
    """

    def __init__(self, inferer: Inferer | None = None, axes: Sequence[int] = (0,)) -> None:
        super().__init__()
        self.inferer = inferer if inferer is not None else SimpleInferer()
        if len(set(axes)) != len(axes) or any(axis not in (0, 1, 2) for axis in axes):
            raise SettingError(f"axes are {list(axes)!r}", "Give some of 0, 1 and 2, each once.")
        self.axes = tuple(axes)

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Logits of ``inputs`` ``(batch, channel, i, j, k)``: ``(batch, class, i, j, k)``."""
        ways = [way for count in range(len(self.axes) + 1) for way in combinations(self.axes, count)]
        total: torch.Tensor | None = None
        for way in ways:
            flipped = [axis + 2 for axis in way]
            logits = self.inferer(inputs.flip(flipped) if way else inputs, network, *args, **kwargs)
            back = logits.flip(flipped) if way else logits
            total = back if total is None else total + back
        assert total is not None
        return total / len(ways)
