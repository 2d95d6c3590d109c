"""What spoils an MR image, by chance: the frame of all artefacts, and those of resolution.

A *signal* is an image above its *floor*, which is what a voxel without any signal has: 0, or the least voxel if that is
below 0, as it is after a z-score. An artefact is a plain function from signal to signal; so it means the same whether
it comes before or after normalisation, and what is relative is relative to the signal. A *draw* is its parameters, one
for each channel of each image: sequences are acquired one after the other. The same draw gives the same image.

Resolution: :class:`RandBlurd`, :class:`RandThickSlicesd`; a lost piece: :class:`RandCutoutd`. The artefacts of k-space
are in :mod:`neurobundle.augment.kspace`, noise in :mod:`neurobundle.augment.noise`, those of brightness in
:mod:`neurobundle.augment.contrast`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, Unpack

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform

from neurobundle.errors import SettingError
from neurobundle.prepare.separable import along_axes, along_axis

Range = Sequence[float]


class Common(TypedDict, total=False):
    """What every artefact takes besides its own settings, by name; :class:`RandArtefactd` says what it means."""

    keep_background: bool
    allow_missing_keys: bool


class RandArtefactd(RandomizableTransform, MapTransform):
    """An artefact that comes by chance; a subclass says what it draws and what it does to a signal.

    A channel of one value, such as a sequence that a study lacks, is left as it is; so are the input's own voxels.

    Args:
        keys: images, each channel first: ``(channel, i, j, k)`` or ``(channel, i, j)``.
        prob: how often it happens.
        keep_background: leave voxels without any signal at the floor: for brain-extracted images, whose air was cut
            away after the scan.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for a probability that is none.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        keep_background: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        check_range("prob", (0.0, prob), 0, 1)
        RandomizableTransform.__init__(self, prob)
        self.keep_background = keep_background
        self.drawn: dict[Hashable, list[Any]] = {}

    @abstractmethod
    def draw(self, shape: Sequence[int]) -> Any:
        """The parameters for one channel, from ``self.R``."""

    @abstractmethod
    def apply(self, signal: torch.Tensor, drawn: Any) -> torch.Tensor:
        """A new signal from a float32 signal ``(i, j, k)`` or ``(i, j)``, which stays as it is."""

    def apply_into(self, signal: torch.Tensor, drawn: Any, out: torch.Tensor) -> None:
        """The new signal in a place of its own, for those that can write there at once."""
        out.copy_(self.apply(signal, drawn))

    def randomize(self, data: Mapping[Hashable, Any]) -> None:
        """Draw whether it happens, and how for each channel."""
        super().randomize(None)
        self.drawn = {}
        if self._do_transform:
            for key in self.key_iterator(dict(data)):
                self.drawn[key] = [self.draw(tuple(data[key].shape[1:])) for _ in range(len(data[key]))]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The images of one case, each in a new tensor if it happened."""
        result = dict(data)
        self.randomize(result)
        for key, drawn in self.drawn.items():
            image = torch.as_tensor(result[key])
            plain = (image.as_tensor() if isinstance(image, MetaTensor) else image).detach()
            spoilt = torch.empty(plain.shape, dtype=torch.float32, device=plain.device)
            for channel, one, out in zip(plain, drawn, spoilt, strict=True):
                self._one(channel, one, out)
            spoilt = spoilt.to(plain.dtype) if plain.is_floating_point() else spoilt
            result[key] = MetaTensor(spoilt).copy_meta_from(image) if isinstance(image, MetaTensor) else spoilt
        return result

    def _one(self, channel: torch.Tensor, drawn: Any, out: torch.Tensor) -> None:
        image = channel.float()
        low, high = (float(value) for value in torch.aminmax(image))
        if low == high:
            out.copy_(image)
            return
        floor = min(low, 0.0)
        signal = image - floor if floor else image
        self.apply_into(signal, drawn, out)
        if self.keep_background:
            out.masked_fill_(signal == 0, 0.0)
        if floor:
            out.add_(floor)

    def uniform(self, limits: Range) -> float:
        """A number between two."""
        return float(self.R.uniform(limits[0], limits[1]))

    def seed(self) -> int:
        """A seed for what is drawn voxel by voxel."""
        return int(self.R.randint(2**31 - 1))


def check_range(name: str, limits: Range, low: float, high: float = math.inf) -> tuple[float, float]:
    """Two numbers in ascending order within bounds.

    Raises:
        SettingError: naming the setting, its value and its bounds.
    """
    try:
        first, last = (float(value) for value in limits)
    except (TypeError, ValueError):
        first, last = math.nan, math.nan
    if not (low <= first <= last <= high and math.isfinite(last)):
        given = last if name == "prob" else limits
        bounds = f"between {low:g} and {high:g}" if math.isfinite(high) else f"of {low:g} or more"
        what = "a number" if name == "prob" else "two numbers, ascending,"
        raise SettingError(f"{name} is {given!r}", f"Give {what} {bounds}.")
    return first, last


def gaussian_matrix(size: int, sigma: float) -> torch.Tensor:
    """A Gaussian blur of a line of voxels, as a matrix; beyond the ends there is nothing to average with.

    >>> gaussian_matrix(3, 1.0).sum(dim=1).round(decimals=6).tolist()
    [1.0, 1.0, 1.0]
    """
    at = torch.arange(size, dtype=torch.float64)
    weights = torch.exp(-0.5 * ((at[:, None] - at[None]) / max(sigma, 1e-3)) ** 2)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def blurred(signal: torch.Tensor, sigmas: Sequence[float]) -> torch.Tensor:
    """A Gaussian blur; ``sigmas`` in voxels, one an axis."""
    return along_axes(signal, [gaussian_matrix(n, sigma) for n, sigma in zip(signal.shape, sigmas, strict=True)])


class RandBlurd(RandArtefactd):
    """A Gaussian blur, of another width along each axis.

    Args:
        keys: images, channel first.
        prob: how often.
        sigma: range of the standard deviation along each axis, voxels.
        common: ``keep_background`` and ``allow_missing_keys``, as every artefact has them.
    """

    def __init__(
        self, keys: KeysCollection, prob: float = 0.1, sigma: Range = (0.3, 1.0), **common: Unpack[Common]
    ) -> None:
        super().__init__(keys, prob, **common)
        self.sigma = check_range("sigma", sigma, 0)

    def draw(self, shape: Sequence[int]) -> tuple[float, ...]:
        """Widths."""
        return tuple(self.uniform(self.sigma) for _ in shape)

    def apply(self, signal: torch.Tensor, drawn: tuple[float, ...]) -> torch.Tensor:
        """Blurred."""
        return blurred(signal, drawn)


class Slices(NamedTuple):
    """How slices lie: along which axis, how many voxels apart, and how they are brought back to the grid."""

    axis: int
    step: float
    nearest: bool


def slice_matrix(size: int, step: float) -> torch.Tensor:
    """``(slices, size)``: each slice is the mean of what lies in its thickness; slices touch, and fill the line.

    >>> slice_matrix(4, 2.0).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    count = max(1, round(size / step))
    edges = torch.arange(count + 1, dtype=torch.float64) * size / count
    voxel = torch.arange(size, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], voxel + 1) - torch.maximum(edges[:-1, None], voxel)
    return (overlap.clamp(min=0) * count / size).float()


def unslice_matrix(size: int, count: int, nearest: bool) -> torch.Tensor:
    """``(size, count)``: voxels between slices, linearly or from the nearest; at the ends the outermost slice.

    >>> unslice_matrix(4, 2, nearest=False).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    at = ((torch.arange(size, dtype=torch.float64) + 0.5) * count / size - 0.5).clamp(0, count - 1)
    if nearest:
        return torch.nn.functional.one_hot(at.round().long(), count).float()
    return (1 - (at[:, None] - torch.arange(count)).abs()).clamp(min=0).float()


def in_thick_slices(signal: torch.Tensor, slices: Slices) -> torch.Tensor:
    """A signal as thick slices show it, on its own grid again."""
    size = signal.shape[slices.axis]
    down = slice_matrix(size, slices.step)
    up = unslice_matrix(size, len(down), slices.nearest)
    thick = along_axis(signal, down, slices.axis)
    return along_axis(thick, up, slices.axis)


class RandThickSlicesd(RandArtefactd):
    """Slices some voxels thick along one axis, and back to the grid.

    Args:
        keys: images, channel first.
        prob: how often.
        step: range of the thickness, voxels.
        axes: spatial axes that slices may be stacked along; all of them if None.
        nearest: how often the way back is by the nearest slice, and not linear.
        common: ``keep_background`` and ``allow_missing_keys``, as every artefact has them.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        step: Range = (2.0, 6.0),
        axes: Sequence[int] | None = None,
        nearest: float = 0.25,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(keys, prob, **common)
        self.step = check_range("step", step, 1)
        self.axes = tuple(axes) if axes is not None else None
        self.nearest = check_range("nearest", (0.0, nearest), 0, 1)[1]

    def draw(self, shape: Sequence[int]) -> Slices:
        """Axis, thickness, and the way back."""
        return Slices(draw_axis(self, self.axes, len(shape)), self.uniform(self.step), self.R.rand() < self.nearest)

    def apply(self, signal: torch.Tensor, drawn: Slices) -> torch.Tensor:
        """Sliced."""
        return in_thick_slices(signal, drawn)


class RandCutoutd(RandArtefactd):
    """Boxes without a signal (DeVries & Taylor 2017); the label map is left as it is.

    Args:
        keys: images, channel first; each channel loses boxes of its own.
        prob: how often.
        boxes: range of how many there are.
        side: range of a box's edge, as a share of the image's.
        fill: ``floor``, or ``mean`` of the signal that was there.
        common: ``keep_background`` and ``allow_missing_keys``, as every artefact has them.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        boxes: Sequence[int] = (1, 3),
        side: Range = (0.1, 0.3),
        fill: str = "floor",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(keys, prob, **common)
        self.boxes, self.side = check_range("boxes", boxes, 1), check_range("side", side, 0, 1)
        if fill not in ("floor", "mean"):
            raise SettingError(f"fill is {fill!r}", "It is floor or mean.")
        self.fill = fill

    def draw(self, shape: Sequence[int]) -> list[tuple[slice, ...]]:
        """Boxes that lie inside."""
        return [self._box(shape) for _ in range(self.R.randint(int(self.boxes[0]), int(self.boxes[1]) + 1))]

    def _box(self, shape: Sequence[int]) -> tuple[slice, ...]:
        sides = [min(size, max(1, round(self.uniform(self.side) * size))) for size in shape]
        starts = [int(self.R.randint(size - side + 1)) for size, side in zip(shape, sides, strict=True)]
        return tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))

    def apply(self, signal: torch.Tensor, drawn: list[tuple[slice, ...]]) -> torch.Tensor:
        """With holes."""
        holed = signal.clone()
        for box in drawn:
            holed[box] = signal[box].mean() if self.fill == "mean" else 0.0
        return holed


def draw_axis(transform: RandArtefactd, axes: Sequence[int] | None, ndim: int) -> int:
    """One of the axes, or of all.

    Raises:
        SettingError: if the image has no such axis.
    """
    choice = tuple(range(ndim)) if axes is None else axes
    if not choice or not all(0 <= axis < ndim for axis in choice):
        raise SettingError(f"axes are {list(choice)}", f"The image has the spatial axes 0 to {ndim - 1}.")
    return int(choice[transform.R.randint(len(choice))])
