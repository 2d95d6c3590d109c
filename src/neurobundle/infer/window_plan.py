"""Where the windows of an image lie, before any of them is computed.

The *box* is the part of an image that windows cover: all of it, or the smallest part that holds its foreground. An
image that is smaller than a window is padded, half on either side. Windows lie as MONAI's ``SlidingWindowInferer`` puts
them, from step to step, the last one moved back so that it ends with the box.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.data.utils import dense_patch_slices

from neurobundle.errors import SettingError
from neurobundle.memory import MIB

Box = tuple[slice, ...]

#: Of a sum: float32.
BYTES = 4


@dataclass(frozen=True)
class WindowPlan:
    """Windows of one image.

    Attributes:
        image: voxels along each axis.
        padding: voxels before and behind each axis.
        box: what the windows cover, in the padded image.
        window: voxels along each axis.
        windows: each one's place, in the padded image.
    """

    image: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    box: Box
    window: tuple[int, ...]
    windows: tuple[Box, ...]

    @property
    def padded(self) -> tuple[int, ...]:
        """Voxels along each axis of the padded image."""
        return tuple(n + sum(pad) for n, pad in zip(self.image, self.padding, strict=True))

    @property
    def inside(self) -> Box:
        """The image in the padded one."""
        return tuple(slice(before, before + n) for n, (before, _) in zip(self.image, self.padding, strict=True))

    @property
    def covers_all(self) -> bool:
        """Whether the box is the whole image."""
        return self.box == tuple(slice(0, n) for n in self.padded)

    def outside(self) -> Iterator[Box]:
        """What of the padded image is not in the box, in parts that do not overlap."""
        for axis, (side, length) in enumerate(zip(self.box, self.padded, strict=True)):
            for start, stop in ((0, side.start), (side.stop, length)):
                if start < stop:
                    yield (*self.box[:axis], slice(start, stop), *(slice(0, n) for n in self.padded[axis + 1 :]))

    def bytes_of_sums(self, channels: int) -> int:
        """What the sums of so many channels take, with those of the weights."""
        return BYTES * (channels * math.prod(self.padded) + math.prod(side.stop - side.start for side in self.box))

    def __str__(self) -> str:
        """As a log says it."""
        box = tuple(side.stop - side.start for side in self.box)
        whole = "" if box == self.padded else f" of {by(self.padded)}"
        grown = f", padded from {by(self.image)}" if self.padded != self.image else ""
        return f"{counted(len(self.windows), 'window')} of {by(self.window)} over {by(box)}{whole} voxels{grown}"

    def memory(self, channels: int) -> str:
        """What a log says of the sums.

        Args:
            channels: of the network's output.
        """
        return f"sums of {counted(channels, 'channel')} in {self.bytes_of_sums(channels) / MIB:.0f} MiB"


def plan_windows(
    image: Sequence[int], window: Sequence[int], overlap: Sequence[float] | float = 0.25, box: Box | None = None
) -> WindowPlan:
    """Lay windows over an image, or over a box of it.

    Args:
        image: voxels along each axis.
        window: the same of a window; 0 or less is the whole image.
        overlap: of neighbouring windows, as a share of a window, 0 to below 1; one for all axes, or one for each.
        box: what is to be covered; it grows to the size of a window where the image has room. None is all of it.

    Raises:
        SettingError: for a window of other axes than the image's, or an overlap that is none.

    >>> plan = plan_windows((10, 4), (4, 6), 0.5)
    >>> str(plan)
    '4 windows of 4 x 6 over 10 x 6 voxels, padded from 10 x 4'
    >>> [(a.start, b.start) for a, b in plan.windows]
    [(0, 0), (2, 0), (4, 0), (6, 0)]
    """
    if len(window) != len(image):
        cause = f"the window {list(window)} has {len(window)} axes and the image {len(image)}"
        raise SettingError(cause, "Give the window as many sizes as the image has axes; 0 is the whole axis.")
    shares = overlaps(overlap, len(image))
    size = tuple(side if side > 0 else n for side, n in zip(window, image, strict=True))
    spare = [max(0, side - n) for side, n in zip(size, image, strict=True)]
    padding = tuple((n // 2, n - n // 2) for n in spare)
    whole = tuple(slice(0, n + more) for n, more in zip(image, spare, strict=True))
    if box is None:
        covered = whole
    else:
        shifted = (slice(a.start + b[0], a.stop + b[0]) for a, b in zip(box, padding, strict=True))
        covered = tuple(_grown(*sides) for sides in zip(shifted, size, whole, strict=True))
    lengths = [side.stop - side.start for side in covered]
    steps = [max(1, int(n * (1 - share))) for n, share in zip(size, shares, strict=True)]
    # As MONAI: along an axis that one window fills, there is no step.
    steps = [side if side == length else step for side, length, step in zip(size, lengths, steps, strict=True)]
    places = dense_patch_slices(lengths, size, steps)
    windows = tuple(
        tuple(slice(int(a.start) + b.start, int(a.stop) + b.start) for a, b in zip(place, covered, strict=True))
        for place in places
    )
    return WindowPlan(tuple(image), padding, covered, size, windows)


def overlaps(overlap: Sequence[float] | float, axes: int) -> tuple[float, ...]:
    """An overlap for each axis.

    Raises:
        SettingError: for one below 0, or 1 and above, or another number of them.
    """
    given = tuple(overlap) if isinstance(overlap, Sequence) else (overlap,) * axes
    if len(given) != axes or not all(0 <= share < 1 for share in given):
        raise SettingError(
            f"overlap is {overlap!r}", f"Give a share of 0 to below 1, such as 0.5: one, or {axes}, one for each axis."
        )
    return given


def foreground_box(image: torch.Tensor, margin: int = 0) -> Box | None:
    """The smallest box that holds every voxel that is not as the corner is, in some channel.

    The corner of a skull-stripped scan is background, whatever value it was normalised to; where air has noise, the
    box is all of the image.

    Args:
        image: ``(batch, channel, *spatial)``.
        margin: so many voxels more on every side, within the image.

    Returns:
        None if each channel is one value throughout.
    """
    corner = image[everything_in(tuple(slice(0, 1) for _ in image.shape[2:]))]
    found = (image != corner).flatten(0, 1).any(dim=0)
    box: list[slice] = []
    for axis in range(found.ndim):
        others = [other for other in range(found.ndim) if other != axis]
        along = torch.nonzero(found[tuple(box)].amax(dim=others) if others else found)
        if not len(along):
            return None
        box.append(slice(int(along[0]), int(along[-1]) + 1))
    return tuple(
        slice(max(0, side.start - margin), min(length, side.stop + margin))
        for side, length in zip(box, found.shape, strict=True)
    )


def everything_in(box: Box) -> Any:
    """The index of a box in each channel of each image."""
    return (..., *box)


def moved(box: Box, origin: Box) -> Box:
    """A box as it lies in another one."""
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, origin, strict=True))


def _grown(side: slice, least: int, whole: slice) -> slice:
    """A side of a box, at least so long where there is room, the middle kept where it can be."""
    missing = max(0, min(least, whole.stop) - (side.stop - side.start))
    start = min(max(0, side.start - missing // 2), max(0, whole.stop - least)) if missing else side.start
    return slice(start, max(side.stop, start + least) if missing else side.stop)


def by(sizes: Sequence[int]) -> str:
    """Sizes as people write them.

    >>> by((40, 56, 40))
    '40 x 56 x 40'
    """
    return " x ".join(map(str, sizes))


def counted(number: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "window"), counted(8, "window")
    ('1 window', '8 windows')
    """
    return f"{number} {what}{'s' * (number != 1)}"
