"""Label maps as regions that overlap: one channel a region, for networks with sigmoid outputs, and back.

A *region* is a set of labels: the whole tumour (WT) is all of its labels, its core (TC) all but the oedema. Regions are
named in an order in which a later one lies within an earlier one, so that a label map can be read off them again.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from neurobundle.errors import InputError, SettingError

#: The label of what a network is not to learn from: as true as false.
UNKNOWN = -1.0


class LabelsToRegionsd(MapTransform):
    """A label map ``(1, i, j, k)`` becomes ``(region, i, j, k)`` of 0 and 1, float32.

    Args:
        keys: label maps.
        regions: name -> labels.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for a region without labels.
        InputError: for a label map with a label that no region has.
    """

    def __init__(
        self, keys: KeysCollection, regions: Mapping[str, Sequence[int]], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        empty = [name for name, labels in regions.items() if not labels]
        if empty or not regions:
            raise SettingError(f"regions are {dict(regions)}", 'For example {"WT": [1, 2, 3], "ET": [3]}.')
        self.regions = {str(name): tuple(int(label) for label in labels) for name, labels in regions.items()}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The regions of one case."""
        result = dict(data)
        for key in self.key_iterator(result):
            given = torch.as_tensor(result[key])
            labels = given.as_tensor() if isinstance(given, MetaTensor) else given
            known = {0, *(label for of in self.regions.values() for label in of)}
            strange = sorted({int(value) for value in torch.unique(labels)} - known)
            if strange:
                raise InputError(
                    f"the label map has the values {strange}, and no region has them",
                    f"Known are {sorted(known)}: mend the label map, or name a region for them.",
                    file=str(given.meta.get("filename_or_obj", "")) if isinstance(given, MetaTensor) else "",
                )
            channels = [
                torch.isin(labels[0], torch.tensor(of, dtype=labels.dtype, device=labels.device)).float()
                for of in self.regions.values()
            ]
            stacked = torch.stack(channels)
            result[key] = MetaTensor(stacked).copy_meta_from(given) if isinstance(given, MetaTensor) else stacked
        return result
