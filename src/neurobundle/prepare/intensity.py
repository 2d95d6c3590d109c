"""Intensities made comparable.

Intensities are measured over a *region* (:mod:`neurobundle.prepare.channels`). A head that was brain-extracted, or a
crop that reaches over the edge of the scan, is zero elsewhere, and those zeros say nothing about the scanner; so
percentiles, mean and standard deviation are taken over the region alone, and applied everywhere, channel by channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from monai.config import KeysCollection

from neurobundle.errors import InputError, SettingError, closest
from neurobundle.prepare.channels import ChannelTransformd, Region, checked_mask, checked_volume, foreground
from neurobundle.prepare.peaks import SEQUENCES, white_stripe

Method = Literal["zscore", "minmax", "percentile", "tissue_peak"]

#: A spread at or below this share of the mean absolute value is no contrast, but rounding.
NO_CONTRAST = 1e-6

_EXCLUDE = "Is it a mask, or an empty scan? Exclude it."


def inside(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The voxels of an image that are in a mask, in the order of the image; ``image[mask]``, in less time on a CPU.

    Args:
        image: any shape.
        mask: boolean, the shape of ``image``.
    """
    if image.device.type != "cpu" or image.requires_grad or image.dtype == torch.bfloat16:  # which numpy lacks
        return image[mask]
    return torch.from_numpy(image.numpy()[mask.numpy()])


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
    low, high = percentiles(inside(image, mask), (lower, upper))
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
    values = inside(image, mask).double()
    mean, deviation = values.mean(), values.std(correction=0)
    spread, middle = float(deviation), abs(float(mean))
    # The mean of what is absolute is at most the sum of both, which spares most images a look at every voxel.
    if spread <= NO_CONTRAST * (middle + spread) and spread <= NO_CONTRAST * float(values.abs().mean()):
        raise InputError(f"no signal: every voxel is {float(mean):g}, or nearly so", _EXCLUDE)
    return image.sub(mean).div_(deviation).to(image.dtype)


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
    return _normalized(values, method, where, lower, upper, sequence)


def _normalized(
    values: torch.Tensor, method: str, where: torch.Tensor, lower: float, upper: float, sequence: str
) -> torch.Tensor:
    """:func:`normalize` of what was checked."""
    if method == "zscore":
        return z_score(values, where)
    measured = inside(values, where)
    if method == "tissue_peak":
        low, spread = white_stripe(measured, sequence)
    elif method == "minmax":
        low, spread = float(measured.min()), float(measured.max() - measured.min())
    else:
        low, high = percentiles(measured, (lower, upper))
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
        return _normalized(channel, self.method, mask, self.lower, self.upper, sequence)
