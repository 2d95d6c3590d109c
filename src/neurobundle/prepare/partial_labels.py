"""Label maps that say less than the network learns: what nobody drew is unknown, and teaches nothing.

A mask of a whole tumour does not say where its core is, but there is none outside; a mask of a core does not say how
far the tumour goes around it, but what is in it is tumour. Losses of ours leave out what is
:data:`neurobundle.prepare.label_regions.UNKNOWN`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from neurobundle.errors import InputError, SettingError
from neurobundle.prepare.label_regions import UNKNOWN


class UnknownRegionsd(MapTransform):
    """Channels of a region map become unknown where a drawn region says nothing of them.

    Args:
        keys: region maps ``(region, i, j, k)`` of 0 and 1, float, as :class:`LabelsToRegionsd` gives them.
        drawn: the channel of the region that somebody drew.
        inside: channels that are unknown where it is.
        outside: channels that are unknown where it is not.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: if no channel becomes unknown, or the drawn one would.
        InputError: for a map without such a channel.
    """

    def __init__(
        self,
        keys: KeysCollection,
        drawn: int,
        inside: Sequence[int] = (),
        outside: Sequence[int] = (),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.drawn, self.inside, self.outside = int(drawn), tuple(inside), tuple(outside)
        named = [*self.inside, *self.outside]
        if not named or self.drawn in named or min(self.drawn, *named) < 0:
            raise SettingError(
                f"the drawn channel is {drawn}, unknown inside {list(inside)} and outside {list(outside)}",
                "Name other channels than the drawn one, counted from 0.",
            )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The regions of one case."""
        result = dict(data)
        for key in self.key_iterator(result):
            regions = torch.as_tensor(result[key]).clone()
            if max(self.drawn, *self.inside, *self.outside) >= len(regions):
                raise InputError(f"there are {len(regions)} regions", "Channels count from 0.")
            where = regions[self.drawn] > 0
            for channel in self.inside:
                regions[channel][where] = UNKNOWN
            for channel in self.outside:
                regions[channel][~where] = UNKNOWN
            result[key] = regions
        return result
