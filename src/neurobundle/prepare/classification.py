"""From a scan or a picture to slices of one size, for a network that answers one class a slice."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, MapTransform, ResizeWithPadOrCropd

from neurobundle.errors import SettingError
from neurobundle.load.datalist import NOTHING_OUTLINED
from neurobundle.prepare.channels import Region
from neurobundle.prepare.slices import FIELD_OF_VIEW_MM, slice_preprocessing


class LoadMasksd(MapTransform):
    """Loads masks; one that is 0, and no path, becomes zeros on the grid of its image.

    Args:
        keys: of the masks.
        like: of the image, which is loaded already.
        load: what loads the others, for these keys.
    """

    def __init__(self, keys: KeysCollection, like: Hashable, load: LoadImaged) -> None:
        super().__init__(keys)
        self.like, self.load = like, load
        load.allow_missing_keys = True  # what is 0 is taken away before; a key that is not there fails here

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The masks of one case, ``(1, i, j, k)``."""
        empty = [key for key in self.keys if data[key] == NOTHING_OUTLINED]
        result = self.load({key: value for key, value in data.items() if key not in empty})
        image: MetaTensor = data[self.like]
        return {
            **result,
            **{key: MetaTensor(torch.zeros_like(image.as_tensor()[:1])).copy_meta_from(image) for key in empty},
        }


def classification_preprocessing(
    image_keys: Sequence[str],
    mask_keys: Sequence[str] = (),
    spacing_mm: float = 1.0,
    size: int = 224,
    lower: float = 0.5,
    upper: float = 99.5,
    allow_empty: bool = False,
    region: Region = "head",
    field_of_view_mm: float = FIELD_OF_VIEW_MM,
) -> Compose:
    """As :func:`~neurobundle.prepare.slices.slice_preprocessing`, then the middle of each slice as a square.

    Args:
        image_keys: keys of the images; each is a file, or a list of files that become channels.
        mask_keys: keys of masks of the same grid; of a case without a tumour the mask may be 0, and no file.
        spacing_mm: edge of a pixel.
        size: of the square, in pixels; a smaller slice is continued by its border.
        lower: percentile to clip at from below.
        upper: percentile to clip at from above.
        allow_empty: let a channel without a signal pass.
        region: what percentiles, mean and spread are measured over, of all slices together.
        field_of_view_mm: what the longer side of a picture shows.

    Returns:
        A flat ``Compose``: images become ``(channel, column, row, slice)`` float32 with ``size`` columns and rows,
        masks the same.

    Raises:
        SettingError: for a size below 1.
    """
    if size < 1:
        raise SettingError(f"size is {size!r}", "Give the pixels of a side: 224 is usual.")
    before = slice_preprocessing(image_keys, mask_keys, spacing_mm, lower, upper, allow_empty, region, field_of_view_mm)
    keys = [*image_keys, *mask_keys]
    square = ResizeWithPadOrCropd(keys, spatial_size=(size, size, -1), mode="edge")
    steps = [
        LoadMasksd(step.keys, image_keys[0], step)
        if isinstance(step, LoadImaged) and set(step.keys) == set(mask_keys)
        else step
        for step in before.transforms
    ]
    return Compose([*steps, square])
