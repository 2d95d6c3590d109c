"""Histograms brought to one shape: the landmarks of Nyul & Udupa.

*Landmarks* are percentiles of an image's intensities over a region. Training images teach a *standard scale*: each
image's landmarks are mapped linearly so that the first and the last fall on the ends of that scale, and are averaged
over the images (Nyul & Udupa 1999, Magn Reson Med 42:1072; with deciles as in Nyul, Udupa & Zhang 2000, IEEE TMI
19:143). An image is then standardised by the piecewise linear function that takes its own landmarks to the standard
ones; beyond the ends the outermost pieces go on. A sequence has its own landmarks.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection

from neurobundle.errors import InputError, SettingError
from neurobundle.files import write_json
from neurobundle.prepare.channels import ChannelTransformd, Region, checked_mask, checked_volume, foreground
from neurobundle.prepare.intensity import percentiles

#: Nyul, Udupa & Zhang's: the ends without stray voxels, and the deciles.
PERCENTILES = (1.0, *(float(p) for p in range(10, 100, 10)), 99.0)
#: The ends of the standard scale.
SCALE = (0.0, 100.0)

_MORE = "Learn them again with neurobundle.prepare.landmarks.learn_landmarks."


@dataclass(frozen=True)
class Landmarks:
    """A standard scale.

    Attributes:
        percentiles: ascending, in [0, 100].
        values: what each becomes; ascending, the last above the first.
    """

    percentiles: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        check_percentiles(self.percentiles)
        finite = all(math.isfinite(value) for value in self.values)
        if (
            len(self.values) != len(self.percentiles)
            or not finite
            or any(a > b for a, b in itertools.pairwise(self.values))
        ):
            raise SettingError(
                f"{len(self.percentiles)} percentiles have the standard values {self.values}",
                f"Give as many, ascending. {_MORE}",
            )
        if self.values[0] >= self.values[-1]:
            raise SettingError(f"all standard values are {self.values[0]:g}", _MORE)

    def apply(self, image: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """An image on the standard scale; the input is left as it is.

        Args:
            image: ``(i, j, k)`` or ``(i, j)``.
            mask: where to measure; the foreground if None.

        Returns:
            The same shape, floating point. What is brighter in the image is brighter, or equal, in the result.

        Raises:
            InputError: for voxels that are not finite, a mask that does not fit, or an image without contrast in it.
        """
        values = checked_volume(image)
        own = _own(values, mask, self.percentiles)
        return _piecewise(values, own, self.values)

    def save(self, path: str | Path) -> Path:
        """Write JSON, whole or not at all."""
        return write_json(Path(path), asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Landmarks:
        """Read what :meth:`save` wrote.

        Raises:
            SettingError: if the file is missing, or holds something else.
        """
        try:
            content = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise SettingError(f"the landmarks cannot be read ({error})", _MORE, file=path) from error
        try:
            return cls.of(content)
        except SettingError as error:
            error.file = str(path)
            raise

    @classmethod
    def of(cls, given: Any) -> Landmarks:
        """Landmarks from a mapping ``{percentiles, values}``, a path, or themselves.

        Raises:
            SettingError: if they are none.
        """
        if isinstance(given, Landmarks):
            return given
        if isinstance(given, str | Path):
            return cls.load(given)
        names = {"percentiles", "values"}
        if not isinstance(given, Mapping) or set(given) != names:
            raise SettingError("the landmarks are no mapping of percentiles and values", _MORE)
        try:
            return cls(*(tuple(float(value) for value in given[name]) for name in ("percentiles", "values")))
        except (TypeError, ValueError) as error:
            raise SettingError("the landmarks are no numbers", _MORE) from error


def learn_landmarks(
    images: Iterable[torch.Tensor],
    masks: Iterable[torch.Tensor | None] | None = None,
    percentiles: Sequence[float] = PERCENTILES,
) -> Landmarks:
    """The standard scale of one sequence's training images.

    Args:
        images: each ``(i, j, k)`` or ``(i, j)``; of any sizes, looked at one by one.
        masks: one an image, above 0 where to measure; the foreground of an image where None.
        percentiles: ascending, in [0, 100].

    Raises:
        SettingError: for percentiles out of order.
        InputError: for no image at all, another number of masks, or an image without contrast; it says which.

    >>> learn_landmarks([torch.arange(1.0, 6.0), 7 * torch.arange(1.0, 6.0)], percentiles=(0, 25, 100)).values
    (0.0, 25.0, 100.0)
    """
    wanted = tuple(float(p) for p in percentiles)
    check_percentiles(wanted)
    standard = []
    for number, (image, mask) in enumerate(_pairs(images, masks)):
        try:
            own = np.array(_own(checked_volume(image), mask, wanted))
        except InputError as error:
            raise error.for_case(f"image {number}") from None
        standard.append(SCALE[0] + (own - own[0]) / (own[-1] - own[0]) * (SCALE[1] - SCALE[0]))
    if not standard:
        raise InputError("there are no images to learn landmarks from", "Give the training images of one sequence.")
    # Rounding must not put two equal landmarks out of order.
    return Landmarks(wanted, tuple(np.maximum.accumulate(np.mean(standard, axis=0)).tolist()))


class HistogramLandmarksd(ChannelTransformd):
    """:meth:`Landmarks.apply`, channel by channel, over a region.

    Args:
        keys: images, each channel first: ``(channel, i, j, k)`` or ``(channel, i, j)``.
        landmarks: the path of a JSON file, a mapping ``{percentiles, values}``, or one of them for each channel.
        region: ``foreground``, ``mask`` or ``all``; the one that they were learned over.
        mask_key: for ``mask``: a mask on the same grid.
        allow_empty: leave a channel that is 0 everywhere as it is.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for landmarks that cannot be read.
        InputError: for a channel that cannot be standardised; it names the file.
    """

    def __init__(
        self,
        keys: KeysCollection,
        landmarks: Any,
        region: Region = "foreground",
        mask_key: str | None = None,
        allow_empty: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, region, mask_key, allow_empty, allow_missing_keys)
        several = isinstance(landmarks, Sequence) and not isinstance(landmarks, str)
        self.landmarks = [Landmarks.of(one) for one in (landmarks if several else [landmarks])]
        self.shared = not several

    def one(self, channel: torch.Tensor, mask: torch.Tensor, number: int) -> torch.Tensor:
        """Standardised."""
        if self.shared:
            return self.landmarks[0].apply(channel, mask)
        if number >= len(self.landmarks):
            raise InputError(
                f"it has more channels than the {len(self.landmarks)} landmarks", "Give landmarks for each channel."
            )
        return self.landmarks[number].apply(channel, mask)


def check_percentiles(given: Sequence[float]) -> None:
    """Refuse percentiles that are no ladder.

    Raises:
        SettingError: for fewer than two, out of order, or outside [0, 100].
    """
    steps = [b > a for a, b in itertools.pairwise(given)]
    if len(given) < 2 or not all(steps) or not (given[0] >= 0 and given[-1] <= 100):
        raise SettingError(f"the percentiles are {tuple(given)}", "Give two or more, ascending, in [0, 100].")


def _pairs(
    images: Iterable[torch.Tensor], masks: Iterable[torch.Tensor | None] | None
) -> Iterable[tuple[torch.Tensor, torch.Tensor | None]]:
    if masks is None:
        yield from ((image, None) for image in images)
        return
    nothing = object()
    for image, mask in itertools.zip_longest(images, masks, fillvalue=nothing):
        if image is nothing or mask is nothing:
            raise InputError("there are not as many masks as images", "Give one mask an image, or None.")
        yield image, mask  # type: ignore[misc]


def _own(values: torch.Tensor, mask: torch.Tensor | None, at: Sequence[float]) -> list[float]:
    where = foreground(values) if mask is None else checked_mask(values, mask)
    own = percentiles(values[where], at)
    if own[-1] <= own[0]:
        raise InputError(
            f"no contrast: its percentiles {at[0]:g} and {at[-1]:g} are both {own[0]:g}",
            "Is it a mask, or an empty scan? Exclude it.",
        )
    return own


def _piecewise(image: torch.Tensor, own: Sequence[float], standard: Sequence[float]) -> torch.Tensor:
    """The function through (own, standard); landmarks that fall together take the mean of their standard values."""
    x, which = np.unique(np.asarray(own, np.float64), return_inverse=True)
    y = np.bincount(which, np.asarray(standard, np.float64)) / np.bincount(which)
    slopes = np.diff(y) / np.diff(x)
    knots, left, value, slope = (
        torch.as_tensor(part, dtype=torch.float64, device=image.device).to(image.dtype)
        for part in (x[1:-1], x[:-1], y[:-1], slopes)
    )
    if not bool(torch.isfinite(slope).all()):
        # So dark that a number of this type cannot say how steep it is.
        return _piecewise(image.double(), own, standard).to(image.dtype)
    piece = torch.bucketize(image.contiguous(), knots, right=True, out_int32=True)
    return (image - left[piece]).mul_(slope[piece]).add_(value[piece])
