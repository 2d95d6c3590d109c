"""A 2D network over the slices of a volume.

The *stack* of a prepared volume is its last axis, as :class:`neurobundle.prepare.slices.ToSlicesd` leaves it; each
slice is an image of its own for the network, ``(batch, channel, column, row)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import SliceInferer

from neurobundle.errors import SettingError

#: The axis of ``(batch, channel, column, row)`` along which a slice is mirrored.
ACROSS = 2


class SlicesInferer(SliceInferer):
    """MONAI's ``SliceInferer`` along the last axis, by whole slices, mirrored left to right as well if asked.

    Args:
        window: ``(column, row)`` sizes of the windows of a slice; 0 is the whole slice.
        slices: how many windows at a time.
        mirror: also infer each slice mirrored, and give the mean of the two logits.
        overlap: of windows that are smaller than the slice.

    Raises:
        SettingError: for a window that is not of two sizes.
    """

    def __init__(
        self, window: Sequence[int] = (0, 0), slices: int = 8, mirror: bool = False, overlap: float = 0.5
    ) -> None:
        if len(window) != 2:
            raise SettingError(f"window is {list(window)}", "Give two sizes; 0 is the whole slice.")
        super().__init__(
            roi_size=tuple(window),
            sw_batch_size=slices,
            spatial_dim=2,
            overlap=overlap,
            mode="gaussian",
            padding_mode="replicate",
        )
        self.mirror = mirror

    def network_wrapper(self, network: Callable[..., Any], x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Logits of windows ``(batch, channel, column, row, 1)``, of the same layout."""
        if not self.mirror:
            return super().network_wrapper(network, x, *args, **kwargs)

        def both(slices: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
            there = network(slices, *more, **named)
            back: torch.Tensor = network(slices.flip(ACROSS), *more, **named).flip(ACROSS)
            return (there + back) / 2

        return super().network_wrapper(both, x, *args, **kwargs)
