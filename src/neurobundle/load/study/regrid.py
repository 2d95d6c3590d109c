"""One channel onto the grid of another.

A *field of view* is the box that a grid's voxels fill, from the outside of the first to the outside of the last. Work
is done in voxel indices, so that every invertible affine will do, sheared ones also.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from neurobundle.errors import require
from neurobundle.geometry import apply, corners_mm, same_grid, voxel_sizes_mm, voxel_volume_mm3

#: Two scans of one head share at least this much of the smaller field of view. A slab lies inside of a whole head
#: entirely; a neck beside a head, or a head with a lost origin, does not.
LEAST_SHARED = 0.5

#: A channel that covers less of the reference than this is warned of: the rest of it is zero.
LEAST_COVERED = 0.5

#: Points along each axis at which two fields of view are compared: to about 1/32 of an edge.
_LATTICE = 32


def shared_parts(
    shape: Sequence[int], affine: npt.ArrayLike, reference_shape: Sequence[int], reference_affine: npt.ArrayLike
) -> tuple[float, float]:
    """How much two fields of view share.

    Args:
        shape: the channel's, (i, j, k).
        affine: the channel's, (4, 4).
        reference_shape: the reference's.
        reference_affine: the reference's.

    Returns:
        The shared part of the smaller field of view, and the part of the reference that the channel covers, each 0-1,
        to about 0.03 an axis.

    >>> moved = np.eye(4)
    >>> moved[0, 3] = 5
    >>> shared_parts((10, 10, 10), moved, (10, 10, 10), np.eye(4))
    (0.5, 0.5)
    >>> shared_parts((10, 10, 10), np.eye(4), (20, 10, 10), np.eye(4))
    (1.0, 0.5)
    """
    step = (np.arange(_LATTICE) + 0.5) / _LATTICE
    points = np.stack(np.meshgrid(step, step, step, indexing="ij"), axis=-1).reshape(-1, 3)
    # The smaller box is sampled, so that a thin slab in a large head is seen by many points.
    boxes = [(shape, np.asarray(affine, float)), (reference_shape, np.asarray(reference_affine, float))]
    volumes = [float(np.prod(size[:3])) * voxel_volume_mm3(matrix) for size, matrix in boxes]
    small, large = (0, 1) if volumes[0] <= volumes[1] else (1, 0)
    (size, matrix), (other_size, other_matrix) = boxes[small], boxes[large]
    indices = points * np.asarray(size[:3], float) - 0.5
    there = apply(np.linalg.inv(other_matrix) @ matrix, indices)
    inside = ((there >= -0.5) & (there <= np.asarray(other_size[:3], float) - 0.5)).all(axis=1)
    shared = float(inside.mean())
    return shared, shared * volumes[small] / volumes[1]


def onto_grid(
    data: npt.NDArray[np.float32],
    affine: npt.ArrayLike,
    reference_shape: Sequence[int],
    reference_affine: npt.ArrayLike,
) -> npt.NDArray[np.float32]:
    """A scan on the reference's grid, by linear interpolation in space.

    Args:
        data: (i, j, k).
        affine: its own, (4, 4).
        reference_shape: the grid's.
        reference_affine: the grid's.

    Returns:
        The reference's shape; zero where the scan has no voxel. On the same grid: ``data`` itself.
    """
    if same_grid(data.shape, affine, reference_shape, reference_affine):
        return data
    sitk: Any = require("SimpleITK", extra="head", feature="Resampling channels onto one grid")
    # Both images are in index space (spacing 1, origin 0), and the affines in the transform.
    index_to_index = np.linalg.inv(np.asarray(affine, float)) @ np.asarray(reference_affine, float)
    transform = sitk.AffineTransform(index_to_index[:3, :3].ravel().tolist(), index_to_index[:3, 3].tolist())
    # SimpleITK's arrays are (k, j, i): the transpose has our indices in its own order.
    moving = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    size, identity = [int(n) for n in reference_shape[:3]], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    out = sitk.Resample(moving, size, transform, sitk.sitkLinear, [0.0] * 3, [1.0] * 3, identity, 0.0)
    return np.ascontiguousarray(sitk.GetArrayViewFromImage(out).T, dtype=np.float32)


def grids_differ(
    shape: Sequence[int], affine: npt.ArrayLike, other_shape: Sequence[int], other_affine: npt.ArrayLike
) -> str:
    """How two grids differ, as the end of a sentence; empty if they are the same.

    >>> moved = np.eye(4)
    >>> moved[0, 3] = 30
    >>> grids_differ((4, 4, 4), moved, (4, 4, 4), np.eye(4))
    'its corners lie up to 30.0 mm away'
    >>> grids_differ((4, 4, 4), np.eye(4), (4, 4, 5), np.eye(4))
    'its shape is (4, 4, 4), not (4, 4, 5)'
    """
    if same_grid(shape, affine, other_shape, other_affine):
        return ""
    if tuple(shape[:3]) != tuple(other_shape[:3]):
        return f"its shape is {_plain(shape)}, not {_plain(other_shape)}"
    apart = np.linalg.norm(corners_mm(shape, affine) - corners_mm(other_shape, other_affine), axis=1)
    return f"its corners lie up to {apart.max():.1f} mm away"


def only_displaced(
    shape: Sequence[int], affine: npt.ArrayLike, other_shape: Sequence[int], other_affine: npt.ArrayLike
) -> bool:
    """Whether two grids differ in nothing but where they lie: the sign of an origin that was lost.

    >>> moved = np.eye(4)
    >>> moved[0, 3] = 30
    >>> only_displaced((4, 4, 4), moved, (4, 4, 4), np.eye(4)), only_displaced((4, 4, 5), moved, (4, 4, 4), np.eye(4))
    (True, False)
    """
    if same_grid(shape, affine, other_shape, other_affine):
        return False
    back = np.array(affine, float)
    back[:3, 3] = np.asarray(other_affine, float)[:3, 3]
    return same_grid(shape, back, other_shape, other_affine)


def in_words(affine: npt.ArrayLike) -> str:
    """A grid's voxel sizes for a report.

    >>> in_words(np.diag([-0.5, 0.5, 3, 1]))
    '0.50 x 0.50 x 3.00 mm'
    """
    return " x ".join(f"{size:.2f}" for size in voxel_sizes_mm(affine)) + " mm"


def _plain(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(n) for n in shape[:3])
