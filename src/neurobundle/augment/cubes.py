"""Of each voxel the cube around it: whether it holds any of a mask, and its mean."""

from __future__ import annotations

import torch

from neurobundle.prepare.separable import along_axis


def dilated(mask: torch.Tensor, steps: int) -> torch.Tensor:
    """A mask grown by a cube of ``2 steps + 1`` voxels a side: shifted copies, at most as far as it has grown.

    >>> dilated(torch.tensor([0, 0, 0, 1, 0]).bool().reshape(5, 1, 1), 2).flatten().int().tolist()
    [0, 1, 1, 1, 1]
    """
    for axis, size in enumerate(mask.shape):
        grown, left = 0, min(steps, size - 1)
        while left:
            step = min(left, grown + 1)
            wider = mask.clone()
            wider.narrow(axis, step, size - step).logical_or_(mask.narrow(axis, 0, size - step))
            wider.narrow(axis, 0, size - step).logical_or_(mask.narrow(axis, step, size - step))
            mask, grown, left = wider, grown + step, left - step
    return mask


def box_mean(values: torch.Tensor, steps: int) -> torch.Tensor:
    """The mean over a cube of ``2 steps + 1`` voxels a side; at the box's edge, over what is left of it.

    >>> box_mean(torch.tensor([0.0, 3.0, 0.0, 0.0]).reshape(4, 1, 1), 1).flatten().tolist()
    [1.5, 1.0, 1.0, 0.0]
    """
    for axis, size in enumerate(values.shape):
        at = torch.arange(size, device=values.device)
        near = ((at[:, None] - at).abs() <= steps).to(values.dtype)
        values = along_axis(values, near / near.sum(dim=1, keepdim=True), axis)
    return values
