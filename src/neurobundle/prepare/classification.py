"""From a scan or a picture to slices of one size, for a network that answers one class a slice."""

from __future__ import annotations

from collections.abc import Sequence

from monai.transforms import Compose, ResizeWithPadOrCropd

from neurobundle.errors import SettingError
from neurobundle.prepare.intensity import Region
from neurobundle.prepare.slices import FIELD_OF_VIEW_MM, slice_preprocessing


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
        mask_keys: keys of masks of the same grid.
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
    return Compose([*before.transforms, square])
