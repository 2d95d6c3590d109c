"""Channels taken away, as they are from studies that lack a sequence.

A channel that is absent is 0 everywhere, in training and afterwards; a channel that is there never is, since it was
normalised.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

from neurobundle.augment.artefacts import check_range
from neurobundle.errors import InputError, SettingError


class RandDropChannelsd(RandomizableTransform, MapTransform):
    """Set channels to 0, and leave at least one.

    Args:
        keys: images, channel first.
        prob: how often channels are taken away.
        favourites: sets of channels that are left more often than others: those that studies have.
        favoured: of the times that channels are taken away, how often one of these sets is left. Else the number of
            channels that are left is drawn first, then which ones.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for a probability that is none, or an empty set.
        InputError: for a favourite that the image does not have.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.8,
        favourites: Sequence[Sequence[int]] = (),
        favoured: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, check_range("prob", (0.0, prob), 0, 1)[1])
        self.favoured = check_range("favoured", (0.0, favoured), 0, 1)[1]
        self.favourites = [tuple(int(n) for n in channels) for channels in favourites]
        if not all(self.favourites):
            raise SettingError("a set of favourites is empty", "Each names the channels that are left.")
        self.left: tuple[int, ...] | None = None

    def randomize(self, data: int) -> None:
        """Draw the channels that are left, of so many."""
        super().randomize(None)
        self.left = None
        if not self._do_transform:
            return
        if self.favourites and self.R.rand() < self.favoured:
            self.left = self.favourites[self.R.randint(len(self.favourites))]
        else:
            self.left = tuple(sorted(self.R.permutation(data)[: self.R.randint(data) + 1].tolist()))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same channels are taken from all images of a case."""
        result = dict(data)
        keys = list(self.key_iterator(result))
        if not keys:
            return result
        number = len(result[keys[0]])
        self.randomize(number)
        if self.left is None:
            return result
        if max(self.left) >= number:
            raise InputError(f"favourites have channel {max(self.left)}, the image {number}", "Channels count from 0.")
        for key in keys:
            image = torch.as_tensor(result[key]).clone()
            image[[n for n in range(len(image)) if n not in self.left]] = 0
            result[key] = image
        return result
