"""The air around a head is cut away before windows are laid over it.

A *prepared* image went through :class:`~neurobundle.prepare.NormalizeForegroundd` with ``region: head``: what is darker
than the head was clipped, so that air, with noise in it or not, has the channel's least value. The *head* of a case is
what is brighter than that in any channel.
"""

from __future__ import annotations

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import CropForegroundd
from torch.nn import functional


def in_head(image: torch.Tensor) -> torch.Tensor:
    """Where a prepared image shows the head: most of the 27 voxels there are above their channel's least value.

    Single bright voxels in the air, noise or a spike, are no head. A channel that is constant, one that a study lacks,
    has none.

    Args:
        image: ``(channel, i, j, k)``.

    Returns:
        A boolean tensor of the same shape; everywhere true if there is no head in any channel.

    >>> image = torch.zeros(1, 5, 5, 5)
    >>> image[0, 1:4, 1:4, 1:4] = 1.0
    >>> int(in_head(image).sum()), int(in_head(torch.zeros(1, 5, 5, 5)).sum())
    (7, 125)
    """
    plain = image.as_tensor() if isinstance(image, MetaTensor) else image
    bright = plain > plain.amin(dim=(1, 2, 3), keepdim=True)
    # At the image's border the mean is that of the neighbours that there are.
    near = functional.avg_pool3d(bright.float()[None], 3, stride=1, padding=1, count_include_pad=False)[0]
    head = near > 0.5
    return head if bool(head.any()) else torch.ones_like(head)


class CropToHeadd(CropForegroundd):
    """MONAI's ``CropForegroundd`` to the head of a prepared image; nothing is padded.

    The affine says where the part lies, so that results find their way back to the native grid; there they are
    background outside of the part. An image without a head stays as it is.

    Args:
        keys: what is cropped: the image, and a label map on its grid.
        source_key: the image ``(channel, i, j, k)``.
        margin: voxels that are kept around the head, as far as the image goes.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self, keys: KeysCollection, source_key: str, margin: int = 0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(
            keys,
            source_key,
            select_fn=in_head,
            margin=margin,
            allow_smaller=True,
            start_coord_key=None,
            end_coord_key=None,
            allow_missing_keys=allow_missing_keys,
        )
