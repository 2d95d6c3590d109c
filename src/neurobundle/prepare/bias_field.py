"""The bias field of an MR scan, found and divided out: N4 (Tustison et al. 2010, IEEE TMI 29:1310).

A coil sees near tissue brighter than far tissue. The *bias field* is that smooth factor; its logarithm, the *log
field*, is a sum of cubic B-splines on a *lattice* of control points over the whole image. N4 goes on as follows: what
is left of the log intensities after the field so far is *sharpened*, as if the field had blurred their histogram; the
difference to the sharpened ones is fitted by B-splines, and added. When the field hardly changes any more, the lattice
is doubled (the next *level*), until the last level is done.

On a regular grid the fit is separable: three small matrix products fit, three evaluate. So an iteration costs some
passes over the masked voxels, and no loop. The definitions are ITK's (N4BiasFieldCorrectionImageFilter), which is the
oracle in the tests; docs/concepts/bias-field.md compares them. One is not: where an image was shrunken, ITK draws the
field out until the outermost voxels looked at lie on the image's ends (GetLogBiasFieldAsImage); ours stays in place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from neurobundle.errors import InputError
from neurobundle.prepare.bias_settings import N4Settings
from neurobundle.prepare.separable import ORDER, along_axes, spline_basis

Image = TypeVar("Image", np.ndarray, torch.Tensor)

#: Fewest voxels along an axis that shrinking leaves, so that thick slices are not thinned out.
FEWEST = 16
#: A lattice cannot be fitted to fewer voxels than it has control points at its first level.
FEWEST_MASKED = 64
#: Bins of the histogram that Otsu's threshold is found in.
OTSU_BINS = 256


class N4Level(NamedTuple):
    """What happened at one level.

    Attributes:
        control_points: along each axis.
        changes: the field's change at each iteration, as a coefficient of variation.
        converged: whether the last change was below the tolerance.
    """

    control_points: int
    changes: tuple[float, ...]
    converged: bool


@dataclass(frozen=True)
class N4Record:
    """How the field came about.

    Attributes:
        levels: in their order.
        shrink: along each axis.
        n_voxels: how many were looked at.
        otsu: the threshold that made the mask; None if one was given.
    """

    levels: tuple[N4Level, ...]
    shrink: tuple[int, ...]
    n_voxels: int
    otsu: float | None = None


class N4Result(NamedTuple):
    """Of the kind, and on the device, that the image was.

    Attributes:
        corrected: the image over the field, float32; voxels outside the mask are divided as well.
        log_field: natural logarithm of the field, float32; its mean over the mask is what ITK's is, near 0.
        record: how it came about.
    """

    corrected: Any
    log_field: Any
    record: N4Record


def n4(image: Image, mask: Image | None = None, shrink: int = 4, **settings: Any) -> N4Result:
    """Find the bias field of an image and divide it out.

    Args:
        image: ``(i, j, k)`` or ``(i, j)``, real, array or tensor; it is left as it is.
        mask: the same shape; where it is above 0 the field is fitted, over voxels above 0. If None: above Otsu's
            threshold.
        shrink: every so many voxels along an axis are looked at; the field is evaluated at all.
        settings: further fields of :class:`N4Settings`.

    Raises:
        InputError: for an image that is complex, not finite, has no signal or is constant, or a mask that is empty or
            of another shape.
        SettingError: for a setting that means nothing.
    """
    volume = as_float(image)
    field = find_bias_field(volume, mask, N4Settings.of(shrink=shrink, **settings))
    corrected, log_field = field.apply(volume)
    if isinstance(image, np.ndarray):
        return N4Result(corrected.numpy(), log_field.numpy(), field.record)
    return N4Result(corrected, log_field, field.record)


@dataclass(frozen=True)
class BiasField:
    """A bias field as what it is made of.

    Attributes:
        lattice: control points of the log field ``(n, n, n)`` or ``(n, n)``.
        shape: of the image that it was found in.
        record: how it came about.
    """

    lattice: torch.Tensor
    shape: tuple[int, ...]
    record: N4Record

    def log_field(self) -> torch.Tensor:
        """The natural logarithm of the field at every voxel, float32."""
        n = self.lattice.shape[0]
        bases = []
        for size, step in zip(self.shape, self.record.shrink, strict=True):
            start, count = _thinned(size, step)
            voxel = torch.arange(size, dtype=torch.float64, device=self.lattice.device)
            bases.append(spline_basis((voxel - start) / (step * max(1, count - 1)), n).float())
        return along_axes(self.lattice.float(), bases)

    def apply(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The image over the field, and the log field; both float32."""
        log_field = self.log_field()
        return torch.exp(-log_field).mul_(image), log_field


def find_bias_field(image: torch.Tensor, mask: Any = None, rule: N4Settings | None = None) -> BiasField:
    """Find the bias field of an image.

    Args:
        image: ``(i, j, k)`` or ``(i, j)``, real.
        mask: as in :func:`n4`.
        rule: how.

    Raises:
        InputError: as :func:`n4`.
    """
    rule = rule or N4Settings()
    seen = look_at(image, mask, rule)
    lattice, levels = _fit(seen, rule)
    return BiasField(lattice, tuple(image.shape), N4Record(tuple(levels), seen.shrink, len(seen.logs), seen.otsu))


class LookedAt(NamedTuple):
    """What of an image the field is fitted to.

    Attributes:
        volume: the thinned image, float32.
        inside: which of its voxels count: those in the mask and above 0.
        logs: of these, in their order: the natural logarithm.
        shrink: along each axis.
        otsu: the threshold that made the mask; None if one was given.
    """

    volume: torch.Tensor
    inside: torch.Tensor
    logs: torch.Tensor
    shrink: tuple[int, ...]
    otsu: float | None


def look_at(image: torch.Tensor, mask: Any, rule: N4Settings) -> LookedAt:
    """Check an image and its mask, and thin them out.

    Raises:
        InputError: as :func:`n4`.
    """
    volume = as_float(image)
    _check(volume)
    given = None if mask is None else _checked_mask(volume, mask)
    shrinks = tuple(max(1, min(rule.shrink, size // FEWEST)) for size in volume.shape)
    thin = tuple(slice(_thinned(size, step)[0], None, step) for size, step in zip(volume.shape, shrinks, strict=True))
    small = volume[thin]
    otsu = None
    if given is None:
        otsu = otsu_threshold(small)
        inside = small > otsu
    else:
        inside = given[thin]
    inside = inside & (small > 0)
    logs = small[inside].log()
    if len(logs) < FEWEST_MASKED:
        raise InputError(
            f"{len(logs)} voxels above 0 are in the mask after shrinking",
            "Give a larger mask, or a smaller shrink.",
        )
    if float(logs.max() - logs.min()) <= 0:
        raise InputError("the image is constant inside the mask", "Give a mask of more than one tissue.")
    return LookedAt(small, inside, logs, shrinks, otsu)


def _thinned(size: int, step: int) -> tuple[int, int]:
    """First voxel and number of those that are looked at: in the middle of the axis, the later of two, as in ITK."""
    count = size // step
    return (size - step * (count - 1)) // 2, count


def otsu_threshold(image: torch.Tensor) -> float:
    """The grey value that parts an image's voxels into two classes of least variance (Otsu 1979).

    Args:
        image: any shape, finite, not constant.

    >>> 1 < otsu_threshold(torch.tensor([0.0, 1.0, 9.0, 10.0])) < 9
    True
    """
    low, high = float(image.min()), float(image.max())
    counts = torch.histc(image.float(), bins=OTSU_BINS, min=low, max=high).double()
    centres = low + (torch.arange(OTSU_BINS, dtype=torch.float64, device=image.device) + 0.5) * (high - low) / OTSU_BINS
    below = counts.cumsum(0)
    mass = (counts * centres).cumsum(0)
    total, all_mass = below[-1], mass[-1]
    above = total - below
    between = (all_mass * below / total - mass) ** 2 / (below * above).clamp(min=1)
    return float(low + (int(between.argmax()) + 1) * (high - low) / OTSU_BINS)


def as_float(image: Any) -> torch.Tensor:
    """As a float32 tensor, whatever its type, byte order and strides.

    Raises:
        InputError: for what is not made of real numbers.
    """
    given = image if isinstance(image, torch.Tensor) else np.asarray(image)
    if given.is_complex() if isinstance(given, torch.Tensor) else given.dtype.kind not in "biuf":
        raise InputError(f"the image is made of {given.dtype}", "Give real numbers: of a complex image its magnitude.")
    if isinstance(given, torch.Tensor):
        return given.detach().to(torch.float32)
    return torch.from_numpy(np.ascontiguousarray(given, dtype=np.float32))


def _check(volume: torch.Tensor) -> None:
    if volume.ndim not in (2, 3):
        raise InputError(f"the image has the shape {tuple(volume.shape)}", "Give one 2D or 3D image at a time.")
    if not volume.numel():
        raise InputError(f"the image has the shape {tuple(volume.shape)}", "Give one with voxels.")
    low, high = (float(value) for value in torch.aminmax(volume))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError("the image has voxels that are NaN or infinite", "Repair or exclude it.")
    if high <= 0:
        raise InputError("the image has no voxel above 0", "A bias field is a factor; is this an MR magnitude image?")
    if high == low:
        raise InputError(f"the image is {high:g} everywhere", "Is it a mask, or an empty scan? Exclude it.")


def _checked_mask(volume: torch.Tensor, mask: Any) -> torch.Tensor:
    inside = mask if isinstance(mask, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(np.asarray(mask) > 0))
    inside = inside.to(volume.device)
    inside = inside if inside.dtype == torch.bool else inside > 0
    if inside.shape != volume.shape:
        raise InputError(
            f"the mask has the shape {tuple(inside.shape)} and the image {tuple(volume.shape)}",
            "Resample the mask onto its image's grid, with the nearest neighbour.",
        )
    if not bool(inside.any()):
        raise InputError(
            "the mask is empty", "Give one that covers the head, or none: then Otsu's threshold makes one."
        )
    return inside


def _fit(seen: LookedAt, rule: N4Settings) -> tuple[torch.Tensor, list[N4Level]]:
    """The lattice of the last level, and what happened at each."""
    logs = seen.logs
    planes = [seen.inside.movedim(axis, 0).flatten(1).any(dim=1).nonzero() for axis in range(seen.inside.ndim)]
    box = tuple(slice(int(where[0]), int(where[-1]) + 1) for where in planes)
    cut = seen.inside[box]
    at = cut.flatten().nonzero()[:, 0]
    lattice, field = None, torch.zeros_like(logs)
    levels = []
    for level, most in enumerate(rule.iterations):
        n = (rule.control_points - ORDER) * 2**level + ORDER
        fit = _Fit(seen.volume.shape, box, cut, at, n)
        lattice = fit.nothing() if lattice is None else _refined(lattice)
        changes: list[float] = []
        while len(changes) < most and not (changes and changes[-1] < rule.tolerance):
            left = logs - field
            lattice = lattice + fit.of(left - _sharpened(left, rule))
            now = fit.field(lattice)
            ratio = torch.exp(field - now).double()
            changes.append(float(ratio.std() / ratio.mean()))
            field = now
        levels.append(N4Level(n, tuple(changes), changes[-1] < rule.tolerance))
    assert lattice is not None
    return lattice, levels


class _Fit:
    """B-splines of one level, fitted to the masked voxels of a box (Lee, Wolberg & Shin 1997) and evaluated there."""

    def __init__(self, shape: Sequence[int], box: Sequence[slice], cut: torch.Tensor, at: torch.Tensor, n: int) -> None:
        self.at, self.shape, self.n = at, cut.shape, n
        exact = [
            spline_basis(torch.arange(size, dtype=torch.float64, device=at.device) / max(1, size - 1), n)[side]
            for size, side in zip(shape, box, strict=True)
        ]
        # A point gives each control point its value times weight / sum of squared weights; control points then take
        # the mean of what they were given, weighted by the squared weights.
        spread = [basis**3 / (basis**2).sum(dim=1, keepdim=True) for basis in exact]
        self.bases = [basis.float() for basis in exact]
        # Transposed: from voxels to control points.
        self.spread = [basis.float().T for basis in spread]
        self.weight = along_axes(cut.float(), [(basis**2).float().T for basis in exact]).double()

    def nothing(self) -> torch.Tensor:
        """A lattice of zeros."""
        return torch.zeros((self.n,) * len(self.shape), dtype=torch.float64, device=self.at.device)

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """The lattice that fits values of the masked voxels."""
        volume = torch.zeros(self.shape, dtype=torch.float32, device=self.at.device)
        volume.view(-1)[self.at] = values
        given = along_axes(volume, self.spread).double()
        return torch.where(self.weight > 0, given / self.weight.clamp(min=torch.finfo(torch.float64).tiny), 0.0)

    def field(self, lattice: torch.Tensor) -> torch.Tensor:
        """The lattice's values at the masked voxels."""
        return along_axes(lattice.float(), self.bases).reshape(-1)[self.at]


def _sharpened(values: torch.Tensor, rule: N4Settings) -> torch.Tensor:
    """The expected log intensity without the blur of the field, for each voxel (Sled et al. 1998)."""
    low, high = (float(value) for value in torch.aminmax(values))
    slope = (high - low) / (rule.bins - 1)
    if slope <= 0:
        return values
    place = (values - low).div_(slope)
    index = place.long().clamp_(max=rule.bins - 2)
    share = place.sub_(index)
    upper = torch.bincount(index, share.double(), minlength=rule.bins)
    counts = torch.bincount(index, minlength=rule.bins).double() - upper
    counts[1:] += upper[:-1]
    table = torch.from_numpy(_expectation(counts.cpu().numpy(), low, slope, rule)).to(values)
    step = torch.diff(table, append=table[-1:])
    return step[index].mul_(share).add_(table[index])


def _expectation(counts: np.ndarray, low: float, slope: float, rule: N4Settings) -> np.ndarray:
    """Of each bin the mean of what its voxels were before a Gaussian blur, by Wiener deconvolution."""
    bins = len(counts)
    padded = 2 ** (math.ceil(math.log2(bins)) + 1)
    first = int(0.5 * (padded - bins))
    histogram = np.zeros(padded)
    histogram[first : first + bins] = counts
    half = padded // 2
    width = rule.fwhm / slope
    right = 2 * math.sqrt(math.log(2) / math.pi) / width * np.exp(-4 * math.log(2) * (np.arange(half + 1) / width) ** 2)
    blur = np.fft.fft(np.concatenate([right, right[half - 1 : 0 : -1]]))
    inverse = (np.conj(blur) / (np.abs(blur) ** 2 + rule.wiener_noise)).real
    sharp = np.maximum(np.fft.ifft(np.fft.fft(histogram) * inverse).real, 0)
    values = low + (np.arange(padded) - first) * slope
    above, below = (np.fft.ifft(np.fft.fft(part) * blur).real for part in (values * sharp, sharp))
    expected = np.divide(above, below, out=np.zeros(padded), where=below != 0)
    return np.asarray(expected[first : first + bins])


def _refined(lattice: torch.Tensor) -> torch.Tensor:
    """The same splines on a lattice with twice as many pieces (subdivision of uniform cubic B-splines)."""
    for axis in range(lattice.ndim):
        points = lattice.movedim(axis, 0)
        finer = points.new_zeros((2 * len(points) - ORDER, *points.shape[1:]))
        finer[0::2] = (points[:-1] + points[1:]) / 2
        finer[1::2] = (points[:-2] + 6 * points[1:-1] + points[2:]) / 8
        lattice = finer.movedim(0, axis)
    return lattice
