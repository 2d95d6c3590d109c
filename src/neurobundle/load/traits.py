"""What an image says of where it comes from, and not of what it shows: its *traits*.

A trait is a word (file type, pixel type) or a number (pixels, level of the border, traces of JPEG). Where classes were
collected in different places a trait tells them apart, and so can a network, without a look at the head. A *look* at a
file is all that an audit keeps of it: content, view and traits. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from neurobundle.errors import require
from neurobundle.geometry import voxel_sizes_mm
from neurobundle.load.gate import STRICT
from neurobundle.load.labels import content_hash, read_volume
from neurobundle.load.likeness import Array, view_of
from neurobundle.load.names import is_picture_name, stem
from neurobundle.load.nifti import read_header

Trait = str | float

#: Edge of the blocks that JPEG codes each by itself (ITU-T T.81).
JPEG_BLOCK = 8

#: The bright level of an image is this percentile; up to this share of it is dark.
BRIGHT_PERCENTILE, DARK_SHARE = 99.0, 0.02


@dataclass(frozen=True)
class Look:
    """What an audit keeps of a file.

    Attributes:
        path: the file.
        content: the sha256 of its voxels.
        view: see :func:`neurobundle.load.likeness.view_of`.
        traits: by name.
    """

    path: Path
    content: str
    view: Array = field(repr=False)
    traits: dict[str, Trait]

    @property
    def empty(self) -> bool:
        """Whether all voxels have one value."""
        return float(np.ptp(self.view)) == 0


def look_at(path: Path, allow_empty: bool = False) -> Look:
    """Read a picture or a NIfTI file, 2D or 3D, and learn what an audit needs of it.

    Args:
        path: the file.
        allow_empty: let an image without a signal pass.

    Raises:
        InputError: if it is missing, unreadable, in colour, or refused by the gate.
    """
    volume = read_volume(path, replace(STRICT, allow_empty=allow_empty))
    data = volume.data
    traits = {"file type": path.name[len(stem(path.name)) :].lower(), **_of_file(path, volume.affine), **_of_grid(data)}
    return Look(path, content_hash(data), view_of(data, volume.affine), traits | _of_levels(data))


def block_contrast(picture: npt.NDArray[Any]) -> float:
    """Steps between neighbours at the edges of JPEG's blocks, over those elsewhere; 1 where no block is to be seen.

    Args:
        picture: ``(row, column)``; a copy that was resized or shifted since does not show its blocks.

    >>> picture = np.tile(np.arange(32.0), (32, 1))
    >>> block_contrast(picture), block_contrast(np.floor(picture / 8) * 8 + 0.125 * (picture % 8))
    (1.0, 57.0)
    """
    at, elsewhere = [], []
    for axis in (0, 1):
        steps = np.abs(np.diff(picture.astype(np.float32), axis=axis)).mean(axis=1 - axis)
        edge = np.arange(1, len(steps) + 1) % JPEG_BLOCK == 0
        if edge.any() and not edge.all():
            at.append(steps[edge].mean())
            elsewhere.append(steps[~edge].mean())
    return float(sum(at) / sum(elsewhere)) if sum(elsewhere) else 1.0


def _of_file(path: Path, affine: npt.NDArray[Any] | None) -> dict[str, Trait]:
    """How voxels are stored, and of NIfTI how they lie."""
    if affine is None or is_picture_name(path.name):
        pillow: Any = require("PIL.Image", extra="demo", feature="reading PNG and JPEG")
        with pillow.open(path) as picture:
            return {"pixel type": str(picture.mode)}
    sizes = voxel_sizes_mm(affine)
    return {
        "pixel type": str(read_header(path).dtype),
        "voxel axes": "".join(nib.aff2axcodes(affine)),
        "voxel volume": round(float(np.prod(sizes)), 4),
        "longest voxel edge": round(float(sizes.max()), 3),
    }


def _of_grid(data: npt.NDArray[Any]) -> dict[str, Trait]:
    rows, columns, *slices = data.shape
    traits: dict[str, Trait] = {"size in the plane": float(rows * columns), "aspect ratio": round(rows / columns, 3)}
    return traits | ({"number of slices": float(slices[0])} if slices else {})


def _of_levels(data: npt.NDArray[Any]) -> dict[str, Trait]:
    """Range and steps of the values, and what the border and the dark parts are like."""
    levels, counts = _histogram(data)
    low, high, total = float(levels[0]), float(levels[-1]), int(counts.sum())
    running = np.cumsum(counts)
    bright = float(levels[np.searchsorted(running, BRIGHT_PERCENTILE / 100 * total)]) - low or high - low or 1.0
    traits: dict[str, Trait] = {
        "lowest value": low,
        "highest value": high,
        "border level": (_border_mean(data) - low) / bright,
        "dark share": float(counts[levels - low <= DARK_SHARE * bright].sum() / total),
        "share of exact background": float(counts[0] / total),
        "distinct values": float(len(levels)),
    }
    return traits | ({"JPEG blocks": block_contrast(data)} if data.ndim == 2 else {})


def _histogram(data: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """The distinct values in order, and how often each stands; bytes are counted without sorting them."""
    if data.dtype != np.uint8:
        return np.unique(data.astype(np.float32), return_counts=True)
    counts = np.bincount(data.ravel(), minlength=256)
    levels = np.flatnonzero(counts)
    return levels.astype(np.float32), counts[levels]


def _border_mean(data: npt.NDArray[Any]) -> float:
    """The mean of the outermost voxels of the first two axes; a slice of a thick volume is no border."""
    faces = [data[:1], data[-1:], data[:, :1], data[:, -1:]]
    return float(np.concatenate([face.ravel() for face in faces]).mean(dtype=np.float64))
