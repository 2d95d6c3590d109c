"""Whether files that belong together lie on one grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError
from neurobundle.geometry import corners_mm

#: Files of one case whose corners lie further apart than this are refused: far above what float32 headers round away,
#: and far below a shift that could harm.
SAME_CORNERS_MM = 0.01


def require_same_grid(
    path: Path,
    shape: Sequence[int],
    affine: npt.ArrayLike | None,
    image: Path,
    image_shape: Sequence[int],
    image_affine: npt.ArrayLike | None,
    *,
    what: str = "the channel",
    way_out: str = "Resample the channels onto one grid.",
    other: str = "its image",
) -> None:
    """Refuse a file that does not lie on the grid of the image it belongs to; both are named.

    Args:
        path: the file.
        shape: its voxels along each axis.
        affine: its affine, (4, 4) mm, or None for a picture, of which only the shape counts.
        image: the file it belongs to.
        image_shape: that one's voxels along each axis.
        image_affine: that one's affine.
        what: what the file is to the image.
        way_out: what to do.
        other: what the image is to the file.

    Raises:
        InputError: if shapes differ, or corners lie more than 0.01 mm apart.
    """
    if tuple(shape) != tuple(image_shape):
        cause = f"{what} has shape {tuple(shape)}, {other} {image.name} {tuple(image_shape)}"
        raise InputError(cause, way_out, file=path)
    if affine is None or image_affine is None:
        return
    volume = (*shape, 1)[:3]
    apart = corners_mm(volume, affine) - corners_mm(volume, image_affine)
    distance = float(np.sqrt((apart**2).sum(axis=1)).max())
    if distance > SAME_CORNERS_MM:
        cause = f"{what} lies elsewhere than {other} {image.name}: corners are {distance:.2f} mm apart"
        raise InputError(cause, way_out, file=path)
