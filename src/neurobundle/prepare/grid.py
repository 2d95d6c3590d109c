"""Which grid a network sees: a spacing, an orientation, a box. Numpy only; nothing is sampled here.

A *grid* is a shape with an affine. The *network grid* is RAS+ as nearly as a grid of the scan's own directions can
be: its axes are the scan's, permuted, flipped and with another spacing, so that sampling goes axis by axis. The
*field of view* is what the scan covers; voxels of a grid beyond it are *padding*. The *box* is what a crop leaves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError, SettingError
from neurobundle.geometry import apply, corners, voxel_sizes_mm

Range = tuple[int, int]

#: Slices so many times as thick as a voxel's edges are made finer than their median (nnU-Net's ANISO_THRESHOLD).
ANISOTROPY = 3.0
#: Percentile over the cases that the spacing across thick slices is taken from (nnU-Net, Isensee 2021).
THICK_PERCENTILE = 10
#: Directions that are off the right angle by less (as a cosine) are rectangular; float32 headers are exact to 1e-6.
RECTANGULAR = 1e-4
#: A volume that a voxel must have, relative to that of its edges; less is a plane.
FLAT = 1e-6
#: A grid of more voxels is a mistake: in float32 it takes 8 GiB for each channel.
MOST_VOXELS = 2**31


class Grid(NamedTuple):
    """A shape with an affine.

    Attributes:
        shape: voxels along each axis.
        affine: (4, 4), RAS+ mm.
        inside: first and one past the last voxel along each axis that lies in the field of view of the scan which the
            grid was made for; None if all do.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    inside: tuple[Range, Range, Range] | None = None


def target_spacing(spacings_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The spacing to train at: the median over the cases, finer across slices that are thick.

    Where the coarsest axis is more than three times as coarse as each other one, the median would throw away what
    the thinner slices of the set show; its 10th percentile is taken, yet nothing finer than the other axes
    (nnU-Net's rule, Isensee et al. 2021, Nat Methods 18:203).

    Args:
        spacings_mm: (cases, 3), each along R, A and S.

    Raises:
        InputError: if there is none, or one is not above zero.

    >>> target_spacing([[1, 1, 1], [1, 1, 1.2], [0.9, 0.9, 1]]).tolist()
    [1.0, 1.0, 1.0]
    >>> target_spacing([[0.5, 0.5, 5], [0.5, 0.5, 5], [0.5, 0.5, 3]]).round(6).tolist()
    [0.5, 0.5, 3.4]
    """
    spacings = np.atleast_2d(np.asarray(spacings_mm, float))
    if not spacings.size or not np.isfinite(spacings).all() or spacings.min() <= 0:
        raise InputError("a spacing is not above zero, or there is none", "Check the headers: neurobundle check DATA.")
    target = np.median(spacings, axis=0)
    coarsest = int(np.argmax(target))
    others = np.delete(target, coarsest).max()
    if target[coarsest] > ANISOTROPY * others:
        target[coarsest] = max(np.percentile(spacings[:, coarsest], THICK_PERCENTILE), others)
    return target


def network_grid(
    shape: Sequence[int],
    affine: npt.ArrayLike,
    spacing_mm: Sequence[float],
    crop: Sequence[Range] | None = None,
    multiple_of: int | Sequence[int] | None = None,
    margin_mm: float = 0.0,
) -> Grid:
    """The grid that a network sees of a scan.

    Without a crop it is that of MONAI's ``Orientation("RAS")`` and ``Spacing(pixdim, diagonal=False)``: the first
    voxel's centre stays, and the number of voxels is rounded.

    Args:
        shape: the scan's.
        affine: the scan's.
        spacing_mm: wanted along R, A and S.
        crop: first and one past the last voxel of the scan to keep, along its own axes: see :func:`box_of`. All of the
            scan if None. The box grows outwards to whole voxels of the network grid.
        multiple_of: the shape grows to the next multiple, on both sides alike; with the scan's own voxels where there
            are any, else with padding.
        margin_mm: kept around the crop, as far as the scan goes.

    Returns:
        The grid; it says which of its voxels are in the field of view.

    Raises:
        SettingError: for a spacing, margin or multiple that is none.
        InputError: for a scan without voxels, an affine that makes no volume, or a grid of more than 2**31 voxels.
    """
    spacing = _checked_spacing(spacing_mm)
    if not (isinstance(margin_mm, Real) and math.isfinite(margin_mm) and margin_mm >= 0):
        raise SettingError(f"margin_mm must be 0 or more, got {margin_mm!r}", "0 keeps the box alone.")
    multiple = _checked_multiple(multiple_of)
    native = _checked_affine(affine)
    if 0 in tuple(shape[:3]):
        raise InputError(f"it has the shape {tuple(shape[:3])}, without a voxel", "Export or convert the scan again.")
    whole = _whole(tuple(int(n) for n in shape[:3]), native, spacing)
    low, high = np.zeros(3, int), np.array(whole.shape)
    if crop is not None:
        low, high = _kept(whole, native, crop, margin_mm)
    low, high = _grown(low, high, np.array(whole.shape), multiple)
    moved = whole.affine.copy()
    moved[:3, 3] = apply(whole.affine, low)
    inside = [(max(0, -a), min(b, n) - a) for a, b, n in zip(low.tolist(), high.tolist(), whole.shape, strict=True)]
    size = (high - low).tolist()
    _refuse_huge(size, spacing)
    return Grid((size[0], size[1], size[2]), moved, (inside[0], inside[1], inside[2]))


def box_of(array: npt.NDArray[Any]) -> tuple[Range, Range, Range]:
    """First and one past the last voxel along each axis where any channel is above zero.

    What is around the box is looked at once: plane by plane from both ends of an axis, then the next axis within.

    Args:
        array: ``(i, j, k)`` or ``(channel, i, j, k)``: an image or a mask.

    Raises:
        InputError: if nothing is above zero.

    >>> box_of(np.arange(27).reshape(3, 3, 3) == 5)
    ((0, 1), (1, 2), (2, 3))
    """
    values, box = array.reshape(-1, *array.shape[-3:]), []
    for axis in (1, 2, 3):
        planes = np.moveaxis(values, axis, 0)
        first = next((n for n, plane in enumerate(planes) if (plane > 0).any()), None)
        if first is None:
            raise InputError("there is nothing to crop to: no voxel is above zero", "Is the mask or the scan empty?")
        last = next(n for n in range(len(planes) - 1, -1, -1) if (planes[n] > 0).any())
        box.append((first, last + 1))
        values = values[(slice(None),) * axis + (slice(first, last + 1),)]
    return box[0], box[1], box[2]


def _whole(shape: tuple[int, ...], affine: npt.NDArray[np.float64], spacing: npt.NDArray[np.float64]) -> Grid:
    """The uncropped network grid."""
    upright = nib.orientations.io_orientation(affine)
    turned = affine @ nib.orientations.inv_ornt_aff(upright, shape)
    size = np.empty(3, int)
    size[upright[:, 0].astype(int)] = shape
    new = np.eye(4)
    new[:3, :3] = _directions(turned) * spacing
    steps = np.linalg.solve(new[:3, :3], turned[:3, :3])
    places = corners(size.tolist()) @ steps.T
    # Headers are exact to about 1e-6: what is half a voxel in one file's is not a little less in another's.
    wanted = np.round(np.round(np.ptp(places, axis=0), 3) + 1.0)
    if wanted.max() > MOST_VOXELS:  # a crop may make the others fewer, but this one not even int64 may hold
        _refuse_huge(wanted.tolist(), spacing)
    n = wanted.astype(int).tolist()
    new[:3, 3] = turned[:3, 3] + new[:3, :3] @ places.min(axis=0)
    return Grid((n[0], n[1], n[2]), new)


def _directions(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Columns of length 1 at right angles; a grid that is sheared is put upright along its first axis."""
    linear = affine[:3, :3] / voxel_sizes_mm(affine)
    if np.abs(linear.T @ linear - np.eye(3)).max() <= RECTANGULAR:
        return linear
    q, r = np.linalg.qr(linear)
    return q * np.sign(np.diag(r))


def _kept(
    whole: Grid, native: npt.NDArray[np.float64], crop: Sequence[Range], margin_mm: float
) -> tuple[npt.NDArray[np.int_], npt.NDArray[np.int_]]:
    """The voxels that linear interpolation can give something of the box to: those less than a voxel away from it."""
    reach = 1 + margin_mm / voxel_sizes_mm(native)
    low = np.array([a for a, _ in crop], float) - reach
    high = np.array([b - 1 for _, b in crop], float) + reach
    ends = np.array([[(low, high)[n >> axis & 1][axis] for axis in range(3)] for n in range(8)])
    places = apply(np.linalg.inv(whole.affine) @ native, ends)
    # An end itself is a whole voxel away from the box, and gives nothing.
    first, last = np.floor(places.min(axis=0) + 1e-4) + 1, np.ceil(places.max(axis=0) - 1e-4) - 1
    # On the way back every voxel of the box lies between two that were kept, however coarse they are.
    own = np.array([[crop[axis][0] if n >> axis & 1 else crop[axis][1] - 1 for axis in range(3)] for n in range(8)])
    within = apply(np.linalg.inv(whole.affine) @ native, own)
    first = np.minimum(first, np.floor(within.min(axis=0) + 1e-4))
    last = np.maximum(last, np.ceil(within.max(axis=0) - 1e-4))
    first = np.clip(first, 0, np.array(whole.shape) - 1)
    last = np.clip(last, first, np.array(whole.shape) - 1)
    return first.astype(int), last.astype(int) + 1


def _grown(
    low: npt.NDArray[np.int_],
    high: npt.NDArray[np.int_],
    size: npt.NDArray[np.int_],
    multiple: npt.NDArray[np.int_],
) -> tuple[npt.NDArray[np.int_], npt.NDArray[np.int_]]:
    """A box of a multiple's size, moved into the field of view as far as that goes."""
    more = -(high - low) % multiple
    new_low = low - more // 2
    new_high = new_low + (high - low) + more
    fits = new_high - new_low <= size
    shift = np.where(fits, np.maximum(0, -new_low) - np.maximum(0, new_high - size), 0)
    return new_low + shift, new_high + shift


def _refuse_huge(shape: Sequence[float], spacing: npt.NDArray[np.float64]) -> None:
    if math.prod(shape) > MOST_VOXELS:
        mm, voxels = (" x ".join(f"{n:.9g}" for n in numbers) for numbers in (spacing, shape))
        raise InputError(
            f"at a spacing of {mm} mm it would have {voxels} voxels",
            "Make spacing_mm larger, or multiple_of smaller; if they are right, the header's voxel sizes are not.",
        )


def _checked_spacing(spacing_mm: Sequence[float]) -> npt.NDArray[np.float64]:
    try:
        spacing = np.asarray(spacing_mm, float)
    except (TypeError, ValueError):
        spacing = np.empty(0)
    if spacing.shape != (3,) or not np.isfinite(spacing).all() or spacing.min() <= 0:
        raise SettingError(f"spacing_mm must be three numbers above 0, got {spacing_mm!r}", "For example [1, 1, 1].")
    return spacing


def _checked_multiple(multiple_of: int | Sequence[int] | None) -> npt.NDArray[np.int_]:
    """One along each axis; 1 does not pad."""
    of = np.asarray(1 if multiple_of is None else multiple_of)
    if not np.issubdtype(of.dtype, np.integer) or of.shape not in ((), (1,), (3,)) or of.min() < 1:
        raise SettingError(
            f"multiple_of must be whole numbers of 1 or more, one or three, got {multiple_of!r}", "null does not pad."
        )
    return np.broadcast_to(of, 3)


def _checked_affine(affine: npt.ArrayLike) -> npt.NDArray[np.float64]:
    native = np.asarray(affine, float)
    sizes = voxel_sizes_mm(native)
    if not np.isfinite(native).all() or sizes.min() <= 0 or abs(np.linalg.det(native[:3, :3] / sizes)) < FLAT:
        raise InputError("its affine has a spacing of zero, or makes no volume", "Export or convert the scan again.")
    return native
