"""The auxiliary output that outlines the tumour, from the features that a classifier has anyway.

A *level* is the feature map of one resolution, the last before the next halving; the levels together are the
*pyramid*. The head is light: it tells the backbone where to look, and which slices of a head count. The
logits of a slice do not need it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv
from torch import nn

#: Channels of each level inside the head.
WIDTH = 32

#: The next level's side is at most this share of the level's own: convolutions without padding lose a pixel or two.
NEXT_LEVEL = 0.6

#: Groups that channels are normalised in: no running statistics, so that nothing is learned outside of the weights.
GROUPS = 4

#: Sides of the image of zeros that finds the levels.
PROBE = {2: 128, 3: 64}


class MaskHead(nn.Module):
    """From the pyramid to one logit a pixel: upwards, each level is added, and convolved by 3 x 3.

    Args:
        channels: of each level, the coarsest first.
        spatial_dims: 2 or 3.
        width: channels inside, a multiple of four.

    Source: Lin et al. 2017, feature pyramids (10.1109/CVPR.2017.106).
    """

    def __init__(self, channels: Sequence[int], spatial_dims: int, width: int = WIDTH) -> None:
        super().__init__()
        convolution = Conv[Conv.CONV, spatial_dims]
        self.mode = "bilinear" if spatial_dims == 2 else "trilinear"
        self.across = nn.ModuleList([convolution(own, width, 1) for own in channels])
        self.smooth = nn.ModuleList(
            [
                nn.Sequential(convolution(width, width, 3, padding=1), nn.GroupNorm(GROUPS, width), nn.ReLU())
                for _ in channels
            ]
        )
        self.logit = convolution(width, 1, 3, padding=1)

    def forward(self, pyramid: list[torch.Tensor], size: list[int]) -> torch.Tensor:
        """Logits ``(batch, 1, *size)``; the pyramid's coarsest level comes first."""
        features = torch.zeros(1, device=pyramid[0].device, dtype=pyramid[0].dtype)
        for n, (across, smooth) in enumerate(zip(self.across, self.smooth, strict=True)):
            level = across(pyramid[n])
            if n > 0:
                level = level + F.interpolate(features, size=level.shape[2:], mode=self.mode, align_corners=False)
            features = smooth(level)
        return F.interpolate(self.logit(features), size=size, mode=self.mode, align_corners=False)


@torch.no_grad()
def levels_of(
    steps: Sequence[nn.Module], in_channels: int, spatial_dims: int
) -> tuple[list[int], list[int], list[int]]:
    """Which steps end a level, how many channels they give and how many pixels a side, found by sending zeros through.

    Args:
        steps: of the trunk, in eval mode.
        in_channels: of an image.
        spatial_dims: 2 or 3.
    """
    features = torch.zeros(1, in_channels, *[PROBE[spatial_dims]] * spatial_dims)
    sizes, channels = [], []
    for step in steps:
        features = step(features)
        sizes.append(features.shape[2])
        channels.append(features.shape[1])
    start, ends = sizes[0], []
    for n, size in enumerate(sizes[1:], start=1):
        if size <= NEXT_LEVEL * start:
            ends.append(n - 1)
            start = size
    ends.append(len(sizes) - 1)
    return ends, [channels[n] for n in ends], [sizes[n] for n in ends]
