"""Intensities made comparable.

A *region* is where an intensity is measured: the *foreground*, where a volume has signal (its voxels above zero); a
*mask* of the brain; the *head*, what is bright enough to be no air, whether a scanner left noise there or zeros; or
all of the volume. A head that was brain-extracted, or a crop that reaches over the edge of the
scan, is zero elsewhere, and those zeros say nothing about the scanner; so percentiles, mean and standard deviation are
taken over the region alone, and applied everywhere, channel by channel.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from neurobundle.errors import InputError, SettingError, closest
from neurobundle.prepare.peaks import SEQUENCES, white_stripe

Method = Literal["zscore", "minmax", "percentile", "tissue_peak"]
Region = Literal["foreground", "head", "mask", "all"]

#: A spread at or below this share of the mean absolute value is no contrast, but rounding.
NO_CONTRAST = 1e-6

#: Of the mean brightness of a head, what is darker is air: grey matter and fluid in T1 are above it.
HEAD_SHARE = 0.3

_EXCLUDE = "Is it a mask, or an empty scan? Exclude it."


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


def percentiles(values: torch.Tensor, at: Sequence[float]) -> list[float]:
    """Percentiles, with linear interpolation between two neighbours in rank.

    Args:
        values: any shape, not empty, floating point.
        at: percentiles in [0, 100].

    >>> percentiles(torch.tensor([4.0, 0.0, 2.0]), (0, 25, 100))
    [0.0, 1.0, 4.0]
    """
    # torch.quantile refuses more than 2**24 values, and a head has as many.
    last = values.numel() - 1
    positions = [p / 100 * last for p in at]
    ranks = sorted({rank for position in positions for rank in (int(position), min(int(position) + 1, last))})
    flat = values.flatten()
    if flat.device.type == "cpu":
        # Only the ranks that are asked for need to be in their place.
        ordered = torch.from_numpy(np.partition(flat.detach().numpy(), ranks))
    else:
        ordered = flat.sort().values
    return [float(torch.lerp(ordered[int(x)], ordered[min(int(x) + 1, last)], x - int(x))) for x in positions]


def clip_percentiles(image: torch.Tensor, lower: float, upper: float, mask: torch.Tensor) -> torch.Tensor:
    """Clip a volume to two percentiles of its masked voxels; the input is left as it is.

    Args:
        image: any shape, floating point.
        lower: percentile in [0, 100].
        upper: percentile in [0, 100], above ``lower``.
        mask: boolean, the shape of ``image``, not empty.

    >>> x = torch.arange(101.0)
    >>> clip_percentiles(x, 10, 90, x >= 0).aminmax()
    torch.return_types.aminmax(
    min=tensor(10.),
    max=tensor(90.))
    """
    low, high = percentiles(image[mask], (lower, upper))
    return image.clamp(low, high)


def z_score(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Subtract the mean and divide by the standard deviation of the masked voxels.

    Args:
        image: any shape, floating point.
        mask: boolean, the shape of ``image``, not empty.

    Raises:
        InputError: if the masked voxels have no contrast.

    >>> z_score(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([False, True, True])).tolist()
    [-2.0, -1.0, 1.0]
    """
    values = image[mask].double()
    mean, deviation = values.mean(), values.std(correction=0)
    if float(deviation) <= NO_CONTRAST * float(values.abs().mean()):
        raise InputError(f"no signal: every voxel is {float(mean):g}, or nearly so", _EXCLUDE)
    return ((image - mean) / deviation).to(image.dtype)


def normalize(
    image: torch.Tensor,
    method: Method = "zscore",
    mask: torch.Tensor | None = None,
    lower: float = 0.5,
    upper: float = 99.5,
    sequence: str = "T1",
) -> torch.Tensor:
    """One volume, normalised by what is measured over a mask; the input is left as it is.

    Args:
        image: ``(i, j, k)`` or ``(i, j)``.
        method: ``zscore``: mean 0 and standard deviation 1 in the mask, nothing clipped. ``minmax``: the mask's least
            voxel becomes 0, its greatest 1; others may lie beyond. ``percentile``: two percentiles of the mask become
            0 and 1, and what is beyond is clipped. ``tissue_peak``: white matter's peak becomes 0 and the spread of
            the white stripe about it 1: see :func:`neurobundle.prepare.peaks.white_stripe`; the mask is the brain.
        mask: the shape of ``image``, above 0 where to measure; its foreground if None.
        lower: percentile that becomes 0, for ``percentile``.
        upper: percentile that becomes 1, for ``percentile``.
        sequence: ``T1``, ``T1c``, ``T2`` or ``FLAIR``, for ``tissue_peak``.

    Returns:
        The same shape; float32, or the type of ``image`` if that is floating point.

    Raises:
        SettingError: for an unknown method or sequence, or percentiles out of order.
        InputError: for voxels that are not finite, a mask that is empty or of another shape, or no contrast in it.

    >>> normalize(torch.tensor([0.0, 10.0, 20.0, 30.0]), "minmax").tolist()
    [-0.5, 0.0, 0.5, 1.0]
    """
    check_settings(method, lower, upper, sequence)
    values = checked_volume(image)
    where = foreground(values) if mask is None else checked_mask(values, mask)
    if method == "zscore":
        return z_score(values, where)
    inside = values[where]
    if method == "tissue_peak":
        low, spread = white_stripe(inside, sequence)
    elif method == "minmax":
        low, spread = float(inside.min()), float(inside.max() - inside.min())
    else:
        low, high = percentiles(inside, (lower, upper))
        values, spread = values.clamp(low, high), high - low
    if spread <= NO_CONTRAST * abs(low):
        raise InputError(f"no signal: every voxel is {low:g}, or nearly so", _EXCLUDE)
    return (values - low) / spread


def check_settings(method: str, lower: float, upper: float, sequence: str) -> None:
    """Refuse what :func:`normalize` has no meaning for.

    Raises:
        SettingError: naming what is wrong.
    """
    for name, word, known in (("method", method, get_args(Method)), ("sequence", sequence, tuple(SEQUENCES))):
        if word not in known:
            raise SettingError(f"{name} is {word!r}{closest(str(word), known)}", f"It is one of {', '.join(known)}.")
    if not 0 <= lower < upper <= 100:
        raise SettingError(f"lower is {lower:g} and upper {upper:g}", "Give 0 <= lower < upper <= 100, percentiles.")


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
    bad = int((~torch.isfinite(values)).sum())
    if bad:
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


class NormalizeForegroundd(ChannelTransformd):
    """Percentile clip, then z-score, both measured over the foreground (or a head), channel by channel.

    The array's own mean and spread are gone afterwards; the input tensor is never changed in place.

    Args:
        keys: images, each channel first: ``(channel, i, j, k)`` or ``(channel, i, j)``.
        lower: percentile to clip at from below.
        upper: percentile to clip at from above.
        region: ``foreground`` or ``head``.
        allow_empty: leave a channel that is 0 everywhere as it is: one that a study lacks, for a network that can do
            without.
        allow_missing_keys: as in MONAI.

    Raises:
        InputError: for a channel without contrast or with voxels that are not finite; it names the file.
    """

    def __init__(
        self,
        keys: KeysCollection,
        lower: float = 0.5,
        upper: float = 99.5,
        region: Region = "foreground",
        allow_empty: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, region, allow_empty=allow_empty, allow_missing_keys=allow_missing_keys)
        self.lower, self.upper = lower, upper

    def one(self, channel: torch.Tensor, mask: torch.Tensor, number: int) -> torch.Tensor:
        """Clipped, then centred and scaled."""
        return z_score(clip_percentiles(channel, self.lower, self.upper, mask), mask)


class NormalizeIntensityd(ChannelTransformd):
    """:func:`normalize`, channel by channel, over a region.

    Args:
        keys: images, each channel first: ``(channel, i, j, k)`` or ``(channel, i, j)``.
        method: ``zscore``, ``minmax``, ``percentile`` or ``tissue_peak``.
        region: ``foreground``, ``head``, ``mask`` or ``all``.
        mask_key: for ``mask``: a mask on the same grid, of one channel for all, or of as many as the image has.
        lower: percentile that becomes 0, for ``percentile``.
        upper: percentile that becomes 1, for ``percentile``.
        sequence: for ``tissue_peak``: of all channels, or one a channel.
        allow_empty: leave a channel that is 0 everywhere as it is.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for a setting that means nothing.
        InputError: for a channel that cannot be normalised, or a mask that does not fit; it names the file.
    """

    def __init__(
        self,
        keys: KeysCollection,
        method: Method = "zscore",
        region: Region = "foreground",
        mask_key: str | None = None,
        lower: float = 0.5,
        upper: float = 99.5,
        sequence: str | Sequence[str] = "T1",
        allow_empty: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, region, mask_key, allow_empty, allow_missing_keys)
        self.method, self.lower, self.upper = method, lower, upper
        self.sequence = sequence if isinstance(sequence, str) else tuple(sequence)
        for name in [self.sequence] if isinstance(self.sequence, str) else self.sequence:
            check_settings(method, lower, upper, name)

    def one(self, channel: torch.Tensor, mask: torch.Tensor, number: int) -> torch.Tensor:
        """Normalised."""
        if isinstance(self.sequence, str):
            sequence = self.sequence
        elif number < len(self.sequence):
            sequence = self.sequence[number]
        else:
            raise InputError(
                f"it has more channels than the {len(self.sequence)} sequences", "Name the sequence of each channel."
            )
        return normalize(channel, self.method, mask, self.lower, self.upper, sequence)


def stacked_like(image: torch.Tensor, channels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack channels into a tensor that carries the metadata and the applied operations of ``image``."""
    stacked = torch.stack(list(channels))
    return MetaTensor(stacked).copy_meta_from(image) if isinstance(image, MetaTensor) else stacked


def file_of(image: Any) -> str:
    """The file that an image came from, as its metadata says; empty if they do not."""
    return str(image.meta.get("filename_or_obj", "")) if isinstance(image, MetaTensor) else ""
