"""Channel by channel: what a transform of intensities needs to know of an image and of the region it is measured over.

A *region* is where an intensity is measured: the *foreground*, where a volume has signal (its voxels above zero); a
*mask* of the brain; the *head*, what is bright enough to be no air, whether a scanner left noise there or zeros; or
all of the volume.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from neurobundle.errors import InputError, SettingError, closest

Region = Literal["foreground", "head", "mask", "all"]

#: Of the mean brightness of a head, what is darker is air: grey matter and fluid in T1 are above it.
HEAD_SHARE = 0.3


def foreground(image: torch.Tensor) -> torch.Tensor:
    """Where a volume has signal: voxels above zero, or everywhere if none is.

    Args:
        image: any shape.

    Returns:
        A boolean tensor of the same shape.

    >>> foreground(torch.tensor([0.0, 2.0, -1.0])).tolist()
    [False, True, False]
    """
    mask = image > 0
    return mask if bool(mask.any()) else torch.ones_like(mask)


def head_region(image: torch.Tensor) -> torch.Tensor:
    """Where a volume is brighter than air: above a share of the mean brightness of what is itself above it.

    The threshold is a fixed point, so that neither noise in the air nor the size of the field of view moves it.

    Args:
        image: any shape.

    Returns:
        A boolean tensor of the same shape, not empty.

    >>> head_region(torch.tensor([0.0, 1.0, 0.0, 1.0, 90.0, 110.0])).tolist()
    [False, False, False, False, True, True]
    """
    sample = image.flatten()[:: max(1, image.numel() // 2**18)]
    threshold = float(sample.mean()) * HEAD_SHARE
    for _ in range(50):
        above = sample[sample > threshold]
        moved = float(above.mean()) * HEAD_SHARE if len(above) else threshold
        if abs(moved - threshold) <= 1e-4 * abs(moved):
            break
        threshold = moved
    mask = image > threshold
    return mask if bool(mask.any()) else torch.ones_like(mask)


def checked_volume(image: torch.Tensor) -> torch.Tensor:
    """A volume as a plain tensor of floats.

    Raises:
        InputError: if it is empty or has voxels that are not finite.
    """
    values = torch.as_tensor(image)
    values = values.as_tensor() if isinstance(values, MetaTensor) else values
    if not values.numel():
        raise InputError("it has no voxels", "Exclude the scan.")
    values = values if values.is_floating_point() else values.float()
    # One pass: the least and the greatest are NaN if any voxel is.
    if not all(math.isfinite(end) for end in values.aminmax()):
        bad = int((~torch.isfinite(values)).sum())
        raise InputError(f"{bad} of its {values.numel()} voxels are NaN or infinite", "Repair or exclude the scan.")
    return values


def checked_mask(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A mask as booleans on the device of its image.

    Raises:
        InputError: if its shape is another one, or nothing is in it.
    """
    where = torch.as_tensor(mask)
    where = (where.as_tensor() if isinstance(where, MetaTensor) else where).to(image.device) > 0
    if where.shape != image.shape:
        raise InputError(
            f"the mask is {tuple(where.shape)} and the image {tuple(image.shape)} voxels",
            "Bring both to one grid before, or leave the mask out.",
        )
    if not bool(where.any()):
        raise InputError("the mask is empty", "Mend the mask, or measure over the foreground.")
    return where


class ChannelTransformd(MapTransform):
    """What the transforms of this room share: each channel of each image apart, measured over a region.

    A subclass says in :meth:`one` what becomes of one channel.

    Args:
        keys: images, each channel first: ``(channel, i, j, k)`` or ``(channel, i, j)``.
        region: ``foreground``, ``head``, ``mask`` or ``all``.
        mask_key: for ``mask``: a mask on the same grid, of one channel for all, or of as many as the image has.
        allow_empty: leave a channel that is 0 everywhere as it is: one that a study lacks.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for a region that is none, or ``mask`` without a key.
    """

    def __init__(
        self,
        keys: KeysCollection,
        region: Region = "foreground",
        mask_key: str | None = None,
        allow_empty: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if region not in get_args(Region):
            known = get_args(Region)
            raise SettingError(f"region is {region!r}{closest(str(region), known)}", f"One of {', '.join(known)}.")
        if (region == "mask") != (mask_key is not None):
            raise SettingError(
                f"region is {region!r} and mask_key {mask_key!r}", "Give both region: mask and mask_key."
            )
        self.region, self.mask_key, self.allow_empty = region, mask_key, allow_empty

    @abstractmethod
    def one(self, channel: torch.Tensor, mask: torch.Tensor, number: int) -> torch.Tensor:
        """What becomes of a channel: finite floats, a mask that is not empty, and the channel's number."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The images of one case, each in a new tensor."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            try:
                masks = self._masks(result, len(image))
                channels = [self._one(channel, masks[n], n) for n, channel in enumerate(image)]
            except InputError as error:
                error.file = error.file or file_of(image)
                raise
            result[key] = stacked_like(image, channels)
        return result

    def _one(self, channel: torch.Tensor, mask: torch.Tensor | None, number: int) -> torch.Tensor:
        values = checked_volume(channel)
        if self.allow_empty and not values.any():
            return values
        where = _REGIONS[self.region](values) if mask is None else checked_mask(values, mask)
        return self.one(values, where, number)

    def _masks(self, data: Mapping[Hashable, Any], channels: int) -> Sequence[torch.Tensor | None]:
        if self.mask_key is None:
            return [None] * channels
        if self.mask_key not in data:
            raise InputError(f"there is no mask {self.mask_key!r}", "Load it before, or measure over the foreground.")
        masks = list(data[self.mask_key])
        if len(masks) not in (1, channels):
            raise InputError(f"the mask has {len(masks)} channels and the image {channels}", "Give one, or as many.")
        return masks if len(masks) == channels else masks * channels


_REGIONS = {
    "foreground": foreground,
    "head": head_region,
    "all": lambda image: torch.ones_like(image, dtype=torch.bool),
}


def stacked_like(image: torch.Tensor, channels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack channels into a tensor that carries the metadata and the applied operations of ``image``."""
    stacked = torch.stack(list(channels))
    return MetaTensor(stacked).copy_meta_from(image) if isinstance(image, MetaTensor) else stacked


def file_of(image: Any) -> str:
    """The file that an image came from, as its metadata says; empty if they do not."""
    return str(image.meta.get("filename_or_obj", "")) if isinstance(image, MetaTensor) else ""
