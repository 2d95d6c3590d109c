"""From a scan or a picture to slices of one size, for a network that answers one class a slice."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, MapTransform, ResizeWithPadOrCropd

from neurobundle.errors import InputError, SettingError
from neurobundle.load.datalist import NOTHING_OUTLINED
from neurobundle.load.gate import LABEL
from neurobundle.load.scan import read_scan
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


class OutlinedClassd(MapTransform):
    """A label map in place of a class: what is outlined in it says both, where the tumour is and of which class.

    So a tool that outlines teaches a classifier: its segments bear the names of the classes, and value 1 is class 0.
    A label that is a number is taken as it is.

    Args:
        keys: of the labels: a class, or the file of a label map.
        mask_key: gets the file as well, where the case has no mask; None needs none.
        allow_missing_keys: as in MONAI.

    Raises:
        InputError: if nothing is outlined, or more than one class.
    """

    def __init__(
        self, keys: KeysCollection, mask_key: Hashable | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The class of one case, a number from 0."""
        result = dict(data)
        for key in self.key_iterator(result):
            file = result[key]
            if not isinstance(file, str):
                continue
            result[key] = _outlined_class(file)
            if self.mask_key is not None:
                result.setdefault(self.mask_key, file)
        return result


def _outlined_class(file: str) -> int:
    values = [int(value) for value in np.unique(read_scan(Path(file), LABEL).data) if value]
    if len(values) != 1:
        cause = f"segments {values} are outlined" if values else "nothing is outlined"
        raise InputError(cause, "Outline each tumour in the one segment that is its class.", file=file)
    return values[0] - 1


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
    label_key: str | None = None,
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
        label_key: key of the class, in training; it may be a label map instead: see :class:`OutlinedClassd`. A case
            that is only looked at may lack it.

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
    mask_key = mask_keys[0] if mask_keys else None
    classes = [] if label_key is None else [OutlinedClassd(label_key, mask_key, allow_missing_keys=True)]
    return Compose([*classes, *steps, square])
