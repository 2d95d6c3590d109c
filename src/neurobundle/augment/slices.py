"""One slice of a volume, for networks of two axes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform

from neurobundle.augment.artefacts import check_range
from neurobundle.errors import InputError, SettingError


class RandSliced(RandomizableTransform, MapTransform):
    """A slice along the last axis, drawn at random; a picture has but one.

    What comes out are plain tensors without metadata, which a network of slices has no use for.

    Args:
        keys: images and label maps of one shape, ``(channel, column, row, slice)``.
        label_key: slices with a label of it (above 0 in any channel) are preferred; all are alike if None.
        labelled: how often one of these is drawn; where there is none, any slice is.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for a share that is none, or a ``label_key`` that the case lacks.
        InputError: for volumes that have not the same slices.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str | None = None,
        labelled: float = 0.67,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.label_key, self.labelled = label_key, check_range("labelled", (0.0, labelled), 0, 1)[1]
        self.number = 0

    def randomize(self, data: Mapping[Hashable, Any]) -> None:
        """Draw the number of a slice for a case."""
        super().randomize(None)
        count = int(next(iter(data.values())).shape[-1])
        preferred: list[int] = []
        if self.label_key is not None and count > 1:
            preferred = torch.nonzero((data[self.label_key] > 0).flatten(0, -2).any(dim=0)).flatten().tolist()
        wanted = self.R.random_sample() < self.labelled
        choice = preferred if preferred and wanted else range(count)
        self.number = int(choice[self.R.randint(len(choice))])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The slices of one case, each ``(channel, column, row)``, in memory of their own."""
        result = dict(data)
        volumes = {key: _plain(result[key]) for key in self.key_iterator(result)}
        if self.label_key is not None and self.label_key not in volumes:
            raise SettingError(f"there is no {self.label_key!r} among {list(volumes)}", "Add it to keys.")
        shapes = {tuple(volume.shape[1:]) for volume in volumes.values()}
        if len(shapes) != 1 or any(volume.ndim != 4 for volume in volumes.values()):
            raise InputError(f"its volumes have the shapes {sorted(shapes)}", "Bring them to one grid of three axes.")
        self.randomize(volumes)
        for key, volume in volumes.items():
            result[key] = volume[..., self.number].clone(memory_format=torch.contiguous_format)
        return result


def _plain(volume: Any) -> torch.Tensor:
    tensor = torch.as_tensor(volume)
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
