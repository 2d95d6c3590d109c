"""What acts along each axis of an image by itself: matrices, and with them cubic B-splines on a regular grid.

A *basis* holds the weights of the splines along one axis, a row for each position and a column for each *control
point*. A *lattice* holds values at the control points of all axes; the smooth field that it stands for is the lattice
times a basis along each axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

#: Cubic B-splines have so many control points beyond the number of their pieces.
ORDER = 3


def along_axis(image: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """A matrix ``(m, n)`` times each line of an image along an axis of n voxels, which then has m.

    >>> along_axis(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 1.0]]), 0).tolist()
    [[4.0, 6.0]]
    """
    matrix = matrix.to(image.device)
    if axis == image.ndim - 1:
        return torch.matmul(image, matrix.T)
    if axis:
        # Lines along the axis become columns, whatever lies behind it.
        shape = (*image.shape[:axis], len(matrix), *image.shape[axis + 1 :])
        return torch.matmul(matrix, image.reshape(*image.shape[: axis + 1], -1)).reshape(shape)
    return torch.matmul(matrix, image.reshape(len(image), -1)).reshape(len(matrix), *image.shape[1:])


def along_axes(image: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """A matrix along each of the last axes: ``(..., a, b)`` and ``(i, a), (j, b)`` give ``(..., i, j)``.

    >>> along_axes(torch.ones(5, 2, 3), [torch.ones(7, 2), torch.ones(8, 3)]).shape
    torch.Size([5, 7, 8])
    """
    for axis, matrix in enumerate(matrices, start=image.ndim - len(matrices)):
        image = along_axis(image, matrix, axis)
    return image


def spline_basis(positions: torch.Tensor, n: int) -> torch.Tensor:
    """Weights ``(positions, n)`` of n control points for positions 0 to 1; beyond, those of the end.

    >>> (spline_basis(torch.tensor([0.0, 1.0]), 4) * 6).round().int().tolist()
    [[1, 4, 1, 0], [0, 1, 4, 1]]
    """
    pieces = n - ORDER
    scaled = positions.clamp(0, 1) * pieces
    piece = scaled.floor().clamp(max=pieces - 1)
    t = scaled - piece
    weights = torch.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], dim=1) / 6
    basis = torch.zeros(len(positions), n, dtype=positions.dtype, device=positions.device)
    return basis.scatter_(1, piece.long()[:, None] + torch.arange(4, device=positions.device), weights)
