"""Intensities made comparable.

The *foreground* of a volume is where it has signal: its voxels above zero. A head that was brain-extracted, or a
crop that reaches over the edge of the scan, is zero elsewhere, and those zeros say nothing about the scanner; so
percentiles, mean and standard deviation are taken over the foreground alone, and applied everywhere.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from neurobundle.errors import InputError

#: A standard deviation at or below this share of the mean absolute value is no contrast, but rounding.
NO_CONTRAST = 1e-6


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
    values = image[mask].flatten().sort().values
    # torch.quantile refuses more than 2**24 values, and a head has as many; on sorted values it is one lerp.
    low, high = (_quantile_of_sorted(values, p / 100) for p in (lower, upper))
    return image.clamp(low, high)


def _quantile_of_sorted(values: torch.Tensor, q: float) -> float:
    position = q * (values.numel() - 1)
    below = int(position)
    above = min(below + 1, values.numel() - 1)
    return float(torch.lerp(values[below], values[above], position - below))


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
        raise InputError(
            f"no signal: every voxel is {float(mean):g}, or nearly so", "Is it a mask, or an empty scan? Exclude it."
        )
    return ((image - mean) / deviation).to(image.dtype)


class NormalizeForegroundd(MapTransform):
    """Percentile clip, then z-score, both measured over the foreground, channel by channel.

    The array's own mean and spread are gone afterwards; the input tensor is never changed in place.

    Args:
        keys: images, each channel first: ``(channel, i, j, k)`` or ``(channel, i, j)``.
        lower: percentile to clip at from below.
        upper: percentile to clip at from above.
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
        allow_empty: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.lower, self.upper, self.allow_empty = lower, upper, allow_empty

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Normalise the images of one case."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            try:
                channels = [self._normalise(channel) for channel in image]
            except InputError as error:
                error.file = error.file or _file_of(image)
                raise
            result[key] = _like(image, channels)
        return result

    def _normalise(self, channel: torch.Tensor) -> torch.Tensor:
        values = channel.as_tensor() if isinstance(channel, MetaTensor) else channel
        bad = int((~torch.isfinite(values)).sum())
        if bad:
            raise InputError(f"{bad} of its {values.numel()} voxels are NaN or infinite", "Repair or exclude the scan.")
        if self.allow_empty and not values.any():
            return values
        mask = foreground(values)
        return z_score(clip_percentiles(values, self.lower, self.upper, mask), mask)


def _like(image: torch.Tensor, channels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack channels into a tensor that carries the metadata and the applied operations of ``image``."""
    stacked = torch.stack(list(channels))
    return MetaTensor(stacked).copy_meta_from(image) if isinstance(image, MetaTensor) else stacked


def _file_of(image: torch.Tensor) -> str:
    return str(image.meta.get("filename_or_obj", "")) if isinstance(image, MetaTensor) else ""
