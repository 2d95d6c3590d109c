"""Words for a 4x4 matrix, as plain functions on numpy arrays.

An *affine* takes voxel indices ``(i, j, k)`` to millimetres in RAS+ (x grows to the Right, y to the Anterior, z to the
Superior), as nibabel gives it; an index names a voxel's centre. A *grid* is a shape with an affine. Two grids are the
*same* if they have the same shape and their corners lie in the same places.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

#: Two grids whose corners lie closer than this are the same grid. The float32 numbers of a NIfTI header give a corner
#: 300 mm away to within 3e-5 mm each (float32 has 24 bits); a shift that matters is a tenth of a voxel or more.
SAME_GRID_TOLERANCE_MM = 1e-3


def apply(affine: npt.ArrayLike, points: npt.ArrayLike) -> Array:
    """Points taken through an affine.

    Args:
        affine: (4, 4).
        points: (..., 3).

    >>> apply(np.diag([1, 1, 2.5, 1]), [[0, 0, 2]]).tolist()
    [[0.0, 0.0, 5.0]]
    """
    matrix, places = np.asarray(affine, float), np.asarray(points, float)
    return places @ matrix[:3, :3].T + matrix[:3, 3]


def voxel_sizes_mm(affine: npt.ArrayLike) -> Array:
    """The lengths of a voxel's three edges, (3,), mm.

    >>> voxel_sizes_mm(np.diag([-1, 1, 2.5, 1])).tolist()
    [1.0, 1.0, 2.5]
    """
    return np.sqrt((np.asarray(affine, float)[:3, :3] ** 2).sum(axis=0))


def voxel_volume_mm3(affine: npt.ArrayLike) -> float:
    """A voxel's volume, mm3, right for sheared grids also.

    >>> voxel_volume_mm3(np.diag([-1, 1, 2.5, 1]))
    2.5
    """
    return float(round(abs(np.linalg.det(np.asarray(affine, float)[:3, :3])), 9))


def extents_mm(shape: Sequence[int], affine: npt.ArrayLike) -> Array:
    """A grid's edge lengths from the outside of the first voxel to the outside of the last, (3,), mm.

    >>> extents_mm((10, 10, 4), np.diag([1, 1, 2.5, 1])).tolist()
    [10.0, 10.0, 10.0]
    """
    return np.asarray(shape[:3], float) * voxel_sizes_mm(affine)


def corners(shape: Sequence[int]) -> Array:
    """The eight corner voxels of a grid, as indices, (8, 3).

    >>> corners((2, 3, 4))[[0, -1]].tolist()
    [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]
    """
    return np.array(list(product(*((0, n - 1) for n in shape[:3]))), float)


def corners_mm(shape: Sequence[int], affine: npt.ArrayLike) -> Array:
    """The centres of a grid's eight corner voxels, (8, 3), mm.

    >>> corners_mm((2, 3, 5), np.diag([1, 1, 2, 1]))[-1].tolist()
    [1.0, 2.0, 8.0]
    """
    return apply(affine, corners(shape))


def centre_mm(shape: Sequence[int], affine: npt.ArrayLike) -> Array:
    """The middle of a grid, (3,), mm.

    >>> centre_mm((3, 3, 3), np.eye(4)).tolist()
    [1.0, 1.0, 1.0]
    """
    return apply(affine, (np.asarray(shape[:3], float) - 1) / 2)


def same_grid(
    shape_a: Sequence[int],
    affine_a: npt.ArrayLike,
    shape_b: Sequence[int],
    affine_b: npt.ArrayLike,
    tolerance_mm: float = SAME_GRID_TOLERANCE_MM,
) -> bool:
    """Whether two grids have one shape and their corners lie within a tolerance of each other.

    >>> moved = np.eye(4)
    >>> moved[0, 3] = 0.01
    >>> same_grid((2, 2, 2), np.eye(4), (2, 2, 2), np.eye(4)), same_grid((2, 2, 2), np.eye(4), (2, 2, 2), moved)
    (True, False)
    """
    if tuple(shape_a[:3]) != tuple(shape_b[:3]):
        return False
    apart = corners_mm(shape_a, affine_a) - corners_mm(shape_b, affine_b)
    return bool(np.sqrt((apart**2).sum(axis=1)).max() <= tolerance_mm)


def rotation_of(matrix: npt.ArrayLike) -> Array:
    """The rotation nearest to the linear part of a matrix (its polar factor), (3, 3), determinant +1.

    Source: Higham, *Computing the polar decomposition*, SIAM J. Sci. Stat. Comput. 7 (1986).

    Raises:
        ValueError: if the matrix mirrors, since no rotation is near it.

    >>> rotation_of(np.diag([2, 3, 0.5, 1])).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    linear = np.asarray(matrix, float)[:3, :3]
    if np.linalg.det(linear) <= 0:
        raise ValueError("a matrix with a determinant of 0 or less has no rotation near it")
    left, _, right = np.linalg.svd(linear)
    return left @ right + 0.0


def grid_about(centre: npt.ArrayLike, rotation: npt.ArrayLike, shape: Sequence[int], spacing_mm: float = 1.0) -> Array:
    """The affine of a grid with a given middle and directions.

    Args:
        centre: (3,), mm.
        rotation: (3, 3), its columns are the directions of the voxel axes.
        shape: voxels along each axis.
        spacing_mm: a voxel's edge.

    >>> grid_about([0, 0, 0], np.eye(3), (3, 3, 3))[:3, 3].tolist()
    [-1.0, -1.0, -1.0]
    """
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(rotation, float) * spacing_mm
    affine[:3, 3] = np.asarray(centre, float) - affine[:3, :3] @ ((np.asarray(shape[:3], float) - 1) / 2)
    return affine
