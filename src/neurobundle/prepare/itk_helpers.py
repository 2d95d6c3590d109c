"""What both registrations share: an image with its affine, made smaller, and shown to ITK.

A *grid* here is an array with the affine that places its voxels in RAS+ millimetres. ITK's own world is LPS; both
images of a fit come the same way and the matrices stay here, so RAS serves as well, and nothing is ever flipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neurobundle import geometry

Volume = npt.NDArray[np.float32]


class Grid(NamedTuple):
    """An image with its affine: ``array`` (i, j, k) and ``affine`` (4, 4), RAS+ mm."""

    array: Volume
    affine: geometry.Array


def average_blocks(image: Grid, spacing_mm: float) -> Grid:
    """The means of the largest whole blocks of voxels that fit into a cube; a rest at the far end is dropped.

    Axes whose voxels are as long as the cube, as across thick slices, stay as they are.
    """
    sizes = geometry.voxel_sizes_mm(image.affine)
    blocks = np.clip((spacing_mm / sizes + 1e-3).astype(int), 1, np.asarray(image.array.shape))
    if (blocks == 1).all():
        return image
    shape = np.asarray(image.array.shape) // blocks
    (i, j, k), (a, b, c) = shape, blocks
    array = image.array[: i * a, : j * b, : k * c].reshape(i, a, j, b, k, c).mean(axis=(1, 3, 5), dtype=np.float32)
    grow = np.diag([*blocks, 1.0])
    grow[:3, 3] = (blocks - 1) / 2
    return Grid(array, image.affine @ grow)


@contextmanager
def one_thread(sitk: Any) -> Iterator[None]:
    """ITK on one thread: with two, the metric's sums are added in the order in which the threads end.

    The method's own number of threads does not reach the metric, so the process's default is set and put back.
    """
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def itk_image(sitk: Any, image: Grid) -> Any:
    """A grid as an ITK image in the same millimetres; any affine that can be inverted."""
    sizes = geometry.voxel_sizes_mm(image.affine)
    out = sitk.GetImageFromArray(np.ascontiguousarray(image.array.transpose(2, 1, 0)))
    out.SetSpacing(sizes.tolist())
    out.SetOrigin(np.asarray(image.affine)[:3, 3].tolist())
    out.SetDirection((np.asarray(image.affine)[:3, :3] / sizes).ravel().tolist())
    return out


def matrix_of(transform: Any) -> geometry.Array:
    """An ITK affine transform about a centre as one (4, 4) matrix."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    centre, shift = np.asarray(transform.GetCenter()), np.asarray(transform.GetTranslation())
    matrix[:3, 3] = centre + shift - matrix[:3, :3] @ centre
    return matrix
