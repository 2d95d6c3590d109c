"""Regions that overlap back to a label map."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from neurobundle.errors import SettingError


class RegionsToLabelsd(MapTransform):
    """Probabilities ``(region, i, j, k)`` become a label map ``(1, i, j, k)``, uint8.

    Region after region, in the order of the channels, a voxel above the threshold takes the region's label; so a later
    region wins, and one that lies within an earlier one is drawn upon it.

    Args:
        keys: probabilities in [0, 1].
        labels: region -> the label of a voxel that lies in it and in no later one, in the order of the channels. For
            BraTS 2023: ``{WT: 2, TC: 1, ET: 3}``.
        threshold: a probability.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for other regions than channels, or labels that are none.
    """

    def __init__(
        self,
        keys: KeysCollection,
        labels: Mapping[str, int],
        threshold: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels, self.threshold = region_labels(labels, threshold), threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The label map of one case."""
        result = dict(data)
        for key in self.key_iterator(result):
            given = torch.as_tensor(result[key])
            require_regions(len(given), self.labels, str(key))
            plain = given.as_tensor() if isinstance(given, MetaTensor) else given
            labels = torch.zeros((1, *plain.shape[1:]), dtype=torch.uint8, device=plain.device)
            for channel, value in zip(plain, self.labels.values(), strict=True):
                labels[0][channel > self.threshold] = value
            result[key] = MetaTensor(labels).copy_meta_from(given) if isinstance(given, MetaTensor) else labels
        return result


def region_labels(labels: Mapping[str, int], threshold: float) -> dict[str, int]:
    """The labels of regions, and a threshold, checked.

    Raises:
        SettingError: for labels that uint8 cannot hold or that are background, or a threshold that is no probability.
    """
    if not labels or not all(0 < int(value) < 256 for value in labels.values()):
        raise SettingError(f"labels are {dict(labels)}", "Give each region a label from 1 to 255.")
    if not 0 < threshold < 1:
        raise SettingError(f"threshold is {threshold!r}", "Give a probability between 0 and 1.")
    return {name: int(value) for name, value in labels.items()}


def require_regions(channels: int, labels: Mapping[str, int], what: str = "the prediction") -> None:
    """Of as many channels as there are regions.

    Raises:
        SettingError: for others.
    """
    if channels != len(labels):
        raise SettingError(
            f"{what} has {channels} channels, and {len(labels)} regions have labels",
            "Name a label for each channel, in order.",
        )
